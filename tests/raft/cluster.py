"""A cluster of Raft cores on an event heap: deterministic from its seed, with no Trio, no files and no
sockets. Directed scenarios play in it; random faults are for `trimaran.testing`.

Each node is what the group's actor, storage and links are around the core, as small as can be: a disk with a
volatile and a durable part, an applier, and messages that take their time.
"""

from __future__ import annotations

import heapq
import random
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from functools import partial

from trimaran.actors.peers.liveness import Liveness
from trimaran.actors.raft import roles
from trimaran.actors.raft.checker import Checker
from trimaran.actors.raft.effects import (
    Commit,
    Dropped,
    Effect,
    Fetch,
    Persist,
    Readable,
    ReadReady,
    Resolve,
    RoleChanged,
    Sealed,
    Send,
    SendSnapshot,
)
from trimaran.actors.raft.events import BatchApplied, events_of, replica_of, started
from trimaran.actors.raft.log import NOTHING, EntryId
from trimaran.actors.raft.membership import Membership
from trimaran.actors.raft.messages import (
    Absent,
    AppliedTo,
    Compacted,
    Damaged,
    Fetched,
    Mended,
    Message,
    Now,
    PeerDown,
    PeerMessage,
    PeerSilent,
    PeerUp,
    Propose,
    SnapshotInstalled,
    SnapshotSent,
    Synced,
    Tick,
)
from trimaran.actors.raft.outcomes import Applied, Reason, Unknown
from trimaran.actors.raft.state import NEVER, GroupState, RaftOptions, Role
from trimaran.codec import BatchHeader, EntryType, Kind, crc32c, make_chunk, read_header, walk_batch

from .invariants import Invariants, require

GROUP, INCARNATION = 2, 77
START = 1_700_000_000 * 10**9
"""Wall clock (ns) at virtual time 0."""


@dataclass(frozen=True, slots=True)
class Faults:
    """What goes wrong, how often, and how fast the rest is. Times in virtual seconds, means of
    exponentials."""

    delay: float = 0.002  # of a message
    loss: float = 0.0
    duplication: float = 0.0
    stragglers: float = 0.0  # share of messages that take up to 300 ms
    sync: float = 0.002  # of one fdatasync
    crash_after_vote: float = 0.0  # a crash when a node has just queued a vote for its disk
    snapshot_after: int = 10**9  # applied batches
    torn: float = 0.0  # share of crashes that tear a write: its batches keep their names, and are in doubt


@dataclass(frozen=True, slots=True)
class Manifest:
    """A durable snapshot of the state machine, which is but a hash here."""

    at: EntryId
    membership: Membership
    time: int
    rolling_hash: int


