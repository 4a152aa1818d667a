"""How a node comes to belong to a cluster (DESIGN 8, "birth and identity").

A cluster is born once. Every listed peer must be up and answer that it is empty; then the node with the
lowest id draws the cluster's id and has every founder make the meta group durable (*prepare*); all must list
the same nodes, or two of them might found two clusters with a third. Only when all
of them have synced it does anyone confirm, and only a confirmed node starts its meta group: no vote can be
cast before every founder knows who the founders are. A node that finds a peer born with the id it prepared
confirms by itself.

An empty node that meets a born cluster joins it as a learner under its own new id and takes over the name of
the node it replaces: a wiped disk is a new member, it forgot its votes.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Final, Protocol, cast

import msgpack
import trio

from ...storage.actor import Storage
from ...storage.errors import LogDamaged
from ...storage.records import GroupCreate
from ..peers.requests import Malformed, PeerLost, Refusal, Requests, describe, shaped
from ..units import check_name, split_address
from .meta_state import META_GROUP, META_KIND, NodeRecord

logger = logging.getLogger(__name__)

POLL_SECONDS: Final = 0.1
ASK_SECONDS: Final = 5.0
STATUS_SECONDS: Final = 0.3
"""A question that may be asked again at once: its answer is lost while the peer has no link to here yet."""

PREPARE: Final = "birth.prepare"
CONFIRM: Final = "birth.confirm"
STATUS: Final = "birth.status"
JOIN: Final = "birth.join"


@dataclass(frozen=True, slots=True)
class Founding:
    """What every founder makes durable: the cluster's id and its first members."""

    cluster: int
    founders: tuple[NodeRecord, ...]

    def pack(self) -> bytes:
        founders = [[record.node, record.name, record.address] for record in self.founders]
        return cast(bytes, msgpack.packb({"v": 1, "cluster": self.cluster, "founders": founders}))

    @classmethod
    def unpack(cls, packed: bytes) -> Founding:
        fields = msgpack.unpackb(packed)
        return cls(fields["cluster"], tuple(NodeRecord(*record) for record in fields["founders"]))


@dataclass(frozen=True, slots=True)
class _Status:
    """What a peer says of itself: cluster (0: none), packed founding, where it listens, whom it lists."""

    cluster: int
    founding: bytes
    address: str
    peers: frozenset[str] | None
    """None: it does not say; older programs do not."""


def _status(answer: Mapping[str, object]) -> _Status:
    """Raises Malformed."""
    fields = [answer.get(name) for name in ("cluster", "founding", "address")]
    cluster, founding, address = cast(tuple[int, bytes, str], shaped(fields, (int, bytes, str)))
    listed = answer.get("peers")
    if not isinstance(listed, list):
        return _Status(cluster, founding, address, None)
    return _Status(cluster, founding, address, frozenset(str(shaped(name, str)) for name in listed))


def _founding(packed: bytes) -> Founding:
    """A founding from a peer. Raises Malformed."""
    try:
        founding = Founding.unpack(packed)
    except (ValueError, TypeError, KeyError, msgpack.UnpackException) as error:
        raise Malformed("no founding") from error
    shaped(founding.cluster, int)
    for record in founding.founders:
        shaped([record.node, record.name, record.address], (int, str, str))
    if not founding.founders:
        raise Malformed("a founding without founders")
    return founding


class Surroundings(Protocol):
    """What birth needs to know of the node around it."""

    def linked(self) -> Mapping[str, int]:
        """Name -> id of the peers that a link stands to."""
        ...

    def learn(self, name: str, address: str) -> None:
        """A member is called so and listens there."""
        ...


JoinCluster = Callable[[NodeRecord], Awaitable[Iterable[NodeRecord]]]
"""Ask the meta group for membership; the members there are then. Raises Refusal."""


