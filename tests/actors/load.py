"""Publishers that never stop, and the proof afterwards that nothing was lost and nothing is there twice."""

import json
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager

import trio

from tests.actors.cluster import Cluster, until
from trimaran import NotDone, StreamHandle, open_stream
from trimaran.actors.cluster.meta_state import Assignment
from trimaran.actors.stream.machine import StreamMachine

STREAM = "ORDERS"
WRITERS = 4


async def ask(cluster: Cluster, via: str, request: str, /, **body: object) -> dict[str, object]:
    """A request of an API, by its whole subject, to one node; asked again while nobody answers."""
    with trio.fail_after(30):
        while True:
            answer = await cluster[via].api_router.ask(request, json.dumps(body).encode())
            if answer is not None:
                found: dict[str, object] = json.loads(answer)
                error = found.get("error")
                if not isinstance(error, dict) or error["code"] != 503:
                    return found
            await trio.sleep(0.1)


async def scale(cluster: Cluster, name: str, replicas: int, stream: str = STREAM) -> None:
    """STREAM.UPDATE with another number of replicas; return once the stream's log has exactly the wanted
    ones and everybody else has closed it."""
    subjects = [f"{stream.lower()}.>"]
    answer = await ask(
        cluster,
        name,
        f"$JS.API.STREAM.UPDATE.{stream}",
        name=stream,
        subjects=subjects,
        num_replicas=replicas,
    )
    assert "error" not in answer, answer
    await settled(cluster, name, stream)
    assert len(assignment(cluster, name, stream).replicas) == replicas


def assignment(cluster: Cluster, name: str, stream: str = STREAM) -> Assignment:
    found = cluster[name].state.named("stream", stream)
    assert found is not None
    return found


def machines(cluster: Cluster, group: int) -> Mapping[str, StreamMachine]:
    """Every running replica of a stream, by the name of its node."""
    found: dict[str, StreamMachine] = {}
    for name, member in cluster.members.items():
        hosted = (
            member.node.groups.get(group) if member.node is not None and member.node.ready.is_set() else None
        )
        if hosted is not None and isinstance(hosted.machine, StreamMachine):
            found[name] = hosted.machine
    return found


async def settled(cluster: Cluster, name: str, stream: str = STREAM) -> None:
    """Return once the nodes that host a stream are those that should, and each knows the others."""

    def is_settled() -> bool:
        wanted = cluster[name].state.named("stream", stream)
        if wanted is None:
            return False  # not applied yet
        hosts = machines(cluster, wanted.group)
        groups = [cluster[host].groups.get(wanted.group) for host in hosts]
        return {cluster[host].me.node for host in hosts} == set(wanted.replicas) == set(
            wanted.settled
        ) and all(
            group is not None and group.state.membership.voters == set(wanted.replicas) for group in groups
        )

    await until(is_settled)


class Load:
    """What was acknowledged: message id -> sequence."""

    def __init__(self, pause: float) -> None:
        self._pause = pause
        self.acknowledged: dict[str, int] = {}
        self.longest_pause = 0.0
        self._last = 0.0
        self._stop = False

    async def write(self, handle: Callable[[], StreamHandle], writer: int) -> None:
        """Publish one message after the other, each until it is acknowledged: once, thanks to its id."""
        number = 0
        while not self._stop:
            name = f"{writer}-{number}"
            try:
                published = await handle().publish("orders.x", name.encode() + b"." * 200, msg_id=name)
            except NotDone:
                await trio.sleep(0.01)
                continue
            self.acknowledged[name] = published.sequence
            now = trio.current_time()
            self.longest_pause = max(self.longest_pause, now - self._last)
            self._last = now
            number += 1
            await trio.sleep(self._pause)

    def begin(self) -> None:
        """Forget the pauses so far."""
        self._last, self.longest_pause = trio.current_time(), 0.0

    def stop(self) -> None:
        self._stop = True


@asynccontextmanager
async def load(cluster: Cluster, name: str, replicas: int, pause: float = 0.01) -> AsyncIterator[Load]:
    """A stream, and writers on a node for the length of the block; at the end every replica is compared.

    Each writer waits `pause` seconds between two messages.
    """
    stream = await open_stream(cluster[name], STREAM, ["orders.>"], replicas=replicas)
    running = Load(pause)
    async with trio.open_nursery() as nursery:
        running.begin()
        for writer in range(WRITERS):
            nursery.start_soon(
                running.write, lambda: StreamHandle(cluster[name], STREAM, stream.group), writer
            )
        await until(lambda: len(running.acknowledged) >= 20)
        yield running
        running.stop()
    await check(cluster, name, running.acknowledged)


async def check(cluster: Cluster, name: str, acknowledged: Mapping[str, int]) -> None:
    """Every acknowledged message is on every replica, under its sequence and once, and there is no other."""
    await settled(cluster, name)
    sequences = sorted(acknowledged.values())
    assert sequences == list(range(1, len(sequences) + 1))
    for host, machine in machines(cluster, assignment(cluster, name).group).items():
        await until(lambda: machine.info().last_seq == len(sequences))
        assert machine.info().messages == len(sequences), host
        for name_, sequence in acknowledged.items():
            message = await machine.get(sequence)
            assert message is not None and message.payload.rstrip(b".") == name_.encode(), (host, name_)
