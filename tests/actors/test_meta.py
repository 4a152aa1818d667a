"""The meta state machine: what the cluster should be, decided from the log alone."""

from collections.abc import Mapping
from typing import cast

import msgpack
import pytest

from trimaran.actors.cluster.meta import NODE_REMOVED, ClusterMovedOn, MetaMachine
from trimaran.actors.cluster.meta_state import NodeRecord
from trimaran.actors.replica.machine import StateUnusable
from trimaran.actors.stream.config import from_request
from trimaran.codec import EntryType, Kind, make_chunk, seal_batch, walk_batch

NODES = [NodeRecord(1, "a", "a:1"), NodeRecord(2, "b", "b:1"), NodeRecord(3, "c", "c:1")]


class Replica:
    """A meta machine fed with batches, one command each."""

    def __init__(self) -> None:
        self.changes = 0
        self.index = 0
        self.machine = MetaMachine(NODES, self._changed)

    def _changed(self) -> None:
        self.changes += 1

    def apply(self, **command: object) -> Mapping[str, object]:
        return self.apply_entry(cast(bytes, msgpack.packb(command)))

    def apply_entry(self, entry: bytes) -> Mapping[str, object]:
        self.index += 1
        chunk = make_chunk([(EntryType.OPAQUE, entry)])
        batch = seal_batch(
            [chunk],
            kind=Kind.NORMAL,
            group=1,
            incarnation=9,
            index=self.index,
            term=1,
            previous_term=1,
            time=77,
        )
        return cast(Mapping[str, object], self.machine.apply(walk_batch(batch))[0])


def stream(name: str, *subjects: str, replicas: int = 3) -> dict[str, object]:
    request = {"name": name, "subjects": list(subjects), "num_replicas": replicas}
    config = from_request(name, request).to_json()
    return {"op": "create_stream", "name": name, "config": config, "replicas": replicas}


def test_a_stream_gets_a_group_an_incarnation_and_distinct_replicas() -> None:
    meta = Replica()
    meta.index = 41
    assert meta.apply(**stream("S", "s.>")) == {"created": True}
    [assignment] = meta.machine.state.streams()
    assert assignment.incarnation == 42
    assert sorted(assignment.replicas) == [1, 2, 3]
    assert assignment.version == 1
    assert assignment.created == 77


def test_replicas_grow_onto_idle_nodes_and_shrink_away_from_busy_ones_but_not_from_the_leader() -> None:
    meta = Replica()
    meta.apply(**stream("BUSY", "busy.>", replicas=1))
    meta.apply(**stream("S", "s.>", replicas=2))
    busy = meta.machine.state.named("stream", "BUSY")
    assert busy is not None
    resized = meta.apply(**stream("S", "s.>", replicas=3) | {"op": "update_stream", "keep": busy.replicas[0]})
    assert "error" not in resized
    meta.apply(**stream("S", "s.>", replicas=1) | {"op": "update_stream", "keep": busy.replicas[0]})
    kept = meta.machine.state.named("stream", "S")
    assert kept is not None and kept.replicas == busy.replicas


def test_more_replicas_than_nodes_are_refused_and_change_nothing() -> None:
    meta = Replica()
    meta.apply(**stream("S", "s.>", replicas=3))
    refused = meta.apply(**stream("S", "s.>", replicas=5) | {"op": "update_stream"})
    assert cast(dict[str, object], refused["error"])["err_code"] == 10005
    kept = meta.machine.state.named("stream", "S")
    assert kept is not None and len(kept.replicas) == 3 and kept.version == 1


def test_a_leaving_node_stays_a_member_until_no_log_needs_it() -> None:
    meta = Replica()
    meta.apply(op="invite", name="d", address="d:1")
    meta.apply(op="join", node=4, name="d", address="d:1")
    meta.apply(**stream("S", "s.>", replicas=3))
    [before] = meta.machine.state.streams()
    leaving = before.replicas[0]
    name = meta.machine.state.nodes[leaving].name
    assert meta.apply(op="leave", name=name) == {}
    [after] = meta.machine.state.streams()
    assert leaving not in after.replicas and len(after.replicas) == 3
    assert leaving in meta.machine.state.nodes, "its log is still the source for its heir"
    report = {"op": "settled", "group": after.group, "incarnation": after.incarnation}
    meta.apply(**report, members=[leaving, *after.replicas])
    assert leaving in meta.machine.state.nodes
    meta.apply(**report, members=list(after.replicas))
    assert leaving not in meta.machine.state.nodes and leaving in meta.machine.state.removed
    refused = meta.apply(op="join", node=leaving, name=name, address="x:1")
    assert cast(dict[str, object], refused["error"])["err_code"] == NODE_REMOVED


