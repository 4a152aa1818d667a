"""Mailboxes: bounded for requests, never blocked for watermarks."""

import trio
from trio.testing import MockClock

from trimaran.actors.mailbox import Mailbox


async def test_a_full_mailbox_refuses_and_counts() -> None:
    box: Mailbox[int] = Mailbox(2)
    assert [box.put(1), box.put(2), box.put(3)] == [True, True, False]
    assert box.refused == 1
    assert await box.take() == [1, 2]
    assert box.put(4)


async def test_a_watermark_gets_through_a_full_mailbox_and_only_its_newest_value_counts() -> None:
    box: Mailbox[int] = Mailbox(1)
    box.put(1)
    box.mark("synced", 10)
    box.mark("synced", 12)
    assert await box.take() == [12, 1]
    assert len(box) == 0


async def test_watermarks_of_different_names_all_arrive() -> None:
    box: Mailbox[int] = Mailbox(1)
    box.mark("synced", 1)
    box.mark("applied", 2)
    assert sorted(await box.take()) == [1, 2]


async def test_a_quiet_watermark_waits_for_the_next_thing(autojump_clock: MockClock) -> None:
    box: Mailbox[int] = Mailbox(2)
    box.mark("applied", 7, wake=False)
    with trio.move_on_after(1) as patience:
        await box.take()
    assert patience.cancelled_caught
    box.put(1)
    assert await box.take() == [7, 1]


async def test_a_wake_up_brings_what_was_quiet_or_nothing() -> None:
    box: Mailbox[int] = Mailbox(2)
    box.mark("applied", 7, wake=False)
    box.wake()
    assert await box.take() == [7]
    box.wake()
    assert await box.take() == []
