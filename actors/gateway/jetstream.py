"""The JetStream API: `$JS.API.` subjects to handlers, with the JSON that NATS clients know.

A request is answered by the node that leads its target: the meta group for what should be, a stream's group
for what is. `api_target` names the target, so that any node can find that leader; `JetStreamApi` runs there.
"""

from __future__ import annotations

import enum
import functools
import json
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final, cast

import trio

from ...codec import Chunk
from ..raft.outcomes import Applied, NotApplied, Outcome, Reason
from ..stream import commands
from ..stream.account_limits import UNLIMITED
from ..stream.config import (
    StreamConfig,
    check_nodes,
    check_overlap,
    check_update,
    decode_json,
    from_request,
    same_config,
)
from ..stream.consumer_config import beyond_limits, parse_time
from ..stream.errors import ApiError, DamagedRecord, api_error, configuration_error, json_error
from ..stream.results import unpack
from ..stream.subjects import subject_matches, subjects_overlap
from ..stream.together import ATOMIC_SINCE
from ..stream.views import ZERO_TIME, listed, message_json, rfc3339, state_json
from .consumer_api import ConsumerApi, ConsumerHost, ConsumerQuestion, read_body, read_question
from .request_json import check_empty, number_of, offset_of, read_request, text_of

if TYPE_CHECKING:
    from ..stream.machine import StoredMessage, StreamMachine
    from .backend import ApiHost, ClusterInfo, StreamAssignment

__all__ = ["FEATURE_LEVEL", "JetStreamApi", "Target", "api_target", "cluster_json"]

PREFIX: Final = "$JS.API."
TYPE_PREFIX: Final = "io.nats.jetstream.api.v1."
NAMES_LIMIT: Final = 1024
LIST_LIMIT: Final = 256
SUBJECTS_LIMIT: Final = 100_000
"""Subjects in one answer of STREAM.INFO with a filter."""

DELETED_LIMIT: Final = 100_000
"""Deleted sequences in one answer; `num_deleted` tells when there are more."""

FEATURE_LEVEL: Final = 1
"""What clients may use, as the account's information says: 1 stands for a message's own time to live, delete
markers and pause; the reference's higher ones for counters, batches and schedules too."""

UNAVAILABLE: Final = ApiError(503, 10008, "JetStream system temporarily unavailable")
BUSY: Final = ApiError(503, 10023, "insufficient resources")
UNKNOWN: Final = ApiError(503, 20001, "outcome unknown: the change may or may not have been made")
NOT_LEADER: Final = ApiError(500, 10009, "JetStream cluster can not handle request")


class Target(enum.Enum):
    """Who can answer, when it is not one stream's leader."""

    ANY = "any node"
    META = "the meta group's leader"


@dataclass(frozen=True, slots=True)
class _Api:
    """One kind of request."""

    type: str
    """The response's type without prefix and `_response`."""
    at_stream: bool
    """Answered by the stream's leader, else by the meta group's."""
    paged: bool = False
    """Its errors carry total, offset and limit as well."""


_APIS: Final[dict[str, _Api]] = {
    "INFO": _Api("account_info", at_stream=False),
    "STREAM.NAMES": _Api("stream_names", at_stream=False, paged=True),
    "STREAM.LIST": _Api("stream_list", at_stream=False, paged=True),
    "STREAM.CREATE": _Api("stream_create", at_stream=False),
    "STREAM.UPDATE": _Api("stream_update", at_stream=False),
    "STREAM.DELETE": _Api("stream_delete", at_stream=False),
    "STREAM.INFO": _Api("stream_info", at_stream=True, paged=True),
    "STREAM.PURGE": _Api("stream_purge", at_stream=True),
    "STREAM.MSG.GET": _Api("stream_msg_get", at_stream=True),
    "STREAM.MSG.DELETE": _Api("stream_msg_delete", at_stream=True),
    "STREAM.LEADER.STEPDOWN": _Api("stream_leader_stepdown", at_stream=True),
}
_NAMELESS: Final = frozenset({"INFO", "STREAM.NAMES", "STREAM.LIST"})
_BESIDE_ERRORS: Final[dict[str, dict[str, object]]] = {
    "STREAM.NAMES": {"streams": None},
    "STREAM.LIST": {"streams": []},
    "STREAM.PURGE": {"purged": 0},
}
"""What an answer has besides its error, where clients look for it."""


def api_target(subject: str) -> Target | str | None:
    """Who answers a request: a `Target`, a stream's name (its leader), or None (nobody: no responders)."""
    question = read_question(subject)
    if question is not None:
        return question.stream
    kind, name = _split(subject)
    if kind not in _APIS:
        return None
    if kind == "INFO":
        return Target.ANY
    return name if _APIS[kind].at_stream else Target.META


