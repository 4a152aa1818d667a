"""Turns: what a pass gives actors to do is done before it ends, and a failure stays with its actor."""

from collections.abc import Callable

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from trimaran.storage.turns import Order, Turn, Turns


class Actor:
    """Notes its turns, and does in each what it was told."""

    def __init__(self, turns: Turns, notes: list[str], name: str, order: Order = Order.DECIDE) -> None:
        self.act: Callable[[], None] = lambda: None
        self.turn = Turn(turns, order, self._work)
        self._notes = notes
        self._name = name

    def _work(self) -> None:
        self._notes.append(self._name)
        self.act()

    async def rest(self) -> None:
        self._notes.append(f"rest of {self._name}")


async def test_a_pass_gives_every_turn_before_it_ends_and_decisions_come_first() -> None:
    turns, notes = Turns(), list[str]()
    group = Actor(turns, notes, "group")
    link = Actor(turns, notes, "link", Order.SEND)
    gateway = Actor(turns, notes, "gateway", Order.ANSWER)
    group.act = gateway.turn.due

    def arrival() -> str:
        for actor in (gateway, link, group, group):
            actor.turn.due()
        notes.append("arrived")
        return "result"

    async with trio.open_nursery() as nursery:
        for actor in (group, link, gateway):
            nursery.start_soon(actor.turn.run)
        await wait_all_tasks_blocked()
        assert turns.through(arrival) == "result"
        assert notes == ["arrived", "group", "link", "gateway"]
        nursery.cancel_scope.cancel()


async def test_turns_are_never_nested() -> None:
    """An actor that makes itself and others due goes on undisturbed; a pass within a pass is the same one."""
    turns, notes = Turns(), list[str]()
    first, second = Actor(turns, notes, "first"), Actor(turns, notes, "second")
    again = [True]

    def act() -> None:
        if again.pop():
            again.append(False)
            turns.through(second.turn.due)
            first.turn.due()
            notes.append("end of first")

    first.act = act
    async with trio.open_nursery() as nursery:
        nursery.start_soon(first.turn.run)
        nursery.start_soon(second.turn.run)
        await wait_all_tasks_blocked()
        turns.through(first.turn.due)
        assert notes == ["first", "end of first", "second", "first"]
        nursery.cancel_scope.cancel()


async def test_outside_of_a_pass_the_actors_own_task_takes_the_turn() -> None:
    turns, notes = Turns(), list[str]()
    actor = Actor(turns, notes, "actor")
    actor.turn.due()  # before it runs
    async with trio.open_nursery() as nursery:
        nursery.start_soon(actor.turn.run)
        await wait_all_tasks_blocked()
        assert notes == ["actor"]
        actor.turn.due()
        assert notes == ["actor"]
        await wait_all_tasks_blocked()
        assert notes == ["actor", "actor"]
        nursery.cancel_scope.cancel()
    turns.through(actor.turn.due)
    assert notes == ["actor", "actor"]  # it has ended


async def test_what_has_to_wait_is_for_the_task() -> None:
    turns, notes = Turns(), list[str]()
    actor = Actor(turns, notes, "actor")
    actor.act = actor.turn.leave
    async with trio.open_nursery() as nursery:
        nursery.start_soon(actor.turn.run, actor.rest)
        await wait_all_tasks_blocked()
        turns.through(actor.turn.due)
        assert notes == ["actor"]
        await wait_all_tasks_blocked()
        assert notes == ["actor", "rest of actor"]
        nursery.cancel_scope.cancel()


async def test_what_a_turn_raises_ends_its_actor_and_nobody_else() -> None:
    turns, notes = Turns(), list[str]()
    broken, sound = Actor(turns, notes, "broken"), Actor(turns, notes, "sound")

    def fail() -> None:
        raise AssertionError("the rules are broken")

    broken.act = fail
    ended = list[str]()

    async def run_broken() -> None:
        with pytest.raises(AssertionError, match="the rules are broken"):
            await broken.turn.run()
        ended.append("broken")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(run_broken)
        nursery.start_soon(sound.turn.run)
        await wait_all_tasks_blocked()

        def arrival() -> None:
            for actor in (broken, sound):
                actor.turn.due()

        turns.through(arrival)
        turns.through(arrival)
        assert notes == ["broken", "sound", "sound"]
        await wait_all_tasks_blocked()
        assert ended == ["broken"]
        nursery.cancel_scope.cancel()


async def test_a_pass_that_fails_gives_the_turns_all_the_same() -> None:
    turns, notes = Turns(), list[str]()
    actor = Actor(turns, notes, "actor")

    def arrival() -> None:
        actor.turn.due()
        raise ValueError("a peer's frame")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(actor.turn.run)
        await wait_all_tasks_blocked()
        with pytest.raises(ValueError, match="a peer's frame"):
            turns.through(arrival)
        assert notes == ["actor"]
        nursery.cancel_scope.cancel()


async def test_what_many_give_to_an_earlier_actor_waits_for_all_of_them() -> None:
    turns, notes = Turns(), list[str]()
    link = Actor(turns, notes, "link", Order.SEND)
    appliers = [Actor(turns, notes, f"applier {number}", Order.APPLY) for number in (1, 2)]
    for applier in appliers:
        applier.act = link.turn.due

    def arrival() -> None:
        for actor in (*appliers, link):
            actor.turn.due()

    async with trio.open_nursery() as nursery:
        for actor in (*appliers, link):
            nursery.start_soon(actor.turn.run)
        await wait_all_tasks_blocked()
        turns.through(arrival)
        assert notes == ["link", "applier 1", "applier 2", "link"]
        nursery.cancel_scope.cancel()
