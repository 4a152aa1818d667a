"""Sealing the log's writes, and reading segments as far as they are sound, thousands of records in one call.

`csrc/wal.h` draws what is written and read. What is not sound is for `storage/segment.py`.
"""

from __future__ import annotations

from ._backend import IMPLEMENTATION
from .wal_types import NO_LIMIT, Columns, Cursor, Run, WriteReader

if IMPLEMENTATION == "c":
    from ._compiled_wal import has_tag, seal_write, write_reader
else:
    from ._reference_wal import has_tag, seal_write, write_reader

__all__ = ["NO_LIMIT", "Columns", "Cursor", "Run", "WriteReader", "has_tag", "seal_write", "write_reader"]
