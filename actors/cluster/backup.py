"""Backup and restore of groups while the cluster serves: `$TRIMARAN.API.BACKUP.` and `.RESTORE.` requests.

A backup of a group is its snapshot: the leader makes a manifest at the index that it has applied, holds the
files it names, and gives both out in parts. A restored group starts from that manifest as one replica, at the
same index and term, with its sequences, times and known message ids; then it grows as any other.

    BACKUP.LIST       {}                    -> meta's leader: every group
    BACKUP.BEGIN      {"group"}             -> the group's leader: a session with the lengths of its parts
    RESTORE.BEGIN     {"kind", "name", ...} -> meta's leader: a session, and a group that nobody serves yet
    *.READ, *.WRITE   one part of a session -> the node that has the session
    *.END             {"node", "session"}   -> alike; a restored group begins to serve

Part 0 is the manifest, part n its file n. Bytes travel with their CRC32C; a session that nobody touches ends.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from typing import Final, Protocol, cast

import trio

from ...codec import crc32c
from ...storage.actor import Storage
from ...storage.errors import StorageError
from ...storage.incoming import Incoming
from ...storage.manifest import Manifest, decode_manifest, encode_manifest
from ...storage.records import CompactPrefix, GroupCreate
from ..groups import Groups
from ..raft.membership import Membership
from ..raft.outcomes import Applied, Outcome
from ..replica.group import Group, NotDone
from ..stream.errors import ApiError
from ..stream.machine import StreamMachine
from ..strict_json import read_json
from .meta_state import Assignment, MetaState

logger = logging.getLogger(__name__)

PREFIX: Final = "$TRIMARAN.API."
SESSION_SECONDS: Final = 30.0
"""A session ends when nobody has used it for so long: it keeps files from going."""
MAX_SESSIONS: Final = 16
DATA: Final = b"\0"
"""First byte of an answer that is data, not JSON: then u32 CRC32C, little endian, and the bytes."""

NO_SESSION: Final = ApiError(
    404, 20020, "no such session here: it ended, or its node was restarted; begin again"
)
NOT_WHOLE: Final = ApiError(400, 20021, "what was sent is not whole")


class BackupHost(Protocol):
    """What this needs of its node."""

    @property
    def state(self) -> MetaState: ...

    @property
    def node_id(self) -> int: ...

    async def propose_meta(self, command: Mapping[str, object]) -> Outcome: ...

    async def start_restored(self, group: int) -> None:
        """Return once a group whose restored state is durable here serves."""


@dataclass(frozen=True, slots=True)
class Place:
    """Who has to answer: a group's leader, or (`group` 0) a certain node."""

    group: int = 0
    node: int = 0


@dataclass(slots=True)
class _Reading:
    """A backup being given out."""

    group: Group
    manifest: Manifest
    encoded: bytes
    holds: ExitStack
    expires: float


@dataclass(slots=True)
class _Writing:
    """A group being restored: first the bytes of its manifest come, then its files."""

    assignment: Assignment
    replicas: int
    length: int
    expires: float
    encoded: bytearray = field(default_factory=bytearray)
    incoming: Incoming | None = None
    turn: trio.Lock = field(default_factory=trio.Lock)
    """Of one request at a time: a client that hears nothing for long sends its request again."""
    restored: bool = False


def is_backup(subject: str) -> bool:
    return subject.startswith((f"{PREFIX}BACKUP.", f"{PREFIX}RESTORE."))


def place_of(subject: str, payload: bytes, meta_group: int) -> Place | None:
    """Who answers; None: nobody, it is no such request."""
    what = subject[len(PREFIX) :].split(".")
    match what:
        case ["BACKUP", "LIST"] | ["RESTORE", "BEGIN"]:
            return Place(meta_group)
        case ["BACKUP", "BEGIN", group] if group.isdecimal():
            return Place(int(group))
        case [_, "READ" | "WRITE" | "END", node, *_]:
            return Place(0, int(node, 16)) if len(node) == 16 and node.isalnum() else None
    return None