class Birth:
    """One node's way into its cluster. `run` returns the founding once the node belongs to one."""

    def __init__(
        self,
        me: NodeRecord,
        peers: frozenset[str],
        storage: Storage,
        requests: Requests,
        around: Surroundings,
        draw_id: Callable[[], int],
        join: JoinCluster,
        called: float = 0.0,
    ) -> None:
        """`called`: seconds in which a node that lists no peers may be called by a cluster that knows it."""
        self._me = me
        self._peers = peers
        self._storage = storage
        self._requests = requests
        self._around = around
        self._draw_id = draw_id
        self._join = join
        self._called = called
        self._confirmed = trio.Event()
        self._alone_from = 0.0
        """It founds a cluster of its own no earlier than this, if it lists no peers."""
        self._missing: frozenset[str] = frozenset()
        self._refused = self._differs = ""
        self.cluster = storage.recovered.node.cluster_id
        self.founding = self._recovered()
        if self.cluster:
            self._confirmed.set()
        requests.handle(STATUS, self._on_status, object)
        requests.handle(PREPARE, self._on_prepare, bytes)
        requests.handle(CONFIRM, self._on_confirm, int)
        requests.handle(JOIN, self._on_join, (int, str, str))

    def _recovered(self) -> Founding | None:
        """What an earlier run of this node prepared, confirmed or not.

        Raises LogDamaged for a member whose log has forgotten whom it was founded with.
        """
        group = self._storage.recovered.groups.get(META_GROUP)
        if group is not None and group.members:
            return Founding.unpack(group.members)
        if self.cluster:
            raise LogDamaged("wal", 0, META_GROUP)
        return None  # a creation that was torn was never promised to anyone

    async def run(self) -> Founding:
        """Wait until this node belongs to a cluster. Level-triggered: it asks again until it knows."""
        if not self._confirmed.is_set():
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._seek, nursery.cancel_scope)
                await self._confirmed.wait()
                nursery.cancel_scope.cancel()
        assert self.founding is not None, "prepared before it was confirmed"
        return self.founding

    # --- asking ----------------------------------------------------------------------------------

    async def _seek(self, scope: trio.CancelScope) -> None:
        self._alone_from = trio.current_time() + (0.0 if self._peers else self._called)
        while True:
            try:
                await self._step()
            except (PeerLost, Refusal, trio.TooSlowError) as error:
                logger.debug("not born yet: %s", describe(error))
            await trio.sleep(POLL_SECONDS)

    async def _step(self) -> None:
        linked = dict(self._around.linked())
        self._tell_missing(self._peers - linked.keys())
        answers: dict[str, _Status] = {}
        for name, node in linked.items():
            answer = await self._requests.ask(node, STATUS, None, STATUS_SECONDS, dict)
            answers[name] = _status(cast(Mapping[str, object], answer))
        for name, status in answers.items():
            if status.cluster:
                await self._enter(linked[name], status.cluster, status.founding)
                return
        if frozenset(answers) >= self._peers and trio.current_time() >= self._alone_from:
            if not self._same_lists(answers):
                return
            nodes = {**{name: linked[name] for name in self._peers}, self._me.name: self._me.node}
            if min(nodes.values()) == self._me.node:
                await self._found(nodes, answers)

    def _same_lists(self, answers: Mapping[str, _Status]) -> bool:
        """Whether all that are listed here list the same nodes. Who lists others joins what those found."""
        everybody = self._peers | {self._me.name}
        for name in sorted(self._peers):
            peers = answers[name].peers
            if peers is not None and peers | {name} != everybody:
                differs = f"{name} lists {', '.join(sorted(peers)) or 'nobody'}"
                if differs != self._differs:
                    self._differs = differs
                    logger.info("not in a cluster yet: waiting for one, since %s", differs)
                return False
        return True

    def _tell_missing(self, missing: frozenset[str]) -> None:
        """A cluster is born when all its nodes are there: say for whom this one waits."""
        if missing and missing != self._missing:
            logger.info("not in a cluster yet: waiting for %s", ", ".join(sorted(missing)))
        self._missing = missing

    async def _enter(self, peer: int, cluster: int, packed: bytes) -> None:
        """A peer belongs to a cluster: ours, if we prepared it with the others, else one to join."""
        if self.founding is not None and self.founding.cluster == cluster:
            await self._confirm()
            return
        founding = _founding(packed)
        if self.founding is not None and self.founding.cluster > cluster:
            raise Refusal("this directory was prepared for another cluster: the node needs an empty one")
        members = await self._ask_to_join(peer, cluster)
        for name, address in members:
            self._around.learn(name, address)
        await self._prepare(founding)
        await self._confirm()

    async def _ask_to_join(self, peer: int, cluster: int) -> list[tuple[str, str]]:
        """(name, address) of the members. Raises Refusal, once said aloud: an operator may yet invite us."""
        record = self._me
        argument = [record.node, record.name, record.address]
        try:
            members = cast(list[object], await self._requests.ask(peer, JOIN, argument, ASK_SECONDS, list))
            known = [cast(list[str], shaped(member, (str, str))) for member in members]
        except Refusal as refusal:
            if str(refusal) != self._refused:
                self._refused = str(refusal)
                logger.warning("not taken into cluster %016x: %s", cluster, refusal)
            raise
        logger.info("joining cluster %016x as a new member", cluster)
        return [(name, address) for name, address in known]

    async def _found(self, nodes: Mapping[str, int], answers: Mapping[str, _Status]) -> None:
        """This node has the lowest id of all, and all are empty: have everyone prepare, then confirm."""
        addresses = {name: status.address for name, status in answers.items()}
        addresses[self._me.name] = self._me.address
        founders = tuple(NodeRecord(node, name, addresses[name]) for name, node in sorted(nodes.items()))
        if self.founding is None or self.founding.founders != founders:
            prepared = [_founding(answer.founding) for answer in answers.values() if answer.founding]
            await self._prepare(Founding(self._draw_cluster(prepared), founders))
        founding = cast(Founding, self.founding)
        others = [record.node for record in founders if record.node != self._me.node]
        for node in others:
            await self._requests.ask(node, PREPARE, founding.pack(), ASK_SECONDS)
        await self._confirm()
        for node in others:  # whoever misses this finds it out by asking
            await self._requests.ask(node, CONFIRM, founding.cluster, ASK_SECONDS)

    def _draw_cluster(self, prepared: Iterable[Founding]) -> int:
        """An id above that of every cluster that was prepared and not born, here or at a peer.

        It is the meta group's incarnation, and to storage a lower one is a thing of the past.
        """
        known = [founding.cluster for founding in (*prepared, self.founding) if founding is not None]
        drawn = self._draw_id() >> 1  # half the range, so that there is always room above
        return drawn if drawn > max(known, default=0) else max(known) + 1 + drawn % (1 << 32)

    # --- making it durable -------------------------------------------------------------------------

    async def _prepare(self, founding: Founding) -> None:
        """Make the meta group durable here, without starting it. Its incarnation is the cluster's id."""
        synced = trio.Event()
        record = GroupCreate(
            group=META_GROUP,
            incarnation=founding.cluster,
            kind=META_KIND,
            name=META_KIND,
            members=founding.pack(),
        )
        self._storage.append([record], synced.set)
        await synced.wait()
        self.founding = founding

    async def _confirm(self) -> None:
        founding = cast(Founding, self.founding)
        await self._storage.set_cluster(founding.cluster)
        self.cluster = founding.cluster
        if not self._confirmed.is_set():
            logger.info("belongs to cluster %016x of %d founders", founding.cluster, len(founding.founders))
            self._confirmed.set()

    # --- answering -----------------------------------------------------------------------------------

    async def _on_status(self, asker: int, argument: object) -> object:
        founding = self.founding.pack() if self.founding is not None else b""
        return {
            "cluster": self.cluster,
            "founding": founding,
            "address": self._me.address,
            "peers": sorted(self._peers),
        }

    async def _on_prepare(self, asker: int, argument: object) -> object:
        founding = _founding(cast(bytes, argument))
        if self.cluster and self.founding != founding:
            raise Refusal(f"node {self._me.name} belongs to cluster {self.cluster:016x} already")
        if self._me not in founding.founders or min(record.node for record in founding.founders) != asker:
            raise Refusal("the founding does not fit this node")
        if {record.name for record in founding.founders} != self._peers | {self._me.name}:
            raise Refusal(f"node {self._me.name} lists other nodes than the founding has")
        if self.founding != founding:
            await self._prepare(founding)
        return True

    async def _on_confirm(self, asker: int, argument: object) -> object:
        if self.founding is None or self.founding.cluster != argument:
            raise Refusal("that cluster was not prepared here")
        await self._confirm()
        return True

    async def _on_join(self, asker: int, argument: object) -> object:
        node, name, address = cast(tuple[int, str, str], tuple(cast(list[object], argument)))
        if not self.cluster or node != asker:
            raise Refusal("this node can't take anyone in")
        try:
            check_name(name)
            if split_address(address)[1] == 0:
                raise ValueError(f"{address!r} has no port")
        except ValueError as error:  # it would be in the log for ever, and dialled by everybody
            raise Refusal(str(error)) from None
        members = await self._join(NodeRecord(node, name, address))
        return [[member.name, member.address] for member in members]
