"""A whole cluster in bad weather, from a seed: crashes with and without power loss, wiped and rotten disks,
partitions, handovers, scaling, groups made and deleted, small snapshots; and then the account.

    python -m tests.actors.ordeal FIRST LAST

Clients count in a group with a user's machine and publish to a stream. Afterwards, on every replica alike:

- what was acknowledged is there, where the acknowledgement said it is;
- what was refused as "not applied" is not there;
- whoever reads sees what was acknowledged before he asked;
- nothing is there twice, though messages of unknown outcome were published again under their id;
- replicas hold the same entries and the same rolling hash, and nobody's group has stopped.
"""

import json
import logging
import random
import sys
import time
from collections import Counter as Tally
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import cast

import trio
from trio.testing import MockClock

from tests.actors.cluster import KIB, OPTIONS, Cluster, Counter, Member, VirtualClock, until
from tests.actors.damage import batches, flip, group_files, hurt_batches, lose_writes
from tests.actors.weather import Sea, SlowRunner
from trimaran import GroupHandle, Node, NotDone, Options, World
from trimaran.actors.cluster.meta_state import META_GROUP, STREAM_KIND
from trimaran.actors.peers.network import MemoryNetwork
from trimaran.actors.raft.outcomes import Applied, NotApplied, Outcome, Reason, Unknown
from trimaran.actors.stream.config import from_request
from trimaran.actors.stream.machine import StreamMachine
from trimaran.actors.stream.results import Status, unpack
from trimaran.codec import Chunk, EntryType, make_chunk
from trimaran.codec.protocol import encode_publish

NAMES = ("a", "b", "c")
CLIENTS = 4
STORM_SECONDS = 12.0
CALM_SECONDS = 60.0
PATIENCE_SECONDS = 8.0
SLOWEST_DISK = 0.02
SLOWEST_WIRE = 0.01


@dataclass
class Account:
    """What clients were told."""

    applied: dict[bytes, int] = field(default_factory=dict)
    """Text -> the place it was given."""
    refused: set[bytes] = field(default_factory=set)
    unknown: set[bytes] = field(default_factory=set)

    def note(self, text: bytes, outcome: Outcome, place: Callable[[Applied], int]) -> None:
        match outcome:
            case Applied():
                self.applied[text] = place(outcome)
            case NotApplied():
                self.refused.add(text)
            case Unknown():
                self.unknown.add(text)


class StormyCluster(Cluster):
    """A cluster whose disks and wires take their time."""

    def __init__(self, nursery: trio.Nursery, options: Options, seed: int) -> None:
        super().__init__(nursery, NAMES, {"counter": Counter}, options, seed)
        self.seas: dict[str, Sea] = {}
        self.network = MemoryNetwork()
        self._started: set[str] = set()

    async def start(self, name: str) -> Node:
        self._started.discard(name)
        node = await super().start(name)
        self._started.add(name)
        return node

    def world(self, member: Member) -> World:
        sea = self.seas.setdefault(member.name, Sea(self.network, member.random, SLOWEST_WIRE))
        runner = SlowRunner(self._nursery, member.random, SLOWEST_DISK)
        return World(member.disk, runner, VirtualClock(), member.random, sea)

    def up(self) -> list[str]:
        return [name for name in NAMES if name in self._started and self.members[name].node is not None]


