"""JSON from outside: whatever comes of it fits a record, a line and the stack."""

import json

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trimaran.actors.strict_json import MAX_DEPTH, BadJson, read_json

values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(1 << 63), (1 << 64) - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
)


@given(values)
def test_what_is_taken_comes_back_and_fits_a_record(value: object) -> None:
    read = read_json(json.dumps(value).encode())
    assert read == value
    assert msgpack.unpackb(msgpack.packb(read)) == value


@pytest.mark.parametrize(
    "payload",
    [
        b"18446744073709551616",
        b"-9223372036854775809",
        b"9" * 10_000,
        b'{"a": [1e999]}',
        b"NaN",
        b"-Infinity",
        b'"\\ud800"',
        b'{"\\uDFFF": 1}',
        b'"\xed\xa0\x80"',
        b"\xff",
        "{}".encode("utf-16"),
        b"[" * 100_000,
        b"[" * (MAX_DEPTH + 1) + b"]" * (MAX_DEPTH + 1),
        b'{"a":' * 600 + b"1" + b"}" * 600,
    ],
)
def test_what_python_takes_and_nothing_behind_it_could_is_refused(payload: bytes) -> None:
    with pytest.raises(BadJson) as caught:
        read_json(payload)
    assert not caught.value.ended


@pytest.mark.parametrize("payload", [b"", b" ", b"{", b'{"a": '])
def test_what_stops_before_its_end_is_told_from_what_is_wrong(payload: bytes) -> None:
    with pytest.raises(BadJson) as caught:
        read_json(payload)
    assert caught.value.ended


def test_whole_pairs_and_much_that_is_flat_are_taken() -> None:
    assert read_json(b'"\\ud83d\\ude00"') == "\U0001f600"
    assert read_json(b"[" + b"[]," * 1000 + b"[]]") == [[]] * 1001
