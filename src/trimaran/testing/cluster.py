"""A cluster of simulated processes on one event heap: deterministic from its seed."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import permutations

from ..actors.raft.effects import Persist
from ..actors.raft.log import EntryId
from ..actors.raft.membership import Membership
from ..actors.raft.messages import PeerDown, PeerMessage, PeerUp
from ..actors.raft.state import GroupState, RaftOptions, Role
from ..actors.replica.user_machine import StateMachine
from ..storage import MemoryDisk
from .checks import Checks, holds, require
from .clients import Clients
from .heap import Heap
from .journal import Journal
from .process import GROUP, Process
from .report import FaultCount, Trace
from .seeds import Streams
from .swarm import Mix, ProcessFaults
from .weather import Link, Weather

SEGMENT_BYTES = 32 << 10
QUORUM_WITHIN = 3
"""Election timeouts: a leader that begins to count right after it heard of a majority does so twice."""
RESTS_AFTER = 0.6
"""Seconds a leader must have rested until nobody may lack anything: what was under way has arrived."""
AFTER_ELECTION = (0.1, 0.5)
"""Seconds within which messages of long ago reach a new leader: before most of its followers answer."""


class Cluster:
    """Processes, the network between them, a clock, clients and the checks.

    Args:
        streams: of everything random.
        voters: ids of the first members.
        spares: further nodes, which a membership change may take in.
        mix: what goes wrong.
        make_machine: makes one replica's state machine; equal ones each time.
        story: called with each line of the trace.
    """

    def __init__(
        self,
        streams: Streams,
        *,
        voters: Iterable[int] = (1, 2, 3),
        spares: Iterable[int] = (),
        mix: Mix | None = None,
        options: RaftOptions | None = None,
        make_machine: Callable[[], StateMachine] = Journal,
        segment_bytes: int = SEGMENT_BYTES,
        story: Callable[[str], None] | None = None,
    ) -> None:
        self.streams = streams
        self.mix = mix if mix is not None else Mix()
        self.options = options if options is not None else RaftOptions()
        self.make_machine = make_machine
        self.segment_bytes = segment_bytes
        self.heap = Heap()
        self.struck = FaultCount()
        self.reached = FaultCount()
        """How often each of the states of `reached.py` was met."""
        self.crashes = 0
        birth = Membership.of(voters)
        self.checks = Checks(birth, journal=make_machine is Journal)
        self.check_machine: Callable[[StateMachine], None] | None = None
        """Called with a replica's machine behind each batch."""
        self.calm = False
        """No more faults."""
        self._trace = Trace(story)
        self._draw = streams.stream("cluster")
        network = self.mix.network
        self.weather = Weather(self.heap, network, streams.stream("weather"), self.struck, self._deliver)
        self.clients = Clients(self, streams.stream("clients"))
        self.processes: dict[int, Process] = {}
        for node in sorted({*birth.voters, *spares}):
            self.processes[node] = Process(self, node, MemoryDisk(), birth)
        for process in self.processes.values():
            process.start()

    # --- the trace ------------------------------------------------------------------------------------------

    def trace(self, *facts: object) -> None:
        self._trace.note(self.heap.time, *facts)

    @property
    def trace_hash(self) -> str:
        return self._trace.hexdigest()

    # --- the network ----------------------------------------------------------------------------------------

    def _deliver(self, sender: int, peer: int, message: PeerMessage | None) -> None:
        process = self.processes[peer]
        if process.state is None:
            return
        if message is None:
            process.liveness.heard(sender, self.heap.time)
            return
        self.trace(type(message).__name__, sender, peer, message.term)
        process.heard[sender] = self.heap.time
        process.receive(message)

    def talks(self, one: int, other: int) -> bool:
        """Whether two running processes can ask each other something."""
        up = self.processes[one].up and other in self.processes and self.processes[other].up
        return up and not self.weather.is_cut(one, other) and not self.weather.is_cut(other, one)

    def notice(self, links: Iterable[Link], *, down: bool) -> None:
        """The links' ends see that they closed, or that they are open again."""
        for sender, peer in links:
            self.processes[peer].step(PeerDown(sender) if down else PeerUp(sender))

    def isolate(self, *nodes: int, notice: bool = True) -> None:
        """Cut these nodes off from the others; with `notice` the links between them close."""
        others = [node for node in self.processes if node not in nodes]
        self.weather.isolate(nodes, others)
        if notice:
            self.notice(sorted(self.weather.cut), down=True)

    def heal(self, *, notice: bool = True) -> None:
        """Every link works again; with `notice` as a new connection, else what was sent meanwhile is just
        lost. Whoever was told that a connection closed gets a new one in any case."""
        healed = self.weather.heal()
        if notice:
            self.notice(healed, down=False)
        for process in self.up():
            closed = process.state.closed_links if process.state is not None else ()
            for peer in sorted(closed):
                self.connect(process, peer)

    # --- processes ------------------------------------------------------------------------------------------

    def crash(self, process: Process, *, power: bool | None = None, down_for: float | None = None) -> None:
        """End a process; `power`: with its machine, None: as the seed draws; `down_for`: a mean (s)."""
        if process.state is None or self.calm:
            return
        if power is None:
            power = self._draw.random() < self.mix.process.power_loss
        kind = "power loss" if power else "process crash"
        self.struck[kind] += 1
        self.crashes += 1
        self.trace(kind, process.id)
        process.crash(power=power)
        if self._draw.random() < 0.7:  # else the machine is gone without a word
            for other in self.processes.values():
                if other is not process:
                    other.later(self._draw.uniform(0, 0.05), self._hang_up, other, process, process.life)
        mean = down_for if down_for is not None else self.mix.process.down_for
        self.heap.after(self._draw.expovariate(1 / mean), self.restart, process)

    def _hang_up(self, other: Process, process: Process, life: int) -> None:
        """The end of a link to a process is noticed; once there is a new link to its next life, nobody asks
        after the old one."""
        if process.life == life:
            other.step(PeerDown(process.id))

    def connect(self, process: Process, peer: int) -> None:
        """A process has a new connection to a peer, if that is up."""
        if self.processes[peer].up:
            process.step(PeerUp(peer))

    def lose_power(self, process: Process) -> None:
        self.crash(process, power=True)

    def power_cut(self, process: Process) -> None:
        """The power went inside an operation on files."""
        self.struck["cut inside files"] += 1
        self.crash(process, power=True)

    def restart(self, process: Process) -> None:
        """Start a process that is down. The power may go while it recovers."""
        if process.state is not None:
            return
        if not self.calm and self._draw.random() < self.mix.process.crash_in_files:
            process.cut_in = self._draw.randrange(30)
        self.trace("start", process.id)
        if not process.start():
            self.struck["cut inside recovery"] += 1
            self.crashes += 1
            self.heap.after(self._draw.expovariate(1 / self.mix.process.down_for), self.restart, process)
            return
        process.cut_in = None
        for other in self.processes.values():
            if other is not process and self.talks(process.id, other.id):
                other.step(PeerUp(process.id))

    # --- moments at which a crash hurts most ----------------------------------------------------------------

    def _may(self, share: float) -> bool:
        return share > 0 and not self.calm and self._draw.random() < share

    def persisting(self, process: Process, persist: Persist) -> None:
        """Something was handed to the log and is not synced yet."""
        faults = self.mix.process
        if persist.hard_state is not None and self._may(faults.crash_after_vote):
            self._crash_soon("crash after vote", process)
        if persist.truncate_from is not None and self._may(faults.crash_at_truncation):
            self._crash_soon("crash at truncation", process)
        if persist.batches and self._may(self.mix.malice.cut_write):
            self.struck["cut inside a write"] += 1
            process.later(self._draw.uniform(0, self.mix.disk.sync), self.lose_power, process)

    def persisted(self, process: Process, persist: Persist) -> None:
        """Something is synced."""
        if persist.hard_state is None or not self._may(self.mix.malice.flip_vote):
            return
        if process.log.damage_hard_state(self._draw):
            self.struck["bit flip"] += 1
            self._crash_soon("crash at a damaged vote", process)

    def term_changed(self, process: Process) -> None:
        if self._may(self.mix.process.crash_at_term_change):
            self._crash_soon("crash at term change", process)

    def took_office(self, process: Process) -> None:
        """Messages of long ago come before its followers' answers, which may take a while."""
        if not self._may(self.mix.malice.late):
            return
        self.weather.haunt(process.id, self._draw.choice(AFTER_ELECTION))
        if self._draw.random() < 0.5:
            for peer in self.processes:
                self.weather.clog((process.id, peer), self._draw.uniform(0, max(AFTER_ELECTION)))

    def read_takes(self) -> float:
        """How long the answer to a read of the log is on its way at most."""
        malice = self.mix.malice
        if not self._may(malice.slow_reads):
            return 0.0
        self.struck["slow read"] += 1
        return self._draw.uniform(0, malice.slow_read)

    def applied(self, process: Process) -> None:
        """A replica has applied a batch."""
        if self.check_machine is not None:
            self.check_machine(process.machine.machine)
        if self._may(self.mix.process.crash_at_apply):
            self._crash_soon("crash at apply", process)

    def snapshotting(self, process: Process) -> None:
        """A manifest is about to be written."""
        if self._may(self.mix.process.crash_in_files):
            process.cut_in = self._draw.randrange(8)

    def installed(self, process: Process) -> None:
        """A peer's manifest is in its place, and the log does not know yet."""
        if self._may(self.mix.malice.cut_install):
            self.struck["cut at install"] += 1
            process.cut_in = self._draw.randrange(3)

    def _crash_soon(self, kind: str, process: Process) -> None:
        if process.doomed == process.life:
            return
        process.doomed = process.life
        self.struck[kind] += 1
        delay = self._draw.choice((0.0, 1.0)) * self._draw.expovariate(1 / self.mix.disk.sync)
        process.later(delay, self.crash, process)

    def sync_fails(self, process: Process) -> bool:
        """Whether the sync that is about to end fails."""
        if not self._may(self.mix.disk.failed_sync):
            return False
        self.struck["failed sync"] += 1
        return True

    # --- questions ------------------------------------------------------------------------------------------

    def up(self) -> list[Process]:
        return [process for process in self.processes.values() if process.state is not None]

    def leader(self) -> Process | None:
        """The leader of the newest term, if it is up."""
        best, term = None, -1
        for process in self.processes.values():
            state = process.state
            if state is not None and state.role is Role.LEADER and state.term > term:
                best, term = process, state.term
        return best

    def members(self) -> frozenset[int]:
        """Whom the leader counts on; nobody without a leader."""
        leader = self.leader()
        return leader.state.membership.members if leader and leader.state else frozenset()

    def state(self, node: int) -> GroupState:
        state = self.processes[node].state
        assert state is not None, f"node {node} is down"
        return state

    def check_quorum(self, process: Process) -> None:
        """Whoever leads is heard by a majority, unless it stood still, rested, or has other members since."""
        state, now, within = process.state, self.heap.time, QUORUM_WITHIN * self.options.election_min
        since = max(process.paused_until, process.leads_since, process.members_since, process.rested_until)
        if state is not None and not state.quiet and since < now - within:
            heard = [peer for peer, at in process.heard.items() if at >= now - within]
            self.checks.check_quorum(state, heard, within)

    def check_rest(self, leader: Process) -> None:
        """A quiet leader has left nobody behind whom it reaches."""
        state = leader.state
        if state is None or state.role is not Role.LEADER or not state.quiet:
            leader.rests_since = self.heap.time
            return
        if self.heap.time - leader.rests_since < RESTS_AFTER:
            return
        for peer in sorted(state.membership.members - {leader.id} - state.closed_links):
            other = self.processes[peer]
            if (
                other.state is not None
                and other.paused_until < leader.rests_since
                and self.talks(leader.id, peer)
            ):
                self.checks.check_rest(state, other.state)

    def check_durable(self, entry: EntryId, members: Membership) -> None:
        voters = sorted(members.voters)
        holders = [voter for voter in voters if self.processes[voter].holds(entry)]
        self.checks.check_durable(entry, voters, holders)

    def check_belief(self, leader: GroupState, peer: int, match: EntryId, vouched: EntryId) -> None:
        """What a leader took for acknowledged. A peer in a newer term may have cut it off since."""
        process = self.processes[peer]
        log = process.log.log(GROUP)
        if max(log.term, process.state.term if process.state is not None else 0) > leader.term:
            return
        named = not match.term or holds(log, match)
        require(named, "belief", leader.node, "takes", match, "for synced on", peer)
        readable = not vouched.term or process.holds(vouched)
        require(readable, "belief", leader.node, "takes", vouched, "for readable on", peer)

    def check_handover(self, leader: GroupState, peer: int) -> None:
        target = self.processes[peer]
        if target.state is None or target.state.term <= leader.term:  # else it follows another one by now
            self.checks.check_handover(leader.node, peer, leader.log.last, target.log.log(GROUP))

    def held_until(self) -> float:
        """When nothing that was held back by a fault is left: on a link, behind a disk's sync or a pause."""
        held = [process.held_until for process in self.processes.values()]
        return max(self.weather.held_until, self.heap.time, *held)

    def converged(self) -> bool:
        """One leader, and every member holds, can read and has applied all that it has."""
        leader = self.leader()
        if leader is None or leader.state is None or leader.state.commit != leader.state.log.last_index:
            return False
        last = leader.state.log.last
        for member in leader.state.membership.members:
            process = self.processes[member]
            state = process.state
            if state is None or state.faulty or state.log.last != last or state.unsynced:
                return False
            if process.applied != last.index:
                return False
        return True

    # --- the end of all faults ------------------------------------------------------------------------------

    def calm_down(self) -> None:
        """Everyone is up, nothing is held back, every message arrives."""
        self.trace("calm")
        self.calm = True
        self.clients.stopped = True
        self.weather.clear_up()
        if self.mix.malice.blackout:
            for one, other in permutations(self.processes, 2):
                self.weather.reset((one, other))
        self.mix = Mix(work=self.mix.work, process=ProcessFaults())
        for process in self.processes.values():
            process.paused_until = process.stalled_until = 0.0
            process.cut_in = None
            self.restart(process)
        self.heal()

    def compare_states(self) -> None:
        """Every replica's whole state, as of what it has applied."""
        for process in self.up():
            self.checks.check_state(process.id, process.applied, process.machine.capture().state)