@dataclass(slots=True)
class Disk:
    """The durable part, and the Persists that are not synced yet."""

    birth: Membership
    term: int = 0
    vote: int = 0
    commit: int = 0
    compacted: EntryId = NOTHING
    entries: list[tuple[BatchHeader, bytes]] = field(default_factory=list)
    manifests: dict[int, Manifest] = field(default_factory=dict)
    queue: deque[Persist] = field(default_factory=deque)
    syncing: bool = False
    bad: set[EntryId] = field(default_factory=set)
    """Batches whose bytes are damaged."""
    doubtful: set[EntryId] = field(default_factory=set)
    """Those of them that only a torn write had."""

    @property
    def last_index(self) -> int:
        return self.compacted.index + len(self.entries)

    def holds(self, entry: EntryId) -> bool:
        if entry.index <= self.compacted.index:
            return True
        place = entry.index - self.compacted.index - 1
        return place < len(self.entries) and self.entries[place][0].term == entry.term

    def write(self, persist: Persist) -> None:
        """What a sync makes durable, in the order of the fields."""
        if persist.truncate_from is not None:
            del self.entries[persist.truncate_from - self.compacted.index - 1 :]
        if persist.compact is not None:
            covered = persist.compact.index - self.compacted.index
            self.entries = self.entries[covered:] if self.holds(persist.compact) else []
            self.compacted = persist.compact
        for batch in persist.batches:
            header = read_header(batch)
            require(header.index == self.last_index + 1, "disk", "a hole before", header)
            self.entries.append((header, batch))
            self.bad.discard(EntryId(header.index, header.term))
        for batch in persist.repairs:
            header = read_header(batch)
            place = EntryId(header.index, header.term)
            if place.index > self.compacted.index:
                require(self.holds(place), "disk", "a repair of what it never had", header)
                self.bad.discard(place)
                self.doubtful.discard(place)
        if persist.hard_state is not None:
            hard = persist.hard_state
            self.term, self.vote, self.commit = hard.term, hard.vote, hard.commit

    def tear(self, persist: Persist) -> None:
        """The names of what a torn write had; without its own prefix it names nothing."""
        if persist.truncate_from is None and persist.compact is None and not persist.repairs:
            self.write(replace(persist, hard_state=None, release=()))
            for header in map(read_header, persist.batches):
                self.bad.add(EntryId(header.index, header.term))
                self.doubtful.add(EntryId(header.index, header.term))

    def sound(self, entry: EntryId) -> bool:
        """Whether it can give this very batch to somebody."""
        return entry.index > self.compacted.index and self.holds(entry) and entry not in self.bad

    def faults(self) -> list[EntryId]:
        return [
            place for header, _ in self.entries if (place := EntryId(header.index, header.term)) in self.bad
        ]

    def read(self, first: int, last: int, max_bytes: int) -> tuple[bytes, ...] | None:
        if first <= self.compacted.index or first > self.last_index:
            return None
        found: list[bytes] = []
        for header, batch in self.entries[first - self.compacted.index - 1 : last - self.compacted.index]:
            if EntryId(header.index, header.term) in self.bad:
                break
            max_bytes -= len(batch)
            if found and max_bytes < 0:
                break
            found.append(batch)
        return tuple(found)

    def manifest(self) -> Manifest | None:
        return self.manifests.get(self.compacted.index)

    def recover(self, node: int, options: RaftOptions, randomness: random.Random, now: Now) -> GroupState:
        manifest = self.manifest()
        return GroupState.recovered(
            group=GROUP,
            incarnation=INCARNATION,
            node=node,
            options=options,
            randomness=randomness,
            now=now,
            settled=manifest.membership if manifest else self.birth,
            changes=[
                (header.index, Membership.decode(walk_batch(batch).entry(0)))
                for header, batch in self.entries
                if header.kind is Kind.MEMBERSHIP and EntryId(header.index, header.term) not in self.bad
            ],
            term=self.term,
            vote=self.vote,
            compacted=(self.compacted.index, self.compacted.term),
            entries=[(h.index, h.term, int(h.kind), h.length) for h, _ in self.entries],
            commit=self.commit,
            last_time=self.last_time(),
            holes=[place.index for place in self.faults()],
        )

    def last_time(self) -> int:
        manifest = self.manifest()
        bad = self.bad
        sound = [header.time for header, _ in self.entries if EntryId(header.index, header.term) not in bad]
        return max([manifest.time if manifest else 0, *sound])


@dataclass(frozen=True, slots=True)
class Before:
    """What a node was before a step."""

    role: Role
    term: int
    commit: int
    members: Membership


