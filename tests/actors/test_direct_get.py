"""Direct gets are answered by any replica, never from a state that is too old."""

import pytest
import trio
from trio.testing import MockClock

from tests.actors.cluster import OPTIONS, open_memory_cluster, until
from tests.actors.consumers import Harness, harness
from tests.actors.nats_client import MemoryClient
from trimaran.actors.delivery.gets import FRESH_SECONDS


def follower(it: Harness) -> str:
    return next(name for name in it.cluster.members if name != it.leader)


def watch_reads(it: Harness, name: str) -> list[int]:
    """Each read index that a node waits for from now on, by group."""
    asked: list[int] = []
    reads = it.cluster[name].reads
    barrier = reads.barrier

    async def watched(group: int) -> None:
        asked.append(group)
        await barrier(group)

    it.cluster[name].gets._barrier = watched
    return asked


async def get(client: MemoryClient, stream: str, request: bytes) -> bytes | str:
    got = await client.request(f"$JS.API.DIRECT.GET.{stream}", request)
    return got.status or got.payload


def cut_off(it: Harness, lost: str) -> None:
    """What goes to a node or comes from it is swallowed, and nobody is told of that."""
    for name in it.cluster.members:
        for peer, link in it.cluster[name].peers._links.items():
            if lost in (name, peer):
                link.send = lambda *frame: True  # type: ignore[method-assign]  # mute


async def test_any_replica_answers_without_asking_each_time(autojump_clock: MockClock) -> None:
    async with harness("a", "b", "c", allow_direct=True) as it:
        await it.client.fill("s.1", "s.2")
        near = follower(it)
        client = await it.connect(near)
        asked = watch_reads(it, near)
        for _ in range(5):
            assert await get(client, "S", b'{"seq":1}') == b"m0"
        assert asked == [it.group]
        await trio.sleep(FRESH_SECONDS + 0.01)
        assert await get(client, "S", b'{"seq":1}') == b"m0"
        assert asked == [it.group] * 2


async def test_who_names_what_it_knows_of_gets_it_from_any_replica(autojump_clock: MockClock) -> None:
    async with harness("a", "b", "c", allow_direct=True) as it:
        client = await it.connect(follower(it))
        assert await get(client, "S", b'{"seq":1}') == "404 Message Not Found"
        for number in range(1, 6):
            await it.client.fill("s.1")
            assert await get(client, "S", b'{"seq":%d,"min_last_seq":%d}' % (number, number)) == b"m0"
        assert await get(client, "S", b'{"seq":1,"min_last_seq":6}') == "412 Min Last Sequence"


@pytest.mark.parametrize("bucket", ["KV_B", "OBJ_B"])
async def test_buckets_are_read_as_they_are(autojump_clock: MockClock, bucket: str) -> None:
    async with harness("a", "b", "c") as it:
        for name, metadata in ((bucket, {}), ("L", {"trimaran.reads": "linearizable"})):
            await it.client.api(
                f"STREAM.CREATE.{name}",
                name=name,
                subjects=[f"{name}.>"],
                num_replicas=3,
                allow_direct=True,
                metadata=metadata,
            )
            for member in it.cluster.members:
                reader = await it.connect(member)
                for number in range(5):
                    await it.client.request(f"{name}.key", b"%s%d" % (member.encode(), number))
                    got = await reader.request(f"$JS.API.DIRECT.GET.{name}.{name}.key")
                    assert got.payload == b"%s%d" % (member.encode(), number)


async def test_a_bucket_may_be_read_from_any_replica(autojump_clock: MockClock) -> None:
    metadata = {"trimaran.reads": "replica"}
    async with harness("a", "b", "c") as it:
        await it.client.api(
            "STREAM.CREATE.KV_B",
            name="KV_B",
            subjects=["k"],
            num_replicas=3,
            allow_direct=True,
            metadata=metadata,
        )
        asked = watch_reads(it, "a")
        for _ in range(3):
            assert await get(it.client, "KV_B", b'{"seq":1}') == "404 Message Not Found"
        assert len(asked) == 1


