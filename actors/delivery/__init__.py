"""Delivery: what the leader of a stream does for its consumers' clients."""
