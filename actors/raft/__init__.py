"""The rules of Raft, and what they need to know: plain functions and data that await nothing."""