@pytest.mark.parametrize(
    "request_", [b'{"last_by_subj":"s.key"}', b'{"seq":1,"batch":5}', b'{"multi_last":["s.>"]}']
)
async def test_a_leader_that_was_cut_off_shows_nothing_old(
    autojump_clock: MockClock, request_: bytes
) -> None:
    """Others have a new leader and a newer message; the old one must not answer with what it has."""
    async with harness("a", "b", "c", allow_direct=True) as it:
        await it.client.request("s.key", b"old")
        old, group = it.leader, it.group
        reader = await it.connect(old)
        cut_off(it, old)
        lost = trio.current_time()
        assert await get(reader, "S", b'{"last_by_subj":"s.key"}') in ("503", b"old")
        rest = [name for name in it.cluster.members if name != old]
        await until(lambda: any(group in it.cluster[name].groups.led_by_me() for name in rest))
        writer = await it.connect(rest[0])
        assert b'"seq":2' in (await writer.request("s.key", b"new")).payload
        await trio.sleep(max(0.0, lost + FRESH_SECONDS + 0.01 - trio.current_time()))
        # It may still take itself for the leader, and even so it says that it can't know.
        assert await get(reader, "S", request_) == "503"


async def test_a_cut_off_leader_answers_no_message_get_and_no_bucket(autojump_clock: MockClock) -> None:
    """From the first moment on: whatever is linearizable waits for a majority."""
    async with harness("a", "b", "c") as it:
        await it.client.api(
            "STREAM.CREATE.KV_B", name="KV_B", subjects=["k"], num_replicas=3, allow_direct=True
        )
        await it.client.request("k", b"old")
        stream = it.cluster["a"].state.named("stream", "KV_B")
        assert stream is not None
        await until(lambda: bool(it.cluster.leaders(stream.group)))
        old = it.cluster.leader(stream.group)
        reader = await it.connect(old)
        cut_off(it, old)
        assert stream.group in it.cluster[old].groups.led_by_me()
        assert await get(reader, "KV_B", b'{"last_by_subj":"k"}') == "503"
        inbox = reader.inbox()
        reader.publish("$JS.API.STREAM.MSG.GET.KV_B", b'{"last_by_subj":"k"}', inbox)
        assert all(b'"data"' not in each.payload for each in await reader.take(inbox, 1, 20.0))


async def test_a_node_without_a_replica_passes_it_on(autojump_clock: MockClock) -> None:
    async with open_memory_cluster("a", "b", "c", "d", options=OPTIONS) as cluster:
        client = await MemoryClient.connect(cluster.members["a"].port)
        await client.api("STREAM.CREATE.S", name="S", subjects=["s"], num_replicas=3, allow_direct=True)
        await client.request("s", b"m0")
        stream = cluster["a"].state.named("stream", "S")
        assert stream is not None
        [outside] = [name for name in "abcd" if cluster[name].groups.get(stream.group) is None]
        reader = await MemoryClient.connect(cluster.members[outside].port)
        for _ in range(6):
            assert await get(reader, "S", b'{"seq":1,"min_last_seq":1}') == b"m0"


async def test_a_replica_that_takes_a_snapshot_meanwhile_does_not_answer(autojump_clock: MockClock) -> None:
    async with harness("a", "b", "c", allow_direct=True) as it:
        await it.client.fill("s.1")
        near = follower(it)
        client = await it.connect(near)
        machine = it.machine(near)
        read = machine.messages.read

        async def interrupted(sequence: int) -> object:
            found = await read(sequence)
            machine.empty()
            return found

        machine.messages.read = interrupted  # type: ignore[method-assign, assignment]  # a snapshot comes in between
        assert await get(client, "S", b'{"seq":1,"min_last_seq":1}') == "503"
