"""Trimaran inside a Trio program: nodes as context managers, groups and streams as handles.

    async with open_node(Options(data=Path("data")), machines={"counter": Counter}) as node:
        counter = await open_group(node, "hits", machine="counter")
        total = await counter.propose(b"1")

Every call that changes something ends in one of three ways: it returns (applied), or it raises `NotDone`
whose `outcome` is `NotApplied` (safe to try again) or `Unknown` (it may have happened). Cancelling a call
abandons the waiting, never what was proposed. A state machine whose result can't be carried is a bug of its
own: `Unanswered`, for what was applied.
"""

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, cast

import trio
from msgpack import ExtType

from ..codec import Chunk, EntryType, make_chunk, make_chunk_of
from ..codec.protocol import encode_publish
from ..storage.disk import FileDisk
from ..storage.runner import ThreadRunner
from .cluster.meta_commands import Command
from .cluster.meta_state import STREAM_KIND
from .node import MakeStateMachine, Node
from .options import Options
from .peers.network import MemoryNetwork
from .raft.outcomes import Applied, NotApplied, Outcome, Reason, Unknown
from .replica.group import NotDone
from .replica.sessions import WINDOW, Operation, SessionEntry, SessionStatus
from .replica.user_machine import UserMachine, why_unanswered
from .stream.config import from_request
from .stream.errors import ApiError
from .stream.machine import StoredMessage, StreamMachine
from .stream.results import Status, unpack
from .world import World

SETTLE_SECONDS: Final = 10.0
SESSION_SECONDS: Final = 30.0  # how long a session repeats a proposal before it gives up
REPEAT_SECONDS: Final = 0.02
CLOSE_SECONDS: Final = 1.0
FINAL: Final = frozenset((Reason.TOO_LARGE, Reason.MALFORMED, Reason.CLOSED))
"""Refusals that a repetition would only meet again."""


class ApiRefused(Exception):
    """The cluster understood and said no: `code` and `description` as JetStream words them."""

    def __init__(self, error: Mapping[str, object]) -> None:
        super().__init__(f"{error.get('description')} (code {error.get('err_code')})")
        self.code = cast(int, error.get("err_code"))
        self.description = str(error.get("description"))


class Unanswered(Exception):
    """Applied, but the state machine's result is nothing that msgpack carries: don't repeat it, mend the
    machine. `results` has those of all entries, this one's as an extension that nobody else uses."""

    def __init__(self, why: str, results: Sequence[object]) -> None:
        super().__init__(f"applied, but the state machine returned {why}")
        self.results = results


@asynccontextmanager
async def open_node(
    options: Options, machines: Mapping[str, MakeStateMachine] | None = None, world: World | None = None
) -> AsyncIterator[Node]:
    """Run a node for the length of the block, and stop it in order at the end.

    The block begins once the node belongs to its cluster and runs its groups: when a cluster is founded, all
    its nodes must be up for that.

    Args:
        options: the table of options; data directory and addresses among them.
        machines: makes an empty state machine, by the name of its kind; the same kinds on every node.
        world: time, randomness, network and disk; the machine's own by default.

    Raises:
        BadSecurity, OSError, StorageError, NodeFailed, NodeRemoved: as `Node.run`, in an exception group.
    """
    async with trio.open_nursery() as nursery:
        node = Node(options, world, machines)
        await nursery.start(node.run)
        await node.ready.wait()
        yield node
        await node.stop()


@asynccontextmanager
async def open_cluster(
    directory: Path,
    machines: Mapping[str, MakeStateMachine] | None = None,
    names: Sequence[str] = ("a", "b", "c"),
    options: Options | None = None,
) -> AsyncIterator[list[Node]]:
    """Several nodes in this program: real disks below `directory`, peer links in memory.

    Args:
        directory: each node gets a directory of its name in it.
        machines: as of `open_node`, for all of them.
        names: of the nodes, the founders of the cluster if the directories are empty.
        options: for all of them but name, data and addresses; clients' ports are taken as they are free
            (`Node.client_address`).

    Raises:
        BadSecurity, OSError, StorageError, NodeFailed, NodeRemoved: as `open_node`.
    """
    network = MemoryNetwork()
    addresses = {name: f"127.0.0.1:{port}" for port, name in enumerate(names, start=1)}
    async with trio.open_nursery() as nursery:
        nodes: list[Node] = []
        for name in names:
            world = World(FileDisk(directory / name), ThreadRunner(), network=network)
            chosen = replace(
                options or Options(),
                name=name,
                data=directory / name,
                listen="127.0.0.1:0",
                peer_listen=addresses[name],
                peers=tuple((other, address) for other, address in addresses.items() if other != name),
            )
            node = Node(chosen, world, machines)
            nodes.append(node)
            await nursery.start(node.run)
        for node in nodes:
            await node.ready.wait()
        yield nodes
        for node in nodes:
            await node.stop()


