"""While a batch of many clients is under way, the next one waits for its commit: it will be larger."""

from tests.raft.replica import Replica, chunk_of
from trimaran.actors.raft.effects import Persist
from trimaran.actors.raft.leader import GATHER_BYTES, GATHER_FROM, GATHER_SECONDS
from trimaran.actors.raft.messages import ProposeTick
from trimaran.codec import Kind, read_header


def busy(entries: int = GATHER_FROM, commit_seconds: float = 0.0) -> Replica:
    """A leader with a batch of so many entries under way, after one that took so long to be committed."""
    leader = Replica().serve()
    leader.propose()
    leader.settle()
    leader.wait(commit_seconds)
    leader.acknowledge(2)
    leader.propose(*[b"x"] * entries)
    assert sealed(leader) == [(Kind.NORMAL, entries)]
    return leader


def sealed(leader: Replica) -> list[tuple[Kind, int]]:
    """Kind and number of entries of each batch that the last step sealed."""
    headers = [read_header(batch) for persist in leader.all(Persist) for batch in persist.batches]
    return [(header.kind, header.count) for header in headers]


def test_what_comes_meanwhile_is_one_batch_once_the_first_is_committed() -> None:
    leader = busy()
    for _ in range(3):
        leader.propose()
        assert sealed(leader) == []
    leader.sync()
    assert sealed(leader) == [], "synced here, and nowhere else yet"
    leader.acknowledge(2)
    assert sealed(leader) == [(Kind.NORMAL, 3)]


def test_with_few_clients_nothing_is_held_up() -> None:
    leader = busy(GATHER_FROM - 1)
    leader.propose()
    assert sealed(leader) == [(Kind.NORMAL, 1)]


def test_much_does_not_wait() -> None:
    leader = busy()
    leader.propose(b"x" * GATHER_BYTES)
    assert sealed(leader) == [(Kind.NORMAL, 1)]


def test_where_commits_take_long_nothing_is_held_up() -> None:
    leader = busy(commit_seconds=2 * GATHER_SECONDS)
    leader.propose()
    assert sealed(leader) == [(Kind.NORMAL, 1)]


def test_only_messages_are_held_up() -> None:
    leader = busy()
    leader.step(ProposeTick(leader.tokens + 1))
    assert sealed(leader) == [(Kind.TICK, 0)]


def test_nothing_waits_for_ever() -> None:
    """What waits is refused with the leadership, as whatever is in no log yet."""
    leader = busy()
    token = leader.propose(chunk=chunk_of(b"y"))
    leader.step(leader.beat(2, term=leader.state.term + 1))
    assert token in leader.outcomes()
