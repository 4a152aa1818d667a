"""The JSON of the JetStream API, as a NATS client sees it, over a real stream machine and a fake cluster."""

import base64
import itertools
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from random import Random
from typing import Any, cast

import pytest

from trimaran.actors.delivery.advisories import Advisories
from trimaran.actors.gateway.backend import ClusterInfo, ReplicaInfo, StreamAssignment
from trimaran.actors.gateway.jetstream import JetStreamApi, Target, api_target
from trimaran.actors.peers.wire import PROTOCOL_VERSION
from trimaran.actors.raft.outcomes import Applied, NotApplied, Outcome, Reason, Unknown
from trimaran.actors.stream import commands
from trimaran.actors.stream.account_limits import UNLIMITED, AccountLimits, Held
from trimaran.actors.stream.machine import StreamMachine
from trimaran.actors.stream.views import rfc3339
from trimaran.actors.world import TrioClock
from trimaran.codec import Chunk, Kind, make_chunk, seal_batch, walk_batch
from trimaran.codec.protocol import encode_publish
from trimaran.storage.files import GroupFiles

START = 1_700_000_000_000_000_000


class Files:
    """A group's files in memory, as far as a machine that never restarts uses them."""

    pending_bytes = 0

    def __init__(self) -> None:
        self._numbers = itertools.count(1)
        self._files: dict[str, bytearray] = {}

    def new_name(self, stem: str) -> str:
        return f"{stem}-{next(self._numbers)}"

    def write(self, name: str, offset: int, data: bytes) -> None:
        file = self._files.setdefault(name, bytearray())
        file[offset : offset + len(data)] = data

    async def read(self, name: str, offset: int, length: int) -> bytes:
        return bytes(self._files[name][offset : offset + length])

    def sync_in_background(self, name: str) -> None: ...

    def forget(self, names: object) -> None: ...


@dataclass(eq=False)
class Host:
    """An `ApiHost` whose proposals are applied at once, or come to `outcome`."""

    nodes: int = 3
    assignments: dict[str, StreamAssignment] = field(default_factory=dict)
    machines: dict[int, StreamMachine] = field(default_factory=dict)
    outcome: Outcome | None = None
    leads: bool = True
    transfers: list[tuple[int, str | None]] = field(default_factory=list)
    index: int = 10
    limits: AccountLimits = UNLIMITED
    domain: str = ""
    level: int = PROTOCOL_VERSION
    told: list[bytes] = field(default_factory=list)
    """The subjects of advisories."""
    api: "JetStreamApi" = field(init=False)

    def __post_init__(self) -> None:
        self.api = JetStreamApi(self, wall=lambda: START + 123_000_000)

    async def usage(self) -> Held:
        sizes = [machine.info().bytes for machine in self.machines.values()]
        return Held(file=sum(sizes))

    def streams(self) -> Mapping[str, StreamAssignment]:
        return self.assignments

    @property
    def advisories(self) -> Advisories:
        return Advisories(lambda: self, TrioClock(), Random(1))

    def is_wanted(self, subject: bytes) -> bool:
        return True

    def listens(self, subject: bytes) -> bool:
        return True

    def carry(self, to: bytes, subject: bytes, reply: bytes, header_size: int, body: bytes) -> bool:
        return True

    def tell(self, subject: bytes, body: bytes) -> None:
        self.told.append(subject)

    def leader_of(self, group: int) -> int:
        return 1 if self.leads else 0

    def node_names(self) -> Mapping[int, str]:
        return {number: f"n{number}" for number in range(1, self.nodes + 1)}

    async def propose_meta(self, command: Mapping[str, object]) -> Outcome:
        if self.outcome is not None:
            return self.outcome
        name = str(command["name"])
        if command["op"] == "delete_stream":
            del self.assignments[name]
            return Applied(self.index, {})
        self.index += 1
        standing = self.assignments.get(name)
        group = standing.group if standing else self.index
        version = standing.version + 1 if standing else 1
        config = cast(Mapping[str, object], command["config"])
        replicas = tuple(range(1, cast(int, command["replicas"]) + 1))
        self.assignments[name] = StreamAssignment(name, group, self.index, config, version, START, replicas)
        machine = self.machines.setdefault(group, StreamMachine(cast(GroupFiles, Files()), name))
        self._apply(machine, commands.command_chunk(commands.configure(config, version)))
        return Applied(self.index, {"created": standing is None})

    async def stream_info(self, name: str) -> dict[str, object] | None:
        answer = await self.api.handle(f"$JS.API.STREAM.INFO.{name}", b"")
        return cast(dict[str, object], json.loads(answer or b"null"))

    async def consumers(self, name: str) -> list[dict[str, object]]:
        return []

    def machine(self, group: int) -> StreamMachine | None:
        return self.machines.get(group)

    async def delivery(self, group: int) -> None:
        return None

    async def read_barrier(self, group: int) -> bool:
        return self.leads

    async def propose(self, group: int, chunk: Chunk) -> Outcome:
        return self.outcome or Applied(1, self._apply(self.machines[group], chunk))

    def cluster_of(self, group: int) -> ClusterInfo:
        return ClusterInfo("east", "n1", (ReplicaInfo("n2", True, 5, 0, peer="02"),))

    async def transfer(self, group: int, preferred: str | None) -> bool:
        self.transfers.append((group, preferred))
        return preferred != "nobody"

    def _apply(self, machine: StreamMachine, chunk: Chunk) -> bytes:
        self.index += 1
        batch = seal_batch(
            [chunk],
            kind=Kind.NORMAL,
            group=2,
            incarnation=1,
            index=self.index,
            term=1,
            previous_term=1,
            time=START + 500_000_000,
        )
        return machine.apply(walk_batch(batch))

    def publish(self, stream: str, subject: bytes, payload: bytes, headers: bytes = b"") -> None:
        entry = encode_publish(subject, headers, payload)
        self._apply(self.machines[self.assignments[stream].group], make_chunk([entry]))

    async def ask(self, api: str, body: object = None) -> dict[str, Any]:
        payload = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
        answer = await self.api.handle(f"$JS.API.{api}", payload)
        assert answer is not None
        return cast(dict[str, Any], json.loads(answer))


