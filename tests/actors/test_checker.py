"""The invariant checker: silent on right histories, loud on each kind of wrong one, free when it is off."""

from collections.abc import Callable
from dataclasses import replace

import pytest
from trio.testing import MockClock

from tests.actors.cluster import OPTIONS, Cluster, open_memory_cluster, until
from tests.actors.test_cluster import count_until_taken
from trimaran.actors.cluster.meta_state import META_GROUP
from trimaran.actors.raft import follower, leader
from trimaran.actors.raft.checker import Checker, Violation
from trimaran.actors.raft.events import (
    Appended,
    BatchApplied,
    Committed,
    Compacted,
    Event,
    Installed,
    Replica,
    RoleTaken,
    Started,
    Truncated,
    Voted,
)
from trimaran.actors.raft.log import EntryId
from trimaran.actors.raft.membership import Change, ChangeKind, Membership
from trimaran.actors.raft.state import Role
from trimaran.codec import EntryType, Kind, make_chunk
from trimaran.testing import Options
from trimaran.testing.core import play


class History:
    """Events of a group of three that starts empty, and what the checker has to say."""

    def __init__(self, memory: int = 100) -> None:
        self.violations: list[Violation] = []
        self.checker = Checker(self.violations.append, memory)
        for node in (1, 2, 3):
            self.start(node)

    def start(
        self, node: int, commit: int = 0, last: int = 0, terms: tuple[tuple[int, int], ...] = ()
    ) -> None:
        self.checker(
            Started(
                **who(node),
                term=terms[-1][1] if terms else 0,
                vote=0,
                commit=commit,
                compacted=EntryId(0, 0),
                last_index=last,
                terms=terms,
            )
        )

    def role(self, node: int, role: Role, term: int, leader: int = 0) -> None:
        self.checker(RoleTaken(**who(node), role=role, term=term, leader=leader))

    def lead(self, node: int, term: int) -> None:
        self.role(node, Role.LEADER, term, node)

    def append(self, index: int, term: int, previous: int, *nodes: int, crc: int | None = None) -> None:
        for node in nodes:
            self.checker(
                Appended(
                    **who(node),
                    index=index,
                    term=term,
                    previous_term=previous,
                    crc=index * 100 + term if crc is None else crc,
                    kind=Kind.NORMAL,
                )
            )

    def commit(self, node: int, index: int) -> None:
        self.checker(Committed(**who(node), index=index))

    def rules(self) -> list[str]:
        return [violation.rule for violation in self.violations]


def who(node: int) -> Replica:
    return {"node": node, "group": 2, "incarnation": 7}


def two_leaders(history: History) -> None:
    history.lead(1, 1)
    history.lead(2, 1)


def a_follower_hears_another_leader(history: History) -> None:
    history.lead(1, 1)
    history.role(3, Role.FOLLOWER, 1, 2)


def two_votes(history: History) -> None:
    history.checker(Voted(**who(1), term=4, vote=2))
    history.checker(Voted(**who(1), term=4, vote=3))


def a_term_falls(history: History) -> None:
    history.role(1, Role.FOLLOWER, 4)
    history.role(1, Role.FOLLOWER, 3)


def a_leader_truncates(history: History) -> None:
    history.lead(1, 1)
    history.append(1, 1, 0, 1)
    history.checker(Truncated(**who(1), first=1))


def two_batches_at_one_place(history: History) -> None:
    history.append(1, 1, 0, 1)
    history.append(1, 1, 0, 2, crc=5)


def a_hole(history: History) -> None:
    history.append(2, 1, 0, 1)


def a_wrong_predecessor(history: History) -> None:
    history.append(1, 1, 0, 1)
    history.append(2, 3, 2, 1)


def a_leader_lacks_a_commit(history: History) -> None:
    history.lead(1, 1)
    history.append(1, 1, 0, 1, 2)
    history.commit(1, 1)
    history.lead(3, 2)


def an_old_term_is_counted(history: History) -> None:
    history.append(1, 1, 0, 1, 2)
    history.lead(1, 2)
    history.commit(1, 1)


