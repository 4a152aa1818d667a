"""One Trio run that repeats: a virtual clock, a seeded scheduler, and tasks that can be held still.

What Trio leaves open, and what is done about it here:

- The order of tasks in one pass of the loop is drawn from the seed, so every seed is another schedule.
- Of two deadlines at the same instant Trio takes the one at the lower address first. Here the clock moves by
  a random bit at each reading, so that deadlines differ; and if they don't, the one that was set first comes
  first.
- A virtual clock doesn't wait for threads. There are none: disks and networks are simulated.
- The tasks that wait for one event, and those under one scope, are kept in sets. They are woken in one pass,
  which is sorted before it is shuffled.

Two of these need names that Trio does not promise to keep. They are all in this file, and
`tests/simulation/test_scheduler.py` fails when one of them is gone.
"""

from __future__ import annotations

import itertools
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from heapq import heappush
from math import inf
from random import Random
from typing import TypeVar

import trio
from trio._core import _run

from .agenda import Agenda

Result = TypeVar("Result")

READING_SECONDS = 1e-6
"""The clock moves by up to this much whenever somebody looks at it."""


class SimulatedClock(trio.abc.Clock):
    """Virtual time in seconds, from 0: it jumps to the next deadline as soon as nobody has anything to do."""

    def __init__(self, random: Random, agenda: Agenda | None = None) -> None:
        """`agenda` has what happens besides the tasks."""
        self.now = 0.0
        """The time without looking at the clock, for traces."""
        self._random = random
        self._agenda = agenda if agenda is not None else Agenda()

    def start_clock(self) -> None:
        return

    def current_time(self) -> float:
        self.now += self._random.random() * READING_SECONDS
        return self.now

    def deadline_to_sleep_time(self, deadline: float) -> float:
        """Trio asks when all tasks wait: for the next deadline, then, or for what is on the agenda before it,
        since there is no outside.

        While `main` runs there always is one: the limit of the run."""
        if self._agenda.next < deadline:
            self.now = max(self.now, self._agenda.next)
            self._agenda.perform(self.now)
        elif deadline < inf:
            self.now = max(self.now, deadline)
        return 0.0


class _OrderedDeadlines(_run.Deadlines):
    """Equal deadlines expire in the order in which they were set, not in that of their addresses."""

    def __init__(self) -> None:
        super().__init__()
        self._numbers = itertools.count()

    def add(self, deadline: float, cancel_scope: trio.CancelScope) -> None:
        heappush(self._heap, (deadline, next(self._numbers), cancel_scope))
        self._active += 1


class Stillness:
    """The tasks of one process, which can be held still as by SIGSTOP: its timers fire late."""

    def __init__(self) -> None:
        self.held: list[trio.lowlevel.Task] = []
        self.still = False
        self.on_wake: Callable[[], None] | None = None
        """Called whenever one of its tasks is about to run again: at every await of the process."""
        self.wakes = 0
        """How often one of its tasks was about to run."""


_PROCESS: ContextVar[Stillness] = ContextVar("process")


class _Holder(trio.abc.Instrument):
    """Takes the tasks of processes that are held out of Trio's queue again."""

    def task_scheduled(self, task: trio.lowlevel.Task) -> None:
        process = task.context.get(_PROCESS)
        if process is None:
            return
        process.wakes += 1
        if process.still:
            # Nothing may come between: whatever `on_wake` wakes stands behind this task in the queue.
            runner = _run.GLOBAL_RUN_CONTEXT.runner
            assert runner.runq.pop() is task
            process.held.append(task)
        elif process.on_wake is not None:
            process.on_wake()


def adopt(process: Stillness) -> None:
    """The running task, and all that it starts from now on, are of this process."""
    _PROCESS.set(process)


def hold(process: Stillness) -> None:
    """Nothing of the process runs until `release`."""
    process.still = True
    queue = _run.GLOBAL_RUN_CONTEXT.runner.runq
    waiting = list(queue)
    queue.clear()
    for task in waiting:
        (process.held if task.context.get(_PROCESS) is process else queue).append(task)


def release(process: Stillness) -> None:
    """It goes on where it was held; what fell due meanwhile falls due now."""
    process.still = False
    held, process.held = process.held, []
    _run.GLOBAL_RUN_CONTEXT.runner.runq.extend(held)


def run_simulated(
    seed: int, clock: SimulatedClock, main: Callable[[], Awaitable[Result]], seconds: float
) -> Result:
    """Run a Trio program whose every step follows from the seed.

    Raises trio.TooSlowError after so many virtual seconds, and whatever `main` raises.
    """

    holder = _Holder()

    async def timed() -> Result:
        runner = _run.GLOBAL_RUN_CONTEXT.runner
        assert not runner.deadlines._active
        runner.deadlines = _OrderedDeadlines()
        try:
            with trio.fail_after(seconds):
                return await main()
        finally:
            # A KeyError: it raised, and Trio took it out, so that from then on nothing was held.
            trio.lowlevel.remove_instrument(holder)

    state, sorted_before = _run._r.getstate(), _run._ALLOW_DETERMINISTIC_SCHEDULING
    _run._r.seed(seed)
    vars(_run)["_ALLOW_DETERMINISTIC_SCHEDULING"] = True
    try:
        return trio.run(timed, clock=clock, instruments=[holder])
    finally:
        vars(_run)["_ALLOW_DETERMINISTIC_SCHEDULING"] = sorted_before
        _run._r.setstate(state)