async def host_with(*streams: str, **options: object) -> Host:
    host = Host()
    for name in streams:
        answer = await host.ask(f"STREAM.CREATE.{name}", {"name": name, "subjects": [f"{name}.>"], **options})
        assert answer["did_create"] is True
    return host


def error_of(answer: Mapping[str, Any]) -> tuple[int, int, str]:
    error = answer["error"]
    return error["code"], error["err_code"], error["description"]


@pytest.mark.parametrize(
    ("subject", "target"),
    [
        ("$JS.API.INFO", Target.ANY),
        ("$JS.API.STREAM.NAMES", Target.META),
        ("$JS.API.STREAM.LIST", Target.META),
        ("$JS.API.STREAM.CREATE.S", Target.META),
        ("$JS.API.STREAM.UPDATE.S", Target.META),
        ("$JS.API.STREAM.DELETE.S", Target.META),
        ("$JS.API.STREAM.INFO.S", "S"),
        ("$JS.API.STREAM.PURGE.S", "S"),
        ("$JS.API.STREAM.MSG.GET.S", "S"),
        ("$JS.API.STREAM.MSG.DELETE.S", "S"),
        ("$JS.API.STREAM.LEADER.STEPDOWN.S", "S"),
        ("$JS.API.CONSUMER.CREATE.S.c.filter", "S"),
        ("$JS.API.CONSUMER.INFO.S.c", "S"),
        ("$JS.API.CONSUMER.INFO.S", None),
        ("$JS.API.CONSUMER.MSG.NEXT.S.c", None),
        ("$JS.API.STREAM.INFO", None),
        ("$JS.API.STREAM.INFO.", None),
        ("$JS.API.STREAM.INFO.a.b", None),
        ("$JS.API.STREAM.BOGUS.S", None),
        ("$JS.API.INFO.x", None),
        ("$JS.APIX", None),
        ("orders", None),
    ],
)
async def test_every_request_has_a_target_or_nobody_to_answer(subject: str, target: object) -> None:
    assert api_target(subject) == target
    assert (await Host().api.handle(subject, b"") is None) == (target is None)


