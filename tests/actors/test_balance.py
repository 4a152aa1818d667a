"""Replicas and leaderships are spread over the nodes, and go back there without disturbing anybody."""

import trio
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import MockClock

from tests.actors.cluster import OPTIONS, Cluster, open_memory_cluster, until
from tests.actors.load import assignment, load, settled
from tests.actors.test_backup import Asked
from tests.actors.test_nodes import invite
from trimaran import open_stream
from trimaran.actors.cluster import placement
from trimaran.actors.cluster.balancer import LOOK_SECONDS
from trimaran.commands.rebalance import even_out

replica_sets = st.dictionaries(
    st.integers(2, 30),
    st.lists(st.integers(1, 6), min_size=1, max_size=5, unique=True).map(tuple),
    max_size=20,
)


def counts(values: list[int], nodes: range) -> list[int]:
    return [values.count(node) for node in nodes]


@given(sets=replica_sets)
def test_evened_out_sets_keep_their_sizes_and_are_even(sets: dict[int, tuple[int, ...]]) -> None:
    nodes = range(1, 7)
    after = sets | placement.even_out(sets, nodes, moves=1000)
    assert {group: len(set(replicas)) for group, replicas in after.items()} == {
        group: len(replicas) for group, replicas in sets.items()
    }
    held = counts([node for replicas in after.values() for node in replicas], nodes)
    assert max(held) - min(held) <= 1
    assert placement.even_out(after, nodes, moves=1000) == {}, "what is even stays as it is"


@given(sets=replica_sets, moves=st.integers(0, 5))
def test_no_more_replicas_move_than_allowed(sets: dict[int, tuple[int, ...]], moves: int) -> None:
    changed = placement.even_out(sets, range(1, 7), moves)
    assert sum(len(set(replicas) - set(sets[group])) for group, replicas in changed.items()) <= moves


async def streams(cluster: Cluster, count: int, replicas: int = 3) -> None:
    for number in range(count):
        await open_stream(cluster["a"], f"S{number}", [f"s{number}.>"], replicas=replicas)


def held(cluster: Cluster) -> dict[str, int]:
    state = cluster["a"].state
    every = [node for group in state.groups.values() for node in group.replicas]
    return {record.name: every.count(record.node) for record in state.nodes.values()}


def led(cluster: Cluster) -> dict[str, int]:
    nodes = {name: member.node for name, member in cluster.members.items() if member.node is not None}
    return {name: len(node.groups.led_by_me().keys() - {1}) for name, node in nodes.items()}


def at_home(cluster: Cluster, name: str) -> bool:
    """Whether a node leads exactly the groups in whose replica sets it comes first."""
    node = cluster[name]
    home = {each.group for each in node.state.groups.values() if each.replicas[0] == node.me.node}
    return home == node.groups.led_by_me().keys() - {1}


async def test_streams_and_leaders_spread_over_a_larger_cluster(autojump_clock: MockClock) -> None:
    async with open_memory_cluster("a", "b", "c", "d", "e") as cluster:
        await streams(cluster, 10)
        assert set(held(cluster).values()) == {6}
        await until(lambda: set(led(cluster).values()) == {2})


async def test_a_restarted_node_gets_its_quiet_groups_back_and_a_busy_one_stays(
    autojump_clock: MockClock,
) -> None:
    async with open_memory_cluster() as cluster:
        async with load(cluster, "a", 3, pause=0.1):
            await streams(cluster, 8)
            busy = assignment(cluster, "a").group
            home = cluster["a"].state.nodes[assignment(cluster, "a").replicas[0]].name
            if home == "a":  # the writers' own node stays up
                home = "b"
                await cluster[cluster.leader(busy)].desk.transfer(busy, home)
            await until(lambda: at_home(cluster, home) or home == "b")
            quiet = cluster[home].groups.led_by_me().keys() - {1, busy}
            await cluster.crash(home)
            await until(lambda: len(cluster.leaders(busy)) == 1)
            taken_over = cluster.leader(busy)
            await cluster.start(home)
            await cluster.ready()
            await until(lambda: quiet <= cluster[home].groups.led_by_me().keys())
            await trio.sleep(3 * LOOK_SECONDS)
            assert cluster.leader(busy) == taken_over, "a busy group is not disturbed"
        await until(lambda: all(at_home(cluster, name) for name in "abc"))


async def test_a_step_down_is_not_undone(autojump_clock: MockClock) -> None:
    async with open_memory_cluster() as cluster:
        await streams(cluster, 1)
        await trio.sleep(3 * LOOK_SECONDS)
        group = assignment(cluster, "a", "S0").group
        first = cluster.leader(group)
        other = next(name for name in "abc" if name != first)
        assert await cluster[first].desk.transfer(group, other)
        await until(lambda: cluster.leaders(group) == [other])
        await trio.sleep(5 * LOOK_SECONDS)
        assert cluster.leader(group) == other


async def test_rebalancing_fills_new_nodes_under_load(autojump_clock: MockClock) -> None:
    async with open_memory_cluster() as cluster, load(cluster, "a", 3, pause=0.1) as running:
        await streams(cluster, 9)
        for name in ("d", "e"):
            await invite(cluster, "a", name)
        assert held(cluster)["d"] == 0
        await even_out(Asked(cluster, "d"), lambda _: None)
        assert set(held(cluster).values()) == {6}
        for number in range(9):
            await settled(cluster, "a", f"S{number}")
        await until(lambda: all(at_home(cluster, name) for name in "abcde"))
        assert max(led(cluster).values()) - min(led(cluster).values()) <= 2
        before = len(running.acknowledged)
        await until(lambda: len(running.acknowledged) > before + 20)


async def test_writes_pause_for_less_than_an_election_timeout_while_leadership_moves(
    autojump_clock: MockClock,
) -> None:
    async with open_memory_cluster() as cluster, load(cluster, "a", 3) as running:
        group = assignment(cluster, "a").group
        for name in "bcabcb":
            running.begin()
            leader = cluster.leader(group)
            if leader != name:
                assert await cluster[leader].desk.transfer(group, name)
            await until(lambda: cluster.leaders(group) == [name])
            before = len(running.acknowledged)
            await until(lambda: len(running.acknowledged) > before + 20)
            assert running.longest_pause < OPTIONS.election_min_ms / 1000


async def test_a_node_that_is_stopped_hands_over_before_anyone_misses_it(autojump_clock: MockClock) -> None:
    async with open_memory_cluster() as cluster, load(cluster, "a", 3) as running:
        group = assignment(cluster, "a").group
        leader = cluster.leader(group)
        if leader == "a":  # the writers' own node stays
            await cluster["a"].desk.transfer(group, "b")
            await until(lambda: cluster.leaders(group) == ["b"])
            leader = "b"
        running.begin()
        await cluster.stop(leader)
        before = len(running.acknowledged)
        await until(lambda: len(running.acknowledged) > before + 20)
        assert running.longest_pause < OPTIONS.election_min_ms / 1000
        await cluster.start(leader)
        await cluster.ready()
