"""Reading the log's segments as far as they are sound, in one call for many thousands of records.

`csrc/wal.h` draws what is read. What is not sound is for `storage/segment.py`, which also writes it all.
"""

from __future__ import annotations

from ._backend import IMPLEMENTATION
from .wal_types import NO_LIMIT, Columns, Cursor, Run, WriteReader

if IMPLEMENTATION == "c":
    from ._compiled_wal import has_tag, write_reader
else:
    from ._reference_wal import has_tag, write_reader

__all__ = ["NO_LIMIT", "Columns", "Cursor", "Run", "WriteReader", "has_tag", "write_reader"]