class Ordeal:
    """One seed's storm. `run` raises AssertionError when the account does not balance."""

    def __init__(self, seed: int, nursery: trio.Nursery) -> None:
        self.random = random.Random(f"ordeal {seed}")
        options = replace(
            OPTIONS,
            snapshot_log_bytes=self.random.choice((64, 256)) * KIB,
            log_cache_bytes=self.random.choice((64, 256)) * KIB,
            block_bytes=self.random.choice((64, 256)) * KIB,
        )
        self.cluster = StormyCluster(nursery, options, seed)
        self.counted, self.published = Account(), Account()
        self.counter = self.stream = 0
        self.story: list[str] = []
        self.over = trio.Event()
        self._numbers = iter(range(1 << 62))
        self._scratch = 0

    async def run(self) -> None:
        cluster = self.cluster
        async with trio.open_nursery() as nursery:
            for name in NAMES:
                nursery.start_soon(cluster.start, name)
        await cluster.ready()
        await self._make_groups()
        async with trio.open_nursery() as nursery:
            for _ in range(CLIENTS):
                nursery.start_soon(self._client)
            await self._trouble()
            await self._calm_down()
            self.over.set()
        await self._settle()
        await self._check()

    def tell(self, what: str) -> None:
        self.story.append(f"{trio.current_time():8.3f} {what}")

    # --- groups and clients ------------------------------------------------------------------------------

    async def _meta(self, node: Node, **command: object) -> object:
        with trio.fail_after(PATIENCE_SECONDS):
            outcome = await node.desk.propose_meta(command)
        return outcome.result if isinstance(outcome, Applied) else None

    async def _make_groups(self) -> None:
        node = self.cluster["a"]
        self.counter = (await self.cluster.counter("a")).group
        await self._make_stream(node, "storm")
        stream = node.state.named(STREAM_KIND, "storm")
        assert stream is not None
        self.stream = stream.group

    async def _make_stream(self, node: Node, name: str) -> None:
        request = {"name": name, "subjects": [f"{name}.>"], "num_replicas": 3}
        config = from_request(name, request, nodes=3).to_json()
        made = await self._meta(node, op="create_stream", name=name, config=config, replicas=3)
        if made is not None:
            await until(lambda: node.state.named(STREAM_KIND, name) is not None)

    async def _client(self) -> None:
        while not self.over.is_set():
            await trio.sleep(self.random.uniform(0, 0.1))
            number = next(self._numbers)
            filler = b"." * self.random.choice((0, 10, 500, 12_000))
            if self.random.random() < 0.5:
                await self._count(b"%d%s" % (number, filler))
            else:
                await self._publish(b"%d%s" % (number, filler))

    async def _count(self, text: bytes) -> None:
        outcome = await self._propose(self.counter, make_chunk([(EntryType.OPAQUE, text)]))
        self.counted.note(text, outcome, lambda applied: cast("list[int]", applied.result)[0])
        if isinstance(outcome, Applied) and self.random.random() < 0.2:
            await self._read(self.counted.applied[text])

    async def _read(self, place: int) -> None:
        """A read that begins now, at any node with a replica, sees what was acknowledged."""
        up = self.cluster.up()
        if not up:
            return
        member = self.cluster.members[self.random.choice(up)]
        with trio.move_on_after(5):
            try:
                machine = await GroupHandle(member.running, self.counter).read()
            except (NotDone, LookupError):
                return
            assert isinstance(machine, Counter)
            seen = len(machine.seen)
            assert seen >= place, f"{member.name} read {seen} after {place} was acknowledged"

    async def _publish(self, text: bytes) -> None:
        """Published again under its id until it is stored, as a careful client does."""
        message_id = text.split(b".")[0]
        headers = b"NATS/1.0\r\nNats-Msg-Id: %s\r\n\r\n" % message_id
        while True:
            chunk = make_chunk([encode_publish(b"storm.x", headers, text)])
            outcome = await self._propose(self.stream, chunk)
            if isinstance(outcome, Applied):
                result = unpack(cast("bytes", outcome.result), 0)
                if result.status is Status.REFUSED:
                    assert result.error is not None
                    assert result.error.err_code == 10059, result.error  # not configured yet
                else:
                    self.published.applied[text] = result.value
                    return
            elif self.over.is_set():
                self.published.unknown.add(text)
                return
            await trio.sleep(0.05)

    async def _propose(self, group: int, chunk: Chunk) -> Outcome:
        """From a node that runs; whoever asked a node that crashed does not know."""
        up = self.cluster.up()
        if not up:
            await trio.sleep(0.05)
            return NotApplied(Reason.NO_LEADER)
        member = self.cluster.members[self.random.choice(up)]
        node, gone = member.running, member.gone
        outcomes: list[Outcome] = [Unknown(Reason.NO_ANSWER)]

        async def wait(scope: trio.CancelScope) -> None:
            outcomes[0] = await node.desk.propose(group, chunk)
            scope.cancel()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait, nursery.cancel_scope)
            with trio.move_on_after(20) as limit:
                await gone.wait()
            assert not limit.cancelled_caught, f"{member.name} never said what became of a proposal"
            nursery.cancel_scope.cancel()
        return outcomes[0]

    # --- trouble ------------------------------------------------------------------------------------------

    async def _trouble(self) -> None:
        troubles: list[Callable[[], Awaitable[None]]] = [
            self._crash,
            self._crash,
            self._crash_all,
            self._stop,
            self._wipe,
            self._transfer,
            self._transfer,
            self._cut,
            self._cut,
            self._becalm,
            self._scratch_stream,
            self._scale,
            self._rot,
        ]
        chosen = [trouble for trouble in troubles if self.random.random() < 0.6]
        end = trio.current_time() + STORM_SECONDS
        while trio.current_time() < end:
            await trio.sleep(self.random.expovariate(2.0))
            if chosen:
                await self.random.choice(chosen)()
            for name in NAMES:
                if name not in self.cluster.up() and self.random.random() < 0.6:
                    await self._start(name)
            if self.random.random() < 0.4:
                self._heal()

    async def _start(self, name: str) -> None:
        self.tell(f"start {name}")
        await self.cluster.start(name)

    def _heal(self) -> None:
        for sea in self.cluster.seas.values():
            sea.heal()

    async def _crash(self) -> None:
        up = self.cluster.up()
        if up:
            name, power = self.random.choice(up), self.random.random() < 0.5
            self.tell(f"crash {name}{' with its power' if power else ''}")
            await self.cluster.crash(name, power=power)

    async def _crash_all(self) -> None:
        power = self.random.random() < 0.5
        self.tell(f"crash all{' with their power' if power else ''}")
        for name in self.cluster.up():
            await self.cluster.crash(name, power=power)

    async def _stop(self) -> None:
        up = self.cluster.up()
        if up:
            name = self.random.choice(up)
            self.tell(f"stop {name}")
            with trio.CancelScope(shield=True):
                await self.cluster.stop(name)

    async def _wipe(self) -> None:
        """A disk is lost only while every group is whole: one copy of three, and its successor caught up."""
        self._heal()
        if len(self.cluster.up()) < 3 or not self._is_whole():
            return
        name = self.random.choice(NAMES)
        self.tell(f"wipe {name}")
        await self.cluster.crash(name)
        self.cluster.wipe(name)
        await trio.sleep(self.random.uniform(0, 1))
        await self._start(name)

    async def _rot(self) -> None:
        """A disk forgets a part of what it had, only while every group is whole: the others have it."""
        self._heal()
        if len(self.cluster.up()) < 3 or not self._is_whole():
            return
        name = self.random.choice(NAMES)
        group = self.random.choice((META_GROUP, self.counter, self.stream))
        await self.cluster.crash(name, power=self.random.random() < 0.5)
        disk = self.cluster.members[name].disk
        match self.random.randrange(3):
            case 0:
                known = sorted({record.index for _, record in batches(disk, group)})
                chosen = [index for index in known if self.random.random() < 0.2]
                self.tell(f"rot {name}: batches {chosen} of group {group}")
                hurt_batches(disk, group, *chosen)
            case 1:
                count = self.random.randrange(1, 6)
                self.tell(f"rot {name}: {count} writes of group {group}")
                lose_writes(disk, group, count)
            case _:
                files = sorted(group_files(disk, group).values())
                path = self.random.choice(files) if files else ""
                data = disk.read(path) if path else b""
                self.tell(f"rot {name}: a bit of {path} ({len(data)} bytes)")
                if data:
                    flip(disk, path, self.random.randrange(len(data)))
        await self._start(name)

    async def _scale(self) -> None:
        """The stream gets another number of replicas."""
        up = self.cluster.up()
        if up:
            replicas = self.random.choice((1, 3))
            self.tell(f"scale the stream to {replicas}")
            with trio.move_on_after(2):
                await self._set_replicas(self.cluster[self.random.choice(up)], replicas)

    async def _set_replicas(self, node: Node, replicas: int) -> bool:
        request = {"name": "storm", "subjects": ["storm.>"], "num_replicas": replicas}
        answer = await node.api_router.ask("$JS.API.STREAM.UPDATE.storm", json.dumps(request).encode())
        return answer is not None and "error" not in json.loads(answer)

    def _is_whole(self) -> bool:
        nodes = {self.cluster[name].me.node for name in NAMES}
        for name in NAMES:
            node = self.cluster[name]
            if node.vitals.health():
                return False
            for number in (META_GROUP, self.counter, self.stream):
                group = node.groups.get(number)
                if group is None or group.state.membership.voters != nodes:
                    return False
        return True

    async def _transfer(self) -> None:
        for name in self.cluster.up():
            for group in list(self.cluster[name].groups.led_by_me()):
                target = self.random.choice(NAMES)
                self.tell(f"group {group}: {name} to {target}")
                with trio.move_on_after(1):
                    await self.cluster[name].desk.transfer(group, target)
                if name not in self.cluster.up():
                    break

    async def _cut(self) -> None:
        """Some of the six one-way connections break."""
        for name, sea in self.cluster.seas.items():
            for other in NAMES:
                if other != name and self.random.random() < 0.4:
                    self.tell(f"cut {name} -> {other}")
                    sea.cut(self.cluster.addresses[other])

    async def _becalm(self) -> None:
        for name, sea in self.cluster.seas.items():
            for other in NAMES:
                if other != name and self.random.random() < 0.3:
                    self.tell(f"calm {name} -> {other}")
                    sea.calm(self.cluster.addresses[other])

    async def _scratch_stream(self) -> None:
        """A stream comes and goes while everything else happens."""
        up = self.cluster.up()
        if not up:
            return
        node = self.cluster[self.random.choice(up)]
        with trio.move_on_after(1):
            if self.random.random() < 0.5:
                self._scratch += 1
                await self._make_stream(node, f"scratch{self._scratch}")
            else:
                await self._meta(node, op="delete_stream", name=f"scratch{self._scratch}")
        self.tell(f"scratch stream {self._scratch}")

    # --- afterwards ---------------------------------------------------------------------------------------

    async def _calm_down(self) -> None:
        self.tell("calm down")
        self._heal()
        for name in NAMES:
            if name not in self.cluster.up():
                await self._start(name)

    async def _settle(self) -> None:
        try:
            with trio.fail_after(CALM_SECONDS):
                while not await self._set_replicas(self.cluster["a"], 3):  # noqa: ASYNC110  # a question
                    await trio.sleep(0.1)
            await until(lambda: self._is_whole() and self._is_level(), CALM_SECONDS)
        except trio.TooSlowError:
            raise AssertionError(f"not whole after {CALM_SECONDS} s: {self._complaints()}") from None

    def _is_level(self) -> bool:
        """All replicas have applied all that the longest log has: a new leader knows that late."""
        for number in (META_GROUP, self.counter, self.stream):
            groups = [self.cluster[name].groups.get(number) for name in NAMES]
            places = {group.applier.applied for group in groups if group is not None}
            places |= {group.state.log.last_index for group in groups if group is not None}
            if len(places) > 1:
                return False
        return True

    def _complaints(self) -> list[str]:
        found = []
        for name in self.cluster.up():
            node = self.cluster[name]
            found += [f"{name}: {reason}" for reason in node.vitals.health()]
            for group in node.groups.hosted():
                state = group.state
                found.append(
                    f"{name} {group.name} {state.role.value} term {state.term} commit {state.commit} "
                    f"applied {group.applier.applied} voters {sorted(state.membership.voters)} {group.failed}"
                )
        return found

    async def _check(self) -> None:
        for number in (META_GROUP, self.counter, self.stream):
            groups = [self.cluster[name].groups.get(number) for name in NAMES]
            hashes = {group.applier.rolling_hash for group in groups if group is not None}
            assert len(hashes) == 1, f"group {number}: replicas applied different batches"
        for name in NAMES:
            seen = self.cluster.counted(name, self.counter)
            self._balance(name, self.counted, dict(enumerate(seen, 1)))
            self._balance(name, self.published, await self._stored(self.cluster[name]))
            node = self.cluster[name]
            hosted = {group.number for group in node.groups.hosted()}
            assert hosted == {META_GROUP, *node.state.groups}, f"{name} hosts {hosted}"

    async def _stored(self, node: Node) -> dict[int, bytes]:
        group = node.groups.get(self.stream)
        assert group is not None and isinstance(group.machine, StreamMachine)
        found: dict[int, bytes] = {}
        for sequence in range(1, group.machine.info().last_seq + 1):
            message = await group.machine.get(sequence)
            assert message is not None, f"message {sequence} is missing"
            found[sequence] = bytes(message.payload)
        return found

    def _balance(self, name: str, account: Account, found: dict[int, bytes]) -> None:
        for text, place in account.applied.items():
            there = [at for at, each in found.items() if each == text]
            assert there == [place], f"{name}: {text[:20]!r} was acknowledged at {place}, is at {there}"
        twice = [text for text, times in Tally(found.values()).items() if times > 1]
        assert not twice, f"{name}: twice there: {twice[:3]}"
        wrong = account.refused.intersection(found.values())
        assert not wrong, f"{name}: refused and there: {sorted(wrong)[:3]}"
        known = account.applied.keys() | account.unknown
        strangers = set(found.values()) - known
        assert not strangers, f"{name}: nobody proposed {sorted(strangers)[:3]}"