def _split(subject: str) -> tuple[str, str]:
    """(key of `_APIS`, stream name); ("", "") for what is no API."""
    if not subject.startswith(PREFIX):
        return "", ""
    rest = subject[len(PREFIX) :]
    if rest in _NAMELESS:
        return rest, ""
    kind, _, name = rest.rpartition(".")
    if kind in _APIS and kind not in _NAMELESS and name:
        return kind, name
    return "", ""


class JetStreamApi:
    """Answers requests on the node that leads their target.

    Args:
        host: the node.
        wall: nanoseconds since 1970, for the `ts` of answers only.
    """

    def __init__(self, host: ApiHost, wall: Callable[[], int] = time.time_ns) -> None:
        self._host = host
        self._wall = wall
        self._domain = {"domain": host.domain} if host.domain else {}
        self._changing = trio.Lock()
        self.total = 0
        self.errors = 0
        self._handlers: dict[str, Callable[[str, bytes], Awaitable[dict[str, object]]]] = {
            "INFO": self._account_info,
            "STREAM.NAMES": self._names,
            "STREAM.LIST": self._list,
            "STREAM.CREATE": self._create,
            "STREAM.UPDATE": self._update,
            "STREAM.DELETE": self._delete,
            "STREAM.INFO": self._info,
            "STREAM.PURGE": self._purge,
            "STREAM.MSG.GET": self._get_message,
            "STREAM.MSG.DELETE": self._delete_message,
            "STREAM.LEADER.STEPDOWN": self._step_down,
        }

    async def handle(self, subject: str, payload: bytes, *, asked: bool = True) -> bytes | None:
        """The answer's JSON; None: there is no such API.

        Args:
            asked: by a client; what an answer to another request is made of is not counted.
        """
        question = read_question(subject)
        if question is not None:
            return await self._handle_consumer(question, payload)
        kind, name = _split(subject)
        api = _APIS.get(kind)
        if api is None:
            return None
        try:
            body = await self._handlers[kind](name, payload)
            failed = False
        except ApiError as error:
            failed = True
            body = {"error": error.to_json()}
            if api.paged:
                body |= {"total": 0, "offset": 0, "limit": 0}
            body |= _BESIDE_ERRORS.get(kind, {})
        if asked:
            self._count(failed)
        return _encode(api.type, body)

    async def _handle_consumer(self, question: ConsumerQuestion, payload: bytes) -> bytes:
        try:
            asked = read_body(question, payload)
            api = ConsumerApi(await self._consumer_host(question.stream))
            if question.kind == "leader_stepdown":
                api.check_there(question.name)
                body = await self._step_down(question.stream, payload)
            else:
                async with self._alone() if asked.create is not None else nullcontext():
                    body = await api.answer(question, asked)
        except ApiError as error:
            self._count(True)
            body = {"error": error.to_json()}
            if question.paged:
                body |= {"total": 0, "offset": 0, "limit": 0, "consumers": []}
            if question.kind == "pause":
                body |= {"paused": False, "pause_until": ZERO_TIME}
        else:
            self._count(False)
        return _encode(question.type, body)

    async def _consumer_host(self, stream: str) -> ConsumerHost:
        assignment = self._assignment(stream)
        machine = self._machine(assignment)
        delivery = await self._host.delivery(assignment.group)
        await self._barrier(assignment)
        if delivery is None or delivery.ended:
            raise UNAVAILABLE.fresh()
        return ConsumerHost(
            assignment,
            machine,
            delivery,
            len(self._host.node_names()),
            functools.partial(self._command, assignment),
            cluster_json(self._host.cluster_of(assignment.group)),
            self._wall(),
            self._host.limits,
            self._host.level,
        )

    def _count(self, failed: bool) -> None:
        self.total += 1
        self.errors += failed

    # --- the account ----------------------------------------------------------------------------------

    async def _account_info(self, name: str, payload: bytes) -> dict[str, object]:
        streams = self._host.streams().values()
        held, reserved = await self._host.usage(), _reserved(streams)
        return {
            "memory": held.memory,
            "storage": held.file,
            "reserved_memory": reserved["memory"],
            "reserved_storage": reserved["file"],
            "streams": len(streams),
            "consumers": held.consumers,
            "limits": self._host.limits.to_json(),
            **self._domain,
            "api": {"level": FEATURE_LEVEL, "total": self.total, "errors": self.errors},
        }

    # --- desired state: the meta group's leader ---------------------------------------------------------

    async def _names(self, name: str, payload: bytes) -> dict[str, object]:
        page, found = self._page(payload, NAMES_LIMIT)
        return {**page, "streams": [each.name for each in found] or None}

    async def _list(self, name: str, payload: bytes) -> dict[str, object]:
        page, found = self._page(payload, LIST_LIMIT)
        infos: list[dict[str, object]] = []
        missing: list[str] = []
        for each in found:
            info = await self._host.stream_info(each.name)
            if info is None or "error" in info:
                missing.append(each.name)
            else:
                infos.append(listed(_without(info, "type", "total", "offset", "limit")))
        body: dict[str, object] = {**page, "streams": infos}
        return body | {"missing": missing} if missing else body

    def _page(self, payload: bytes, limit: int) -> tuple[dict[str, object], list[StreamAssignment]]:
        """The asked page of the streams (that take messages of `subject`), by name."""
        request = read_request(payload, "subject", "offset")
        subject, offset = text_of(request, "subject"), offset_of(request)
        streams = sorted(self._host.streams().values(), key=lambda stream: stream.name)
        if subject:
            streams = [each for each in streams if _takes(each, subject)]
        offset = min(offset, len(streams))
        page: dict[str, object] = {"total": len(streams), "offset": offset, "limit": limit}
        return page, streams[offset : offset + limit]

    async def _create(self, name: str, payload: bytes) -> dict[str, object]:
        config = from_request(name, self._request(payload), nodes=len(self._host.node_names()))
        async with self._alone():
            await self._create_one(name, config)
        return _without(await self._standing(name), "domain") | {"did_create": True}

    def _alone(self) -> AbstractAsyncContextManager[None]:
        """What is checked against an account's limits is there before the next one is checked."""
        return nullcontext() if self._host.limits == UNLIMITED else self._changing

    def _check_known(self, config: StreamConfig) -> None:
        """A node that doesn't know it would store something else than the others. Raises ApiError."""
        if config.allow_atomic and self._host.level < ATOMIC_SINCE:
            text = "atomic publishing needs a newer program on every node of the cluster"
            raise configuration_error(text)

    async def _create_one(self, name: str, config: StreamConfig) -> None:
        standing = self._host.streams().get(name)
        limits = self._host.limits
        self._check_known(config)
        if standing is None:
            limits.check_number(len(self._host.streams()))
        limits.check_stream(config)
        if standing is not None:
            if not same_config(StreamConfig.from_json(standing.config), config):
                raise api_error(10058)
        else:
            self._check_overlap(config)
            self._check_reserved(config)
            command = {"op": "create_stream", "name": name, "config": config.to_json()}
            await self._change(command | {"replicas": config.num_replicas})
            self._host.advisories.stream(name, "CREATED", "create")

    async def _update(self, name: str, payload: bytes) -> dict[str, object]:
        config = from_request(name, self._request(payload), creates=False)
        beyond = await self._beyond_limits(name, config)
        async with self._alone():
            await self._update_one(name, config, beyond)
        return await self._standing(name)

    async def _beyond_limits(self, name: str, config: StreamConfig) -> list[str]:
        """The consumers that new limits of consumers would not allow. Others may be made until these hold."""
        standing = self._assignment(name).config.get("consumer_limits")
        if not config.consumer_limits or config.consumer_limits == standing:
            return []
        consumers = await self._host.consumers(name)
        if consumers is None:
            raise UNAVAILABLE.fresh()
        return beyond_limits(config.consumer_limits, consumers)

    async def _update_one(self, name: str, config: StreamConfig, beyond: Sequence[str]) -> None:
        standing = self._assignment(name)
        check_nodes(config, len(self._host.node_names()))
        config = check_update(StreamConfig.from_json(standing.config), config)
        self._check_known(config)
        self._host.limits.check_stream(config)
        if beyond:
            raise ApiError(500, 10069, f"change to limits violates consumers: {', '.join(beyond)}")
        self._check_overlap(config)
        self._check_reserved(config)
        command = {"op": "update_stream", "name": name, "config": config.to_json()}
        keep = self._host.leader_of(standing.group)
        await self._change(command | {"replicas": config.num_replicas, "keep": keep})
        self._host.advisories.stream(name, "UPDATED", "modify")

    async def _delete(self, name: str, payload: bytes) -> dict[str, object]:
        check_empty(payload)
        self._assignment(name)
        await self._change({"op": "delete_stream", "name": name})
        self._host.advisories.stream(name, "DELETED", "delete")
        return {"success": True}

    def _request(self, payload: bytes) -> object:
        return decode_json(payload) if payload.strip() else {}

    def _check_overlap(self, config: StreamConfig) -> None:
        others = [(each.name, _subjects(each)) for each in self._host.streams().values()]
        check_overlap(config, others)

    def _check_reserved(self, config: StreamConfig) -> None:
        others = [each for each in self._host.streams().values() if each.name != config.name]
        self._host.limits.check_reserved(config, _reserved(others))

    async def _change(self, command: Mapping[str, object]) -> None:
        """Change desired state. The checks made here are made again at apply, where they count."""
        result = _applied(await self._host.propose_meta(command))
        if isinstance(result, Mapping) and "error" in result:
            error = cast("Mapping[str, object]", result["error"])
            raise ApiError(cast(int, error["code"]), cast(int, error["err_code"]), str(error["description"]))

    async def _standing(self, name: str) -> dict[str, object]:
        """A created or updated stream as its leader sees it; the reference leaves out who leads it."""
        info = await self._host.stream_info(name)
        if info is None or "error" in info:
            raise UNAVAILABLE.fresh()
        return _without(info, "type", "total", "offset", "limit", "cluster")

    # --- what is: the stream's leader ---------------------------------------------------------------------

    async def _info(self, name: str, payload: bytes) -> dict[str, object]:
        request = read_request(payload, "deleted_details", "subjects_filter", "offset")
        wanted, offset = text_of(request, "subjects_filter"), offset_of(request)
        assignment = self._assignment(name)
        machine = self._machine(assignment)
        await self._barrier(assignment)
        delivery = await self._host.delivery(assignment.group)
        state = machine.info()
        if delivery is not None:
            state = replace(state, consumers=len(delivery.names()))
        page = {"total": 0, "offset": 0, "limit": 0}
        subjects: dict[str, int] = {}
        if wanted:
            found = sorted(machine.subjects(wanted).items())
            if found:
                page = {"total": len(found), "offset": offset, "limit": SUBJECTS_LIMIT}
            subjects = dict(found[offset : offset + SUBJECTS_LIMIT])
        deleted = machine.deleted(DELETED_LIMIT) if request.get("deleted_details") is True else []
        config = machine.config.to_json() if machine.config is not None else dict(assignment.config)
        return {
            **page,
            "config": config,
            "created": rfc3339(assignment.created),
            "state": state_json(state, subjects=subjects, deleted=deleted),
            **self._domain,
            "cluster": cluster_json(self._host.cluster_of(assignment.group)),
            "ts": rfc3339(self._wall()),
        }

    async def _purge(self, name: str, payload: bytes) -> dict[str, object]:
        request = read_request(payload, "filter", "seq", "keep", strict=True)
        subject, seq, keep = text_of(request, "filter"), number_of(request, "seq"), number_of(request, "keep")
        if seq and keep:
            raise api_error(10003)
        assignment = self._assignment(name)
        purged = await self._command(assignment, commands.purge(subject, seq, keep))
        return {"success": True, "purged": purged}

    async def _get_message(self, name: str, payload: bytes) -> dict[str, object]:
        wanted = _wanted(read_request(payload, *_WANTED, strict=True))
        assignment = self._assignment(name)
        machine = self._machine(assignment)
        await self._barrier(assignment)
        try:
            message = await wanted.read(machine)
        except DamagedRecord as damage:
            raise ApiError(500, 10051, str(damage)) from damage
        if message is None:
            raise api_error(10037)
        shown = message_json(message)
        return {"message": _without(shown, "hdrs") if wanted.bare else shown}

    async def _delete_message(self, name: str, payload: bytes) -> dict[str, object]:
        request = read_request(payload, "seq", "no_erase", strict=True)
        if not request:
            raise api_error(10003)
        seq = number_of(request, "seq")
        await self._command(self._assignment(name), commands.delete(seq))
        return {"success": True}

    async def _step_down(self, name: str, payload: bytes) -> dict[str, object]:
        request = read_request(payload, "placement")
        placement = request.get("placement")
        if placement is not None and not isinstance(placement, dict):
            raise json_error("placement is no object")
        preferred = text_of(placement, "preferred") if placement else ""
        assignment = self._assignment(name)
        if len(self._host.node_names()) < 2:
            raise ApiError(503, 10010, "JetStream clustering support required")
        # A stream of one replica has nowhere to go; the reference says it went.
        if len(assignment.replicas) > 1 and not await self._host.transfer(
            assignment.group, preferred or None
        ):
            raise ApiError(400, 10005, "no suitable peers for placement")
        return {"success": True}

    # --- shared by them -----------------------------------------------------------------------------------

    def _assignment(self, name: str) -> StreamAssignment:
        assignment = self._host.streams().get(name)
        if assignment is None:
            raise api_error(10059)
        return assignment

    def _machine(self, assignment: StreamAssignment) -> StreamMachine:
        machine = self._host.machine(assignment.group)
        if machine is None:
            raise NOT_LEADER.fresh()
        return machine

    async def _barrier(self, assignment: StreamAssignment) -> None:
        if not await self._host.read_barrier(assignment.group):
            raise UNAVAILABLE.fresh()

    async def _command(self, assignment: StreamAssignment, command: bytes) -> int:
        """Change a stream through its own log; the number that its result carries."""
        chunk: Chunk = commands.command_chunk(command)
        results = _applied(await self._host.propose(assignment.group, chunk))
        if not isinstance(results, bytes):
            raise UNKNOWN.fresh()
        result = unpack(results, 0)
        if result.error is not None:
            raise result.error
        return result.value