class Node:
    """One process: the core and the little that surrounds it. `state` is None while it is down."""

    def __init__(self, cluster: Cluster, node: int, disk: Disk) -> None:
        self.cluster = cluster
        self.id = node
        self.disk = disk
        self.state: GroupState | None = None
        self.life = 0  # counts starts, so that events of an earlier life are ignored
        self.skew = cluster.random.randrange(-(10**9), 10**9)
        self.start()

    # --- life -----------------------------------------------------------------------------------------------

    def start(self) -> None:
        cluster = self.cluster
        self.life += 1
        seed = cluster.random.getrandbits(64)
        self.state = self.disk.recover(self.id, cluster.options, random.Random(seed), self.now())
        cluster.checker(started(self.state))
        self.liveness = Liveness(cluster.options.election_max)
        self.stay_alive()
        manifest = self.disk.manifest()
        self.hash = manifest.rolling_hash if manifest else 0
        self.applied = self.disk.compacted.index
        self.captured = self.applied
        self.sealed: dict[tuple[int, int], tuple[int, ...]] = {}
        self.applying = False
        self.armed = NEVER
        self.arm()
        self.apply_soon()
        if self.state.faulty:
            self.heal_soon()

    def crash(self) -> None:
        """Power loss: of what was queued for the disk, a random beginning made it."""
        kept = self.cluster.random.randint(0, len(self.disk.queue))
        queue = list(self.disk.queue)
        for persist in queue[:kept]:
            self.disk.write(persist)
        torn = self.cluster.faults.torn
        if torn and kept < len(queue) and self.cluster.random.random() < torn:
            self.disk.tear(queue[kept])
        self.disk.queue.clear()
        self.disk.syncing = False
        self.state = None

    def later(self, delay: float, action: Callable[[], None]) -> None:
        """Do it in this life, if it lasts."""
        life = self.life

        def in_this_life() -> None:
            if self.state is not None and self.life == life:
                action()

        self.cluster.at(self.cluster.time + delay, in_this_life)

    def now(self) -> Now:
        return Now(self.cluster.time, START + self.skew + int(self.cluster.time * 1e9))

    # --- the actor's loop -----------------------------------------------------------------------------------

    def step(self, message: Message) -> None:
        state = self.state
        if state is None:
            return
        before = Before(state.role, state.term, state.commit, state.membership)
        effects = roles.step(state, message, self.now())
        for event in events_of(state, message, effects):
            self.cluster.checker(event)
        for effect in effects:
            self.carry_out(state, effect, before)
        self.cluster.invariants.check_step(self, state, before.role, before.term, before.commit)
        self.arm()

    def stay_alive(self) -> None:
        """What the nodes' links do beside the groups: signs of life, and a look who gives none."""
        cluster = self.cluster
        for peer in cluster.disks.keys() - {self.id}:
            if not cluster.is_cut(self.id, peer) and cluster.random.random() >= cluster.faults.loss:
                cluster.at(cluster.time + cluster.faults.delay, partial(cluster.alive, self.id, peer))
        for silent in self.liveness.fallen_silent(cluster.time):
            self.step(PeerSilent(silent))
        self.later(cluster.options.heartbeat, self.stay_alive)

    def arm(self) -> None:
        assert self.state is not None
        if self.state.deadline == self.armed:
            return
        self.armed = deadline = self.state.deadline
        if deadline == NEVER:
            return

        def ring() -> None:
            if self.armed == deadline:
                self.armed = NEVER
                self.step(Tick())

        self.later(max(0.0, deadline - self.cluster.time), ring)

    def carry_out(self, state: GroupState, effect: Effect, before: Before) -> None:
        cluster = self.cluster
        match effect:
            case Persist():
                led = before.role is Role.LEADER and before.term == state.term
                leads = state.role is Role.LEADER
                cluster.invariants.check_persist(self, effect, led_before=led, leads=leads)
                self.disk.queue.append(effect)
                self.sync_soon()
                if (
                    effect.hard_state is not None
                    and cluster.random.random() < cluster.faults.crash_after_vote
                ):
                    self.later(
                        cluster.random.expovariate(1 / cluster.faults.sync), lambda: cluster.crash(self)
                    )
            case Send(peer, message):
                self.send(peer, message)
            case Commit():
                cluster.invariants.check_commit(self, state, before.commit, before.members, cluster.disks)
                self.apply_soon()
            case Readable():
                self.apply_soon()
            case Sealed(index, term, tokens):
                self.sealed[index, term] = tuple(token for token, _, _ in tokens)
            case Resolve(token, outcome):
                for place, sealed in list(self.sealed.items()):
                    if token in sealed:
                        self.sealed[place] = tuple(other for other in sealed if other != token)
                cluster.invariants.check_outcome(token, outcome)
            case ReadReady(token, index):
                cluster.invariants.check_read(token, index)
            case Fetch(peer, first, last, max_bytes):
                self.later(cluster.disk_delay(), lambda: self.fetch(peer, first, last, max_bytes))
            case SendSnapshot(peer):
                self.send_snapshot(peer)
            case Dropped():
                raise AssertionError(f"nothing here is ever damaged: {effect}")
            case RoleChanged():
                cluster.trace(
                    "node", self.id, effect.role.value, "term", effect.term, "leader", effect.leader
                )

    # --- disk -----------------------------------------------------------------------------------------------

    def sync_soon(self) -> None:
        """Group commit: one sync for what is queued when it begins, one at a time."""
        if self.disk.syncing or not self.disk.queue:
            return
        self.disk.syncing = True
        count = len(self.disk.queue)
        self.later(self.cluster.disk_delay(), lambda: self.synced(count))

    def synced(self, count: int) -> None:
        number = 0
        for _ in range(count):
            persist = self.disk.queue.popleft()
            self.disk.write(persist)
            number = persist.number
            for send in persist.release:
                self.send(send.peer, send.message)
        self.disk.syncing = False
        # The core may learn of it a little later than the peers do.
        lag = self.cluster.random.choice((0.0, 0.0, 0.001, 0.01))
        self.later(lag, lambda: self.step(Synced(number)))
        self.sync_soon()

    def fetch(self, peer: int, first: int, last: int, max_bytes: int) -> None:
        batches = self.disk.read(first, last, max_bytes)
        self.step(Fetched(peer, first, batches or (), failed=batches is None))

    # --- network --------------------------------------------------------------------------------------------

    def send(self, peer: int, message: PeerMessage) -> None:
        self.cluster.invariants.check_promise(self, self.disk, peer, message)
        self.cluster.transmit(self.id, peer, message)

    # --- the state machine ----------------------------------------------------------------------------------

    def apply_soon(self) -> None:
        if not self.applying:
            self.applying = True
            self.later(self.cluster.random.choice((0.0, 0.001, 0.02)), self.apply)

    def apply(self) -> None:
        state = self.state
        assert state is not None
        self.applying = False
        if self.applied >= min(state.commit, state.readable_to):
            return
        while self.applied < min(state.commit, state.readable_to):
            self.apply_one(state, self.applied + 1)
        self.step(AppliedTo(self.applied))
        if self.applied - self.captured >= self.cluster.faults.snapshot_after:
            self.capture(state)

    def apply_one(self, state: GroupState, index: int) -> None:
        batches = state.log.cached(index, 1) or self.disk.read(index, index, 1)
        assert batches, f"batch {index} is neither in memory nor on the disk"
        header = read_header(batches[0])
        assert (header.index, header.term) == (index, state.log.term_at(index))
        self.hash = crc32c(batches[0], self.hash)
        self.applied = index
        self.cluster.invariants.check_applied(self, batches[0], self.hash)
        self.cluster.checker(BatchApplied(**replica_of(state), index=index, rolling_hash=self.hash))
        for token in self.sealed.pop((index, header.term), ()):
            self.cluster.invariants.check_outcome(token, Applied(index))

    def capture(self, state: GroupState) -> None:
        """A manifest as of now, never ahead of the own disk; durable a little later, then the log may
        shrink."""
        if self.applied > state.log.synced:
            return
        term = state.log.term_at(self.applied)
        assert term is not None
        at = EntryId(self.applied, term)
        manifest = Manifest(at, state.memberships.at(at.index), state.log.last_time, self.hash)
        self.captured = self.applied

        def durable() -> None:
            self.disk.manifests[at.index] = manifest
            self.step(Compacted(at.index, at.term))

        self.later(3 * self.cluster.disk_delay(), durable)

    # --- damage ---------------------------------------------------------------------------------------------

    def damage(self, place: EntryId) -> None:
        """A batch's bytes on the disk go bad, and the node notices."""
        self.cluster.trace("node", self.id, "can't read", place)
        self.disk.bad.add(place)
        self.step(Damaged(place.index))
        self.heal_soon()

    def heal_soon(self) -> None:
        self.later(self.cluster.random.uniform(0.001, 0.1), self.heal)

    def heal(self) -> None:
        """What the group's repair task does: copies from anyone, a snapshot if it is compacted everywhere."""
        state = self.state
        if state is None or not state.faulty:
            return
        others = [
            node
            for node in self.cluster.nodes.values()
            if node is not self and node.state is not None and not self.cluster.is_cut(node.id, self.id)
        ]
        holes = {index: EntryId(index, state.log.term_at(index) or 0) for index in state.log.holes}
        copies = [
            batch
            for place in holes.values()
            if any(other.disk.sound(place) for other in others)
            for header, batch in self.disk.entries
            if (header.index, header.term) == (place.index, place.term)
        ]
        if copies:
            self.step(Mended(tuple(copies)))
        else:
            self.give_up(state, holes, others)
        self.heal_soon()

    def give_up(self, state: GroupState, holes: dict[int, EntryId], others: list[Node]) -> None:
        """No copies: a snapshot that covers them, own or not, or the agreement that a doubtful one is
        nowhere."""
        if min(holes) <= self.applied:
            self.capture(state)
            return
        for other in others:
            manifest = other.disk.manifest()
            if manifest is not None and manifest.at.index >= min(holes):
                self.install(manifest)
                return
        answered = {other.id for other in others}
        doubtful = all(place in self.disk.doubtful for place in holes.values())
        first = holes[min(holes)]
        sure = all(first not in other.disk.bad - other.disk.doubtful for other in others)
        queued = any(
            first.index in (read_header(b).index for p in other.disk.queue for b in p.batches)
            for other in others
        )
        if doubtful and sure and not queued and state.membership.voters - {self.id} <= answered:
            self.step(Absent(first.index, first.term))

    # --- snapshots of a peer --------------------------------------------------------------------------------

    def send_snapshot(self, peer: int) -> None:
        """Stream the newest manifest; the transfer may break, and says so in the end."""
        cluster = self.cluster
        manifest = self.disk.manifest()
        target = cluster.nodes.get(peer)
        if manifest is None or target is None or cluster.is_cut(self.id, peer):
            self.later(0.05, lambda: self.step(SnapshotSent(peer, ok=False, index=0)))
            return
        broken = cluster.random.random() < cluster.faults.loss
        delay = cluster.random.uniform(0.001, 0.1)

        def arrive() -> None:
            installed = not broken and target.install(manifest)
            self.later(0.0, lambda: self.step(SnapshotSent(peer, installed, manifest.at.index)))

        self.later(delay, arrive)

    def install(self, manifest: Manifest) -> bool:
        if self.state is None:
            return False
        if manifest.at.index > self.applied:
            self.disk.manifests[manifest.at.index] = manifest
            self.hash, self.applied = manifest.rolling_hash, manifest.at.index
            self.captured = self.applied
            known = self.cluster.invariants.states[self.applied]
            require(known == self.hash, "state machine safety", self.id, "installs another", manifest)
            at = manifest.at
            self.step(SnapshotInstalled(at.index, at.term, manifest.membership, manifest.time))
            # Proposals of this node below it are applied, but their results are not known here.
            for place in [place for place in self.sealed if place[0] <= self.applied]:
                for token in self.sealed.pop(place):
                    self.cluster.invariants.check_outcome(token, Unknown(Reason.LEADERSHIP_LOST))
        return True


