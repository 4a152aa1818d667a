"""What must hold at the end of a run, and what must hold all the while."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Set
from functools import partial
from typing import Final, cast

import trio

from ...actors.cluster.meta_state import META_GROUP, STREAM_KIND, Assignment, MetaState
from ...actors.embedded import GroupHandle, open_group
from ...actors.node import LINK_BYTES, Node
from ...actors.replica.group import Group
from ...actors.stream.errors import DamagedRecord
from ...actors.stream.machine import StreamMachine
from .drain import drain
from .equality import differences
from .history import Contents, check_keys
from .load import LOG, REGISTERS, Ledger, Load
from .machines import SPARE, Machine, Machines, Process
from .weather import Weather

FOUND_SECONDS: Final = 60.0
SERVE_SECONDS: Final = 60.0
"""From the end of the faults to answers for everyone: groups that trusted a quiet leader may take longest."""
SETTLE_SECONDS: Final = 90.0
LOOK_SECONDS: Final = 0.05
WATCH_SECONDS: Final = 0.5
PROGRESS: Final = 20
"""Acknowledgements that are waited for in the calm."""
MOST_AWAITS: Final = 20_000
"""Of one process in `WATCH_SECONDS` of virtual time: whoever has more turns in a circle."""
QUEUE_BYTES: Final = 66 * 1024 * 1024
"""Storage's bound, and one batch."""