def _applied(outcome: Outcome) -> object:
    """The result of a proposal, or what a client is told instead."""
    match outcome:
        case Applied():
            return outcome.result
        case NotApplied(reason=Reason.BUSY | Reason.NO_SPACE):
            raise BUSY.fresh()
        case NotApplied():
            raise UNAVAILABLE.fresh()
        case _:
            raise UNKNOWN.fresh()


def cluster_json(info: ClusterInfo) -> dict[str, object]:
    """The `cluster` object of a stream's or a consumer's information."""
    cluster: dict[str, object] = {"name": info.name}
    if info.leader is not None:
        cluster["leader"] = info.leader
    if info.replicas:
        cluster["replicas"] = [
            {
                "name": replica.name,
                "current": replica.current,
                **({"offline": True} if replica.offline else {}),
                "active": replica.active,
                **({"lag": replica.lag} if replica.lag else {}),
                "peer": replica.peer,
            }
            for replica in info.replicas
        ]
    return cluster


def _encode(kind: str, body: Mapping[str, object]) -> bytes:
    response = {"type": f"{TYPE_PREFIX}{kind}_response", **body}
    return json.dumps(response, separators=(",", ":"), ensure_ascii=False).encode()


_BATCHED: Final = ("batch", "max_bytes", "multi_last", "up_to_seq", "up_to_time")
"""Only a direct get takes these."""
_WANTED: Final = ("seq", "last_by_subj", "next_by_subj", "start_time", "no_hdr", *_BATCHED)


