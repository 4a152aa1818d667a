"""The one place where C or Python is chosen for the protocol."""

from ._reference_protocol import Publishes, format_acks, matches, scan

__all__ = ["Publishes", "format_acks", "matches", "scan"]
