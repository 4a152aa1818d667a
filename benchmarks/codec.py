"""What a batch costs: sealing and verifying it, against the checksum and the copy that nothing can avoid.

    python benchmarks/codec.py

Times are the best of several runs, of one core, with the batch in the cache unless it is larger than that.
"""

from __future__ import annotations

import ctypes
import platform
import timeit
from collections.abc import Callable
from types import ModuleType
from typing import Any

from trimaran.codec import Chunk, EntryType, Kind, make_chunk
from trimaran.codec import _compiled_batch as compiled
from trimaran.codec import _reference_batch as reference
from trimaran.codec._native import lib

IDENTITY: dict[str, Any] = {
    "kind": Kind.NORMAL,
    "group": 2,
    "incarnation": 3,
    "index": 1000,
    "term": 4,
    "previous_term": 4,
    "time": 1_700_000_000_000_000_000,
}
SHAPES = [(1, 128), (64, 128), (1000, 128), (32000, 128)]
"""Batches, as (entries, bytes of each)."""


def seconds(function: Callable[[], object], at_least: float = 0.02) -> float:
    """Seconds of one call, the best of five runs of about `at_least` seconds."""
    once = max(timeit.timeit(function, number=1), 1e-7)
    number = max(1, int(at_least / once))
    return min(timeit.repeat(function, number=number, repeat=5)) / number


def copying(data: bytes) -> Callable[[], object]:
    """A copy between two buffers that exist already: what a seal must at least do."""
    source, target = ctypes.create_string_buffer(data, len(data)), ctypes.create_string_buffer(len(data))
    return lambda: ctypes.memmove(target, source, len(data))


def operations(codec: ModuleType, chunk: Chunk, batch: bytes) -> dict[str, Callable[[], object]]:
    return {
        "seal": lambda: codec.seal_batch([chunk], **IDENTITY),
        "read header": lambda: codec.read_header(batch),
        "verify": lambda: codec.verify_batch(batch),
        "verify + walk": lambda: (codec.verify_batch(batch), codec.walk_batch(batch)),
    }


def measure(entries: int, size: int) -> None:
    chunk = make_chunk([(EntryType.PUBLISH, bytes(size))] * entries)
    batch = compiled.seal_batch([chunk], **IDENTITY)
    checksum = seconds(lambda: compiled.crc32c(batch))
    copy = seconds(copying(batch))
    print(f"\n{entries} entries of {size} bytes, a batch of {len(batch):,} bytes")
    print(f"  {'':16}{'C, us':>10}{'GB/s':>8}{'of the floor':>14}{'Python, us':>14}{'times':>8}")
    python_checksum = seconds(lambda: reference.crc32c(batch))
    print(line("checksum", checksum, len(batch), checksum, python_checksum))
    print(line("copy", copy, len(batch), copy, None))
    in_python = operations(reference, chunk, batch)
    for name, function in operations(compiled, chunk, batch).items():
        floor = {"seal": checksum + copy, "read header": None}.get(name, checksum)
        print(line(name, seconds(function), len(batch), floor, seconds(in_python[name])))


def line(name: str, taken: float, size: int, floor: float | None, python: float | None) -> str:
    text = f"  {name:16}{taken * 1e6:10.2f}"
    text += f"{size / taken / 1e9:8.1f}{taken / floor:13.2f}x" if floor else " " * 22
    return text + (f"{python * 1e6:14.1f}{python / taken:8.0f}" if python else "")


def main() -> None:
    print(f"{platform.machine()}, Python {platform.python_version()}, crc32c: {checksum_implementation()}")
    print("floor: the checksum (to verify), the checksum and a copy (to seal)")
    for entries, size in SHAPES:
        measure(entries, size)


def checksum_implementation() -> str:
    names = {lib.TRI_CRC32C_SSE42: "SSE4.2", lib.TRI_CRC32C_ARMV8: "ARMv8"}
    return names.get(lib.tri_crc32c_chosen(), "table")


if __name__ == "__main__":
    main()