async def test_a_snapshot_has_invitations_and_leaving_nodes() -> None:
    meta = Replica()
    meta.apply(**stream("S", "s.>", replicas=2))
    meta.apply(op="invite", name="d", address="d:1", replaces="a")
    meta.apply(op="leave", name="b")
    restored = MetaMachine([], lambda: None)
    await restored.restore(meta.machine.capture().state, ())
    assert restored.state == meta.machine.state
    assert restored.state.invited["d"].replaces == 1 and restored.state.leaving


def test_creating_the_same_stream_again_finds_it_and_another_configuration_is_refused() -> None:
    meta = Replica()
    meta.apply(**stream("S", "s.>"))
    assert meta.apply(**stream("S", "s.>")) == {"created": False}
    refused = meta.apply(**stream("S", "t.>"))
    assert cast(Mapping[str, object], refused["error"])["err_code"] == 10058


def test_a_deleted_and_created_stream_never_reads_its_predecessor() -> None:
    meta = Replica()
    meta.apply(**stream("S", "s.>"))
    [first] = meta.machine.state.streams()
    meta.apply(op="delete_stream", name="S")
    meta.apply(**stream("S", "s.>"))
    [second] = meta.machine.state.streams()
    assert (second.group, second.incarnation) != (first.group, first.incarnation)


def test_overlapping_subjects_are_refused_at_apply() -> None:
    meta = Replica()
    meta.apply(**stream("S", "orders.*"))
    refused = meta.apply(**stream("T", "orders.new"))
    assert cast(Mapping[str, object], refused["error"])["err_code"] == 10065


def test_every_accepted_update_has_a_higher_version() -> None:
    meta = Replica()
    meta.apply(**stream("S", "s.>"))
    for position, subject in enumerate(["s.1", "s.2", "s.3"], start=2):
        config = stream("S", subject)["config"]
        assert meta.apply(op="update_stream", name="S", config=config, replicas=3) == {}
        [assignment] = meta.machine.state.streams()
        assert assignment.version == position


def test_a_wiped_node_takes_over_its_name_and_its_places_under_its_new_id() -> None:
    meta = Replica()
    meta.apply(**stream("S", "s.>"))
    assert meta.apply(op="join", node=30, name="c", address="c:2") == {}
    [assignment] = meta.machine.state.streams()
    assert sorted(assignment.replicas) == [1, 2, 30]
    assert sorted(assignment.initial) == [1, 2, 3], "the log starts from the first voters"
    assert 3 in meta.machine.state.removed


def test_a_removed_id_never_returns() -> None:
    meta = Replica()
    meta.apply(op="join", node=30, name="c", address="c:2")
    refused = meta.apply(op="join", node=3, name="c", address="c:1")
    assert "removed" in str(cast(Mapping[str, object], refused["error"])["description"])
    assert 30 in meta.machine.state.nodes


def test_more_replicas_than_nodes_are_refused() -> None:
    refused = Replica().apply(**stream("S", "s.>", replicas=5))
    assert cast(Mapping[str, object], refused["error"])["err_code"] == 10005


@pytest.mark.parametrize(
    "command",
    [
        {},
        {"op": []},
        {"op": "join"},
        {"op": "join", "node": [], "name": "a", "address": "a:1"},
        {"op": "settled", "group": {}},
        {"op": "create_stream", "config": 7},
        {"op": "create_group", "name": "g", "machine": "m", "replicas": "3"},
        {"op": "create_group", "name": "g", "machine": "m", "replicas": 0},
        {"op": "create_group", "name": "g", "machine": "m", "replicas": -1},
        {"op": "create_group", "name": "g", "machine": "stream", "replicas": 1},
        {"op": "create_group", "name": "g", "machine": "meta", "replicas": 1},
    ],
)
def test_a_command_that_makes_no_sense_is_refused_and_changes_nothing(command: Mapping[str, object]) -> None:
    replica = Replica()
    before = replica.machine.capture()
    assert "error" in replica.apply(**command)
    assert replica.machine.capture() == before
    assert "error" not in replica.apply(**stream("AFTER", "after"))


@pytest.mark.parametrize("junk", [b"", b"\xc1", b"\x93\x01", b"\x91\x01", b"\xa1x"])
def test_bytes_that_are_no_command_are_refused(junk: bytes) -> None:
    assert "error" in Replica().apply_entry(junk)


