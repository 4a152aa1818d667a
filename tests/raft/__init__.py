"""The Raft core: the paper's rules, the seed's rules, and clusters under faults, all without Trio."""
