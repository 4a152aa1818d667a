"""One task that serves whatever has arrived: everyone hears of it, errors stay with whom they are of."""

import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import trio
import trio.testing

from trimaran.storage import readiness
from trimaran.storage.readiness import DENSE_SECONDS, LONGEST_GAP, Gaps, Wake, each_readable


@contextmanager
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    near, far = socket.socketpair()
    with near, far:
        near.setblocking(False)
        far.setblocking(False)
        yield near, far


def collecting(near: socket.socket, into: list[bytes], last: bytes) -> Callable[[], bool]:
    """Work that notes what arrives, until `last` does."""

    def work() -> bool:
        into.append(near.recv(100))
        return into[-1] != last

    return work


async def test_work_is_called_for_each_arrival_until_it_says_that_there_will_be_no_more() -> None:
    got: list[bytes] = []
    with pair() as (near, far):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(each_readable, near.fileno(), collecting(near, got, b"c"))
            for sent in (b"a", b"b", b"c"):
                await trio.testing.wait_all_tasks_blocked()
                far.send(sent)
        far.send(b"d")
        await trio.testing.wait_all_tasks_blocked()
    assert got == [b"a", b"b", b"c"]


async def test_what_work_raises_ends_its_own_wait_alone() -> None:
    got: list[bytes] = []

    def fail() -> bool:
        raise ValueError("not what was expected")

    with pair() as (near, far), pair() as (other_near, other_far):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(each_readable, other_near.fileno(), collecting(other_near, got, b"b"))
            await trio.testing.wait_all_tasks_blocked()
            far.send(b"x")
            other_far.send(b"a")
            with pytest.raises(ValueError, match="not what was expected"):
                await each_readable(near.fileno(), fail)
            other_far.send(b"b")
    assert b"".join(got) == b"ab"


async def test_a_cancelled_wait_hears_of_nothing_more_and_its_number_can_be_used_again() -> None:
    first: list[bytes] = []
    second: list[bytes] = []
    with pair() as (near, far):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(each_readable, near.fileno(), collecting(near, first, b"a"))
            await trio.testing.wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
        far.send(b"a")
        await each_readable(near.fileno(), collecting(near, second, b"a"))
    assert (first, second) == ([], [b"a"])


async def test_other_tasks_go_on_while_more_and_more_arrives() -> None:
    turns, served = 0, 0

    async def count() -> None:
        nonlocal turns
        while served < 5000:
            turns += 1
            await trio.lowlevel.checkpoint()

    with pair() as (near, far):
        far.send(b"x")  # which stays readable

        def work() -> bool:
            nonlocal served
            served += 1
            return served < 5000

        async with trio.open_nursery() as nursery:
            nursery.start_soon(count)
            nursery.start_soon(each_readable, near.fileno(), work)
    assert turns > 3


async def test_a_wake_up_is_heard_once_however_often_it_was_given() -> None:
    wake, heard = Wake(), 0

    def work() -> bool:
        nonlocal heard
        heard += 1
        wake.clear()
        return heard < 2

    wake.set()
    wake.set()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(each_readable, wake.fileno(), work)
        await trio.testing.wait_all_tasks_blocked()
        assert heard == 1
        wake.set()
    assert heard == 2


def after(*gaps: float) -> Gaps:
    noted, now = Gaps(), 0.0
    for gap in gaps:
        now += gap
        noted.note(now)
    return noted


def test_traffic_is_dense_once_much_has_come_in_short_order() -> None:
    often = DENSE_SECONDS / 2
    assert not after(often, often).dense
    assert after(*[often] * 100).dense
    assert not after(*[DENSE_SECONDS * 2] * 1000).dense


def test_after_a_pause_it_is_dense_again_within_some_dozens() -> None:
    often = DENSE_SECONDS / 2
    assert not after(*[often] * 100, 1000 * LONGEST_GAP).dense
    assert after(*[often] * 100, 1000 * LONGEST_GAP, *[often] * 50).dense


def test_heartbeats_are_not_dense() -> None:
    assert not after(*[0.1, 1e-5, 1e-5, 1e-5] * 100).dense


async def test_nobody_looks_for_more_while_another_task_has_something_to_do(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With dense traffic, and seconds to look: each arrival lets a task go on that sends the next one."""
    monkeypatch.setattr(readiness, "LOOK_SECONDS", 2.0)
    monkeypatch.setattr(readiness, "DENSE_SECONDS", 3600.0)
    arrived = trio.Event()
    with pair() as (near, far):
        rest = 20

        def work() -> bool:
            nonlocal rest
            near.recv(100)
            arrived.set()
            rest -= 1
            return rest > 0

        async def send() -> None:
            nonlocal arrived
            while rest:
                arrived = trio.Event()
                far.send(b"x")
                await arrived.wait()

        with trio.fail_after(10):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(each_readable, near.fileno(), work)
                nursery.start_soon(send)
