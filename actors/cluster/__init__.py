"""What the cluster should be, and who makes it so: the meta group, membership of nodes, placement, backup."""
