"""What the faults and the operators of a seed do, each on its own clock, until the faults end."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from ..actors.raft.log import EntryId
from ..actors.raft.membership import Change, ChangeKind
from ..actors.raft.messages import PeerDown, ProposeMembership, Transfer
from ..actors.raft.outcomes import Applied, Outcome
from ..actors.raft.state import GroupState
from .cluster import Cluster
from .process import GROUP, Process
from .swarm import NEVER
from .weather import Link

HOUR = 3600 * 10**9
LONG = 2.0
"""Seconds (mean) without a leader that crashed at the worst moment."""


class Chaos:
    """Unleashed on a cluster, it plays the cluster's mix. Some processes, some links, all drawn from the
    seed."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._draw = cluster.streams.stream("chaos")
        self._lull_until = 0.0

    def unleash(self) -> None:
        """Clients, operators and faults, until `Cluster.calm_down`."""
        cluster, mix = self._cluster, self._cluster.mix
        clients, work, network, disk, process = cluster.clients, mix.work, mix.network, mix.disk, mix.process
        self._ask_often(work.propose_every, clients.append)
        self._ask_often(10 * work.propose_every, clients.tick)
        self._ask_often(work.read_every, clients.read)
        if cluster.checks.journal:
            self._ask_often(3 * work.propose_every, clients.write)
            for session in clients.sessions:
                self._ask_often(4 * work.propose_every, session.next)
        self._repeat(work.lull_every, self._lull)
        self._repeat(work.transfer_every, self._transfer)
        self._repeat(work.change_every, self._change)
        self._repeat(process.crash_every, self._crash)
        self._repeat(process.storm_every, self._storm)
        self._repeat(process.pause_every, self._pause)
        self._repeat(process.clock_jump_every, self._jump)
        self._repeat(network.partition_every, self._partition)
        self._repeat(network.depose_every, self._depose)
        self._repeat(network.clog_every, self._clog)
        self._repeat(network.reset_every, self._reset)
        self._repeat(disk.stall_every, self._stall)
        self._repeat(disk.flip_every, self._flip)
        self._repeat(10 * disk.flip_every, self._scrub)
        self._repeat(0.25, self._look)

    def _repeat(self, mean: float, action: Callable[[], None]) -> None:
        if mean != NEVER:
            self._cluster.heap.after(self._draw.expovariate(1 / mean), self._again, mean, action)

    def _again(self, mean: float, action: Callable[[], None]) -> None:
        if not self._cluster.calm:
            action()
            self._repeat(mean, action)

    def _ask_often(self, mean: float, action: Callable[[], None]) -> None:
        """What clients do, but in a lull."""

        def ask() -> None:
            if self._cluster.heap.time >= self._lull_until:
                action()

        self._repeat(mean, ask)

    def _lull(self) -> None:
        seconds = self._draw.expovariate(1 / self._cluster.mix.work.lull_for)
        self._strike("lull")
        self._lull_until = self._cluster.heap.time + seconds

    def _someone(self) -> Process:
        return self._draw.choice(list(self._cluster.processes.values()))

    def _strike(self, kind: str, *facts: object) -> None:
        self._cluster.struck[kind] += 1
        self._cluster.trace(kind, *facts)

    def _look(self) -> None:
        for process in self._cluster.up():
            if process.state is not None:
                self._cluster.checks.check_bounds(process.state)
                self._cluster.check_quorum(process)
                self._cluster.check_rest(process)

    # --- operators ------------------------------------------------------------------------------------------

    def _ask(
        self,
        process: Process,
        make: Callable[[int], Transfer | ProposeMembership],
        applied: Callable[[int], None] | None = None,
    ) -> None:
        """`applied` is told at which index."""
        checks, clients = self._cluster.checks, self._cluster.clients
        token = clients.token()
        clients.operations += 1
        checks.begin(token, self._cluster.heap.time)

        def ended(outcome: Outcome) -> None:
            checks.end(token, outcome)
            if applied is not None and isinstance(outcome, Applied):
                applied(outcome.index)

        process.ask(token, make(token), ended)

    def _transfer(self) -> None:
        node = self._cluster.clients.node()
        if node is not None:
            target = self._draw.choice([None, *self._cluster.processes])
            self._strike("transfer", node.id, target)
            self._ask(node, lambda token: Transfer(target, token))

    def _change(self) -> None:
        """Any single change, often a second one at once; removing is for good, so it is rare."""
        leader = self._cluster.clients.node()
        if leader is None:
            return
        if self._draw.random() < 0.3:
            leader.later(0.0, self._change_at, leader)
        self._change_at(leader)

    def _change_at(self, leader: Process) -> None:
        kind = self._draw.choice(list(ChangeKind))
        change = Change(kind, self._draw.choice(list(self._cluster.processes)))
        spared = 0.3 if self._cluster.mix.malice.invite_again else 0.8
        if kind is ChangeKind.REMOVE and self._draw.random() < spared:
            return
        self._ask_change(leader, change)

    def _ask_change(self, leader: Process, change: Change) -> None:
        kind = change.kind
        grows = kind in (ChangeKind.ADD_LEARNER, ChangeKind.PROMOTE)
        if not grows and any(process.still_bad() for process in self._cluster.processes.values()):
            return  # the only good copy of something might leave with it: no operator does that
        self._strike("membership change", kind.value, change.node)
        removed = partial(self._removed, change.node) if kind is ChangeKind.REMOVE else None
        self._ask(leader, lambda token: ProposeMembership(change, token), removed)

    def _removed(self, node: int, index: int) -> None:
        self._cluster.checks.note_removed(node, index)
        if self._draw.random() < self._cluster.mix.malice.invite_again:
            self._cluster.heap.after(self._draw.uniform(0.01, 0.3), self._invite, node)

    def _invite(self, node: int) -> None:
        leader = self._cluster.leader()
        if leader is not None and not self._cluster.calm:
            self._ask_change(leader, Change(ChangeKind.ADD_LEARNER, node))

    # --- processes ------------------------------------------------------------------------------------------

    def _crash(self) -> None:
        up = self._cluster.up()
        if up:
            self._cluster.crash(self._draw.choice(up))

    def _storm(self) -> None:
        """Everyone, within 100 ms; by power loss all at once in half of the cases."""
        self._strike("restart storm")
        at_once = self._draw.random() < 0.5
        for process in self._cluster.up():
            delay = 0.0 if at_once else self._draw.uniform(0, 0.1)
            process.later(delay, self._cluster.crash, process)

    def _pause(self) -> None:
        process = self._someone()
        seconds = self._draw.expovariate(1 / self._cluster.mix.process.pause_for)
        self._strike("pause", process.id)
        process.pause(seconds)

    def _jump(self) -> None:
        process = self._someone()
        self._strike("clock jump", process.id)
        process.skew += self._draw.randrange(-HOUR, HOUR)

    # --- links ----------------------------------------------------------------------------------------------

    def _partition(self) -> None:
        """Halves, a lone node, one way only, or a bridge: two that reach everyone but each other."""
        cluster, draw = self._cluster, self._draw
        if cluster.weather.cut and draw.random() < 0.8:
            return
        ids = list(cluster.processes)
        leader = cluster.leader()
        links: list[Link] = []
        shape = draw.random()
        if shape < 0.25 and len(ids) > 2:
            one, other = draw.sample(ids, 2)
            links = [(one, other), (other, one)]
        else:
            side = set(draw.sample(ids, draw.randint(1, len(ids))))
            if shape > 0.7 and leader is not None:
                side = {leader.id}
            links = [(a, b) for a in sorted(side) for b in ids if b not in side]
            if shape < 0.75:
                links += [(b, a) for a, b in links]
        self._strike("partition", links)
        cluster.weather.sever(links)
        if draw.random() < 0.5:
            cluster.notice(sorted(cluster.weather.cut), down=True)
        if leader is not None:
            self._press(leader)
        cluster.heap.after(draw.expovariate(1 / cluster.mix.network.partition_for), self._heal)

    def _depose(self) -> None:
        """Nobody is told: the leader takes what it is asked for a while, and the others elect another."""
        cluster, draw, malice = self._cluster, self._draw, self._cluster.mix.malice
        leader = cluster.leader()
        if leader is None or len(cluster.processes) < 3 or cluster.weather.cut:
            return  # of two at once the first one's end would be that of the other, before anybody is elected
        side = [leader.id, *self._company(leader)]
        self._strike("leader deposed", *side)
        cluster.isolate(*side, notice=False)
        for _ in range(draw.randint(1, malice.tail)):
            leader.later(draw.uniform(0, 0.4), cluster.clients.append, leader)
        self._press(leader)
        seconds = draw.uniform(0.8, 2.5)
        if draw.random() < malice.late:
            cluster.weather.haunt(leader.id, seconds)
            for _ in range(draw.randint(1, 10)):
                leader.later(draw.uniform(0, seconds), cluster.clients.read, leader)
        if draw.random() < malice.outdate:
            for share in (0.6, 0.75, 0.9):
                cluster.heap.after(share * seconds, self._outdate, side)
        cluster.heap.after(seconds, self._heal)
        if draw.random() < malice.give_back:
            cluster.heap.after(seconds + draw.uniform(0.05, 0.5), self._give_back, leader.id)

    def _company(self, leader: Process) -> list[int]:
        """Who is cut off with a leader: less than would make a majority."""
        state, draw = leader.state, self._draw
        assert state is not None
        others = sorted(state.membership.voters - {leader.id})
        most = len(others) // 2 - (len(others) % 2 == 0)
        if most < 1 or draw.random() >= self._cluster.mix.malice.company:
            return []
        return draw.sample(others, draw.randint(1, most))

    def _outdate(self, side: list[int]) -> None:
        """Snapshots of those who are not cut off: what the others lack is in no log any more."""
        for process in self._cluster.up():
            if process.id not in side:
                self._strike("snapshot", process.id)
                process.later(0.0, process.take_snapshot)

    def _give_back(self, to: int) -> None:
        leader = self._cluster.leader()
        if leader is not None and not self._cluster.calm:
            self._strike("transfer", leader.id, to)
            self._ask(leader, lambda token: Transfer(to, token))
            if self._draw.random() < self._cluster.mix.malice.late:
                self._cluster.weather.haunt(to, 0.5)

    def _press(self, leader: Process) -> None:
        """Much is asked of a leader that may be cut off from its followers, and may not know it."""
        cluster, draw = self._cluster, self._draw
        for _ in range(draw.choice((0, 0, 3, 10))):
            leader.later(draw.uniform(0, 0.5), cluster.clients.append, leader)
        for _ in range(draw.choice((0, 3))):
            leader.later(draw.uniform(0, 0.5), cluster.clients.read, leader)
        if cluster.mix.work.change_every != NEVER and draw.random() < 0.5:
            for _ in range(draw.choice((1, 2, 3))):
                leader.later(draw.choice((0.0, 0.05)), self._shrink_at, leader)

    def _shrink_at(self, leader: Process) -> None:
        """Take the vote of somebody else away."""
        state = leader.state
        assert state is not None
        others = sorted(state.membership.voters - {leader.id})
        if others:
            kind = self._draw.choice((ChangeKind.DEMOTE, ChangeKind.RELEASE))
            self._ask_change(leader, Change(kind, self._draw.choice(others)))

    def _heal(self) -> None:
        cluster = self._cluster
        leader = cluster.leader()
        if (
            leader is not None
            and not cluster.calm
            and self._draw.random() < cluster.mix.process.crash_at_heal
        ):
            self._strike("crash at heal", leader.id)
            cluster.crash(leader, down_for=LONG)
        cluster.heal(notice=self._draw.random() < 0.6)

    def _link(self) -> Link:
        one, other = self._draw.sample(list(self._cluster.processes), 2)
        return one, other

    def _clog(self) -> None:
        """One link after the other; each is free again in its own time, so in any order."""
        if len(self._cluster.processes) < 2:
            return
        network = self._cluster.mix.network
        for _ in range(self._draw.randint(1, 4)):
            self._strike("clog")
            self._cluster.weather.clog(self._link(), self._draw.expovariate(1 / network.clog_for))

    def _reset(self) -> None:
        """A connection breaks and is made again: what was under way either way is lost."""
        if len(self._cluster.processes) < 2:
            return
        one, other = self._link()
        self._strike("reset", one, other)
        for a, b in ((one, other), (other, one)):
            self._cluster.weather.reset((a, b))
            self._cluster.processes[a].step(PeerDown(b))
        for a, b in ((one, other), (other, one)):
            process = self._cluster.processes[a]
            process.later(self._draw.uniform(0.001, 0.1), self._cluster.connect, process, b)

    # --- disks ----------------------------------------------------------------------------------------------

    def _stall(self) -> None:
        process = self._someone()
        self._strike("stalled sync", process.id)
        seconds = self._draw.expovariate(1 / self._cluster.mix.disk.stall_for)
        process.stalled_until = self._cluster.heap.time + seconds

    def _flip(self) -> None:
        """A bit of some synced batch. The atlas: on nobody else is this batch bad, and another voter has
        it."""
        process, draw = self._someone(), self._draw
        state = process.state
        if state is None:
            return
        log = process.log.log(GROUP)
        if not log.terms:
            return
        newest = draw.random() < self._cluster.mix.malice.flip_newest
        position = len(log.terms) - 1 if newest else draw.randrange(len(log.terms))
        place = EntryId(log.first + position, log.terms[position])
        if self._has_good_copy(process, state, place) and process.log.damage(GROUP, place.index, draw):
            self._strike("bit flip", process.id, place)
            process.bad.add(place)
            if newest:
                process.later(0.0, self._cluster.crash, process)
            elif draw.random() < 0.5:  # else somebody will read it, or the next start
                process.later(draw.uniform(0, 0.1), process.scrub)

    def _has_good_copy(self, process: Process, state: GroupState, place: EntryId) -> bool:
        leader = self._cluster.leader()
        if leader is None or leader.state is None or leader.state.membership != state.membership:
            return False  # whoever has the good copy may be leaving
        others = [other for other in self._cluster.processes.values() if other is not process]
        if any(place in other.bad for other in (*others, process)):
            return False
        for other in others:
            log = other.log.log(GROUP)
            position = place.index - log.first
            voter = other.id in state.membership.voters
            named = voter and 0 <= position < len(log.terms) and log.terms[position] == place.term
            if named and other.log.index.place(GROUP, place.index) is not None:
                return True
        return False

    def _scrub(self) -> None:
        process = self._someone()
        process.later(0.0, process.scrub)
