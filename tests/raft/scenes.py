"""The core tier's cluster without faults, for scenes that a test directs itself."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from trimaran.actors.raft.messages import Message, PeerDown, Propose, Transfer
from trimaran.actors.raft.outcomes import Applied, Outcome
from trimaran.actors.raft.state import GroupState, RaftOptions
from trimaran.codec import EntryType, make_chunk
from trimaran.storage.index import GroupLog
from trimaran.testing.cluster import Cluster
from trimaran.testing.core import require_progress
from trimaran.testing.process import GROUP, Process
from trimaran.testing.seeds import Streams
from trimaran.testing.swarm import Mix, Work

LIMIT = 10.0
OFTEN = 0.001
"""Virtual seconds between two looks whether something has come true."""


class Scene(Cluster):
    """A cluster in which nothing goes wrong by itself. All checks of the simulator watch it.

    Args:
        seed: of delays and timeouts.
        voters: ids of the first members.
        spares: further nodes.
        snapshot_after: a replica takes one behind so many batches.
    """

    def __init__(
        self,
        seed: int = 0,
        *,
        voters: Iterable[int] = (1, 2, 3),
        spares: Iterable[int] = (),
        options: RaftOptions | None = None,
        snapshot_after: int = 10**9,
    ) -> None:
        self.outcomes: dict[int, Outcome] = {}
        work = Work(snapshot_after=snapshot_after)
        super().__init__(
            Streams(seed), voters=voters, spares=spares, mix=Mix(work=work), options=options or RaftOptions()
        )

    @property
    def time(self) -> float:
        return self.heap.time

    def run(self, seconds: float) -> None:
        self.heap.run(seconds)

    def run_until(self, done: Callable[[], bool], limit: float = LIMIT, every: float = OFTEN) -> bool:
        return self.heap.wait_for(done, limit, every)

    def log(self, node: int) -> GroupLog:
        """What a node, up or down, has synced."""
        return self.processes[node].log.log(GROUP)

    def elect(self) -> Process:
        assert self.run_until(lambda: self.leader() is not None), "no leader"
        leader = self.leader()
        assert leader is not None
        return leader

    def stop(self, process: Process, *, told: bool = False) -> None:
        """End a process until `restart`; the others' links to it close if they are `told`."""
        process.crash(power=True)
        if told:
            for other in self.up():
                other.step(PeerDown(process.id))

    # --- what is asked --------------------------------------------------------------------------------------

    def ask(self, process: Process, make: Callable[[int], Message]) -> int:
        """Ask a process something; its outcome will be in `outcomes` under the token."""
        token = self.clients.token()

        def done(outcome: Outcome) -> None:
            self.checks.end(token, outcome)
            self.outcomes[token] = outcome

        self.checks.begin(token, self.time)
        process.ask(token, make(token), done)
        return token

    def propose(self, process: Process, size: int = 0) -> int:
        def make(token: int) -> Propose:
            return Propose(make_chunk([(EntryType.OPAQUE, self.clients.entry(token, size))]), token)

        return self.ask(process, make)

    def transfer(self, process: Process, to: int | None = None) -> int:
        return self.ask(process, lambda token: Transfer(to, token))

    def serves(self) -> bool:
        """Whether a proposal made now is applied."""
        token = self.propose(self.elect())
        return self.run_until(lambda: isinstance(self.outcomes.get(token), Applied), 0.5)

    def ends_well(self) -> None:
        """Without faults everybody gets everything, and all is as it must be."""
        self.calm_down()
        require_progress(self)


def state_of(process: Process) -> GroupState:
    assert process.state is not None, f"node {process.id} is down"
    return process.state
