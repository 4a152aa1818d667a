"""Mailboxes: bounded for requests, never blocked for watermarks."""

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