def two_commits_at_an_index(history: History) -> None:
    history.append(1, 1, 0, 1)
    history.append(1, 2, 0, 2)
    history.commit(1, 1)
    history.commit(2, 1)


def two_states(history: History) -> None:
    history.checker(BatchApplied(**who(1), index=1, rolling_hash=11))
    history.checker(BatchApplied(**who(2), index=1, rolling_hash=12))


def a_commit_falls(history: History) -> None:
    history.append(1, 1, 0, 1)
    history.append(2, 1, 1, 1)
    history.commit(1, 2)
    history.commit(1, 1)


def a_commit_beyond_the_log(history: History) -> None:
    history.commit(1, 1)


def a_committed_batch_is_truncated(history: History) -> None:
    history.append(1, 1, 0, 1)
    history.commit(1, 1)
    history.checker(Truncated(**who(1), first=1))


@pytest.mark.parametrize(
    ("wrong", "rule"),
    [
        (two_leaders, "election safety"),
        (a_follower_hears_another_leader, "election safety"),
        (two_votes, "one vote"),
        (a_term_falls, "one vote"),
        (a_leader_truncates, "leader append-only"),
        (two_batches_at_one_place, "log matching"),
        (a_hole, "log matching"),
        (a_wrong_predecessor, "log matching"),
        (a_leader_lacks_a_commit, "leader completeness"),
        (an_old_term_is_counted, "own term"),
        (two_commits_at_an_index, "state machine safety"),
        (two_states, "state machine safety"),
        (a_commit_falls, "commit monotone"),
        (a_commit_beyond_the_log, "commit monotone"),
        (a_committed_batch_is_truncated, "commit monotone"),
    ],
)
def test_each_broken_rule_is_named(wrong: Callable[[History], None], rule: str) -> None:
    history = History()
    wrong(history)
    assert history.rules() == [rule]
    assert rule in str(history.violations[0]) and "group 2" in str(history.violations[0])


def test_a_right_history_is_not_complained_about() -> None:
    history = History()
    history.lead(1, 1)
    history.append(1, 1, 0, 1, 2, 3)
    history.append(2, 1, 1, 1, 2)
    history.append(3, 1, 1, 1)
    history.commit(1, 1)
    history.commit(2, 1)
    history.lead(2, 2)  # 1 was cut off; 3 voted for 2
    history.append(3, 2, 1, 2)
    history.role(1, Role.FOLLOWER, 2, 2)
    history.checker(Truncated(**who(1), first=3))
    history.append(3, 2, 1, 1)
    history.commit(2, 3)
    history.checker(Installed(**who(3), index=3, term=2, last_index=3))
    history.append(4, 2, 2, 2, 1, 3)
    history.checker(Compacted(**who(1), index=3, term=2))
    history.start(1, commit=1, last=3, terms=((1, 1), (3, 2)))
    history.append(4, 2, 2, 1)
    history.commit(1, 4)
    assert history.rules() == []


def test_what_it_remembers_is_bounded() -> None:
    history = History(memory=10)
    history.lead(1, 1)
    for index in range(1, 101):
        history.append(index, 1, int(index > 1), 1)
        history.commit(1, index)
    assert history.rules() == []
    history.append(5, 1, 0, 2)  # a hole, but nobody remembers batch 5
    [group] = history.checker._groups.values()
    assert max(len(group.batches), len(group.committed), len(group.states)) <= 10


# --- planted in the rules themselves ------------------------------------------------------------------------


def found_within(seeds: int) -> bool:
    return any(play(seed, Options()).violations for seed in range(seeds))