class Cluster:
    """Nodes, the network between them, a clock, clients, faults and the invariants.

    Args:
        seed: of everything random.
        voters: ids of the first members.
        spares: further nodes, which a membership change may take in.
    """

    def __init__(
        self,
        seed: int = 0,
        *,
        voters: Iterable[int] = (1, 2, 3),
        spares: Iterable[int] = (),
        faults: Faults | None = None,
        options: RaftOptions | None = None,
    ) -> None:
        self.random = random.Random(seed)
        self.faults = faults if faults is not None else Faults()
        self.options = options if options is not None else RaftOptions()
        self.time = 0.0
        self.heap: list[tuple[float, int, Callable[[], None]]] = []
        self.events = 0
        self.tokens = 0
        self.cut: set[tuple[int, int]] = set()  # (from, to): such messages are lost
        self.invariants = Invariants()
        self.checker = Checker(_violated)
        self.calm_since: float | None = None  # no more faults since then
        self.story: list[str] | None = None
        birth = Membership.of(voters)
        ids = sorted({*birth.voters, *spares})
        self.disks = {node: Disk(birth) for node in ids}
        self.nodes = {node: Node(self, node, self.disks[node]) for node in ids}

    # --- time -----------------------------------------------------------------------------------------------

    def at(self, time: float, action: Callable[[], None]) -> None:
        self.events += 1
        heapq.heappush(self.heap, (time, self.events, action))

    def run(self, seconds: float) -> None:
        self.run_until(lambda: False, seconds)

    def run_until(self, done: Callable[[], bool], limit: float = 10.0) -> bool:
        """Step events until `done`, checked after each, or until `limit` more seconds have passed."""
        end = self.time + limit
        while not done():
            if not self.heap or self.heap[0][0] > end:
                self.time = end
                return done()
            self.time, _, action = heapq.heappop(self.heap)
            action()
        return True

    def trace(self, *facts: object) -> None:
        if self.story is not None:
            self.story.append(f"{self.time:8.4f} " + " ".join(map(str, facts)))

    # --- network --------------------------------------------------------------------------------------------

    def transmit(self, sender: int, peer: int, message: PeerMessage) -> None:
        faults, draw = self.faults, self.random
        if peer not in self.nodes or self.is_cut(sender, peer) or draw.random() < faults.loss:
            return
        for _ in range(2 if draw.random() < faults.duplication else 1):
            delay = draw.expovariate(1 / faults.delay)
            if draw.random() < faults.stragglers:
                delay += draw.uniform(0, 0.3)
            self.at(self.time + delay, lambda: self.deliver(sender, peer, message))

    def deliver(self, sender: int, peer: int, message: PeerMessage) -> None:
        if not self.is_cut(sender, peer):
            self.nodes[peer].step(message)

    def alive(self, sender: int, peer: int) -> None:
        if not self.is_cut(sender, peer):
            self.nodes[peer].liveness.heard(sender, self.time)

    def is_cut(self, sender: int, peer: int) -> bool:
        return (sender, peer) in self.cut

    def disk_delay(self) -> float:
        return self.random.expovariate(1 / self.faults.sync)

    def isolate(self, *nodes: int, notice: bool = True) -> None:
        """Cut these nodes off from the others; with `notice` the links between them close."""
        for inside in nodes:
            for outside in self.nodes.keys() - set(nodes):
                self.cut |= {(inside, outside), (outside, inside)}
                if notice:
                    self.nodes[inside].step(PeerDown(outside))
                    self.nodes[outside].step(PeerDown(inside))

    def heal(self) -> None:
        healed, self.cut = sorted(self.cut), set()
        for sender, peer in healed:
            self.nodes[peer].step(PeerUp(sender))

    # --- processes ------------------------------------------------------------------------------------------

    def crash(self, node: Node) -> None:
        if node.state is None or self.calm_since is not None:
            return
        self.trace("node", node.id, "crashes")
        node.crash()
        if self.random.random() < 0.7:  # else the machine is gone without a word
            for other in self.nodes.values():
                if other is not node:
                    other.later(self.random.uniform(0, 0.05), partial(other.step, PeerDown(node.id)))

    def restart(self, node: Node) -> None:
        if node.state is not None:
            return
        self.trace("node", node.id, "restarts")
        node.start()
        for other in self.nodes.values():
            if other is not node and not self.is_cut(node.id, other.id):
                other.step(PeerUp(node.id))

    # --- questions ------------------------------------------------------------------------------------------

    def up(self) -> list[Node]:
        return [node for node in self.nodes.values() if node.state is not None]

    def state(self, node: int) -> GroupState:
        state = self.nodes[node].state
        assert state is not None, f"node {node} is down"
        return state

    def leader(self) -> Node | None:
        """The leader of the newest term, if it is up."""
        leaders = [node for node in self.up() if node.state is not None and node.state.role is Role.LEADER]
        return max(leaders, key=lambda node: node.state.term if node.state else 0, default=None)

    def elect(self) -> Node:
        assert self.run_until(lambda: self.leader() is not None), "no leader"
        leader = self.leader()
        assert leader is not None
        return leader

    def converged(self) -> bool:
        """One leader, and every member holds and has applied all that it has."""
        leader = self.leader()
        if leader is None or leader.state is None or leader.state.commit != leader.state.log.last_index:
            return False
        members = leader.state.membership.members
        return members <= {node.id for node in self.up()} and all(
            self.nodes[member].applied == leader.applied == self.state(member).log.last_index
            and self.state(member).log.last == leader.state.log.last
            for member in members
        )

    # --- clients --------------------------------------------------------------------------------------------

    def token(self) -> int:
        self.tokens += 1
        return self.tokens

    def propose(self, node: Node, *, entries: int = 1, size: int = 8, expected_term: int = 0) -> int:
        token = self.token()
        data = token.to_bytes(8, "little").ljust(size, b".")
        chunk = make_chunk([(EntryType.OPAQUE, data)] * entries)
        node.step(Propose(chunk, token, expected_term))
        return token

    def serves(self) -> bool:
        """Whether a proposal made now is applied. If not (a transfer was under way), some time passes."""
        token = self.propose(self.elect())
        outcomes = self.invariants.outcomes
        return self.run_until(lambda: isinstance(outcomes.get(token), Applied), 0.5)

    def calm(self) -> None:
        """No more faults: everyone is up and every message arrives."""
        self.calm_since = self.time
        quiet = Faults()
        self.faults = replace(quiet, snapshot_after=self.faults.snapshot_after)
        for node in self.nodes.values():
            self.restart(node)
        self.heal()


def _violated(violation: object) -> None:
    raise AssertionError(str(violation))
