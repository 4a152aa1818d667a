"""The NATS protocol in C or in Python, as `_backend` has chosen."""

from typing import TYPE_CHECKING

from ._backend import IMPLEMENTATION

if TYPE_CHECKING or IMPLEMENTATION == "python":
    from ._reference_protocol import AckCounts, Publishes, ScanArea, Sent, format_acks, matches
else:
    from ._compiled_protocol import AckCounts, Publishes, ScanArea, Sent, format_acks, matches

__all__ = ["AckCounts", "Publishes", "ScanArea", "Sent", "format_acks", "matches"]