class Account:
    """The checks of one run.

    Args:
        complain: (property, facts).
    """

    def __init__(
        self,
        machines: Machines,
        weather: Weather,
        load: Load,
        complain: Callable[[str, str], None],
        note: Callable[..., None],
    ) -> None:
        self._machines = machines
        self._weather = weather
        self._load = load
        self._complain = complain
        self._note = note

    def _nodes(self) -> dict[str, Node]:
        return {name: node for name in self._machines.all if (node := self._machines[name].node) is not None}

    # --- the beginning

    async def founded(self) -> None:
        await self._until(lambda: not list(self._unwell()), FOUND_SECONDS, "a cluster is born")

    async def open_ledger(self, replicas: int) -> None:
        """Make the group of the users' machine, where all can find it."""
        node = next(iter(self._nodes().values()))
        handle = await open_group(node, "ledger", machine="ledger", replicas=replicas)
        self._load.ledger_group = handle.group

    # --- all the while

    async def watch(self) -> None:
        """Queues keep to their bounds, nobody is busy with nothing, frames are frames, until cancelled."""
        wakes: dict[Process, int] = {}
        while True:
            await trio.sleep(WATCH_SECONDS)
            before, wakes = wakes, self._wakes()
            for process, count in wakes.items():
                self._bound(
                    f"{process.machine.name}: awaits", count - before.get(process, count), MOST_AWAITS
                )
            for name, node in self._nodes().items():
                for link, statistics in node.peers.statistics().items():
                    self._bound(f"{name}: link to {link}", statistics.queued_bytes, LINK_BYTES)
                self._bound(f"{name}: storage", node.storage.statistics().queue_bytes, QUEUE_BYTES)
                self._nothing_is_damaged(name, node)
                bad, unknown = node.peers.bad_frames, node.peers.unknown_frames
                if bad or unknown:
                    facts = f"{name} got {bad} that are none, {unknown} of unknown kinds"
                    self._complain("frames arrive as they were made", facts)

    def _nothing_is_damaged(self, name: str, node: Node) -> None:
        """Files below the log are as they were synced, on a disk that changed none. What is found damaged
        there the product has damaged, though it mends it."""
        if self._machines[name].damages:
            return
        for group in node.groups.hosted():
            patient, mended = group.repair.wreck or group.machine.damage, group.repair.mender.mended
            hurt = patient.reasons[:3] if patient is not None else []
            if hurt or mended:
                self._complain("only what was damaged is", f"{group.name} on {name}: {mended} mended, {hurt}")

    def _wakes(self) -> dict[Process, int]:
        processes = (machine.process for machine in self._machines.all.values())
        return {process: process.stillness.wakes for process in processes if process is not None}

    def _bound(self, what: str, size: int, bound: int) -> None:
        if size > bound:
            self._complain("bounds", f"{what}: {size}, more than {bound}")

    # --- the calm

    async def serves(self) -> None:
        """Clients get answers again: soon, and some more after that."""
        acknowledged = self._load.acknowledged
        await self._until(
            lambda: self._load.acknowledged >= acknowledged + PROGRESS,
            SERVE_SECONDS,
            "progress after the storm",
        )

    async def settled(self) -> None:
        """Every member is up and well, every group is where meta wants it, and all replicas have all."""
        await self._until(lambda: not list(self._unsettled()), SETTLE_SECONDS, "convergence after the storm")

    async def _until(self, holds: Callable[[], bool], seconds: float, rule: str) -> None:
        with trio.move_on_after(seconds) as limit:
            while not holds():  # noqa: ASYNC110  # many actors change what it looks at; the clock is virtual
                await trio.sleep(LOOK_SECONDS)
        if limit.cancelled_caught:
            self._complain(rule, f"not within {seconds:g} s: {'; '.join(self._unsettled()) or 'all is well'}")

    def _unwell(self) -> Iterable[str]:
        for name, machine in self._machines.all.items():
            if name in self._weather.retired or self._is_stranger(machine):
                continue
            if machine.node is None:
                yield f"{name} is down"
            else:
                yield from (f"{name}: {reason}" for reason in machine.node.vitals.health())

    def _is_stranger(self, machine: Machine) -> bool:
        """Whether the spare machine waits for an invitation that nobody got through."""
        meta = self._meta()
        return machine.name == SPARE and meta is not None and meta.node_named(SPARE) is None

    def _meta(self) -> MetaState | None:
        """What the node knows that has applied most of the meta log."""
        known = [(meta.applier.applied, node.state) for node, meta in self._replicas(META_GROUP)]
        return max(known, key=lambda each: each[0])[1] if known else None

    def _replicas(self, group: int) -> list[tuple[Node, Group]]:
        nodes = self._nodes().values()
        return [(node, hosted) for node in nodes if (hosted := node.groups.get(group)) is not None]

    def is_whole(self) -> bool:
        """Every member is up and well, and every group has its replicas; they need not be level."""
        return not list(self._unsettled(level=False))

    def _unsettled(self, *, level: bool = True) -> Iterable[str]:
        yield from self._unwell()
        meta = self._meta()
        if meta is None:
            yield "nobody has the meta group"
            return
        if meta.leaving:
            yield "a node is still leaving"
        yield from self._unlevel(META_GROUP, frozenset(meta.nodes), level)
        for assignment in meta.groups.values():
            yield from self._unlevel(assignment.group, frozenset(assignment.replicas), level)

    def _unlevel(self, number: int, wanted: frozenset[int], level: bool) -> Iterable[str]:
        replicas = self._replicas(number)
        if {node.me.node for node, _ in replicas} != wanted:
            yield f"group {number} runs on {len(replicas)} nodes, not on the {len(wanted)} it should"
        places: set[int] = set()
        for node, group in replicas:
            state = group.state
            if state.membership.voters != wanted or state.membership.learners:
                yield f"{node.me.name}: group {number} counts on {sorted(state.membership.voters)}"
            places |= {group.applier.applied, state.log.last_index}
        if level and len(places) > 1:
            yield f"group {number} is not level: {sorted(places)}"

    # --- the end

    async def close(self) -> None:
        """Compare replicas with each other and with what clients were told."""
        meta = self._meta()
        if meta is None:
            return
        for number in (META_GROUP, *meta.groups):
            replicas = {node.me.name: group for node, group in self._replicas(number)}
            hashes = {group.applier.rolling_hash for group in replicas.values()}
            if len(hashes) > 1:
                self._complain("replicas are equal", f"group {number}: {len(hashes)} rolling hashes")
            for difference in differences(replicas):
                self._complain("replicas are equal", f"group {number}: {difference}")
        for each in meta.streams():
            await self._all_read_the_same(each)
        streams = {name: meta.named(STREAM_KIND, name) for name in (LOG, REGISTERS)}
        for name, stream in streams.items():
            if stream is None:
                self._complain("acknowledged is stored", f"stream {name} is gone")
                return
            for node, group in self._replicas(stream.group):
                contents, damaged = await self._stored(group)
                if name == LOG:
                    self._load.log.check(node.me.name, contents, self._complain, damaged)
                elif not damaged:
                    check_keys(self._load.keys, contents, self._complain)
        for node, _ in self._replicas(self._load.ledger_group):
            ledger = cast(Ledger, GroupHandle(node, self._load.ledger_group).stale_machine)
            self._load.ledger.check(node.me.name, dict(enumerate(ledger.entries, 1)), self._complain)
        self._load.log.check_order(self._complain)
        self._load.ledger.check_order(self._complain)
        await self._drain()

    async def _all_read_the_same(self, stream: Assignment) -> None:
        """Also what came and went: what one replica can read, all can, unless their disks changed it."""
        found: dict[int, bytes] = {}
        for node, group in self._replicas(stream.group):
            contents, damaged = await self._stored(group)
            if damaged and node.me.name not in self._weather.frail:
                facts = f"{stream.name} on {node.me.name} at {sorted(damaged)[:5]}"
                self._complain("only what was damaged is", facts)
            others = [at for at, text in contents.items() if found.setdefault(at, text) != text]
            if others:
                self._complain("replicas are equal", f"{stream.name} on {node.me.name} at {others[:5]}")

    async def close_beyond(self) -> None:
        """A cluster that has lost too much need not go on. But what a replica has is what clients were told,
        and as far as two of them have come, they have come the same way."""
        meta = self._meta()
        log = meta.named(STREAM_KIND, LOG) if meta is not None else None
        for node, group in self._replicas(log.group) if log is not None else ():
            if not group.state.unrestored:
                contents, damaged = await self._stored(group)
                self._load.log.check(node.me.name, contents, self._complain, damaged, partly=True)
        for node, group in self._replicas(self._load.ledger_group):
            if not group.state.unrestored:
                ledger = cast(Ledger, GroupHandle(node, self._load.ledger_group).stale_machine)
                entries = dict(enumerate(ledger.entries, 1))
                self._load.ledger.check(node.me.name, entries, self._complain, partly=True)
        for number in (META_GROUP, *(meta.groups if meta is not None else ())):
            replicas = {node.me.name: group for node, group in self._replicas(number)}
            sound = {name: group for name, group in replicas.items() if not group.state.unrestored}
            for difference in differences(sound):
                self._complain("replicas are equal", f"group {number}: {difference}")
        self._load.log.check_order(self._complain)
        self._load.ledger.check_order(self._complain)

    async def _drain(self) -> None:
        """The consumer's clients get what nobody acknowledged, and nothing else."""
        deliveries, chair = self._load.deliveries, self._load.chair("drain")
        settled = set(deliveries.confirmed)
        last = max((append.place for append in self._load.log.appends), default=0)
        owed = set(range(1, last + 1)) - deliveries.acknowledged
        deliveries.seen.clear()
        if not await drain(partial(self._load.fetch, chair), chair.leave):
            self._complain("everything is delivered", "the consumer is not served")
        again = sorted(deliveries.seen & settled)
        if again:
            self._complain("what is acknowledged is not delivered again", f"sequences {again[:5]}")
        never = sorted(owed - deliveries.seen)
        if never:
            self._complain("everything is delivered", f"never: {never[:5]}")

    async def _stored(self, group: Group) -> tuple[Contents, Set[int]]:
        """What a replica holds, and where it says that it can't read it."""
        machine = cast(StreamMachine, group.machine)
        found: dict[int, bytes] = {}
        damaged: set[int] = set()
        for sequence in range(1, machine.info().last_seq + 1):
            try:
                message = await machine.get(sequence)
            except DamagedRecord:
                damaged.add(sequence)
                continue
            if message is not None:
                found[sequence] = bytes(message.payload)
        return found, damaged
