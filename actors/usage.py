"""What the streams of this cluster take: each node counts its own replicas and asks the others for theirs."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Final, cast

import trio

from .peers.requests import PeerLost, Refusal, Requests
from .stream.account_limits import Held
from .stream.machine import StreamMachine

if TYPE_CHECKING:
    from .replica.group import Group
    from .stream.account_limits import AccountLimits

__all__ = ["Usage"]

logger = logging.getLogger(__name__)

USAGE: Final = "account.usage"
ANSWER_SECONDS: Final = 1.0
LOOK_SECONDS: Final = 1.0
"""How old the others' figures may be while bytes are limited."""
COUNT_SECONDS: Final = 0.25
"""How old this node's own may be of streams that nobody publishes to from here."""
FOLLOWED: Final = 16
"""Streams published to since the last count, which are looked at each time."""


class Usage:
    """Owned by the node.

    Args:
        hosted: the groups that run here.
        find: one of them by number.
        up: the nodes that a link stands to.
        limits: of the account, as they are at the moment.
    """

    def __init__(
        self,
        hosted: Callable[[], Iterable[Group]],
        find: Callable[[int], Group | None],
        up: Callable[[], Iterable[int]],
        requests: Requests,
        limits: Callable[[], AccountLimits],
    ) -> None:
        self._hosted = hosted
        self._find = find
        self._up = up
        self._requests = requests
        self._limits = limits
        self._others: dict[int, Held] = {}
        self._counted: dict[int, tuple[str, int]] = {}
        """Group -> kind of storage and bytes of the replica here, when it was looked at."""
        self._sums = {"memory": 0, "file": 0}
        self._counted_at = float("-inf")
        self._published: set[int] = set()
        requests.handle(USAGE, self._on_usage, ())

    async def run(self) -> None:
        """Keep the others' figures new, while they matter."""
        while True:
            if self._limits().count_bytes:
                await self._ask_all()
            await trio.sleep(LOOK_SECONDS)

    async def total(self) -> Held:
        """Of all nodes in reach."""
        await self._ask_all()
        mine = self._mine()
        held = [mine, *self._others.values()]
        return Held(
            sum(each.memory for each in held),
            sum(each.file for each in held),
            sum(each.consumers for each in held),
        )

    def exceeds(self, group: int, size: int) -> bool:
        """Whether so many bytes more in a stream would be beyond the account's limit."""
        limits = self._limits()
        if not limits.count_bytes:
            return False
        storage = self._storage(group)
        most = limits.most_bytes(storage)
        if most < 0:
            return False
        others = sum(each.of(storage) for each in self._others.values())
        self._published.add(group)
        if trio.current_time() - self._counted_at < COUNT_SECONDS and len(self._published) <= FOLLOWED:
            for each in self._published:
                self._look(each)
            if self._sums[storage] + others + size <= most:
                return False
        self._count()  # what was removed elsewhere makes room, and nobody is refused for an old figure
        self._published.add(group)
        return self._sums[storage] + others + size > most

    def _storage(self, number: int) -> str:
        machine = self._machine(number)
        return machine.config.storage if machine is not None and machine.config is not None else "file"

    def _machine(self, number: int) -> StreamMachine | None:
        group = self._find(number)
        return group.machine if group is not None and isinstance(group.machine, StreamMachine) else None

    def _look(self, number: int) -> None:
        storage, before = self._counted.pop(number, ("file", 0))
        self._sums[storage] -= before
        machine = self._machine(number)
        if machine is not None and machine.config is not None:
            found = self._counted[number] = (machine.config.storage, machine.messages.size)
            self._sums[found[0]] += found[1]

    def _count(self) -> None:
        self._counted.clear()
        self._sums = {"memory": 0, "file": 0}
        for group in self._hosted():
            self._look(group.number)
        self._published.clear()
        self._counted_at = trio.current_time()

    def _mine(self) -> Held:
        self._count()
        led = [group.machine for group in self._hosted() if group.leads]
        consumers = sum(len(machine.consumers) for machine in led if isinstance(machine, StreamMachine))
        return Held(self._sums["memory"], self._sums["file"], consumers)

    # --- asking and answering ---------------------------------------------------------------------------

    async def _ask_all(self) -> None:
        up = set(self._up())
        for gone in self._others.keys() - up:
            del self._others[gone]
        async with trio.open_nursery() as nursery:
            for node in up:
                nursery.start_soon(self._ask, node)

    async def _ask(self, node: int) -> None:
        try:
            answer = await self._requests.ask(node, USAGE, (), ANSWER_SECONDS, (int, int, int))
        except (PeerLost, Refusal, trio.TooSlowError) as error:
            logger.debug("%016x does not say what it holds: %s", node, error)
        else:
            self._others[node] = Held(*cast("list[int]", answer))

    async def _on_usage(self, asker: int, argument: object) -> object:
        mine = self._mine()
        return [mine.memory, mine.file, mine.consumers]
