"""One replica of a group on this node: its actor, machine and snapshots, and its way back from damage."""
