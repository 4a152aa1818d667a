"""Trimaran: a replicated, durable message stream. Three hulls, one boat: three replicas, one log."""

__version__ = "0.1.0"
