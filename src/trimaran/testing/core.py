"""The core tier: the rules of Raft, the log's bookkeeping and recovery, driven from an event heap.

`play` plays one seed: a phase with faults and then a calm one, in which the cluster must converge and serve.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from random import Random
from types import TracebackType

from ..actors.raft.messages import Propose
from ..actors.raft.outcomes import Applied, Outcome
from ..actors.raft.state import RaftOptions
from ..actors.replica.user_machine import StateMachine
from ..codec import EntryType, make_chunk
from .chaos import Chaos
from .checks import Violated, require
from .cluster import Cluster
from .journal import Journal
from .registers import first_anomaly
from .report import Options, Report, Violation
from .seeds import Streams
from .swarm import NEVER, Malice, Mix, maybe, thinned, told

TIER = "core"
CONVERGES_WITHIN = 30.0
"""Virtual seconds from the end of all faults until every member has everything."""
SERVES_WITHIN = 5.0
ATTEMPTS = 5
SETTLES_WITHIN = 2.0
RESTS_FOR = 4.0
"""Virtual seconds without anything to do."""
THREE, FIVE = (1, 2, 3), (1, 2, 3, 4, 5)
SIZES = (THREE, THREE, THREE, FIVE, FIVE, FIVE, (1, 2, 3, 4), (1, 2), (1,))
"""First members, each equally likely."""
SHARES = (1.0, 1.0, 0.5, 0.2)
"""Of the faults drawn: a seed has all of them, or few."""


def play(seed: int, options: Options) -> Report:
    """Play a seed in this tier."""
    cluster = cluster_of(seed, story=options.story)
    streams = cluster.streams
    seconds = options.seconds if options.seconds is not None else streams.stream("length").uniform(2.0, 6.0)
    report = Report(seed, TIER, seconds=options.seconds)
    with Verdict(cluster, report):
        Chaos(cluster).unleash()
        cluster.heap.run(seconds)
        cluster.calm_down()
        require_progress(cluster)
    clients = cluster.clients
    report.trace_hash = cluster.trace_hash
    report.operations, report.appends = clients.operations, clients.appends
    report.virtual_seconds = cluster.heap.time
    report.crashes = cluster.crashes
    report.faults = cluster.struck.sorted()
    report.reached = cluster.reached.sorted()
    return report


def cluster_of(
    seed: int,
    *,
    make_machine: Callable[[], StateMachine] = Journal,
    story: Callable[[str], None] | None = None,
) -> Cluster:
    """The cluster of a seed: its size, its options and its faults."""
    streams = Streams(seed)
    draw = streams.stream("swarm")
    mix = drawn_mix(draw, streams.stream("malice"))
    voters = draw.choice(SIZES)
    spares = (6, 7) if draw.random() < 0.4 else ()
    cluster = Cluster(
        streams,
        voters=voters,
        spares=spares,
        mix=mix,
        options=drawn_options(draw),
        make_machine=make_machine,
        segment_bytes=draw.choice((16 << 10, 32 << 10, 64 << 10)),
        story=story,
    )
    for part in (mix.network, mix.disk, mix.process, mix.work, mix.malice):
        cluster.trace(type(part).__name__, told(part))
    return cluster


def drawn_mix(draw: Random, more: Random) -> Mix:
    """What both tiers draw, and `more` of what is for this one: logs that conflict are where most rules
    meet."""
    mix = Mix.drawn(draw)
    share = more.choice(SHARES)
    network, process = thinned(mix.network, more, share), thinned(mix.process, more, share)
    return replace(
        mix,
        network=replace(network, depose_every=maybe(more, 0.7, 0.2, 1.0, NEVER)),
        disk=thinned(mix.disk, more, share),
        process=replace(
            process,
            crash_every=maybe(more, 0.7, 0.08, 1.0, NEVER),
            crash_at_truncation=maybe(more, 0.5, 0.3, 1.0),
            crash_at_heal=maybe(more, 0.5, 0.2, 0.8),
        ),
        work=replace(
            mix.work,
            change_every=maybe(more, 0.5, 0.05, 0.6, NEVER),
            transfer_every=maybe(more, 0.4, 0.15, 1.0, NEVER),
            lull_every=maybe(more, 0.4, 0.3, 1.5, NEVER),
        ),
        malice=Malice.drawn(more),
    )


def drawn_options(draw: Random) -> RaftOptions:
    """Small limits, so that every limit is met."""
    return RaftOptions(
        max_batch_bytes=draw.choice((4096, 8192)),
        uncommitted_bytes=draw.choice((16_000, 1 << 20)),
        log_cache_bytes=draw.choice((0, 3000, 1 << 20)),
        quiet_after=draw.choice((0.15, 0.4, 2.0)),
        quiet_heartbeat=draw.choice((1.0, 5.0)),
        append_bytes=draw.choice((1000, 1 << 16)),
        probe_bytes=draw.choice((100, 1000)),
        eager_commit=draw.random() < 0.2,
    )


def require_progress(cluster: Cluster, *, serves: bool = True) -> None:
    """Once the faults have ended: a leader, everyone equal, new proposals applied, and no question open.

    With `serves` an entry of a `Journal`, or of the clients' own, is proposed.
    """
    within = f"within {CONVERGES_WITHIN:g} s"
    require(cluster.heap.wait_for(cluster.converged, CONVERGES_WITHIN), "liveness", "not converged", within)
    require(not serves or serves_again(cluster), "liveness", "no new proposal is applied")
    quiet = cluster.heap.wait_for(lambda: ended(cluster), CONVERGES_WITHIN)
    require(quiet, "every end", sorted(cluster.checks.asked)[:5], "have no end")
    require(cluster.heap.wait_for(cluster.converged, CONVERGES_WITHIN), "liveness", "not converged again")
    shown = cluster.checks.shown
    require_rest(cluster)
    leader = cluster.leader()
    assert leader is not None and leader.state is not None
    require(leader.state.commit >= shown, "durability", "index", shown, "was shown and is gone")
    cluster.compare_states()
    anomaly = first_anomaly(cluster.clients.history)
    require(anomaly is None, "reads", "register", anomaly, "has no linearizable history")


def require_rest(cluster: Cluster) -> None:
    """With nothing to do and no faults, nobody has a reason to replace the leader, once it is known what was
    still on its way: a follower that hears an old message of a quiet leader wakes up and finds it silent.

    Who left the group need not have converged: its disk, if it stood still before they ended, holds back
    requests and answers of a higher term, and whoever hears of that term later must obey it.
    """
    cluster.heap.run_until(cluster.held_until() + SETTLES_WITHIN)
    before = {process.id: process.state.term for process in cluster.up() if process.state is not None}
    cluster.heap.run(RESTS_FOR)
    for process in cluster.up():
        if process.state is not None and process.id in cluster.members():
            term = process.state.term
            require(term <= max(before.values()), "rest", process.id, "is in term", term, "before", before)


def ended(cluster: Cluster) -> bool:
    """Whether nobody waits for anything."""
    sessions = all(session.idle for session in cluster.clients.sessions)
    return sessions and not cluster.checks.asked


def serves_again(cluster: Cluster) -> bool:
    """Whether one of some proposals is applied. Those made while something is still held back do not count: a
    disk whose sync began in the faults, while it stood still, may be needed for a majority."""
    held, counted = cluster.held_until(), 0
    while counted < ATTEMPTS:
        counted += cluster.heap.time >= held
        if serve(cluster):
            return True
    return False


def serve(cluster: Cluster) -> bool:
    """Whether a proposal made now is applied soon."""
    leader = cluster.leader()
    if leader is None:
        cluster.heap.run(0.5)
        return False
    token = cluster.clients.token()
    entry = cluster.clients.entry(token)
    outcomes: list[Outcome] = []

    def done(outcome: Outcome) -> None:
        cluster.checks.end(token, outcome)
        outcomes.append(outcome)

    cluster.checks.begin(token, cluster.heap.time)
    leader.ask(token, Propose(make_chunk([(EntryType.OPAQUE, entry)]), token), done)
    cluster.heap.wait_for(lambda: bool(outcomes), SERVES_WITHIN)
    if any(isinstance(outcome, Applied) for outcome in outcomes):
        return True
    cluster.heap.run(0.5)  # a transfer may have been under way
    return False


class Verdict:
    """Whatever is raised inside ends the run and is the report's violation: a broken property by its name,
    anything else by its type."""

    def __init__(self, cluster: Cluster, report: Report) -> None:
        self._cluster = cluster
        self._report = report

    def __enter__(self) -> None:
        return

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        if error is None or not isinstance(error, Exception):
            return False
        name = error.name if isinstance(error, Violated) else type(error).__name__
        facts = error.facts if isinstance(error, Violated) else f"{error} {_place(trace)}"
        self._report.violations.append(Violation(name, self._cluster.heap.time, facts))
        return True


def _place(trace: TracebackType | None) -> str:
    """Where it was raised."""
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    if trace is None:
        return ""
    code = trace.tb_frame.f_code
    return f"({code.co_filename.rpartition('/')[2]}:{trace.tb_lineno} in {code.co_name})"
