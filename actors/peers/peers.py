"""The other nodes, as this node reaches them: their links, who answers at each, and where their frames go.

Everyone on the node sends through here, by node id. What all groups say to one peer in a pass leaves in one
frame of its kind (`packer.py`).
"""

import logging
import random
from collections.abc import Callable, Iterable, Mapping
from typing import Final

import trio

from ...codec.frame import Frame, FrameError
from ...storage.turns import Turns
from ..raft.messages import PeerMessage
from .link import Link, LinkStatistics, PeerServer
from .liveness import Liveness
from .network import Listener, Network
from .packer import Packer
from .wire import ENVELOPES, MESSAGES, ROWS, ROWS_SINCE, FrameKind, Hello, checked

logger = logging.getLogger(__name__)

OnFrame = Callable[[int, list[object], memoryview], None]
"""(sender's node id, envelope, attachment). Never raises but FrameError, never waits."""

RAFT_KINDS: Final = frozenset(map(int, [*MESSAGES, *ROWS]))
MAX_ATTACHMENT: Final = 64 * 1024 * 1024
MAX_KNOWN: Final = 256
"""Nodes that are dialled, when anybody may become one: more than a cluster has, less than a lie can fill."""
FLUSHED_LOOK: Final = 0.01
"""Seconds between looks at what links have not sent yet; only at the end of a node."""