async def test_account_info_has_the_fields_of_the_reference() -> None:
    host = await host_with("S")
    answer = await host.ask("INFO")
    assert answer["type"] == "io.nats.jetstream.api.v1.account_info_response"
    assert answer["streams"] == 1 and answer["consumers"] == 0
    assert answer["limits"]["max_streams"] == -1 and answer["limits"]["max_bytes_required"] is False
    assert set(answer["api"]) == {"level", "total", "errors"}


async def test_create_echoes_the_configuration_with_defaults() -> None:
    host = Host()
    answer = await host.ask("STREAM.CREATE.S", {"name": "S", "subjects": ["s.>"], "num_replicas": 3})
    assert list(answer) == ["type", "config", "created", "state", "ts", "did_create"]
    assert answer["type"] == "io.nats.jetstream.api.v1.stream_create_response"
    assert answer["config"]["max_msgs"] == -1 and answer["config"]["duplicate_window"] == 120_000_000_000
    assert answer["config"]["num_replicas"] == 3 and host.assignments["S"].replicas == (1, 2, 3)
    assert answer["created"] == "2023-11-14T22:13:20Z" and answer["ts"] == "2023-11-14T22:13:20.123Z"
    assert answer["state"] == {
        "messages": 0,
        "bytes": 0,
        "first_seq": 0,
        "first_ts": "0001-01-01T00:00:00Z",
        "last_seq": 0,
        "last_ts": "0001-01-01T00:00:00Z",
        "consumer_count": 0,
    }


async def test_creating_again_is_the_same_or_refused() -> None:
    host = await host_with("S")
    again = await host.ask("STREAM.CREATE.S", {"name": "S", "subjects": ["S.>"]})
    assert again["did_create"] is True and host.assignments["S"].version == 1
    other = await host.ask("STREAM.CREATE.S", {"name": "S", "subjects": ["S.a"]})
    assert error_of(other) == (400, 10058, "stream name already in use with a different configuration")


@pytest.mark.parametrize(
    ("request_body", "error"),
    [
        ({"name": "T", "subjects": ["S.a"]}, (400, 10065)),
        ({"name": "X"}, (400, 10056)),
        (None, (400, 10056)),
        (b"{bad", (400, 10025)),
        (b"[]", (400, 10025)),
        ({"name": "T", "bogus": 5}, (400, 10025)),
        ({"name": "T", "subjects": ["t"], "num_replicas": 5}, (400, 10005)),
        ({"name": "T", "subjects": ["t"], "num_replicas": 9}, (500, 10052)),
        ({"name": "T", "subjects": ["a..b"]}, (500, 10052)),
        ({"name": "T", "max_age": 5}, (500, 10052)),
    ],
)
async def test_create_refuses_what_cannot_be(request_body: object, error: tuple[int, int]) -> None:
    host = await host_with("S")
    answer = await host.ask("STREAM.CREATE.T", request_body)
    assert answer["type"] == "io.nats.jetstream.api.v1.stream_create_response"
    assert error_of(answer)[:2] == error
    assert list(host.assignments) == ["S"]


async def test_replicas_on_a_single_node_are_refused_as_the_reference_does() -> None:
    host = Host(nodes=1)
    answer = await host.ask("STREAM.CREATE.T", {"name": "T", "num_replicas": 3})
    assert error_of(answer) == (500, 10074, "replicas > 1 not supported in non-clustered mode")