@dataclass(frozen=True, slots=True)
class GroupHandle:
    """A replicated group with a user's state machine, from any node of the cluster."""

    node: Node
    group: int

    async def propose(self, entry: bytes) -> object:
        """Replicate one entry and return its result. Raises NotDone, Unanswered.

        What many tasks propose at once shares a chunk; each has its own end.
        """
        outcome = await self.node.gathering.propose(self.group, entry)
        if not isinstance(outcome, Applied):
            raise NotDone(outcome)
        return _answered([outcome.result])[0]

    async def propose_many(self, entries: Sequence[bytes]) -> list[object]:
        """Replicate entries in one batch, all or none (rule S15); one result each.

        Raises NotDone, Unanswered.
        """
        chunk = make_chunk_of(EntryType.OPAQUE, entries)
        return _answered(cast(list[object], await _propose(self.node, self.group, chunk)))

    @asynccontextmanager
    async def session(self) -> AsyncIterator["Session"]:
        """Proposals inside the block are applied exactly once, also when one has to be repeated.

        Raises NotDone if no session could be opened. The group forgets a session that was idle for an hour
        (`actors/replica/sessions.py`).
        """
        session = Session(self, 0)
        [place] = await session.repeat([SessionEntry(Operation.OPEN)], SESSION_SECONDS)
        session.number = cast(int, place)
        yield session
        with trio.move_on_after(CLOSE_SECONDS):  # else it expires
            closing = SessionEntry(Operation.CLOSE, session.number)
            await self.node.desk.propose(self.group, _session_chunk([closing]))

    @property
    def stale_machine(self) -> object:
        """This node's own copy of the state machine, as far as it has applied: a stale read. LookupError:
        not here."""
        hosted = self.node.groups.get(self.group)
        if hosted is None or not isinstance(hosted.machine, UserMachine):
            raise LookupError("this node hosts no replica of the group")
        return hosted.machine.machine

    async def read(self) -> object:
        """This node's own copy of the state machine, showing everything acknowledged before the call.

        Read it before the next await: then it may have moved on. Raises NotDone, or LookupError: not here.
        """
        await self.read_barrier()
        return self.stale_machine

    async def read_barrier(self) -> None:
        """Return once `stale_machine` shows everything that was acknowledged, by any node, before the call.

        Works on every node with a replica, and costs one round of heartbeats (`actors/reads.py`). Raises
        NotDone (no leader confirmed it in time: safe to repeat), or LookupError: no replica here.
        """
        await self.node.reads.barrier(self.group)

    @property
    def leads(self) -> bool:
        """Whether this node leads the group, as far as it knows."""
        hosted = self.node.groups.get(self.group)
        return hosted is not None and hosted.leads


class Session:
    """Proposals to one group that are safe to repeat, and are repeated by themselves. Many tasks may share
    it."""

    def __init__(self, handle: GroupHandle, number: int) -> None:
        self.number = number
        """The session's id in the group."""
        self._handle = handle
        self._next = 1
        self._unanswered: set[int] = set()

    async def propose(self, entry: bytes, *, seconds: float = SESSION_SECONDS) -> object:
        """Replicate one entry and return its result. Raises NotDone as `propose_many` does."""
        return (await self.propose_many([entry], seconds=seconds))[0]

    async def propose_many(
        self, entries: Sequence[bytes], *, seconds: float = SESSION_SECONDS
    ) -> list[object]:
        """Replicate entries in one batch, all or none, exactly once; one result each.

        Repeated for at most `seconds` while it is refused or its end is unknown. Raises NotDone: what was not
        applied by then never will be, and *unknown* stays unknown. SESSION_FULL: more than `WINDOW` entries
        would wait for their answers. SESSION_EXPIRED: the session was idle for too long. Raises Unanswered.
        """
        floor = min(self._unanswered, default=self._next)
        if self._next + len(entries) - floor > WINDOW:
            raise NotDone(NotApplied(Reason.SESSION_FULL))
        numbers = range(self._next, self._next + len(entries))
        self._next += len(entries)
        self._unanswered.update(numbers)
        pairs = zip(numbers, entries, strict=True)
        try:
            return await self.repeat(
                [SessionEntry(Operation.APPLY, self.number, number, floor, entry) for number, entry in pairs],
                seconds,
            )
        finally:
            self._unanswered.difference_update(numbers)

    async def repeat(self, entries: Sequence[SessionEntry], seconds: float) -> list[object]:
        """Propose until it is applied. For entries whose repetition changes nothing."""
        chunk = _session_chunk(entries)
        doubt = False  # an attempt may have been applied, whatever the later ones say
        end: Outcome = Unknown(Reason.NO_ANSWER)
        with trio.move_on_after(seconds):
            while True:
                end = Unknown(Reason.NO_ANSWER)
                end = await self._handle.node.desk.propose(self._handle.group, chunk)
                if isinstance(end, Applied):
                    return _session_results(cast(list[list[object]], end.result), doubt=doubt)
                doubt = doubt or isinstance(end, Unknown)
                if end.reason in FINAL:
                    break
                await trio.sleep(REPEAT_SECONDS)
        assert not isinstance(end, Applied)
        raise NotDone(Unknown(end.reason) if doubt else end)


def _answered(results: list[object]) -> list[object]:
    """The results, if all of them could be carried. Raises Unanswered."""
    for result in results:
        if type(result) is ExtType and (why := why_unanswered(result)) is not None:
            raise Unanswered(why, results)
    return results


