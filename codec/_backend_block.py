"""The one place where C or Python is chosen for block records."""

from ._backend import IMPLEMENTATION

if IMPLEMENTATION == "c":
    from ._compiled_block import (
        check_record,
        drop_messages,
        find_last_message,
        find_message,
        group_publishes,
        index_records,
        live_bits,
        scan_block,
        trim_subjects,
    )
else:
    from ._reference_block import (
        check_record,
        drop_messages,
        find_last_message,
        find_message,
        group_publishes,
        index_records,
        live_bits,
        scan_block,
        trim_subjects,
    )

__all__ = [
    "check_record",
    "drop_messages",
    "find_last_message",
    "find_message",
    "group_publishes",
    "index_records",
    "live_bits",
    "scan_block",
    "trim_subjects",
]