class Backups:
    """Owns the sessions of this node."""

    def __init__(self, groups: Groups, storage: Storage, host: BackupHost, draw: Callable[[], int]) -> None:
        self._groups = groups
        self._storage = storage
        self._host = host
        self._draw = draw
        self._reading: dict[int, _Reading] = {}
        self._writing: dict[int, _Writing] = {}

    async def run(self) -> None:
        """End sessions that nobody uses, until cancelled."""
        while True:
            await trio.sleep(SESSION_SECONDS / 4)
            now = trio.current_time()
            for session in [number for number, each in self._reading.items() if each.expires < now]:
                self._end_reading(session)
            writing = self._writing.items()
            for session in [
                number for number, each in writing if each.expires < now and not each.turn.locked()
            ]:
                self._abandon(session)

    async def handle(self, subject: str, payload: bytes) -> bytes | None:
        """The answer of this node: JSON, or data; None: there is no such request."""
        what = subject[len(PREFIX) :].split(".")
        try:
            match what:
                case ["BACKUP", "LIST"]:
                    return _json({"groups": self._list()})
                case ["BACKUP", "BEGIN", group]:
                    return _json(await self._begin_reading(int(group)))
                case ["BACKUP", "READ", _, session, part, offset, size]:
                    return await self._read(int(session), int(part), int(offset), int(size))
                case ["BACKUP", "END", _, session]:
                    self._end_reading(int(session))
                    return _json({})
                case ["RESTORE", "BEGIN"]:
                    return _json(await self._begin_writing(_fields(payload)))
                case ["RESTORE", "WRITE", _, session, part, offset, crc]:
                    return _json(await self._write(int(session), int(part), int(offset), int(crc), payload))
                case ["RESTORE", "END", _, session]:
                    return _json(await self._finish(int(session)))
        except ApiError as error:
            return _json({"error": error.to_json()})
        except (ValueError, KeyError, TypeError) as error:
            return _json({"error": ApiError(400, 10003, f"bad request: {error}").to_json()})
        except NotDone as error:
            return _json({"error": ApiError(503, 10008, str(error)).to_json()})
        except StorageError as error:
            return _json({"error": ApiError(500, NOT_WHOLE.err_code, str(error)).to_json()})
        return None

    # --- giving out ------------------------------------------------------------------------------------

    def _list(self) -> list[dict[str, object]]:
        return [
            {
                "group": each.group,
                "kind": each.kind,
                "name": each.name,
                "config": dict(each.config),
                "version": each.version,
                "created": each.created,
                "replicas": len(each.replicas),
            }
            for each in self._host.state.groups.values()
        ]

    async def _begin_reading(self, number: int) -> dict[str, object]:
        group = self._groups.get(number)
        if group is None or len(self._reading) >= MAX_SESSIONS:
            raise ApiError(503, 10008, "the group is not here, or too many backups are under way")
        await group.read_barrier()  # what was acknowledged before the backup began is in it
        await group.take_snapshot()
        holds = ExitStack()
        manifest = holds.enter_context(group.files.hold())
        if manifest is None:
            raise ApiError(503, 10008, "the group has no state yet")
        session = self._draw()
        reading = _Reading(group, manifest, encode_manifest(manifest), holds, _soon())
        self._reading[session] = reading
        machine = group.machine
        return {
            "node": f"{self._host.node_id:016x}",
            "session": session,
            "index": manifest.index,
            "version": machine.version if isinstance(machine, StreamMachine) else 1,
            "parts": [len(reading.encoded), *(file.length for file in manifest.files)],
        }

    async def _read(self, session: int, part: int, offset: int, size: int) -> bytes:
        reading = self._reading.get(session)
        if reading is None:
            raise NO_SESSION.fresh()
        reading.expires = _soon()
        if part == 0:
            data = reading.encoded[offset : offset + size]
        else:
            file = reading.manifest.files[part - 1]
            data = await reading.group.files.read(file.name, offset, min(size, file.length - offset))
        return DATA + crc32c(data).to_bytes(4, "little") + data

    def _end_reading(self, session: int) -> None:
        reading = self._reading.pop(session, None)
        if reading is not None:
            reading.holds.close()

    # --- taking in -------------------------------------------------------------------------------------

    async def _begin_writing(self, request: Mapping[str, object]) -> dict[str, object]:
        if len(self._writing) >= MAX_SESSIONS:
            raise ApiError(503, 10008, "too many restores are under way")
        node = self._host.node_id
        command = {
            "op": "restore",
            "node": node,
            **{key: request[key] for key in ("kind", "name", "config", "version")},
        }
        result = _result(await self._host.propose_meta(command))
        number = cast(int, result["group"])
        assignment = self._host.state.groups[number]
        replicas, length = cast(int, request["replicas"]), cast(int, request["manifest_length"])
        self._writing[number] = _Writing(assignment, replicas, length, _soon())
        return {"node": f"{node:016x}", "session": number}

    async def _write(self, session: int, part: int, offset: int, crc: int, data: bytes) -> dict[str, object]:
        async with self._used(session).turn:
            writing = self._used(session)  # it may have ended while another request had its turn
            if crc32c(data) != crc:
                raise NOT_WHOLE.fresh()
            if part == 0:
                await self._write_manifest(writing, offset, data)
            elif writing.incoming is None:
                raise NOT_WHOLE.fresh()
            else:
                await writing.incoming.write_chunk(part - 1, offset, data, crc)
        return {}

    async def _write_manifest(self, writing: _Writing, offset: int, data: bytes) -> None:
        if offset != len(writing.encoded) or offset + len(data) > writing.length:
            raise NOT_WHOLE.fresh()
        writing.encoded += data
        if len(writing.encoded) < writing.length:
            return
        manifest = decode_manifest(bytes(writing.encoded))
        assignment = writing.assignment
        if manifest.kind != assignment.kind:
            raise ApiError(400, NOT_WHOLE.err_code, f"the backup is of a {manifest.kind!r} machine")
        files = self._storage.group_files(assignment.group, assignment.incarnation)
        writing.incoming = files.incoming(
            replace(
                manifest,
                group=assignment.group,
                incarnation=assignment.incarnation,
                members=Membership.of((self._host.node_id,)).encode(),
            )
        )
        await writing.incoming.begin()

    async def _finish(self, session: int) -> dict[str, object]:
        """Everything is here and has its checksum: the group starts, and then may have more replicas.

        Who asks again meanwhile waits for that one end: files are never moved under a group that runs.
        """
        writing = self._used(session)
        async with writing.turn:
            if not writing.restored:
                await self._restore(session, self._used(session))
        return {"name": writing.assignment.name}

    async def _restore(self, session: int, writing: _Writing) -> None:
        if writing.incoming is None:
            raise NOT_WHOLE.fresh()
        await self._make_durable(writing.assignment, writing.incoming)
        del self._writing[session]
        _result(
            await self._host.propose_meta({"op": "restored", "group": session, "replicas": writing.replicas})
        )
        await self._host.start_restored(session)
        writing.restored = True

    async def _make_durable(self, assignment: Assignment, incoming: Incoming) -> None:
        """The group's record first: files of a group that the log doesn't know would be nobody's."""
        group, incarnation = assignment.group, assignment.incarnation
        members = Membership.of((self._host.node_id,)).encode()
        self._storage.append([GroupCreate(group, incarnation, assignment.kind, assignment.name, members)])
        manifest, crc = await incoming.finish()
        synced = trio.Event()
        prefix = CompactPrefix(group, incarnation, manifest.index, manifest.term, crc)
        self._storage.append([prefix], synced.set)
        await synced.wait()

    def _used(self, session: int) -> _Writing:
        writing = self._writing.get(session)
        if writing is None:
            raise NO_SESSION.fresh()
        writing.expires = _soon()
        return writing

    def _abandon(self, session: int) -> None:
        """The group stays without a leader, so that nobody takes it for restored; it can be deleted."""
        writing = self._writing.pop(session)
        logger.warning("restore of %s was abandoned: delete it, and begin again", writing.assignment.name)
        if writing.incoming is not None:
            writing.incoming.abandon()


def _soon() -> float:
    return trio.current_time() + SESSION_SECONDS


def _result(outcome: Outcome) -> Mapping[str, object]:
    if not isinstance(outcome, Applied):
        raise ApiError(503, 20001, f"outcome unknown or not applied: {outcome.reason.value}")
    result = cast(Mapping[str, object], outcome.result)
    if "error" in result:
        error = cast(Mapping[str, object], result["error"])
        raise ApiError(cast(int, error["code"]), cast(int, error["err_code"]), str(error["description"]))
    return result


def _json(body: Mapping[str, object]) -> bytes:
    return json.dumps({"type": "io.trimaran.api.v1.backup_response", **body}, separators=(",", ":")).encode()


def _fields(payload: bytes) -> dict[str, object]:
    """A request's JSON object. Raises ValueError."""
    fields = read_json(payload)
    if not isinstance(fields, dict):
        raise ValueError("no object")
    return fields
