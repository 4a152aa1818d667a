"""What the gateway asks of its node, as two protocols: `Backend` (publishing) and `ApiHost` (administration).

The gateway knows streams by subject and groups by number; Raft, storage and links stay behind these calls.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from ...codec import Chunk
    from ..delivery.advisories import Advisories
    from ..delivery.stream import StreamDelivery
    from ..raft.outcomes import Outcome
    from ..stream.account_limits import AccountLimits, Held
    from ..stream.machine import StreamMachine

__all__ = ["ApiHost", "Backend", "ClusterInfo", "ReplicaInfo", "StreamAssignment", "StreamRef"]


@dataclass(frozen=True, slots=True)
class StreamRef:
    """A stream as a publisher sees it."""

    name: str
    group: int
    subjects: tuple[bytes, ...]
    """Subject filters (with wildcards) whose messages the stream stores."""
    no_ack: bool = False
    """Its publishers get no answer."""
    atomic: bool = False
    """It takes batches that are published as one."""


@dataclass(frozen=True, slots=True)
class StreamAssignment:
    """A stream as the meta group desires it."""

    name: str
    group: int
    incarnation: int
    config: Mapping[str, object]
    """The configuration as JetStream JSON, with defaults filled in."""
    version: int
    """Grows with each accepted configuration of this stream."""
    created: int
    """Nanoseconds since 1970."""
    replicas: tuple[int, ...]
    """Node ids."""


@dataclass(frozen=True, slots=True)
class ReplicaInfo:
    """One follower, as its group's leader sees it."""

    name: str
    current: bool
    active: int
    """Nanoseconds since it was last heard of."""
    lag: int
    """Batches it is behind the leader's commit."""
    offline: bool = False
    peer: str = ""
    """Node id, 16 hex digits."""


@dataclass(frozen=True, slots=True)
class ClusterInfo:
    """Who leads a group and how its followers do."""

    name: str
    """The cluster's name."""
    leader: str | None
    replicas: tuple[ReplicaInfo, ...]
    """Every member but the leader."""


class Backend(Protocol):
    """The node, as its gateway uses it. No call but `api` waits; none raises for what the world did."""

    @property
    def node_id(self) -> int: ...

    @property
    def node_name(self) -> str: ...

    @property
    def cluster_name(self) -> str: ...

    @property
    def version(self) -> str:
        """Trimaran's own version."""

    def stream_of(self, subject: bytes) -> StreamRef | None:
        """The stream that stores messages of this literal subject, or None."""

    def streams_version(self) -> int:
        """Changes whenever an answer of `stream_of` may have changed."""

    def exceeds(self, group: int, size: int) -> bool:
        """Whether so many bytes more in a stream would be beyond its account's limit."""

    def propose(self, group: int, chunk: Chunk, done: Callable[[Outcome], None]) -> None:
        """Propose a chunk to a group from any node.

        `done` is called exactly once, on the event loop, possibly before `propose` returns.
        `Applied.result` of a stream's group is `bytes`: 8 packed little-endian bytes per entry of this chunk
        (`status << 56 | value`), in the chunk's order.
        """

    async def api(self, subject: str, payload: bytes) -> bytes | None:
        """Have a `$JS.API.` request answered by the node that can; JSON, or None: nobody answers."""

    def to_consumer(self, subject: bytes, reply: bytes, payload: bytes) -> bool:
        """Take what a client sent to a consumer; False: the subject means none of a stream there is.

        It is on its way after the next `flush_consumers`.
        """

    def flush_consumers(self) -> None:
        """Send what `to_consumer` took to the leaders of its streams."""

    def audit(
        self, client: Mapping[str, object], connected: float, subject: str, request: bytes, response: bytes
    ) -> None:
        """Tell whoever listens of a request to JetStream, by a client that connected so many seconds ago."""

    def listeners_changed(self) -> None:
        """Somebody subscribed or left, here or on another node."""

    def peers(self) -> Iterable[int]:
        """Ids of the nodes that a link stands to right now."""

    def send_interest(self, peer: int | None, data: tuple[object, ...]) -> None:
        """Send plain data (msgpack-able) to one peer's gateway, or to all linked ones for None, in order."""

    def send_route(self, peer: int, data: bytes) -> bool:
        """Send a frame of routed messages to a peer's gateway, in order with `send_interest`.

        False: the frame was dropped, as the link is full or down.
        """


class ApiHost(Protocol):
    """The node, as the JetStream API uses it on the node that leads the request's target group."""

    @property
    def advisories(self) -> Advisories:
        """Tells what happened."""

    @property
    def level(self) -> int:
        """The protocol that all nodes of the cluster speak."""

    @property
    def limits(self) -> AccountLimits:
        """Of the account that has the streams."""

    @property
    def domain(self) -> str:
        """JetStream's; empty: it has none."""

    async def usage(self) -> Held:
        """What all nodes in reach hold."""

    def streams(self) -> Mapping[str, StreamAssignment]:
        """Every stream by name, as this node's applied meta state says."""

    def node_names(self) -> Mapping[int, str]:
        """The member nodes."""

    async def propose_meta(self, command: Mapping[str, object]) -> Outcome:
        """Change desired state.

        Commands: `{"op": "create_stream", "name", "config", "replicas"}` (config: JetStream JSON with
        defaults; replicas: how many), `{"op": "update_stream", ...}` alike with `keep`, the id of a node
        that is not to lose its replica (0: any may), and `{"op": "delete_stream", "name"}`.
        `Applied.result` is a mapping. A refusal decided at apply is `{"error": {"code", "err_code",
        "description"}}`; else `{"created": bool}` for create (False: it existed with an equal configuration)
        and `{}` for the others.
        """

    async def stream_info(self, name: str) -> dict[str, object] | None:
        """The parsed JSON answer to `$JS.API.STREAM.INFO.<name>` of the stream's leader, wherever that is.

        Waits (bounded) until that leader has applied the configuration version of `streams()[name]`.
        None: no leader answered in time.
        """

    async def consumers(self, name: str) -> list[dict[str, object]] | None:
        """The information of all consumers of a stream, from its leader, wherever that is.

        None: no leader answered in time.
        """

    def machine(self, group: int) -> StreamMachine | None:
        """The stream's state machine, where this node hosts it."""

    async def delivery(self, group: int) -> StreamDelivery | None:
        """What serves the stream's consumers, if this node leads its group; waits until it does serve."""

    async def read_barrier(self, group: int) -> bool:
        """Return once this node's state is as new as the moment of the call (ReadIndex).

        False: this node does not lead the group, or could not confirm that it does.
        """

    async def propose(self, group: int, chunk: Chunk) -> Outcome:
        """Propose and wait for the outcome; `Applied.result` holds one result per entry of the chunk."""

    def leader_of(self, group: int) -> int:
        """Id of the node that leads a group, as far as this node knows; 0: none."""

    def cluster_of(self, group: int) -> ClusterInfo:
        """Leader and replicas of a group that this node hosts."""

    async def transfer(self, group: int, preferred: str | None) -> bool:
        """Hand the group's leadership over, to the named node if given; False: nobody could take it."""
