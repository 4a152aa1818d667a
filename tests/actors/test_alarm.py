"""An alarm rings once its deadline has passed, however often the deadline moved before."""

import math

import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from trimaran.actors.alarm import Alarm


class Rings:
    """When it rang."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def __call__(self) -> None:
        self.times.append(trio.current_time())


async def test_it_rings_at_its_last_deadline_only(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    rings = Rings()
    alarm = Alarm(rings)
    nursery.start_soon(alarm.run)
    start = trio.current_time()
    for later in (1.0, 2.0, 3.0, 5.0):
        alarm.set(start + later)
        await trio.sleep(0.5)
    await trio.sleep(10)
    assert rings.times == [start + 5.0]


async def test_an_earlier_deadline_counts_at_once(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    rings = Rings()
    alarm = Alarm(rings)
    nursery.start_soon(alarm.run)
    start = trio.current_time()
    alarm.set(start + 5.0)
    await wait_all_tasks_blocked()
    alarm.set(start + 1.0)
    await trio.sleep(10)
    assert rings.times == [start + 1.0]


async def test_it_rings_again_only_after_another_set(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    rings = Rings()
    alarm = Alarm(rings)
    nursery.start_soon(alarm.run)
    start = trio.current_time()
    alarm.set(start + 1.0)
    await trio.sleep(10)
    alarm.set(start + 11.0)
    await trio.sleep(10)
    alarm.set(math.inf)
    await trio.sleep(10)
    assert rings.times == [start + 1.0, start + 11.0]


async def test_a_deadline_that_has_passed_rings_now(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    rings = Rings()
    alarm = Alarm(rings)
    alarm.set(trio.current_time() - 1.0)
    nursery.start_soon(alarm.run)
    await trio.sleep(0.001)
    assert len(rings.times) == 1


async def test_a_deadline_taken_back_never_rings(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    rings = Rings()
    alarm = Alarm(rings)
    nursery.start_soon(alarm.run)
    alarm.set(trio.current_time() + 1.0)
    alarm.set(math.inf)
    await trio.sleep(10)
    assert rings.times == []
