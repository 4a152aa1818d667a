"""Types of the C extension; what each function does stands in the header named above it (csrc/)."""

from _cffi_backend import FFI
from _cffi_backend import _CDataBase as CData

ffi: FFI

class _Lib:
    # crc32c.h
    TRI_CRC32C_TABLE: int
    TRI_CRC32C_SSE42: int
    TRI_CRC32C_ARMV8: int
    def tri_crc32c_chosen(self) -> int: ...
    def tri_crc32c(self, value: int, data: CData, size: int) -> int: ...
    def tri_crc32c_table(self, value: int, data: CData, size: int) -> int: ...

    # batch.h
    TRI_BATCH_MAGIC: int
    TRI_BATCH_VERSION: int
    TRI_BATCH_HEADER_SIZE: int
    TRI_MAX_ENTRIES: int
    TRI_NORMAL: int
    TRI_NOOP: int
    TRI_MEMBERSHIP: int
    TRI_SNAPSHOT: int
    TRI_TICK: int
    TRI_OK: int
    TRI_SHORT_BUFFER: int
    TRI_BAD_MAGIC: int
    TRI_NEWER_VERSION: int
    TRI_HEADER_DAMAGED: int
    TRI_PAYLOAD_DAMAGED: int
    TRI_BAD_LENGTH: int
    TRI_NO_ENTRIES: int
    TRI_BAD_PADDING: int
    TRI_BAD_SUM: int
    TRI_BAD_TYPE: int
    TRI_BAD_FIELD: int
    TRI_BATCH_FULL: int
    def tri_payload_size(self, count: int, entries_size: int) -> int: ...
    def tri_check_payload(self, payload: CData, size: int, count: int, entries_size: int) -> int: ...
    def tri_seal_batch(
        self, chunks: CData, chunk_count: int, header: CData, out: CData, out_size: int
    ) -> int: ...
    def tri_read_header(self, buffer: CData, size: int, header: CData) -> int: ...
    def tri_verify_batch(self, buffer: CData, size: int, header: CData) -> int: ...
    def tri_walk_batch(
        self, buffer: CData, size: int, offsets: CData, lengths: CData, capacity: int
    ) -> int: ...

lib: _Lib
