"""Mailboxes: bounded for requests, never blocked for watermarks."""

from trimaran.actors.mailbox import Mailbox


class Owner:
    """How often it was told that there is something to do."""

    def __init__(self) -> None:
        self.told = 0

    def __call__(self) -> None:
        self.told += 1


def test_a_full_mailbox_refuses_and_counts() -> None:
    owner = Owner()
    box: Mailbox[int] = Mailbox(2, owner)
    assert [box.put(1), box.put(2), box.put(3)] == [True, True, False]
    assert box.refused == 1 and owner.told == 2
    assert box.take() == [1, 2]
    assert box.put(4)
    assert box.take() == [4]


def test_a_watermark_gets_through_a_full_mailbox_and_only_its_newest_value_counts() -> None:
    box: Mailbox[int] = Mailbox(1, Owner())
    box.put(1)
    box.mark("synced", 10)
    box.mark("synced", 12)
    assert box.take() == [12, 1]
    assert len(box) == 0 and box.take() == []


def test_watermarks_of_different_names_all_arrive() -> None:
    box: Mailbox[int] = Mailbox(1, Owner())
    box.mark("synced", 1)
    box.mark("applied", 2)
    assert sorted(box.take()) == [1, 2]


def test_a_quiet_watermark_waits_for_the_next_thing() -> None:
    owner = Owner()
    box: Mailbox[int] = Mailbox(2, owner)
    box.mark("applied", 7, wake=False)
    assert owner.told == 0
    box.put(1)
    assert owner.told == 1
    assert box.take() == [7, 1]
