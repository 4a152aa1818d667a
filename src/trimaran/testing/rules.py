"""A Hypothesis state machine around a simulated cluster: you say what is proposed, it adds what goes wrong.

    class CounterRules(ClusterRules):
        machine = Counter

        @rule(number=st.integers(1, 9))
        def add(self, number):
            self.propose(str(number).encode())

    TestCounter = CounterRules.TestCase

Hypothesis then looks for a short sequence of your rules and of crashes, partitions, snapshots and transfers
after which two replicas differ, or what you assert does not hold.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar, cast

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from ..actors.raft.messages import Propose, ReadIndex, Transfer
from ..actors.raft.outcomes import Applied, Outcome
from ..actors.replica.user_machine import StateMachine
from ..codec import EntryType, make_chunk
from .cluster import Cluster
from .core import require_progress
from .seeds import Streams

NODES = (1, 2, 3)
PATIENCE = 3.0
"""Virtual seconds for which `propose` and `read` wait: an election fits in."""

nodes = st.sampled_from(NODES)


class ClusterRules(RuleBasedStateMachine):
    """Three replicas of `machine`. Subclass it, set `machine`, add rules that call `propose` and `read`.

    Everything is synchronous and deterministic; virtual time passes only within a rule.
    """

    machine: ClassVar[Callable[[], StateMachine]]
    """Makes one replica's machine, empty: usually its class."""

    def __init__(self) -> None:
        super().__init__()
        self.cluster = Cluster(Streams(0), voters=NODES, make_machine=type(self).machine)
        self.cluster.heap.wait_for(lambda: self.cluster.leader() is not None, PATIENCE)

    # --- for your rules -------------------------------------------------------------------------------------

    def propose(self, entry: bytes) -> object | None:
        """Propose an entry and wait; its result, or None if it is not known to be applied."""
        token = self.cluster.clients.token()
        chunk = make_chunk([(EntryType.OPAQUE, entry)])
        outcome = self._ask(token, Propose(chunk, token))
        if not isinstance(outcome, Applied):
            return None
        results = cast(list[object], outcome.result)
        return results[0]

    def read(self) -> StateMachine | None:
        """A machine that shows everything acknowledged so far; None if nobody can tell at the moment."""
        token = self.cluster.clients.token()
        leader = self.cluster.leader()
        outcome = self._ask(token, ReadIndex(token))
        if leader is None or not isinstance(outcome, Applied):
            return None
        shown: list[StateMachine] = []
        leader.read_at(outcome.index, shown.append)
        self.cluster.heap.wait_for(lambda: bool(shown), PATIENCE)
        return shown[0] if shown else None

    def _ask(self, token: int, message: Propose | ReadIndex | Transfer) -> Outcome | None:
        cluster, ended = self.cluster, list[Outcome]()

        def done(outcome: Outcome) -> None:
            cluster.checks.end(token, outcome)
            ended.append(outcome)

        leader = cluster.leader()
        if leader is None:
            cluster.heap.run(PATIENCE / 3)
            return None
        cluster.checks.begin(token, cluster.heap.time)
        leader.ask(token, message, done)
        cluster.heap.wait_for(lambda: bool(ended), PATIENCE, every=0.005)
        return ended[0] if ended else None

    # --- what goes wrong ------------------------------------------------------------------------------------

    @rule(node=nodes, power=st.booleans())
    def crash(self, node: int, power: bool) -> None:
        """A process ends; with `power` its machine does."""
        self.cluster.crash(self.cluster.processes[node], power=power)

    @rule(node=nodes)
    def restart(self, node: int) -> None:
        self.cluster.restart(self.cluster.processes[node])

    @rule(node=nodes)
    def isolate(self, node: int) -> None:
        """Nothing reaches a node, and nothing comes from it."""
        self.cluster.isolate(node)

    @rule()
    def heal(self) -> None:
        self.cluster.heal()

    @rule(node=nodes)
    def take_snapshot(self, node: int) -> None:
        process = self.cluster.processes[node]
        process.later(0.0, process.take_snapshot)
        self.cluster.heap.run(0.05)

    @rule()
    def transfer(self) -> None:
        token = self.cluster.clients.token()
        self._ask(token, Transfer(None, token))

    @rule(seconds=st.sampled_from((0.01, 0.2, 1.5)))
    def pass_time(self, seconds: float) -> None:
        self.cluster.heap.run(seconds)

    # --- what must hold -------------------------------------------------------------------------------------

    @invariant()
    def replicas_agree(self) -> None:
        """Equal states as of equal indexes."""
        self.cluster.compare_states()

    def teardown(self) -> None:
        """Without faults everyone catches up, and all replicas are equal."""
        self.cluster.calm_down()
        require_progress(self.cluster, serves=False)