async def test_update_changes_what_may_change() -> None:
    host = await host_with("S", "T")
    answer = await host.ask("STREAM.UPDATE.S", {"name": "S", "subjects": ["S.>"], "max_msgs": 7})
    assert answer["config"]["max_msgs"] == 7 and "did_create" not in answer
    assert host.assignments["S"].version == 2
    storage = await host.ask("STREAM.UPDATE.S", {"name": "S", "subjects": ["S.>"], "storage": "memory"})
    assert error_of(storage) == (500, 10052, "stream configuration update can not change storage type")
    overlap = await host.ask("STREAM.UPDATE.S", {"name": "S", "subjects": ["T.x"]})
    assert error_of(overlap)[1] == 10065
    assert error_of(await host.ask("STREAM.UPDATE.N", {"name": "N"})) == (404, 10059, "stream not found")


async def test_delete_takes_no_payload_and_is_final() -> None:
    host = await host_with("S")
    assert error_of(await host.ask("STREAM.DELETE.S", b"zz"))[:2] == (400, 10038)
    answer = await host.ask("STREAM.DELETE.S")
    assert answer == {"type": "io.nats.jetstream.api.v1.stream_delete_response", "success": True}
    assert error_of(await host.ask("STREAM.DELETE.S"))[1] == 10059


async def test_info_tells_state_and_cluster_and_subjects_when_asked() -> None:
    host = await host_with("S")
    for subject in (b"S.a", b"S.b", b"S.a"):
        host.publish("S", subject, b"hello")
    plain = await host.ask("STREAM.INFO.S")
    assert (plain["total"], plain["offset"], plain["limit"]) == (0, 0, 0)
    state = plain["state"]
    assert (state["messages"], state["first_seq"], state["last_seq"], state["num_subjects"]) == (3, 1, 3, 2)
    assert state["first_ts"] == "2023-11-14T22:13:20.5Z" and "subjects" not in state
    assert plain["cluster"] == {
        "name": "east",
        "leader": "n1",
        "replicas": [{"name": "n2", "current": True, "active": 5, "peer": "02"}],
    }
    filtered = await host.ask("STREAM.INFO.S", {"subjects_filter": ">"})
    assert (filtered["total"], filtered["offset"], filtered["limit"]) == (2, 0, 100_000)
    assert filtered["state"]["subjects"] == {"S.a": 2, "S.b": 1}
    second = await host.ask("STREAM.INFO.S", {"subjects_filter": ">", "offset": 1})
    assert (second["total"], second["offset"]) == (2, 1) and second["state"]["subjects"] == {"S.b": 1}


async def test_errors_of_paged_requests_carry_an_empty_page() -> None:
    answer = await Host().ask("STREAM.INFO.NO")
    assert error_of(answer) == (404, 10059, "stream not found")
    assert (answer["total"], answer["offset"], answer["limit"]) == (0, 0, 0)


async def test_names_and_list_are_paged_sorted_and_filtered() -> None:
    host = await host_with("B", "A", "C")
    assert (await host.ask("STREAM.NAMES"))["streams"] == ["A", "B", "C"]
    found = await host.ask("STREAM.NAMES", {"subject": "B.x"})
    assert (found["streams"], found["total"], found["limit"]) == (["B"], 1, 1024)
    assert (await host.ask("STREAM.NAMES", {"subject": "zzz"}))["streams"] is None
    rest = await host.ask("STREAM.NAMES", {"offset": 2})
    assert (rest["streams"], rest["total"], rest["offset"]) == (["C"], 3, 2)
    beyond = await host.ask("STREAM.LIST", {"offset": 9})
    assert (beyond["streams"], beyond["total"], beyond["offset"], beyond["limit"]) == ([], 3, 3, 256)
    listed = await host.ask("STREAM.LIST", {"subject": "C.>"})
    assert [each["config"]["name"] for each in listed["streams"]] == ["C"]
    assert "type" not in listed["streams"][0] and "total" not in listed["streams"][0]