def _session_chunk(entries: Sequence[SessionEntry]) -> Chunk:
    return make_chunk([(EntryType.SESSION, entry.encode()) for entry in entries])


def _session_results(answers: Sequence[Sequence[object]], *, doubt: bool) -> list[object]:
    """The results in what a group answered to a session's entries. All of them have equal ends."""
    match SessionStatus(cast(int, answers[0][0])):
        case SessionStatus.APPLIED | SessionStatus.REPEATED:
            return _answered([result for _, result in answers])
        case SessionStatus.EXPIRED | SessionStatus.ANSWERED:
            reason = Reason.SESSION_EXPIRED
        case SessionStatus.FULL:
            reason = Reason.SESSION_FULL
        case SessionStatus.MALFORMED:
            reason = Reason.MALFORMED
    raise NotDone(Unknown(reason) if doubt else NotApplied(reason))


@dataclass(frozen=True, slots=True)
class Published:
    """An acknowledged message."""

    sequence: int
    duplicate: bool


@dataclass(frozen=True, slots=True)
class StreamHandle:
    """A stream, without a network between."""

    node: Node
    name: str
    group: int

    async def publish(self, subject: str, payload: bytes, *, msg_id: str | None = None) -> Published:
        """Store one message. With `msg_id`, a repetition within the duplicate window is not stored twice.

        Raises NotDone; ApiRefused if the stream's configuration forbids the message.
        """
        headers = f"NATS/1.0\r\nNats-Msg-Id: {msg_id}\r\n\r\n".encode() if msg_id is not None else b""
        chunk = make_chunk([encode_publish(subject.encode(), headers, payload)])
        result = unpack(cast(bytes, await _propose(self.node, self.group, chunk)), 0)
        if result.error is not None:
            raise ApiRefused(result.error.to_json())
        return Published(result.value, result.status is Status.DUPLICATE)

    async def get(self, sequence: int) -> StoredMessage | None:
        """The message with this sequence, or None: every publish acknowledged before the call is seen.

        Raises NotDone (no leader confirmed it in time), or LookupError: no replica here.
        """
        await self.node.reads.barrier(self.group)
        return await self.stale_get(sequence)

    async def stale_get(self, sequence: int) -> StoredMessage | None:
        """The message with this sequence as far as this node's replica has applied: a stale read, at no
        cost beyond this node."""
        hosted = self.node.groups.get(self.group)
        if hosted is None:
            raise LookupError("this node hosts no replica of the stream")
        return await cast(StreamMachine, hosted.machine).get(sequence)


async def open_group(node: Node, name: str, *, machine: str, replicas: int = 1) -> GroupHandle:
    """Find or create a group with a user's state machine, on as many nodes as `replicas` says.

    Args:
        machine: the kind, a key of the `machines` that the nodes were given.

    Raises:
        NotDone: no leader of the cluster decided it in time.
        ApiRefused: the name is in use with another kind, or there are too few nodes.
        trio.TooSlowError: it was made, and has no leader after 10 s.
    """
    result = await _change(
        node, {"op": "create_group", "name": name, "machine": machine, "replicas": replicas}
    )
    number = cast(int, result["group"])
    await _settled(node, number)
    return GroupHandle(node, number)


async def open_stream(node: Node, name: str, subjects: Sequence[str], *, replicas: int = 1) -> StreamHandle:
    """Find or create a stream that stores what is published to `subjects` (wildcards `*` and `>`).

    Raises:
        NotDone: no leader of the cluster decided it in time.
        ApiRefused: it is there with another configuration, subjects overlap, or there are too few nodes.
        trio.TooSlowError: it was made, and nobody serves it after 10 s.
    """
    request = {"name": name, "subjects": list(subjects), "num_replicas": replicas}
    try:
        config = from_request(name, request, nodes=len(node.state.nodes)).to_json()
    except ApiError as error:
        raise ApiRefused(error.to_json()) from None
    await _change(node, {"op": "create_stream", "name": name, "config": config, "replicas": replicas})
    with trio.fail_after(SETTLE_SECONDS):
        while (stream := node.state.named(STREAM_KIND, name)) is None:
            await node.meta_change()
        await node.desk.stream_info(name)
    return StreamHandle(node, name, stream.group)


async def _change(node: Node, command: Command) -> Mapping[str, object]:
    outcome = await node.desk.propose_meta(command)
    if not isinstance(outcome, Applied):
        raise NotDone(outcome)
    result = cast(Mapping[str, object], outcome.result)
    if "error" in result:
        raise ApiRefused(cast(Mapping[str, object], result["error"]))
    return result


async def _settled(node: Node, group: int) -> None:
    """Wait until a group has a leader that this node knows."""
    with trio.fail_after(SETTLE_SECONDS):
        while node.groups.leadership(group) is None:
            await node.groups.wait_leader_change()


async def _propose(node: Node, group: int, chunk: Chunk) -> object:
    outcome = await node.desk.propose(group, chunk)
    if not isinstance(outcome, Applied):
        raise NotDone(outcome)
    return outcome.result