def run_seed(seed: int, story: list[str] | None = None) -> Ordeal:
    """One seed under a virtual clock. Raises whatever a node or the account raises."""
    found: list[Ordeal] = []

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            ordeal = Ordeal(seed, nursery)
            found.append(ordeal)
            if story is not None:
                ordeal.story = story
            await ordeal.run()
            nursery.cancel_scope.cancel()

    # Trio shuffles its tasks; for a run to repeat, that has to come from the seed as well.
    scheduler = vars(trio._core._run)
    scheduler["_r"].seed(seed)
    scheduler["_ALLOW_DETERMINISTIC_SCHEDULING"] = True
    trio.run(main, clock=MockClock(autojump_threshold=0.0))
    return found[0]


def main(arguments: Sequence[str]) -> int:
    first, last = map(int, arguments)
    failed = []
    for seed in range(first, last):
        begin = time.monotonic()
        story: list[str] = []
        try:
            ordeal = run_seed(seed, story)
        except (AssertionError, BaseExceptionGroup) as error:
            failed.append(seed)
            logging.getLogger(__name__).exception("seed %d: %s\n%s", seed, error, "\n".join(story))
        else:
            counted, published = ordeal.counted, ordeal.published
            sys.stdout.write(
                f"seed {seed}: {len(counted.applied)} counted, {len(counted.refused)} refused, "
                f"{len(counted.unknown)} unknown, {len(published.applied)} published, "
                f"{time.monotonic() - begin:.1f} s\n"
            )
            sys.stdout.flush()
    sys.stdout.write(f"{last - first} seeds, failed: {failed}\n")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