@dataclass(frozen=True, slots=True)
class _Wanted:
    """Which message MSG.GET asks for."""

    seq: int = 0
    last: str = ""
    following: str = ""
    since: int | None = None
    bare: bool = False
    """Without its headers."""

    async def read(self, machine: StreamMachine) -> StoredMessage | None:
        if self.last:
            return await machine.last_by_subject(self.last)
        seq = self.seq if self.since is None else machine.sequence_since(self.since)
        if self.following or self.since is not None:
            return await machine.next_by_subject(seq, self.following or ">")
        return await machine.get(seq)


def _wanted(request: Mapping[str, object]) -> _Wanted:
    """Raises ApiError 10003 where the request names no message, or two."""
    since = text_of(request, "start_time")
    wanted = _Wanted(
        seq=number_of(request, "seq"),
        last=text_of(request, "last_by_subj"),
        following=text_of(request, "next_by_subj"),
        since=parse_time(since) if since else None,
        bare=request.get("no_hdr") is True,
    )
    named = bool(wanted.seq) + bool(wanted.last) + (wanted.since is not None)
    batched = any(request.get(field) for field in _BATCHED)
    if batched or named > 1 or (wanted.last and wanted.following) or not (named or wanted.following):
        raise api_error(10003)
    return wanted


def _reserved(streams: Iterable[StreamAssignment]) -> dict[str, int]:
    """What streams may grow to in all their replicas, as far as they have a limit, by kind of storage."""
    held = {"file": 0, "memory": 0}
    for each in streams:
        limit, replicas = each.config.get("max_bytes"), each.config.get("num_replicas")
        if isinstance(limit, int) and isinstance(replicas, int) and limit > 0:
            held[str(each.config["storage"])] += limit * replicas
    return held


def _subjects(assignment: StreamAssignment) -> list[str]:
    return cast("list[str]", assignment.config.get("subjects") or [])


def _takes(assignment: StreamAssignment, subject: str) -> bool:
    """Whether a stream takes messages that a listener to `subject` (with wildcards) would want."""
    return any(
        subject_matches(mine, subject) or subjects_overlap(mine, subject) for mine in _subjects(assignment)
    )


def _without(body: Mapping[str, object], *fields: str) -> dict[str, object]:
    return {field: value for field, value in body.items() if field not in fields}
