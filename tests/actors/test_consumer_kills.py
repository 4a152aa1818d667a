"""What consumers promise, while the leaders of their stream are killed at any moment.

Nothing that was acknowledged by `ack_sync` comes again, and a delivery counts more than the one before.
"""

import itertools
import json
import random

import pytest
import trio
from trio.testing import MockClock

from tests.actors.cluster import until
from tests.actors.consumers import SECOND, Harness, harness
from tests.actors.nats_client import MemoryClient, Received
from trimaran import Node

MESSAGES = 30
KILLS = 8
NODES = "abc"


class Worker:
    """A client that pulls, and acknowledges most of what it gets; it moves on when its node is killed."""

    def __init__(self, it: Harness, rng: random.Random) -> None:
        self._it = it
        self._random = rng
        self._node: Node | None = None
        """The one that it is connected to: a node that started again is another one."""
        self.answered = trio.Event()
        """Set by the next answer to an acknowledgement."""
        self.counts: dict[int, list[int]] = {}
        """By stream sequence, the delivery counts that were seen, in order."""
        self.acknowledged: dict[int, int] = {}
        """By stream sequence, how many deliveries there were when the acknowledgement was answered."""
        self.published = 0
        self.killed = 0

    async def client(self) -> MemoryClient:
        """A connection to some node that runs."""
        members = self._it.cluster.members
        if self._node is None or self._node not in [each.node for each in members.values()]:
            name = self._random.choice([name for name in NODES if members[name].node is not None])
            self._node = members[name].node
            self._it.client = await self._it.connect(name)
        return self._it.client

    async def work(self) -> None:
        """Until everything is acknowledged."""
        while len(self.acknowledged) < MESSAGES:
            with trio.move_on_after(3):
                await self._publish()
                for message in await (await self.client()).fetch("S.c", self._random.randint(1, 6)):
                    if not message.status:
                        await self._take(message)

    async def _publish(self) -> None:
        """One more message; asked for again, it is the same one."""
        if self.published < MESSAGES:
            number = self.published + 1
            client = await self.client()
            inbox = client.inbox()
            client.publish_with(f"s.{number % 3}", {"Nats-Msg-Id": f"{number}"}, b"m", inbox)
            answer = await client.take(inbox, 1, seconds=2.0)
            if answer and f'"seq":{number}' in answer[0].payload.decode():
                self.published = number

    async def _take(self, message: Received) -> None:
        count, sequence, delivery, _ = message.numbers
        assert delivery <= self.acknowledged.get(sequence, delivery), (
            f"{sequence} came again: {message.reply}"
        )
        seen = self.counts.setdefault(sequence, [])
        assert not seen or count > seen[-1], f"{sequence} was counted {[*seen, count]}"
        seen.append(count)
        choice = self._random.random()
        client = await self.client()
        if choice < 0.15:
            client.publish(message.reply, b"-NAK")
        elif choice < 0.8:
            inbox = client.inbox()
            client.publish(message.reply, b"", inbox)
            answer = await client.take(inbox, 1, seconds=2.0)
            if not answer or answer[0].status:  # 503: a node that has just started knows of no stream
                return
            self.acknowledged[sequence] = 1 << 62
            self.answered.set()
            self.answered = trio.Event()
            self.acknowledged[sequence] = await self._delivered()

    async def _delivered(self) -> int:
        """Deliveries that the log has: what is numbered above comes after the acknowledgement."""
        while True:
            with trio.move_on_after(2):
                info = await self._ask("CONSUMER.INFO.S.c")
                if "delivered" in info:
                    return int(info["delivered"]["consumer_seq"])

    async def _ask(self, subject: str) -> dict[str, dict[str, int]]:
        inbox = (client := await self.client()).inbox()
        client.publish(f"$JS.API.{subject}", b"", inbox)
        got = await client.take(inbox, 1, seconds=1.0)
        answer: dict[str, dict[str, int]] = json.loads(got[0].payload) if got and got[0].payload else {}
        return answer


async def kill_leaders(it: Harness, worker: Worker, rng: random.Random) -> None:
    """Again and again, often just when it answered an acknowledgement; the others go on meanwhile."""
    for _ in range(KILLS):
        await trio.sleep(rng.uniform(0.2, 1.0))
        if rng.random() < 0.7:
            with trio.move_on_after(2):
                await worker.answered.wait()
        await until(lambda: bool(it.cluster.leaders(it.group)))
        leader = it.cluster.leaders(it.group)[0]
        await it.cluster.crash(leader, power=rng.random() < 0.5)
        worker.killed += len(worker.acknowledged) < MESSAGES
        await trio.sleep(rng.uniform(0.0, 1.5))
        await it.cluster.start(leader)
        await it.cluster.ready()


@pytest.mark.parametrize("seed", range(4))
async def test_what_was_acknowledged_never_comes_again_and_counts_go_on(
    autojump_clock: MockClock, seed: int
) -> None:
    rng = random.Random(seed)
    async with harness(*NODES) as it:
        await it.consumer(ack_wait=SECOND, max_ack_pending=10)
        worker = Worker(it, rng)
        with trio.fail_after(300):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(worker.work)
                nursery.start_soon(kill_leaders, it, worker, rng)
        delivered = await worker._delivered()
        await trio.sleep(5)
        info = await (await worker.client()).api("CONSUMER.INFO.S.c")
        assert info["num_ack_pending"] == info["num_pending"] == info["num_redelivered"] == 0
        assert info["ack_floor"]["stream_seq"] == MESSAGES
        assert info["delivered"]["consumer_seq"] == delivered >= sum(map(len, worker.counts.values()))
        first = list(itertools.chain.from_iterable(worker.counts.values()))
        assert sorted(worker.counts) == list(range(1, MESSAGES + 1)) and max(first) > 1
        assert worker.killed >= 3, "leaders died while there was work"
