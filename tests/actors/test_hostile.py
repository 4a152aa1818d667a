"""A peer that lies: no frame ends a node, none reaches past the group it names, and what breaks says why."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import msgpack
import pytest
import trio
import trio.testing
from trio.testing import MockClock

from tests.actors.cluster import Cluster, open_memory_cluster, until
from tests.actors.hostile import Aim, Hostile, attack
from trimaran import GroupHandle, NotDone, open_stream
from trimaran.actors.cluster.birth import PREPARE
from trimaran.actors.cluster.meta import MetaMachine
from trimaran.actors.cluster.meta_state import META_GROUP, NodeRecord
from trimaran.actors.peers.requests import Malformed, Refusal, Shape, shaped
from trimaran.actors.peers.wire import KINDS, FrameKind, Hello, encode_hello, message_fields
from trimaran.actors.raft.messages import AppendReply, Beat, RequestVote, TimeoutNow
from trimaran.actors.replica.machine import StateUnusable
from trimaran.actors.replica.snapshots import MANIFEST_PART, SendRefused, resume_offsets
from trimaran.codec import EntryType, Kind, crc32c, make_chunk, seal_batch, walk_batch
from trimaran.codec.frame import encode_frame
from trimaran.storage.manifest import FileEntry, Manifest, encode_manifest

FAR = (1 << 63) + 5


def aims_at(cluster: Cluster, name: str, *numbers: int) -> list[Aim]:
    """What an attacker has to know of groups on a node."""
    groups = [group for group in cluster[name].groups.hosted() if group.number in numbers]
    return [
        Aim(each.number, each.incarnation, each.state.term, each.state.log.last_index, each.machine.kind)
        for each in groups
    ]


def posing_as(cluster: Cluster, name: str) -> Hello:
    """The greeting of a node that runs, said by somebody else."""
    return replace(cluster[name].peers.me, incarnation=99)


@pytest.mark.parametrize("seed", range(8))
async def test_lies_about_one_group_end_no_node_and_no_other_group(
    seed: int, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async with open_memory_cluster(checked=False) as cluster:
        hits = await cluster.counter("a")
        await hits.propose(b"1")
        await open_stream(cluster["b"], "S", ["s.>"], replicas=3)
        aims = aims_at(cluster, "a", hits.group)
        frames = Hostile(seed, aims).frames(80)
        hung_up = await attack(cluster.network, "a:1", posing_as(cluster, "c"), frames)
        # The last frame may have been bad too, with nobody left to see the connection close.
        assert 0 < hung_up <= cluster["a"].peers.bad_frames <= hung_up + 1
        stored = await (await open_stream(cluster["b"], "S", ["s.>"], replicas=3)).publish("s.1", b"x")
        assert stored.sequence == 1
        for name in "abc":
            failed = [group for group in cluster[name].groups.hosted() if group.failed]
            assert [group.number for group in failed] in ([], [hits.group])
            assert all(group.failed in caplog.text for group in failed)


async def test_a_broken_rule_stops_the_group_with_a_line_and_whoever_waits_gets_an_end(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async with open_memory_cluster(checked=False) as cluster:
        handle = await cluster.counter("a")
        await handle.propose(b"1")
        victim = next(name for name in "abc" if name != cluster.leader(handle.group))
        liar = next(name for name in "abc" if name not in (victim, cluster.leader(handle.group)))
        [aim] = aims_at(cluster, victim, handle.group)
        lie = Beat(group=aim.group, incarnation=aim.incarnation, sender=0, term=aim.term, commit=0)
        beat = encode_frame(FrameKind.BEATS, (message_fields(lie),))
        await attack(cluster.network, f"{victim}:1", posing_as(cluster, liar), iter([beat]))
        group = cluster[victim].groups.get(aim.group)
        assert group is not None and "the rules of Raft are broken: two leaders in term 1" in group.failed
        assert group.failed in caplog.text
        assert any(group.failed in reason for reason in cluster[victim].vitals.health())
        with pytest.raises(NotDone):
            await group.read_barrier()
        await GroupHandle(cluster[cluster.leader(handle.group)], handle.group).propose(b"2")


async def test_a_term_from_out_of_this_world_is_dropped(autojump_clock: MockClock) -> None:
    async with open_memory_cluster() as cluster:
        handle = await cluster.counter("a")
        [aim] = aims_at(cluster, "a", handle.group)
        head: Any = {"group": aim.group, "incarnation": aim.incarnation, "sender": 0, "term": FAR}
        lies = [
            RequestVote(**head, last_index=9, last_term=1, transfer=True),
            AppendReply(**head, session=1, accepted=True, match=1),
            TimeoutNow(**head),
        ]
        frames = [encode_frame(KINDS[type(lie)], message_fields(lie)) for lie in lies]
        frames.append(encode_frame(FrameKind.BEATS, (message_fields(Beat(**head, commit=0)),)))
        await attack(cluster.network, "a:1", posing_as(cluster, "c"), iter(frames))
        group = cluster["a"].groups.get(aim.group)
        assert group is not None and group.state.term == aim.term
        assert group.statistics().dropped == len(frames)
        await handle.propose(b"1")


@pytest.mark.parametrize(
    ("value", "shape"),
    [
        (1, str),
        (True, int),
        (-1, int),
        (1 << 64, int),
        ([1], (int, int)),
        ([1, b""], (int, str)),
        ({}, (int,)),
        (None, bytes),
    ],
)
def test_what_has_another_shape_is_malformed(value: object, shape: Shape) -> None:
    with pytest.raises(Malformed):
        shaped(value, shape)


def test_what_has_its_shape_is_given_back() -> None:
    assert shaped([1, "x", None], (int, str, object)) == [1, "x", None]
    assert shaped(b"x", bytes) == b"x"


async def test_a_stranger_has_no_attachments_and_a_limited_number_of_connections(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trimaran.actors.peers.link.MAX_INCOMING", 6)
    async with open_memory_cluster() as cluster:
        hello = encode_hello(posing_as(cluster, "c"))
        large = encode_frame(FrameKind.ROUTE, (), 1000)
        stream = await cluster.network.dial("a:1")
        await stream.send_all(large)
        assert await stream.receive_some(1000) == b"", "closed before the attachment was waited for"
        await trio.testing.wait_all_tasks_blocked()
        assert cluster["a"].peers.bad_frames == 1
        streams = [await cluster.network.dial("a:1") for _ in range(7)]
        greeted = 0
        for each in streams:
            try:
                await each.send_all(hello)
                greeted += bool(await each.receive_some(1000))
            except trio.BrokenResourceError:
                pass
        assert greeted == 6 - 2, "two are the links of b and c"


async def test_goodbye_counts_only_on_a_link_that_this_node_dialled(autojump_clock: MockClock) -> None:
    async with open_memory_cluster() as cluster:
        me = cluster["a"].peers.me
        goodbye = encode_frame(FrameKind.GOODBYE, (me.cluster, me.node, "you were removed"))
        await attack(cluster.network, "a:1", posing_as(cluster, "c"), iter([goodbye]))
        await trio.sleep(1)
        assert cluster.members["a"].node is not None


async def test_lies_about_leaders_fill_no_memory(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trimaran.actors.groups.MAX_LEADERS", 50)
    async with open_memory_cluster(checked=False) as cluster:
        lie = encode_frame(FrameKind.LEADERS, tuple((number, 1) for number in range(1000, 2000)))
        await attack(cluster.network, "a:1", posing_as(cluster, "c"), iter([lie]))
        believed = [number for number in range(1000, 2000) if cluster["a"].groups.leadership(number)]
        assert len(believed) < 50


async def test_nobody_founds_a_node_anew(autojump_clock: MockClock) -> None:
    async with open_memory_cluster() as cluster:
        ids = {name: cluster[name].me.node for name in "abc"}
        lowest = min(ids, key=lambda name: ids[name])
        victim = cluster[next(name for name in "abc" if name != lowest)]
        known = victim.birth.founding
        assert known is not None
        lie = replace(known, founders=(cluster[lowest].me, victim.me))
        with pytest.raises(Refusal, match="already"):
            await cluster[lowest].requests.ask(victim.me.node, PREPARE, lie.pack(), 1)
        assert victim.birth.founding == known


# --- snapshots ----------------------------------------------------------------------------------------------


def snapshot_of(aim: Aim, members: bytes, state: bytes) -> list[bytes]:
    """Frames of a whole snapshot without files, ahead of what the group has applied."""
    manifest = Manifest(
        group=aim.group,
        incarnation=aim.incarnation,
        index=aim.last + 5,
        term=aim.term,
        members=members,
        time=1,
        kind=aim.kind,
        rolling_hash=0,
        files=(),
        state=state,
    )
    parts = [(MANIFEST_PART, encode_manifest(manifest)), (0, b"")]
    head = (aim.group, aim.incarnation, aim.term, 1)
    return [
        encode_frame(FrameKind.SNAPSHOT_PART, (*head, part, 0, len(data), crc32c(data)), len(data)) + data
        for part, data in parts
    ]


async def test_a_snapshot_of_unreadable_members_is_refused(autojump_clock: MockClock) -> None:
    async with open_memory_cluster() as cluster:
        handle = await cluster.counter("a")
        [aim] = aims_at(cluster, "a", handle.group)
        frames = snapshot_of(aim, b"\xc1", b"")
        await attack(cluster.network, "a:1", posing_as(cluster, "c"), iter(frames))
        await trio.sleep(1)
        await handle.propose(b"1")
        assert not cluster["a"].vitals.health()


async def test_a_state_that_no_machine_takes_stops_its_group_until_a_peer_gives_a_better_one(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async with open_memory_cluster(checked=False) as cluster:
        handle = await cluster.counter("a")
        await open_stream(cluster["b"], "S", ["s.>"], replicas=3)
        group = cluster["a"].groups.get(handle.group)
        assert group is not None
        [aim] = aims_at(cluster, "a", handle.group)
        frames = snapshot_of(aim, group.state.membership.encode(), b"\xc1")
        await attack(cluster.network, "a:1", posing_as(cluster, "c"), iter(frames))
        await until(lambda: bool(group.failed))
        assert f"group {group.name} has stopped" in group.failed and group.failed in caplog.text
        await cluster.crash("a")
        again = await cluster.start("a")
        await until(lambda: len(again.vitals.health()) == 1)
        assert "can't start from its snapshot" in caplog.text
        stored = await (await open_stream(cluster["a"], "S", ["s.>"], replicas=3)).publish("s.1", b"x")
        assert stored.sequence == 1


@pytest.mark.parametrize("report", [None, 5, [], [0], [0, -1], [0, 4], [0, "1"], [0, 1, 2]])
def test_offsets_of_a_follower_lie_in_its_files(report: object) -> None:
    files = (FileEntry("x", 3, 1), FileEntry("y", 3, 1))
    manifest = Manifest(
        group=2,
        incarnation=2,
        index=1,
        term=1,
        members=b"",
        time=1,
        kind="k",
        rolling_hash=0,
        files=files,
        state=b"",
    )
    with pytest.raises(SendRefused):
        resume_offsets(report, manifest)
    assert resume_offsets([3, 0], manifest) == [3, 0]


# --- the meta group's commands ------------------------------------------------------------------------------


def meta_with(*entries: bytes) -> tuple[MetaMachine, list[object]]:
    """A meta machine of three nodes, and its answers to these entries."""
    machine = MetaMachine([NodeRecord(n, f"n{n}", f"n{n}:1") for n in (1, 2, 3)], lambda: None)
    chunk = make_chunk([(EntryType.OPAQUE, entry) for entry in entries])
    sealed = seal_batch(
        [chunk], kind=Kind.NORMAL, group=1, incarnation=9, index=1, term=1, previous_term=0, time=1
    )
    return machine, machine.apply(walk_batch(sealed))


@pytest.mark.parametrize(
    "command",
    [
        b"",
        b"\xc1",
        [],
        {},
        {"op": []},
        {"op": "join"},
        {"op": "join", "node": "x", "name": "y", "address": "z"},
        {"op": "join", "node": -1, "name": "y", "address": "z"},
        {"op": "create_group", "name": "x", "machine": "m", "replicas": 0},
        {"op": "create_group", "name": "x", "machine": "m", "replicas": 4},
        {"op": "create_group", "name": "x", "machine": "m", "replicas": "3"},
        {"op": "create_group", "name": "", "machine": "m", "replicas": 1},
        {"op": "create_group", "name": "x" * 70_000, "machine": "m", "replicas": 1},
        {"op": "create_group", "name": "x", "machine": "m" * 70_000, "replicas": 1},
        {"op": "create_stream"},
        {"op": "create_stream", "config": {}},
        {"op": "create_stream", "config": {"name": "x", "num_replicas": -5}},
        {"op": "create_stream", "config": {"name": "x", "subjects": [1]}},
        {"op": "update_stream", "config": []},
        {"op": "delete_stream", "name": 1},
        {"op": "settled", "group": 1, "incarnation": 1, "members": 5},
        {"op": "settled", "group": 1, "incarnation": 1, "members": [[]]},
        {"op": "leave", "name": {}},
        {"op": "restore", "kind": "stream", "name": "x"},
        {"op": "restore", "kind": "m", "name": "x", "node": 9, "config": {}, "version": 1},
        {"op": "recover"},
        {"op": "recover", "node": 9},
        {"op": "restored", "group": 5, "replicas": 0},
        {"op": "invite", "name": None, "address": "x"},
    ],
)
def test_no_command_stops_the_meta_group(command: object) -> None:
    entry = command if isinstance(command, bytes) else msgpack.packb(command)
    machine, [answer] = meta_with(entry)
    assert isinstance(answer, dict) and "error" in answer
    assert (len(machine.state.nodes), machine.state.groups) == (3, {})


async def test_a_group_of_no_replicas_is_refused_to_who_asks(autojump_clock: MockClock) -> None:
    async with open_memory_cluster() as cluster:
        for replicas in (0, 4):
            with pytest.raises(Exception, match="no suitable peers"):
                await cluster.counter("a", replicas)
        await (await cluster.counter("a")).propose(b"1")
        assert cluster["a"].groups.get(META_GROUP) is not None


@pytest.mark.parametrize("state", [b"", b"\xc1", b"\x80", msgpack.packb({"v": 2, "nodes": [[1]]})])
async def test_a_meta_state_that_makes_no_sense_is_told(state: bytes) -> None:
    machine, _ = meta_with(b"")
    with pytest.raises(StateUnusable):
        await machine.restore(state, ())
