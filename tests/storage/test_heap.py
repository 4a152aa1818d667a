"""Freed memory goes back to the system once the log rests after a burst, and only then."""

import pytest
import trio
import trio.testing

from trimaran.storage import MemoryDisk, StorageOptions
from trimaran.storage.heap import TRIM_AFTER_BYTES, give_back

from .helpers import create, opened, record


async def test_memory_is_given_back_at_rest_after_much_was_written(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[float] = []
    monkeypatch.setattr("trimaran.storage.actor.give_back", lambda: given.append(trio.current_time()))
    async with opened(MemoryDisk(), options=StorageOptions(segment_bytes=8 << 20)) as storage:
        storage.append([create()])
        await storage.drain()
        await trio.sleep(10)
        assert given == [], "little was written"
        for index in range(1, 6):
            storage.append([record(index, size=TRIM_AFTER_BYTES // 4)])
            await storage.drain()
        assert given == [], "the log does not rest yet"
        await trio.sleep(10)
        assert len(given) == 1


def test_giving_back_works_or_is_left_to_the_system() -> None:
    give_back()
