"""Types of the C extension; what each function does stands in the header named above it (csrc/)."""

from _cffi_backend import FFI
from _cffi_backend import _CDataBase as CData

ffi: FFI

class _Lib:
    TRI_BUILT_FROM: int
    """Of csrc/build.py."""

    # crc32c.h
    TRI_CRC32C_TABLE: int
    TRI_CRC32C_SSE42: int
    TRI_CRC32C_ARMV8: int
    TRI_CRC32C_AVX512: int
    def tri_crc32c_chosen(self) -> int: ...
    def tri_crc32c(self, value: int, data: CData | bytes, size: int) -> int: ...
    def tri_crc32c_table(self, value: int, data: CData | bytes, size: int) -> int: ...
    def tri_crc32c_by(
        self, implementation: int, value: int, data: CData | bytes, size: int, result: CData
    ) -> int: ...

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
    TRI_NO_ROOM: int
    def tri_payload_size(self, count: int, entries_size: int) -> int: ...
    def tri_check_payload(self, payload: CData | bytes, size: int, count: int, entries_size: int) -> int: ...
    def tri_seal_batch(
        self, chunks: CData, chunk_count: int, header: CData, out: CData | bytes, out_size: int
    ) -> int: ...
    def tri_read_header(self, buffer: CData | bytes, size: int, header: CData) -> int: ...
    def tri_verify_batch(self, buffer: CData | bytes, size: int, header: CData) -> int: ...
    def tri_walk_batch(self, buffer: CData | bytes, size: int, spans: CData, capacity: int) -> int: ...
    def tri_decode_batch(self, buffer: CData | bytes, size: int, spans: CData, capacity: int) -> int: ...
    def tri_append_spans(
        self,
        to: CData,
        buffer: CData | bytes,
        size: int,
        offsets: CData,
        lengths: CData,
        types: CData | bytes,
        count: int,
        taken: CData,
    ) -> int: ...
    def tri_close_payload(self, from_: CData, size: CData) -> int: ...
    def tri_seal_open(self, from_: CData, header: CData, size: CData) -> int: ...

    # protocol.h
    TRI_APPEND_ALL: int
    TRI_APPEND_OTHER: int
    TRI_APPEND_FULL: int
    TRI_APPEND_GROW: int
    TRI_LATENCY_BUCKETS: int
    def tri_scan(
        self,
        buffer: CData,
        size: int,
        direction: int,
        max_payload: int,
        max_control_line: int,
        ops: CData,
        capacity: int,
        consumed: CData,
        error: CData,
    ) -> int: ...
    def tri_body_bytes(self, ops: CData, first: int, last: int) -> int: ...
    def tri_match(self, subject: bytes, subject_size: int, filter: bytes, filter_size: int) -> int: ...
    def tri_append_publishes(
        self,
        to: CData,
        buffer: CData,
        size: int,
        ops: CData,
        first: int,
        last: int,
        filter: bytes,
        filter_size: int,
        taken: CData,
    ) -> int: ...
    def tri_acks_bound(self, count: int, replies_size: int, head_size: int, sid_size: int) -> int: ...
    def tri_format_acks(
        self,
        replies: bytes,
        replies_size: int,
        reply_ends: bytes,
        start: int,
        count: int,
        results: bytes,
        head: bytes,
        head_size: int,
        prefix: bytes,
        prefix_size: int,
        sid: bytes,
        sid_size: int,
        out: CData,
        capacity: int,
        written: CData,
    ) -> int: ...
    def tri_number_publishes(
        self,
        out: CData,
        message: bytes,
        message_size: int,
        digits_at: int,
        first: int,
        count: int,
        sent: CData,
        mask: int,
        now: int,
    ) -> None: ...
    def tri_count_acks(
        self,
        buffer: CData,
        size: int,
        ops: CData,
        count: int,
        prefix_size: int,
        sent: CData,
        mask: int,
        next: int,
        now: int,
        counts: CData,
    ) -> int: ...
    # stream.h
    TRI_RECORD_HEADER: int
    TRI_PUBLISH_HEADER: int
    TRI_RECORD_OK: int
    TRI_RECORD_SHORT: int
    TRI_RECORD_LENGTH: int
    TRI_RECORD_CHECKSUM: int
    TRI_RECORD_FIELDS: int
    TRI_RECORD_ORDER: int
    def tri_set_hash_secret(self, start: int, factor: int) -> None: ...
    def tri_group_publishes(
        self,
        buffer: CData,
        size: int,
        offsets: CData,
        lengths: CData,
        count: int,
        table: CData,
        table_size: int,
        groups: CData,
        group_of: CData,
    ) -> int: ...
    def tri_store_publishes(
        self,
        buffer: CData,
        offsets: CData,
        lengths: CData,
        group_of: CData,
        count: int,
        ids: CData,
        counts: CData,
        firsts: CData,
        lasts: CData,
        out: CData,
        record_offsets: CData,
        record_sizes: CData,
        record_ids: CData,
        results: CData,
        job: CData,
    ) -> None: ...
    def tri_count_records(self, buffer: CData, size: int) -> int: ...
    def tri_scan_block(
        self,
        buffer: CData,
        size: int,
        capacity: int,
        table: CData,
        table_size: int,
        groups: CData,
        group_of: CData,
        record_offsets: CData,
        record_sizes: CData,
        sequences: CData,
        time_starts: CData,
        time_values: CData,
        result: CData,
    ) -> None: ...
    def tri_check_record(self, buffer: CData, size: int) -> int: ...
    def tri_index_records(
        self,
        group_of: CData,
        record_sizes: CData,
        count: int,
        start: int,
        live: CData,
        first_sequence: int,
        ids: CData,
        counts: CData,
        firsts: CData,
        lasts: CData,
        record_ids: CData,
        change: CData,
    ) -> None: ...
    def tri_drop_messages(
        self,
        record_ids: CData,
        record_sizes: CData,
        start: int,
        end: int,
        wanted: CData,
        need_messages: int,
        need_bytes: int,
        counts: CData,
        emptied: CData,
        change: CData,
    ) -> None: ...
    def tri_trim_subjects(
        self,
        record_ids: CData,
        record_sizes: CData,
        start: int,
        end: int,
        first_sequence: int,
        subjects: CData,
        excess: CData,
        count: int,
        counts: CData,
        firsts: CData,
        lasts: CData,
        change: CData,
    ) -> None: ...
    def tri_find_message(self, record_ids: CData, start: int, end: int, id: int, wanted: CData) -> int: ...
    def tri_find_last_message(self, record_ids: CData, start: int, end: int, id: int) -> int: ...
    def tri_live_bits(self, record_ids: CData, count: int, live: CData) -> None: ...

    # syncer.h
    def tri_syncer_start(self, event_fd: int) -> CData: ...
    def tri_syncer_submit(
        self, syncer: CData, fd: int, buffers: CData, sizes: CData, count: int, offset: int
    ) -> int: ...
    def tri_syncer_result(self, syncer: CData) -> int: ...
    def tri_syncer_stop(self, syncer: CData) -> int: ...

    # uring.h
    TRI_URING_BUFFERS: int
    def tri_uring_open(self, event_fd: int) -> CData: ...
    def tri_uring_submit(
        self, ring: CData, fd: int, buffers: CData, sizes: CData, count: int, offset: int
    ) -> int: ...
    def tri_uring_result(self, ring: CData) -> int: ...
    def tri_uring_close(self, ring: CData) -> int: ...

    # wal.h
    TRI_SECTOR: int
    TRI_FRAME_SIZE: int
    TRI_WAL_BATCH: int
    TRI_WAL_LOST: int
    TRI_WAL_TRAILER: int
    TRI_TRAILER_HEAD: int
    TRI_TRAILER_TAIL: int
    def tri_wal_trailer_size(self, count: int, bodies: int) -> int: ...
    def tri_wal_seal_write(
        self, frames: CData, count: int, seal: CData, trailer: CData, size: int
    ) -> int: ...
    def tri_wal_read(self, data: CData, size: int, cursor: CData, records: CData, capacity: int) -> int: ...
    def tri_wal_has_tag(self, data: CData, size: int, tag: int) -> int: ...
    def tri_wal_runs(
        self,
        records: CData,
        count: int,
        runs: CData,
        offsets: CData,
        lengths: CData,
        crcs: CData,
        terms: CData,
        kinds: CData,
        table: CData,
        table_size: int,
        slots: CData,
        starts: CData,
        order: CData,
    ) -> int: ...

lib: _Lib