def test_an_unknown_command_is_a_refusal_not_a_crash() -> None:
    assert "error" in Replica().apply(op="explode")


def test_r1_streams_and_first_leaders_spread_over_the_nodes() -> None:
    meta = Replica()
    for number in range(6):
        meta.apply(**stream(f"one{number}", f"one.{number}", replicas=1))
        meta.apply(**stream(f"three{number}", f"three.{number}", replicas=3))
    groups = list(meta.machine.state.streams())
    first = [group.replicas[0] for group in groups]
    assert all(3 <= first.count(node) <= 5 for node in (1, 2, 3))


async def test_a_restored_machine_equals_the_captured_one_and_goes_on_alike() -> None:
    one, other = Replica(), Replica()
    one.apply(**stream("S", "s.>"))
    one.apply(op="join", node=30, name="c", address="c:2")
    one.apply(op="create_group", name="hits", machine="counter", replicas=2)
    await other.machine.restore(one.machine.capture().state, ())
    other.index = one.index
    assert other.machine.state == one.machine.state
    assert one.apply(**stream("T", "t.>")) == other.apply(**stream("T", "t.>"))
    assert other.machine.capture() == one.machine.capture()


async def test_a_newer_state_is_refused() -> None:
    newer = cast(bytes, msgpack.packb({"v": 99}))
    with pytest.raises(StateUnusable, match="version 99"):
        await Replica().machine.restore(newer, ())


# --- versions (DESIGN 10) --------------------------------------------------------------------------------


def speak(replica: Replica, *versions: int) -> None:
    for node, version in enumerate(versions, 1):
        replica.apply(op="speaks", node=node, version=version)


def test_the_level_is_what_all_members_speak_and_never_falls() -> None:
    meta = Replica()
    state = meta.machine.state
    speak(meta, 2, 2)
    assert state.level == 1
    speak(meta, 2, 2, 2)
    assert state.level == 2
    meta.apply(op="invite", name="d", address="d:1")
    meta.apply(op="join", node=4, name="d", address="d:1")
    speak(meta, 2, 1)
    assert state.level == 2
    assert "error" in meta.apply(op="speaks", node=99, version=2)


def test_a_member_that_leaves_holds_the_others_back_no_longer() -> None:
    meta = Replica()
    speak(meta, 2, 2, 1)
    meta.apply(op="leave", name="c")
    assert meta.machine.state.level == 2 and sorted(meta.machine.state.versions) == [1, 2]


async def test_a_node_stops_where_its_cluster_moves_on_without_it() -> None:
    older, newer = Replica(), Replica()
    older.machine = MetaMachine(NODES, lambda: None, 1)
    speak(older, 2, 2)
    speak(newer, 2, 2, 2)
    with pytest.raises(ClusterMovedOn, match="protocol 2, this node up to 1"):
        older.apply(op="speaks", node=3, version=2)
    with pytest.raises(StateUnusable, match="protocol 2, this node up to 1"):
        await older.machine.restore(newer.machine.capture().state, ())


def test_a_report_on_members_that_comes_late_changes_nothing() -> None:
    """Two leaders' reports may overtake each other; what the log said last is what counts (S14)."""
    meta = Replica()
    meta.apply(**stream("S", "s.>", replicas=2))
    [group] = meta.machine.state.streams()
    report = {"op": "settled", "group": group.group, "incarnation": group.incarnation}
    meta.apply(**report, members=[1, 2, 3], commit=70)
    meta.apply(**report, members=[3], commit=50)
    [group] = meta.machine.state.streams()
    assert (group.settled, group.settled_at) == ((1, 2, 3), 70)
    meta.apply(**report, members=[3], commit=80)
    [group] = meta.machine.state.streams()
    assert set(group.settled) == {3, *group.replicas}, (
        "who is desired is needed, whatever a leader knows of it"
    )
    assert "error" in meta.apply(**report, members=[3], commit=-1)


async def test_the_older_state_is_written_until_all_read_the_newer_and_read_for_ever() -> None:
    one, other = Replica(), Replica()
    one.apply(**stream("S", "s.>"))
    speak(one, 2, 2)
    for version in (2, 3):
        captured = one.machine.capture().state
        assert msgpack.unpackb(captured, strict_map_key=False)["v"] == version
        await other.machine.restore(captured, ())
        assert other.machine.state == one.machine.state
        speak(one, 2, 2, 2)
        [group] = one.machine.state.streams()
        one.apply(op="settled", group=group.group, incarnation=group.incarnation, members=[1], commit=9)