class Peers:
    """Owns one `Link` per remote node name, and the table from node id to link.

    `handle` says who takes frames of a kind; `on_up` and `on_down` are called with node ids, in the order in
    which they were added.
    """

    def __init__(
        self,
        me: Hello,
        network: Network,
        rng: random.Random,
        known: Mapping[str, str],
        link_bytes: int,
        turns: Turns,
        *,
        alive_interval: float = 0.1,
        alive_patience: float = 1.0,
        admits_anybody: bool = False,
    ) -> None:
        self.me = me
        self.on_up: list[Callable[[int], None]] = []
        self.on_down: list[Callable[[int], None]] = []
        self.on_silent: list[Callable[[int], None]] = []
        """Told of a node that gives no sign of life, whether its links are open or not."""
        self.unknown_frames = 0
        self.refuses: Callable[[Hello], str | None] = lambda remote: None
        """One more reason to refuse a greeting (the node knows who was removed), or None."""
        self.is_wanted: Callable[[str], bool] = lambda name: True
        """Whether the cluster has, or awaits, a node of this name: others are dialled seldom."""
        self.on_removed: Callable[[str], None] = lambda reason: None
        """A member of this node's own cluster says that this node was removed from it."""
        self._network = network
        self._random = rng
        self._known = dict(known)
        self._admits_anybody = admits_anybody
        self._link_bytes = link_bytes
        self._links: dict[str, Link] = {}
        self._by_id: dict[int, Link] = {}
        self._handlers: dict[int, OnFrame] = {}
        self._messages: Callable[[int, Frame], None] | None = None
        self._packers: dict[int, Packer] = {}
        self._turns = turns
        self._server = PeerServer(self, MAX_ATTACHMENT, turns)
        self._alive_interval = alive_interval
        self._liveness = Liveness(alive_patience)
        self._said: dict[int, int] = {}  # frames to each node, as of the last look
        self._nursery: trio.Nursery | None = None

    # --- sending -----------------------------------------------------------------------------------

    def send(
        self, peer: int, kind: FrameKind, envelope: tuple[object, ...], *attachments: bytes | memoryview
    ) -> bool:
        """Queue a frame for a node. False (and counted by the link) if it can't be: down, full, or
        unknown."""
        link = self._by_id.get(peer)
        return link is not None and link.send(kind, envelope, *attachments)

    def send_message(self, peer: int, message: PeerMessage) -> None:
        """Send a Raft message. Like any network this may lose it: the roles' rules cope."""
        packer = self._packers.get(peer)
        if packer is not None:
            packer.send(message)

    # --- who is there --------------------------------------------------------------------------------

    def up(self) -> Iterable[int]:
        """Ids of the nodes that a link stands to."""
        return self._by_id.keys()

    def connected(self) -> frozenset[int]:
        """Ids of the nodes that a link stands to, and of those that have dialled this one."""
        return frozenset(self._by_id) | self._server.connected()

    def is_up(self, peer: int) -> bool:
        return peer in self._by_id

    def linked(self) -> Mapping[str, int]:
        """Name -> id of the nodes that a link stands to."""
        return {link.remote.name: node for node, link in self._by_id.items() if link.remote is not None}

    def name_of(self, node: int) -> str:
        """For log lines: the name of this node or of a linked one, else its id."""
        link = self._by_id.get(node)
        if node == self.me.node:
            return self.me.name
        return link.remote.name if link is not None and link.remote is not None else f"{node:016x}"

    def statistics(self) -> Mapping[str, LinkStatistics]:
        return {name: link.statistics() for name, link in self._links.items()}

    async def flushed(self) -> None:
        """Wait until everything that was sent has gone out, over the links that are up."""
        while any(link.up and link.statistics().queued_bytes for link in self._links.values()):  # noqa: ASYNC110
            await trio.sleep(FLUSHED_LOOK)

    @property
    def bad_frames(self) -> int:
        return self._server.bad_frames

    # --- wiring ----------------------------------------------------------------------------------------

    def handle(self, kind: FrameKind, handler: OnFrame) -> None:
        self._handlers[kind] = handler

    def handle_messages(self, handler: Callable[[int, Frame], None]) -> None:
        """Who takes the Raft messages."""
        self._messages = handler

    def learn(self, name: str, address: str) -> None:
        """A member node is called so and listens there: keep a link to it."""
        if name == self.me.name or (self._known.get(name) == address and name in self._links):
            self._hurry(name)
            return
        self._known[name] = address
        old = self._links.pop(name, None)
        if old is not None:
            old.close()
        self._dial(name)

    def dismiss(self, node: int) -> None:
        """A node was removed: end its connections. It is told why when it dials again."""
        for name, link in list(self._links.items()):
            if link.remote is not None and link.remote.node == node:
                link.close()
                del self._links[name], self._known[name]
        self._server.close(node)

    def _hurry(self, name: str) -> None:
        link = self._links.get(name)
        if link is not None:
            link.hurry()

    def _dial(self, name: str) -> None:
        if self._nursery is not None:
            link = Link(
                name, self._known[name], self._network, self, self._random, self._link_bytes, self._turns
            )
            self._links[name] = link
            self._nursery.start_soon(link.run)

    async def run(self, listener: Listener | None, *, task_status: trio.TaskStatus[None]) -> None:
        """Dial every known node and serve those who dial us, until cancelled."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            if listener is not None:
                nursery.start_soon(listener.serve, self._server.handle)
            for name in list(self._known):
                self._dial(name)
            nursery.start_soon(self._stay_alive)
            task_status.started()

    async def _stay_alive(self) -> None:
        """Say something to every node once an interval, and notice who says nothing."""
        due = trio.current_time()
        while True:
            due += self._alive_interval
            await trio.sleep_until(due)
            for node, link in self._by_id.items():
                if self._said.get(node) == link.statistics().sent_frames:
                    link.send(FrameKind.ALIVE, ())
                self._said[node] = link.statistics().sent_frames
            now = trio.current_time()
            if now - due > self._alive_interval:
                due = now  # this node itself stood still: what the others said waits to be read
                continue
            for node in self._liveness.fallen_silent(now):
                logger.info("%016x is silent", node)
                for told in self.on_silent:
                    told(node)

    # --- LinkEvents ------------------------------------------------------------------------------------

    def hello(self) -> Hello:
        return self.me

    def accept(self, remote: Hello) -> str | None:
        """Why this node will not talk to that one, or None."""
        me = self.me
        if remote.version < me.oldest or me.version < remote.oldest:
            theirs, ours = f"{remote.oldest} to {remote.version}", f"{me.oldest} to {me.version}"
            return f"it speaks protocols {theirs}, this node {ours}"
        if remote.name == me.name or remote.node == me.node:
            return f"it bears this node's own name or id ({remote.name})"
        if remote.cluster_name != me.cluster_name:
            return f"it belongs to cluster {remote.cluster_name!r}"
        if remote.cluster and me.cluster and remote.cluster != me.cluster:
            return f"it belongs to another cluster ({remote.cluster:016x})"
        fellow = me.cluster and remote.cluster == me.cluster
        if remote.name not in self._known and not fellow and not self._may_come(remote):
            return f"no node {remote.name!r} is known here"
        bearer = self.linked().get(remote.name)
        if bearer not in (None, remote.node):
            # Its questions could not be answered: what goes to that name goes to the other one.
            return f"node {remote.name} is alive under id {bearer:016x}"
        reason = self.refuses(remote)
        if reason is None and remote.name not in self._known:
            # A fellow member whom this node has not heard of yet, because it was away or is new itself.
            self.learn(remote.name, remote.address)
        if reason is None:
            self._hurry(remote.name)
        return reason

    def _may_come(self, remote: Hello) -> bool:
        """Whether a stranger is welcome: it looks for a cluster, or has one for this node."""
        stray = not (remote.cluster and self.me.cluster)
        return self._admits_anybody and stray and len(self._known) < MAX_KNOWN

    def farewell(self, remote: Hello) -> tuple[object, ...] | None:
        """What a refused node of the same cluster is told before the connection closes, or None."""
        reason = self.refuses(remote)
        if reason is None or not self.me.cluster or remote.cluster != self.me.cluster:
            return None
        return (self.me.cluster, remote.node, reason)

    def on_link_up(self, link: Link, remote: Hello) -> None:
        self._by_id[remote.node] = link
        self._packers[remote.node] = Packer(link, rows=remote.version >= ROWS_SINCE)
        logger.info("link to %s (%016x) is up", remote.name, remote.node)
        for told in self.on_up:
            told(remote.node)

    def on_link_down(self, link: Link, remote: Hello) -> None:
        if self._by_id.get(remote.node) is link:
            del self._by_id[remote.node]
            del self._packers[remote.node]
            logger.info("link to %s (%016x) is down", remote.name, remote.node)
            for told in self.on_down:
                told(remote.node)
            self._take_another(remote.node)

    def _take_another(self, node: int) -> None:
        """Two names with one address (a mistyped invitation, a machine with a new name) are two links to one
        node: what the one that ended was used for goes over the one that stands."""
        for link in self._links.values():
            if link.remote is not None and link.remote.node == node:
                self.on_link_up(link, link.remote)
                return

    def on_frame(self, remote: Hello, frame: Frame) -> None:
        self._liveness.heard(remote.node, trio.current_time())
        if frame.kind in RAFT_KINDS and self._messages is not None:
            self._messages(remote.node, frame)
            return
        if frame.kind == FrameKind.ALIVE:
            return
        handler = self._handlers.get(frame.kind)
        if handler is None:
            self.unknown_frames += 1
            return
        if frame.kind in ENVELOPES:
            checked(frame.envelope, ENVELOPES[FrameKind(frame.kind)])
        try:
            handler(remote.node, frame.envelope, frame.attachment)
        except (TypeError, ValueError, LookupError) as error:
            # An envelope of the right frame but the wrong shape: the peer is to blame, not this node.
            raise FrameError(f"frame of kind {frame.kind} from {remote.name}: {error}") from error

    def on_goodbye(self, envelope: list[object]) -> None:
        """Believed only if it names this node's own cluster and id: an address may have a new owner."""
        if envelope[:2] == [self.me.cluster, self.me.node] and self.me.cluster:
            self.on_removed(str(envelope[2]) if len(envelope) > 2 else "")
