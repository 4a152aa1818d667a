"""What the groups of a node keep of their logs in memory together, and what a replica alone keeps."""

import pytest

from trimaran.actors.raft.log import Log
from trimaran.actors.raft.log_cache import CacheBudget
from trimaran.actors.raft.messages import AppliedTo

from .replica import Replica, batch

SIZE = len(batch(1, 1, 0))


def grow(log: Log, count: int, *, synced: bool = True) -> None:
    for _ in range(count):
        index = log.last_index + 1
        log.append(batch(index, 1, 1 if index > 1 else 0), index, 1, 0)
        if synced:
            log.mark_synced(index)


@pytest.mark.parametrize("groups", [1, 3, 40])
def test_all_logs_together_stay_below_their_limit_and_each_keeps_its_newest(groups: int) -> None:
    budget = CacheBudget(400 * SIZE)
    logs = [Log(budget=budget) for _ in range(groups)]
    for _ in range(100):
        for log in logs:
            grow(log, 5)
            assert sum(each.cache_bytes for each in logs) <= budget.limit + SIZE
    for log in logs:
        assert log.cached_one(log.last_index) is not None
        assert log.cache_bytes == (log.last_index - log.cached_from + 1) * SIZE


def test_what_is_not_synced_stays_in_memory_whatever_others_hold() -> None:
    budget = CacheBudget(40 * SIZE)
    slow, quick = Log(budget=budget), Log(budget=budget)
    grow(slow, 60, synced=False)
    grow(quick, 200)
    assert slow.cached_from == 1
    assert quick.cache_bytes < budget.limit


def test_a_log_that_nobody_has_any_more_takes_nothing_from_the_others() -> None:
    budget = CacheBudget(400 * SIZE)
    gone, log = Log(budget=budget), Log(budget=budget)
    grow(gone, 300)
    del gone
    grow(log, 340)
    assert log.cached_from == 1


def test_a_replica_alone_keeps_nothing_in_memory_that_is_applied() -> None:
    alone = Replica(voters=(1,)).serve()
    for _ in range(3):
        alone.propose()
        alone.settle()
    log = alone.state.log
    assert log.cached_from == 1
    alone.step(AppliedTo(log.last_index - 1))
    assert log.cached_from == log.last_index


def test_a_replica_with_others_keeps_what_they_may_want() -> None:
    leader = Replica().serve()
    leader.propose()
    leader.settle()
    leader.acknowledge(2)
    leader.step(AppliedTo(leader.state.commit))
    assert leader.state.log.cached_from == 1