async def test_get_message_by_each_way_of_naming_it() -> None:
    host = await host_with("S")
    host.publish("S", b"S.a", b"hi")
    host.publish("S", b"S.b", b"", b"NATS/1.0\r\nFoo: bar\r\n\r\n")
    host.publish("S", b"S.a", b"\xff")
    first = await host.ask("STREAM.MSG.GET.S", {"seq": 1})
    assert first["message"] == {"subject": "S.a", "seq": 1, "data": "aGk=", "time": "2023-11-14T22:13:20.5Z"}
    second = (await host.ask("STREAM.MSG.GET.S", {"seq": 2}))["message"]
    assert base64.b64decode(second["hdrs"]) == b"NATS/1.0\r\nFoo: bar\r\n\r\n" and "data" not in second
    for body, seq in (
        ({"last_by_subj": "S.a"}, 3),
        ({"last_by_subj": "S.*"}, 3),
        ({"seq": 2, "next_by_subj": "S.a"}, 3),
        ({"next_by_subj": "S.b"}, 2),
        ({"start_time": "2023-11-14T22:13:20Z"}, 1),
        ({"start_time": "2023-11-14T23:13:20.5+01:00", "next_by_subj": "S.b"}, 2),
    ):
        assert (await host.ask("STREAM.MSG.GET.S", body))["message"]["seq"] == seq


@pytest.mark.parametrize(
    ("body", "error"),
    [
        ({"seq": 99}, (404, 10037)),
        ({"last_by_subj": "S.nope"}, (404, 10037)),
        ({"seq": 2, "next_by_subj": "S.a"}, (404, 10037)),
        ({"start_time": "2024-11-14T22:13:20Z"}, (404, 10037)),
        ({}, (400, 10003)),
        (None, (400, 10003)),
        ({"seq": 1, "last_by_subj": "S.a"}, (400, 10003)),
        ({"last_by_subj": "S.a", "next_by_subj": "S.a"}, (400, 10003)),
        ({"seq": -1}, (400, 10025)),
        ({"seq": True}, (400, 10025)),
        ({"seq": "1"}, (400, 10025)),
        ({"start_time": "yesterday"}, (400, 10025)),
        (b"bad", (400, 10025)),
        ({"seq": 1, "batch": 3}, (400, 10003)),
        ({"seq": 1, "sequence": 3}, (400, 10025)),
        (b"null", (400, 10003)),
    ],
)
async def test_get_message_refuses_what_names_no_message(body: object, error: tuple[int, int]) -> None:
    host = await host_with("S")
    host.publish("S", b"S.a", b"hi")
    assert error_of(await host.ask("STREAM.MSG.GET.S", body))[:2] == error


async def test_delete_message_goes_through_the_log() -> None:
    host = await host_with("S")
    for _ in range(3):
        host.publish("S", b"S.a", b"hi")
    assert (await host.ask("STREAM.MSG.DELETE.S", {"seq": 2}))["success"] is True
    assert error_of(await host.ask("STREAM.MSG.GET.S", {"seq": 2}))[1] == 10037
    state = (await host.ask("STREAM.INFO.S", {"deleted_details": True}))["state"]
    assert (state["num_deleted"], state["deleted"], state["messages"]) == (1, [2], 2)
    for body, error in (
        ({"seq": 2}, (400, 10043, "sequence 2 not found")),
        ({"seq": 99}, (500, 10057, "stream store EOF")),
        ({"seq": 0}, (500, 10057, "no message found")),
        (None, (400, 10003, "bad request")),
    ):
        assert error_of(await host.ask("STREAM.MSG.DELETE.S", body)) == error


async def test_purge_by_filter_sequence_or_number() -> None:
    host = await host_with("S")
    for subject in (b"S.a", b"S.b", b"S.a", b"S.a", b"S.b"):
        host.publish("S", subject, b"hi")
    assert (await host.ask("STREAM.PURGE.S", {"filter": "S.b"}))["purged"] == 2
    assert (await host.ask("STREAM.PURGE.S", {"keep": 2}))["purged"] == 1
    both = await host.ask("STREAM.PURGE.S", {"seq": 2, "keep": 1})
    assert error_of(both)[1] == 10003 and both["purged"] == 0
    assert error_of(await host.ask("STREAM.PURGE.S", b"bad"))[1] == 10025
    assert (await host.ask("STREAM.PURGE.S", {"filter": "a..b"}))["purged"] == 0, "as in the reference"
    assert (await host.ask("STREAM.INFO.S"))["state"]["messages"] == 2
    assert (await host.ask("STREAM.PURGE.S"))["purged"] == 2
    assert (await host.ask("STREAM.INFO.S"))["state"]["first_seq"] == 6


