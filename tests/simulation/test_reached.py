"""Links of the simulated cluster are those that a node can see, and the states that seeds reach are told."""

from trimaran.testing import Options, Report
from trimaran.testing.cluster import Cluster
from trimaran.testing.core import play
from trimaran.testing.reached import STATES
from trimaran.testing.seeds import Streams
from trimaran.testing.soaking import Total


def closed(cluster: Cluster) -> dict[int, list[int]]:
    return {process.id: sorted(cluster.state(process.id).closed_links) for process in cluster.up()}


def test_whoever_was_told_that_a_link_closed_is_told_that_it_is_open_again() -> None:
    cluster = Cluster(Streams(1))
    cluster.isolate(1)
    assert closed(cluster) == {1: [2, 3], 2: [1], 3: [1]}
    cluster.heal(notice=False)
    assert closed(cluster) == {1: [], 2: [], 3: []}


def test_the_end_of_a_link_is_no_news_once_there_is_a_new_one() -> None:
    """A node has one link to another; its end is told before the next one is up, or never."""
    for seed in range(20):
        cluster = Cluster(Streams(seed))
        process = cluster.processes[1]
        cluster.crash(process, power=False, down_for=1e-6)
        cluster.heap.run(0.2)
        assert process.up and closed(cluster) == {1: [], 2: [], 3: []}


def test_what_seeds_reach_has_its_name() -> None:
    reports = [play(seed, Options(1.0)) for seed in range(5)]
    assert {name for report in reports for name in report.reached} <= set(STATES)
    assert any("a leader rests" in report.reached for report in reports)


def test_a_soak_tells_what_few_seeds_or_none_reached() -> None:
    total = Total()
    often, once, never = STATES[:3]
    for seed in range(200):
        total.add(Report(seed, "core", reached={often: 7, **({once: 1} if seed == 5 else {})}))
    rare = total.rare()
    assert often not in rare and (rare[once], rare[never]) == (1, 0)
    assert list(rare)[-1] == once
