"""The one place where C or Python is chosen: both modules have the same functions with the same results."""

from __future__ import annotations

from typing import Literal

from ._reference_batch import (
    check_chunk,
    crc32c,
    read_header,
    seal_batch,
    split_batches,
    verify_batch,
    walk_batch,
)

IMPLEMENTATION: Literal["c", "python"] = "python"

__all__ = [
    "IMPLEMENTATION",
    "check_chunk",
    "crc32c",
    "read_header",
    "seal_batch",
    "split_batches",
    "verify_batch",
    "walk_batch",
]
