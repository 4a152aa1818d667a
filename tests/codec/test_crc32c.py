"""CRC32C: known answers, and every implementation against every other."""

from __future__ import annotations

from types import ModuleType

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trimaran.codec import _reference_batch as reference

READ_COMMAND = bytes.fromhex(
    "01c00000 00000000 00000000 00000000 14000000 00000400"
    "00000014 00000018 28000000 00000000 02000000 00000000"
)

KNOWN = [
    (b"", 0x00000000),
    (b"123456789", 0xE3069283),
    # RFC 3720, appendix B.4
    (bytes(32), 0x8A9136AA),
    (b"\xff" * 32, 0x62A8AB43),
    (bytes(range(32)), 0x46DD794E),
    (bytes(reversed(range(32))), 0x113FDB5C),
    (READ_COMMAND, 0xD9963A56),
]

PATTERN = bytes((at * 167 + (at >> 8)) & 0xFF for at in range(20000))
"""Long enough for three blocks of every size in which the C code interleaves."""


@pytest.mark.parametrize(("data", "value"), KNOWN)
def test_known_answers(codec: ModuleType, data: bytes, value: int) -> None:
    assert codec.crc32c(data) == value


@given(st.binary(max_size=2000), st.binary(max_size=2000))
def test_a_checksum_continues_over_a_cut(codec: ModuleType, left: bytes, right: bytes) -> None:
    assert codec.crc32c(right, codec.crc32c(left)) == codec.crc32c(left + right)


@pytest.mark.parametrize("block", [8, 64, 192, 256, 3 * 128, 512, 3 * 2048])
def test_c_agrees_with_python_around_every_block_size(block: int) -> None:
    from trimaran.codec import _compiled_batch as compiled

    for size in [*range(block - 9, block + 10), 2 * block - 1, 2 * block, 2 * block + 1, 2 * block + 391]:
        for start in range(8):
            part = memoryview(PATTERN)[start : start + max(size, 0)]
            assert compiled.crc32c(part, 77) == reference.crc32c(part, 77), (size, start)


@given(st.binary(max_size=300).map(lambda part: part * 50), st.integers(0, 7), st.integers(0, (1 << 32) - 1))
def test_all_that_the_processor_has_agree(data: bytes, start: int, value: int) -> None:
    from trimaran.codec._native import ffi, lib

    pointer = ffi.from_buffer("uint8_t[]", data)
    begin = min(start, len(data))
    size = len(data) - begin
    expected = lib.tri_crc32c_table(value, pointer + begin, size)
    assert lib.tri_crc32c(value, pointer + begin, size) == expected
    result = ffi.new("uint32_t *")
    ways = (lib.TRI_CRC32C_TABLE, lib.TRI_CRC32C_SSE42, lib.TRI_CRC32C_ARMV8, lib.TRI_CRC32C_AVX512)
    had = [way for way in ways if lib.tri_crc32c_by(way, value, pointer + begin, size, result) == 0]
    for way in had:
        assert lib.tri_crc32c_by(way, value, pointer + begin, size, result) == 0
        assert result[0] == expected, way
    assert lib.TRI_CRC32C_TABLE in had
    assert lib.tri_crc32c_chosen() in had
    assert lib.tri_crc32c_by(len(ways), value, pointer, 0, result) == -1
    assert lib.tri_crc32c_by(-1, value, pointer, 0, result) == -1


def test_the_processors_instruction_is_used_where_there_is_one() -> None:
    """Else a fault in the choice would only show as a slow node."""
    from trimaran.codec._native import lib

    features = _cpu_features()
    if {"avx512f", "avx512vl", "avx512dq", "vpclmulqdq", "sse4_2", "pclmulqdq"} <= features:
        assert lib.tri_crc32c_chosen() == lib.TRI_CRC32C_AVX512
    elif {"sse4_2", "pclmulqdq"} <= features:
        assert lib.tri_crc32c_chosen() == lib.TRI_CRC32C_SSE42
    elif "crc32" in features:
        assert lib.tri_crc32c_chosen() == lib.TRI_CRC32C_ARMV8
    else:
        assert lib.tri_crc32c_chosen() in (lib.TRI_CRC32C_TABLE, lib.TRI_CRC32C_ARMV8)


def _cpu_features() -> set[str]:
    """The flags that Linux lists; empty elsewhere."""
    try:
        with open("/proc/cpuinfo", encoding="ascii", errors="replace") as lines:
            listed = [line.split(":", 1)[1] for line in lines if line.startswith(("flags", "Features"))]
    except FileNotFoundError:
        return set()
    return set(" ".join(listed).split())
