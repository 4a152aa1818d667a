"""Draining a consumer: when it counts as empty, and when it doesn't."""

import trio
from trio.testing import MockClock

from trimaran.testing.nodes.client import Disconnected
from trimaran.testing.nodes.drain import PATIENCE_SECONDS, Fetched, drain

SERVED_NOT = Fetched(0, "503")
WAITED = Fetched(0, "408")


class Script:
    """A consumer that answers as told, and after that always the same."""

    def __init__(self, *fetches: Fetched, last: Fetched) -> None:
        self.left = 0
        self._fetches = list(fetches)
        self._last = last

    async def fetch(self) -> Fetched:
        await trio.lowlevel.checkpoint()
        fetched = self._fetches.pop(0) if self._fetches else self._last
        if fetched.status == "gone":
            raise Disconnected("gone")
        return fetched

    def leave(self) -> None:
        self.left += 1

    @property
    def is_told(self) -> bool:
        return not self._fetches


async def test_a_node_that_serves_nobody_says_nothing_about_the_consumer(autojump_clock: MockClock) -> None:
    """Seed 7156: a machine that was not invited answered 503 three times, and five messages were missed."""
    script = Script(SERVED_NOT, SERVED_NOT, SERVED_NOT, Fetched(5, "408"), last=WAITED)
    assert await drain(script.fetch, script.leave)
    assert script.is_told and script.left == 3


async def test_it_ends_after_fetches_in_a_row_that_waited_for_nothing(autojump_clock: MockClock) -> None:
    script = Script(WAITED, WAITED, Fetched(1), WAITED, Fetched(0, "gone"), WAITED, last=WAITED)
    assert await drain(script.fetch, script.leave)
    assert script.is_told and script.left == 1


async def test_there_is_time_for_many_messages(autojump_clock: MockClock) -> None:
    class Slow(Script):
        async def fetch(self) -> Fetched:
            await trio.sleep(PATIENCE_SECONDS / 2)
            return await super().fetch()

    script = Slow(*[Fetched(8)] * 20, last=WAITED)
    with trio.fail_after(20 * PATIENCE_SECONDS):
        assert not await drain(script.fetch, script.leave)
    assert script.is_told


async def test_a_consumer_that_nobody_serves_is_told(autojump_clock: MockClock) -> None:
    script = Script(last=SERVED_NOT)
    began = trio.current_time()
    assert not await drain(script.fetch, script.leave)
    assert trio.current_time() - began >= PATIENCE_SECONDS
