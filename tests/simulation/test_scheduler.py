"""Trio under the simulator: the same seed is the same run. These fail if Trio's inner names have moved."""

from collections.abc import Awaitable, Callable
from random import Random
from typing import Any

import pytest
import trio

from trimaran.testing.nodes.agenda import Agenda
from trimaran.testing.nodes.scheduler import (
    SimulatedClock,
    Stillness,
    adopt,
    hold,
    release,
    run_simulated,
)


def simulate(main: Callable[[], Awaitable[None]], seed: int = 1, seconds: float = 100.0) -> None:
    run_simulated(seed, SimulatedClock(Random(seed)), main, seconds)


def order_of_a_crowd(seed: int) -> list[int]:
    order: list[int] = []

    async def main() -> None:
        gate = trio.Event()

        async def one(number: int) -> None:
            await gate.wait()
            order.append(number)

        async with trio.open_nursery() as nursery:
            for number in range(20):
                nursery.start_soon(one, number)
            await trio.sleep(1)
            gate.set()

    simulate(main, seed)
    return order


def test_the_order_of_tasks_follows_from_the_seed() -> None:
    assert order_of_a_crowd(1) == order_of_a_crowd(1)
    assert order_of_a_crowd(1) != order_of_a_crowd(2)


def test_equal_deadlines_expire_in_the_order_in_which_they_were_set() -> None:
    expired: list[int] = []

    async def main() -> None:
        scopes = [trio.CancelScope(deadline=5.0) for _ in range(50)]
        Random(3).shuffle(scopes)  # so that neither addresses nor tasks are in order
        names = {id(scope): number for number, scope in enumerate(scopes)}

        async def wait(scope: trio.CancelScope) -> None:
            with scope:
                await trio.sleep_forever()

        original = trio.CancelScope._cancel

        def note(scope: trio.CancelScope, reason: Any) -> None:
            if id(scope) in names:
                expired.append(names[id(scope)])
            original(scope, reason)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(trio.CancelScope, "_cancel", note)
            async with trio.open_nursery() as nursery:
                for scope in scopes:
                    nursery.start_soon(wait, scope)
                    await trio.sleep(0.001)

    simulate(main)
    assert expired == list(range(50))


def test_time_jumps_to_what_is_due_and_never_stands_still() -> None:
    async def main() -> None:
        times = [trio.current_time() for _ in range(1000)]
        assert sorted(set(times)) == times
        begin = trio.current_time()
        await trio.sleep(50)
        assert 50 <= trio.current_time() - begin < 50.01

    simulate(main)


def test_a_run_that_hangs_is_too_slow() -> None:
    with pytest.raises(trio.TooSlowError):
        simulate(trio.sleep_forever, seconds=10)


def test_a_process_that_is_held_does_nothing_until_it_is_released() -> None:
    heard: list[tuple[str, float]] = []

    async def main() -> None:
        process = Stillness()
        ticked = trio.Event()

        async def ticking(name: str) -> None:
            while True:
                await trio.sleep(1)
                heard.append((name, round(trio.current_time())))
                ticked.set()

        async def member() -> None:
            adopt(process)
            async with trio.open_nursery() as inner:
                inner.start_soon(ticking, "held")
                inner.start_soon(ticking, "also held")

        async with trio.open_nursery() as nursery:
            nursery.start_soon(member)
            nursery.start_soon(ticking, "free")
            await ticked.wait()
            hold(process)
            await trio.sleep(5.5)
            release(process)
            await trio.sleep(1.2)
            nursery.cancel_scope.cancel()

    simulate(main)
    assert [time for name, time in heard if name == "free"] == [1, 2, 3, 4, 5, 6, 7]
    held = [time for name, time in heard if name != "free"]
    assert not [time for time in held if 2 <= time <= 6]
    assert held.count(7) == 2, "what fell due meanwhile falls due at the release"


def test_the_agenda_calls_in_the_order_of_time_and_then_of_asking() -> None:
    done: list[tuple[str, int]] = []
    agenda = Agenda()

    async def main() -> None:
        def note(what: str) -> Callable[[], None]:
            return lambda: done.append((what, round(10 * trio.current_time())))

        agenda.at(3.0, note("third"))
        agenda.at(1.0, note("first"))
        agenda.at(1.0, note("second"))
        await trio.sleep(2)
        agenda.after(0.5, note("in between"))
        await trio.sleep(2)

    run_simulated(1, SimulatedClock(Random(1), agenda), main, 100.0)
    assert done == [("first", 10), ("second", 10), ("in between", 25), ("third", 30)]


def test_what_a_held_process_wakes_is_not_lost() -> None:
    """Seed 20032: a crash at an await of a process that was held woke a task, which was held in its place."""
    heard: list[str] = []

    async def main() -> None:
        process, news = Stillness(), trio.Event()

        async def member() -> None:
            adopt(process)
            for _ in range(10):
                await trio.sleep(1)

        async def listener() -> None:
            await news.wait()
            heard.append("news")

        async with trio.open_nursery() as nursery:
            nursery.start_soon(member)
            nursery.start_soon(listener)
            await trio.sleep(0.5)
            hold(process)
            process.on_wake = news.set
            await trio.sleep(2)
            assert not heard, "a process that is held has no awaits"
            release(process)
            await trio.sleep(2)
            nursery.cancel_scope.cancel()

    simulate(main)
    assert heard == ["news"]


def test_a_scheduler_that_fails_fails_the_run() -> None:
    async def main() -> None:
        process = Stillness()
        process.on_wake = lambda: [].pop()

        async def member() -> None:
            adopt(process)
            await trio.sleep(1)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(member)

    with pytest.raises(KeyError):
        simulate(main)
