"""Damaged blocks: what is found in them was there, and what is put back is what was there."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.storage.helpers import GROUP, INCARNATION, opened
from tests.stream.support import MemoryFiles, now
from trimaran.actors.stream.salvage import BlockNote, Wreck, find_records, show, spans
from trimaran.codec import crc32c
from trimaran.codec.block import encode_record
from trimaran.storage import FileDamaged, FileEntry, MemoryDisk

FIRST = 40
COUNT = 30


def records(seed: int = 1) -> list[bytes]:
    random = Random(seed)
    return [
        encode_record(FIRST + number, 5 + number // 3, b"s.x", b"", random.randbytes(random.randint(0, 90)))
        for number in range(COUNT)
    ]


def note_of(data: bytes) -> BlockNote:
    return BlockNote(FileEntry("block-1", len(data), crc32c(data)), FIRST, COUNT, 0, None)


def wreck_of(files: MemoryFiles, note: BlockNote) -> Wreck:
    wreck = Wreck(files, "S", [note])  # type: ignore[arg-type]  # a fake of GroupFiles
    wreck.add(note, bytes(files.written[note.file.name]), "damaged")
    return wreck


@given(
    st.lists(st.tuples(st.integers(0, 3000), st.binary(min_size=1, max_size=200)), max_size=4),
    st.integers(0, 3000),
)
def test_only_true_records_are_found_and_all_that_are_untouched(
    damages: list[tuple[int, bytes]], cut: int
) -> None:
    true = records()
    block = b"".join(true)
    data = bytearray(block)
    for at, bytes_ in damages:
        at %= len(block)
        data[at : at + len(bytes_)] = bytes_[: len(block) - at]
    del data[max(0, len(block) - cut) :]
    found = find_records(bytes(data), FIRST, COUNT)
    at = 0
    for number, record in enumerate(true):
        untouched = data[at : at + len(record)] == record
        place = found.get(FIRST + number)
        assert (place is not None) == untouched, number
        if place is not None:
            assert data[place[0] : place[0] + place[1]] == record
        at += len(record)


@given(st.integers(0, 1 << 30))
def test_a_block_is_put_back_byte_for_byte(seed: int) -> None:
    random = Random(seed)
    true = records(seed)
    block = b"".join(true)
    files = MemoryFiles()
    files.write("block-1", 0, block)
    data = files.written["block-1"]
    for _ in range(random.randint(1, 5)):
        data[random.randrange(len(data))] ^= 1 << random.randrange(8)
    wreck = wreck_of(files, note_of(block))
    while not wreck.whole:
        missing = now(wreck.missing(3))
        if missing:
            assert now(wreck.take({each: true[each - FIRST] for each in missing})) == len(missing)
    assert files.written["block-1"] == block


def test_a_sound_record_that_was_not_there_is_not_put_back() -> None:
    true = records()
    block = b"".join(true)
    files = MemoryFiles()
    files.write("block-1", 0, block)
    files.written["block-1"][len(true[0]) + 50] ^= 1
    damaged = bytes(files.written["block-1"])
    wreck = wreck_of(files, note_of(block))
    assert now(wreck.missing(10)) == [FIRST + 1]
    other = encode_record(FIRST + 1, 5, b"s.x", b"", bytes(len(true[1]) - 48))
    assert len(other) == len(true[1])
    now(wreck.take({FIRST + 1: other}))
    assert files.written["block-1"] == damaged and not wreck.whole
    assert now(wreck.missing(100)) == list(range(FIRST, FIRST + COUNT)), "nothing is trusted any more"
    now(wreck.take({FIRST + number: record for number, record in enumerate(true)}))
    assert files.written["block-1"] == block and wreck.whole


def test_sequences_in_words() -> None:
    assert spans([3, 1, 2, 9]) == [(1, 3), (9, 9)]
    assert show([3, 1, 2, 9]) == "1 to 3, 9"


def copied_before(disk: MemoryDisk, number: int) -> list[MemoryDisk]:
    """Gets a copy of the disk as it is before its operation of this number."""
    copies: list[MemoryDisk] = []

    def note(operation: str, path: str) -> None:
        if len(disk.operations) == number and not copies:
            copies.append(disk.fork())

    disk.before = note
    return copies


async def test_a_file_is_mended_with_nothing_but_what_gives_its_checksum() -> None:
    disk = MemoryDisk()
    async with opened(disk) as storage:
        files = storage.group_files(GROUP, INCARNATION)
        files.write("block-1", 0, b"d" * 5000)
        with pytest.raises(FileDamaged, match="checksum"):
            await files.mend("block-1", {10: b"s" * 20}, 5000, crc32c(b"s" * 5000))
        assert await files.read("block-1", 0, 6000) == b"d" * 5000
        files.write("block-1", 5000, b"more")
        await files.mend("block-1", {0: b"s" * 5000}, 5000, crc32c(b"s" * 5000))
        files.write("block-1", 5004, b"!")
        assert await files.read("block-1", 0, 6000) == b"s" * 5000 + b"more!"


async def test_mending_that_is_cut_short_leaves_the_damaged_file_or_the_mended_one() -> None:
    """Power loss after every single operation of it."""
    damaged, sound = b"d" * 5000, b"s" * 5000
    for cut in range(30):
        disk = MemoryDisk()
        async with opened(disk) as storage:
            files = storage.group_files(GROUP, INCARNATION)
            files.write("block-1", 0, damaged)
            await files.sync(["block-1"])
            done = len(disk.operations)
            left = copied_before(disk, done + cut)
            await files.mend("block-1", {0: sound}, len(sound), crc32c(sound))
            disk.before = None
            path = f"groups/{GROUP}-{INCARNATION}/block-1"
            assert disk.read(path) == sound
            [kept] = disk.listdir(f"groups/{GROUP}-{INCARNATION}/quarantine")
            assert disk.read(f"groups/{GROUP}-{INCARNATION}/quarantine/{kept}") == damaged
        for seed in range(5):
            if not left:
                break
            after = left[0].fork()
            after.crash(Random(seed))
            assert after.read(path) in (damaged, sound)
        if not left:
            assert cut > 5
            return
    raise AssertionError("more steps than looked at")
