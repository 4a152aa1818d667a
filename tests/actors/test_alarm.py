"""An alarm rings once its deadline has passed, however often the deadline moved before."""

import math

import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from trimaran.actors.alarm import Alarms
from trimaran.storage.turns import Turns


class Rings:
    """When it rang."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def __call__(self) -> None:
        self.times.append(trio.current_time())


async def test_it_rings_at_its_last_deadline_only(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    alarms, rings = Alarms(Turns().through), Rings()
    nursery.start_soon(alarms.run)
    alarm = alarms.alarm(rings)
    start = trio.current_time()
    for later in (1.0, 2.0, 3.0, 5.0):
        alarm.set(start + later)
        await trio.sleep(0.5)
    await trio.sleep(10)
    assert rings.times == [start + 5.0]


async def test_an_earlier_deadline_counts_at_once(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    alarms, rings = Alarms(Turns().through), Rings()
    nursery.start_soon(alarms.run)
    alarm = alarms.alarm(rings)
    start = trio.current_time()
    alarm.set(start + 5.0)
    await wait_all_tasks_blocked()
    alarm.set(start + 1.0)
    await trio.sleep(10)
    assert rings.times == [start + 1.0]


async def test_it_rings_again_only_after_another_set(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    alarms, rings = Alarms(Turns().through), Rings()
    nursery.start_soon(alarms.run)
    alarm = alarms.alarm(rings)
    start = trio.current_time()
    alarm.set(start + 1.0)
    await trio.sleep(10)
    alarm.set(start + 11.0)
    await trio.sleep(10)
    alarm.set(math.inf)
    await trio.sleep(10)
    assert rings.times == [start + 1.0, start + 11.0]


async def test_one_set_before_the_task_runs_and_long_due_rings_at_once(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    alarms, rings = Alarms(Turns().through), Rings()
    alarms.alarm(rings).set(trio.current_time() - 1.0)
    nursery.start_soon(alarms.run)
    await trio.sleep(0.001)
    assert len(rings.times) == 1


async def test_a_deadline_taken_back_never_rings(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    alarms, rings = Alarms(Turns().through), Rings()
    nursery.start_soon(alarms.run)
    alarm = alarms.alarm(rings)
    alarm.set(trio.current_time() + 1.0)
    alarm.set(math.inf)
    await trio.sleep(10)
    assert rings.times == []


async def test_each_of_many_rings_at_its_own_time_and_may_be_set_while_ringing(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    alarms = Alarms(Turns().through)
    nursery.start_soon(alarms.run)
    start = trio.current_time()
    rings = [Rings() for _ in range(3)]
    for number, each in enumerate(rings):
        alarms.alarm(each).set(start + 3 - number)
    beats = 0

    def beat() -> None:
        nonlocal beats
        beats += 1
        beating.set(trio.current_time() + 1.0)

    beating = alarms.alarm(beat)
    beating.set(start + 1.0)
    await trio.sleep(5.5)
    assert [each.times for each in rings] == [[start + 3], [start + 2], [start + 1]]
    assert beats == 5
