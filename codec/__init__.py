"""The codec: what Trimaran stores and sends, encoded once, in C where a compiler was and in Python elsewhere.

`IMPLEMENTATION` says which of the two is in use; the environment's TRIMARAN_PURE_PYTHON=1 forces Python.
"""

from ._backend import (
    IMPLEMENTATION,
    OpenBatch,
    check_chunk,
    crc32c,
    decode_batch,
    read_header,
    seal_batch,
    split_batches,
    verify_batch,
    walk_batch,
)
from .batch import BatchHeader, Entries, Kind, batch_size
from .chunk import (
    BATCH_HEADER_SIZE,
    MAX_BATCH_SIZE,
    MAX_ENTRIES,
    Buffer,
    Chunk,
    EntryType,
    make_chunk,
    make_chunk_of,
    payload_size,
)
from .errors import (
    BadField,
    BadLength,
    BadMagic,
    BadTable,
    BatchFull,
    CodecError,
    EntryTooLarge,
    HeaderDamaged,
    NewerVersion,
    PayloadDamaged,
    ShortBuffer,
)

__all__ = [
    "IMPLEMENTATION",
    # chunks
    "Buffer",
    "Chunk",
    "EntryType",
    "MAX_BATCH_SIZE",
    "MAX_ENTRIES",
    "check_chunk",
    "make_chunk",
    "make_chunk_of",
    "payload_size",
    # batches
    "BATCH_HEADER_SIZE",
    "BatchHeader",
    "Entries",
    "Kind",
    "OpenBatch",
    "batch_size",
    "crc32c",
    "decode_batch",
    "read_header",
    "seal_batch",
    "split_batches",
    "verify_batch",
    "walk_batch",
    # errors
    "BadField",
    "BadLength",
    "BadMagic",
    "BadTable",
    "BatchFull",
    "CodecError",
    "EntryTooLarge",
    "HeaderDamaged",
    "NewerVersion",
    "PayloadDamaged",
    "ShortBuffer",
]
