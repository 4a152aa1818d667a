"""Subjects are hashed with a secret: nobody can send a batch of subjects that all collide."""

from __future__ import annotations

import os
import struct
import subprocess
import sys
from array import array
from collections.abc import Iterator

import pytest

from tests.codec.test_block import entries_of
from trimaran.codec._native import ffi, lib

MASK = (1 << 64) - 1
KNOWN = (0x0123456789ABCDEF, 0xFEDCBA9876543211)
OTHER = (0xA5C3F10E96D27B48, 0x3B7E15A9C6D2F80D)


@pytest.fixture(autouse=True)
def own_secret() -> Iterator[None]:
    """The process gets a random secret again."""
    import secrets

    yield
    lib.tri_set_hash_secret(secrets.randbits(64), secrets.randbits(64))


def hashes(subjects: list[bytes]) -> set[int]:
    """The distinct hashes of distinct subjects."""
    count = len(subjects)
    entries = entries_of(*(struct.pack("<HHI", len(subject), 0, 0) + subject for subject in subjects))
    size = 2 << (count - 1).bit_length()
    table, group_of = array("I", bytes(4 * size)), array("I", bytes(4 * count))
    groups = ffi.new("tri_subject_group[]", count)
    spans = ffi.from_buffer("uint32_t[]", entries.spans)
    found = lib.tri_group_publishes(
        ffi.from_buffer("uint8_t[]", entries.buffer),
        len(entries.buffer),
        spans,
        spans + count,
        count,
        ffi.from_buffer("uint32_t[]", table),
        size,
        groups,
        ffi.from_buffer("uint32_t[]", group_of),
    )
    assert found == count
    return {groups[number].hash for number in range(count)}


def fold(word: int) -> int:
    product = word * KNOWN[1]
    return (product ^ product >> 64) & MASK


def colliding(count: int) -> list[bytes]:
    """Subjects of 16 bytes that have one hash under the secret KNOWN: the second word undoes the first."""
    return [struct.pack("<QQ", first, fold(KNOWN[0] ^ 16 ^ first) ^ 0x5EED) for first in range(1, count + 1)]


def test_whoever_knows_the_secret_can_collide() -> None:
    """Else the next test would show nothing."""
    lib.tri_set_hash_secret(*KNOWN)
    assert len(hashes(colliding(1000))) == 1


@pytest.mark.parametrize("secret", [OTHER, (OTHER[0], KNOWN[1]), (KNOWN[0], OTHER[1])])
def test_whoever_does_not_know_it_cannot(secret: tuple[int, int]) -> None:
    lib.tri_set_hash_secret(*secret)
    assert len(hashes(colliding(1000))) > 990


def test_changes_that_cancel_out_under_every_secret_are_none() -> None:
    """With a product of 64 bits the highest bit of a word changes just that bit of the product."""
    top = 1 << 63
    for folded in (top, top | 1 << 31, top >> 1, 1):
        pairs = [struct.pack("<QQ", top, 0), struct.pack("<QQ", 0, folded)]
        assert len(hashes(pairs)) == 2


def test_every_process_has_a_secret_of_its_own() -> None:
    program = "from tests.codec.test_subject_hash import hashes; print(hashes([b'orders.paid']))"
    around = {name: value for name, value in os.environ.items() if name != "TRIMARAN_PURE_PYTHON"}
    said = {
        subprocess.run(
            [sys.executable, "-c", program], capture_output=True, text=True, check=True, env=around
        ).stdout
        for _ in range(3)
    }
    assert len(said) == 3