async def test_step_down_hands_over_to_whom_is_asked_for() -> None:
    host = await host_with("S", num_replicas=3)
    group = host.assignments["S"].group
    assert (await host.ask("STREAM.LEADER.STEPDOWN.S"))["success"] is True
    await host.ask("STREAM.LEADER.STEPDOWN.S", {"placement": {"preferred": "n2"}})
    assert host.transfers == [(group, None), (group, "n2")]
    nobody = await host.ask("STREAM.LEADER.STEPDOWN.S", {"placement": {"preferred": "nobody"}})
    assert error_of(nobody)[:2] == (400, 10005)
    assert error_of(await host.ask("STREAM.LEADER.STEPDOWN.S", {"placement": 5}))[1] == 10025
    host.nodes = 1
    assert error_of(await host.ask("STREAM.LEADER.STEPDOWN.S"))[:2] == (503, 10010)


async def test_requests_on_consumers_that_nobody_can_serve_are_answered() -> None:
    answer = await Host().ask("CONSUMER.DURABLE.CREATE.S.c", {"stream_name": "S"})
    assert error_of(answer)[:2] == (400, 10018), "what is wrong in itself is told first"
    wanted = {"stream_name": "S", "config": {"durable_name": "c"}}
    answer = await Host().ask("CONSUMER.DURABLE.CREATE.S.c", wanted)
    assert answer["type"] == "io.nats.jetstream.api.v1.consumer_create_response"
    assert error_of(answer) == (404, 10059, "stream not found")
    listed = await Host().ask("CONSUMER.NAMES.S")
    assert (listed["total"], listed["consumers"]) == (0, []) and error_of(listed)[1] == 10059
    host = await host_with("S")
    assert error_of(await host.ask("CONSUMER.INFO.S.c"))[:2] == (503, 10008)


@pytest.mark.parametrize(
    ("outcome", "error"),
    [
        (NotApplied(Reason.NOT_LEADER), (503, 10008)),
        (NotApplied(Reason.BUSY), (503, 10023)),
        (Unknown(Reason.LEADERSHIP_LOST), (503, 20001)),
    ],
)
async def test_a_change_that_was_not_made_or_may_have_been_says_so(
    outcome: Outcome, error: tuple[int, int]
) -> None:
    host = await host_with("S")
    host.outcome = outcome
    for api, body in (
        ("STREAM.CREATE.T", {"name": "T"}),
        ("STREAM.UPDATE.S", {"name": "S", "max_msgs": 1}),
        ("STREAM.DELETE.S", None),
        ("STREAM.PURGE.S", None),
        ("STREAM.MSG.DELETE.S", {"seq": 1}),
    ):
        assert error_of(await host.ask(api, body))[:2] == error


async def test_a_refusal_decided_at_apply_is_the_answer() -> None:
    host = await host_with("S")
    refusal = {"error": {"code": 400, "err_code": 10065, "description": "subjects overlap"}}
    host.outcome = Applied(5, refusal)
    answer = await host.ask("STREAM.CREATE.T", {"name": "T"})
    assert error_of(answer) == (400, 10065, "subjects overlap")


async def test_reads_are_refused_where_leadership_is_not_confirmed() -> None:
    host = await host_with("S")
    host.publish("S", b"S.a", b"x")
    host.leads = False
    for api, body in (("STREAM.INFO.S", None), ("STREAM.MSG.GET.S", {"seq": 1})):
        assert error_of(await host.ask(api, body))[:2] == (503, 10008)


def test_times_are_written_without_trailing_zeros() -> None:
    assert rfc3339(START) == "2023-11-14T22:13:20Z"
    assert rfc3339(START + 500_000_000) == "2023-11-14T22:13:20.5Z"
    assert rfc3339(START + 1) == "2023-11-14T22:13:20.000000001Z"
    assert rfc3339(0) == "0001-01-01T00:00:00Z"