@pytest.mark.parametrize(
    "planted",
    [
        (leader, "quorum_match", lambda state: state.log.last_index),
        (follower, "may_grant", lambda state, message, now: True),
        (Membership, "is_quorum", lambda members, nodes: len(nodes) > 0),
    ],
    ids=["no majority", "any vote", "no quorum"],
)
def test_the_simulator_finds_planted_bugs(
    planted: tuple[object, str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that a green run of the simulator means something."""
    module, name, bug = planted
    monkeypatch.setattr(module, name, bug)
    assert found_within(20)


# --- in a node ----------------------------------------------------------------------------------------------


async def test_without_a_hook_no_event_is_made(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*arguments: object) -> None:
        raise AssertionError("somebody pays for events that nobody hears")

    async with open_memory_cluster("solo") as cluster:
        group = cluster["solo"].groups.get(META_GROUP)
        assert group is not None
        group.listen = None
        for name in ("events_of", "BatchApplied", "started"):
            monkeypatch.setattr(f"trimaran.actors.replica.group.{name}", never)
        await group.tick()


class Hearing(Checker):
    """Remembers the kinds of events that each group had."""

    def __init__(self, cluster: Cluster) -> None:
        super().__init__(cluster.violations.append)
        self.heard: dict[int, set[str]] = {}

    def __call__(self, event: Event) -> None:
        self.heard.setdefault(event.group, set()).add(type(event).__name__)
        super().__call__(event)


async def test_every_kind_of_event_is_heard(autojump_clock: MockClock) -> None:
    """Role, term, vote, append, truncation, commit, application, membership and snapshot, both ways."""
    async with open_memory_cluster() as cluster:
        handle = await cluster.counter("a")
        for name in "abc":
            await cluster.stop(name)
        cluster.checker = hearing = Hearing(cluster)
        for name in "abc":
            await cluster.start(name)
        await cluster.ready()
        alone = cluster.leader(handle.group)
        near, away = [name for name in "abc" if name != alone]
        led = cluster[alone].groups.led_by_me()[handle.group]
        for name in (near, away):
            await cluster.crash(name)
        led.propose(make_chunk([(EntryType.OPAQUE, b"lost")]), lambda outcome: None)
        await until(lambda: led.state.log.synced == led.state.log.last_index > led.state.commit)
        await cluster.crash(alone)
        for name in (near, away):
            await cluster.start(name)
        await until(lambda: len(cluster.leaders(handle.group)) == 1)
        await count_until_taken(cluster, near, handle.group, b"kept")
        await cluster.start(alone)
        await cluster.ready()
        await cluster.crash(away)
        await until(lambda: len(cluster.leaders(handle.group)) == 1)
        led = cluster[cluster.leader(handle.group)].groups.led_by_me()[handle.group]
        while led.snapshots.taken < 3:
            await count_until_taken(cluster, near, handle.group, b"x" * 12_000)
        await cluster.start(away)
        await cluster.ready()
        await led.change_membership(Change(ChangeKind.REMOVE, cluster[away].me.node))
        kinds = {kind.__name__ for kind in Event.__subclasses__()}
        kinds.remove("Diverged")  # its test is `test_divergence.py`
        assert hearing.heard[handle.group] == kinds and len(kinds) == 10


async def test_in_production_a_broken_rule_stops_the_group_and_nothing_else(
    autojump_clock: MockClock,
) -> None:
    async with open_memory_cluster(options=replace(OPTIONS, check_invariants="on")) as cluster:
        handle = await cluster.counter("a")
        node = cluster[cluster.leader(handle.group)]
        group = node.groups.get(handle.group)
        assert group is not None and group.listen is not None
        stranger = group.state.node + 1
        replica: Replica = {
            "node": stranger,
            "group": group.number,
            "incarnation": group.incarnation,
        }
        term = group.state.term
        started = Started(
            **replica, term=term, vote=0, commit=0, compacted=EntryId(0, 0), last_index=0, terms=()
        )
        group.listen(started)
        group.listen(RoleTaken(**replica, role=Role.FOLLOWER, term=term, leader=stranger))
        await until(lambda: bool(group.failed))
        assert "election safety" in group.failed
        assert [reason for reason in node.vitals.health() if "election safety" in reason]
        meta = node.groups.get(META_GROUP)
        assert meta is not None and not meta.failed
        others = [name for name in "abc" if cluster[name] is not node]
        await until(lambda: cluster.leaders(handle.group) in ([others[0]], [others[1]]))
        cluster.violations.clear()  # the planted one
