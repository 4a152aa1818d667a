"""Nodes come, go and replace each other while clients write: one becomes three, then four, then three."""

from contextlib import suppress

import pytest
import trio
from trio.testing import MockClock

from tests.actors.cluster import OPTIONS, Cluster, open_memory_cluster, until
from tests.actors.load import ask, assignment, load, scale, settled
from trimaran.actors.cluster.meta import NOT_INVITED
from trimaran.actors.cluster.meta_state import META_GROUP, NodeRecord
from trimaran.actors.node import NodeRemoved
from trimaran.actors.peers.requests import Refusal
from trimaran.actors.raft.outcomes import Applied

API = "$TRIMARAN.API.CLUSTER."


async def invite(cluster: Cluster, via: str, name: str, **more: str) -> None:
    """`trimaran cluster add` (with `replaces`: `replace`), then the new node, until it votes."""
    cluster.add(name)
    what = "REPLACE" if more else "ADD"
    answer = await ask(cluster, via, API + what, name=name, address=cluster.addresses[name], **more)
    assert answer.get("success") is True, answer
    await cluster.start(name)
    await cluster.ready(name)


async def leave(cluster: Cluster, via: str, name: str) -> None:
    """`trimaran cluster remove`; return once the node's process has ended by itself."""
    member = cluster.members[name]
    answer = await ask(cluster, via, API + "REMOVE", name=name)
    assert answer.get("success") is True, answer
    with trio.fail_after(30):
        await member.gone.wait()
    assert isinstance(member.ended_by, NodeRemoved)
    del cluster.addresses[name]


def meta_voters(cluster: Cluster, name: str) -> set[int]:
    group = cluster[name].groups.get(META_GROUP)
    assert group is not None
    return set(group.state.membership.voters)


async def test_one_node_becomes_three_then_four_then_three_under_load(autojump_clock: MockClock) -> None:
    async with open_memory_cluster("a") as cluster, load(cluster, "a", 1) as running:
        await invite(cluster, "a", "b")
        await invite(cluster, "a", "c")
        await scale(cluster, "a", 3)
        await invite(cluster, "c", "d")
        await until(lambda: len(meta_voters(cluster, "a")) == 4)
        await leave(cluster, "a", "b")
        await settled(cluster, "a")
        await until(lambda: len(meta_voters(cluster, "a")) == 3)
        ids = {cluster[name].me.node for name in "acd"}
        assert set(assignment(cluster, "a").replicas) == ids == meta_voters(cluster, "a")
        before = len(running.acknowledged)
        await until(lambda: len(running.acknowledged) > before + 20)


async def test_the_leader_of_everything_can_be_removed(autojump_clock: MockClock) -> None:
    async with open_memory_cluster("a", "b", "c", "d") as cluster, load(cluster, "a", 3) as running:
        await until(lambda: len(cluster.leaders(META_GROUP)) == 1)
        leader = cluster.leader(META_GROUP)
        if leader == "a":  # the writers' own node stays
            await cluster["a"].desk.transfer(META_GROUP, "b")
            await until(lambda: cluster.leaders(META_GROUP) == ["b"])
            leader = "b"
        group = assignment(cluster, "a").group
        if cluster[leader].me.node in assignment(cluster, "a").replicas:
            await cluster[cluster.leader(group)].desk.transfer(group, leader)
            await until(lambda: cluster.leaders(group) == [leader])
        running.begin()
        await leave(cluster, "a", leader)
        assert running.longest_pause < OPTIONS.election_min_ms / 1000, "whoever leads hands over first"


async def test_two_nodes_become_one_even_if_the_leader_leaves(autojump_clock: MockClock) -> None:
    async with open_memory_cluster("a", "b") as cluster, load(cluster, "a", 1):
        await cluster[cluster.leader(META_GROUP)].desk.transfer(META_GROUP, "b")
        await leave(cluster, "a", "b")
        await until(lambda: cluster.leaders(META_GROUP) == ["a"])


async def test_a_replaced_node_hands_its_only_copy_over_before_it_goes(autojump_clock: MockClock) -> None:
    async with open_memory_cluster(seed=2) as cluster, load(cluster, "a", 1):
        [only] = assignment(cluster, "a").replicas
        holder = cluster["a"].state.nodes[only].name
        assert holder != "a", "the seed is to leave the writers' node alone"
        member = cluster.members[holder]
        await invite(cluster, "a", "d", replaces=holder)
        with trio.fail_after(30):
            await member.gone.wait()
        assert isinstance(member.ended_by, NodeRemoved)
        assert assignment(cluster, "a").replicas == (cluster["d"].me.node,)


async def test_a_removed_node_that_was_away_is_told_when_it_comes_back(autojump_clock: MockClock) -> None:
    async with open_memory_cluster("a", "b", "c", "d") as cluster, load(cluster, "a", 3):
        await cluster.crash("d")
        assert (await ask(cluster, "a", API + "REMOVE", name="d"))["success"] is True
        await until(lambda: len(meta_voters(cluster, "a")) == 3)
        member = cluster.members["d"]
        await cluster.start("d")
        with trio.fail_after(10):
            await member.gone.wait()
        assert isinstance(member.ended_by, NodeRemoved)
        assert "never returns" in str(member.ended_by)


async def test_nobody_joins_uninvited_and_an_invitation_can_be_taken_back(autojump_clock: MockClock) -> None:
    async with open_memory_cluster() as cluster:
        cluster.add("d")
        await cluster.start("d")
        await trio.sleep(3)
        assert not cluster["d"].ready.is_set() and len(cluster["a"].state.nodes) == 3
        command = {"op": "join", "node": 77, "name": "d", "address": "d:1"}
        refused = await cluster["a"].desk.propose_meta(command)
        assert isinstance(refused, Applied) and isinstance(refused.result, dict)
        assert refused.result["error"]["err_code"] == NOT_INVITED
        assert (await ask(cluster, "a", API + "ADD", name="d", address="d:9"))["success"] is True
        assert (await ask(cluster, "a", API + "REMOVE", name="d"))["success"] is True
        assert not cluster["a"].state.invited


async def test_who_asks_to_join_without_a_majority_takes_no_name_from_who_bears_it_later(
    autojump_clock: MockClock,
) -> None:
    """It may be dead by the time there is a leader: a disk that was wiped, and wiped again."""
    async with open_memory_cluster() as cluster, trio.open_nursery() as nursery:
        bearer = cluster["b"].me
        for name in "abc":
            await cluster.crash(name)
        await cluster.start("c")
        await until(lambda: cluster["c"].groups.get(META_GROUP) is not None)

        async def ask_and_die() -> None:
            with suppress(Refusal, trio.TooSlowError):
                await cluster["c"].member.take_in(NodeRecord(77, bearer.name, bearer.address))

        nursery.start_soon(ask_and_die)
        await trio.sleep(0.1)
        for name in "ab":
            await cluster.start(name)
        await trio.sleep(5)
        await cluster.ready()
        assert cluster["c"].state.node_named("b") == bearer and not cluster["c"].state.removed


async def test_who_asks_to_join_in_vain_leaves_nothing_in_the_log(autojump_clock: MockClock) -> None:
    """It asks ten times a second; here the others dial it, since it was invited once."""
    async with open_memory_cluster() as cluster:
        cluster.add("d")
        await ask(cluster, "a", API + "ADD", name="d", address="d:1")
        await ask(cluster, "a", API + "REMOVE", name="d")
        meta = cluster["a"].groups.get(META_GROUP)
        assert meta is not None
        before = meta.state.log.last_index
        await cluster.start("d")
        await until(lambda: "d" in cluster["a"].peers.linked())
        await trio.sleep(3)
        assert not cluster["d"].ready.is_set()
        assert meta.state.log.last_index == before
        await ask(cluster, "a", API + "ADD", name="d", address="d:1")
        await until(cluster["d"].ready.is_set)


@pytest.mark.parametrize(
    ("what", "body", "why"),
    [
        ("REMOVE", {"name": "x"}, "no node x"),
        ("REMOVE", {"name": "c"}, "scale down first: ORDERS"),
        ("ADD", {"name": "a", "address": "a:1"}, "a member already"),
        ("ADD", {"name": "d d", "address": "d:1"}, "blank"),
        ("ADD", {"name": "d", "address": "b:1"}, "b:1 is the address of node b"),
        ("REPLACE", {"name": "d", "address": "b:1", "replaces": "c"}, "b:1 is the address of node b"),
        ("ADD", {"name": "d", "address": "d"}, "not HOST:PORT"),
        ("ADD", {"name": "d", "address": "a..b:5"}, "can't be a host's name"),
        ("ADD", {"name": "d"}, "address is missing"),
        ("REPLACE", {"name": "d", "address": "d:1", "replaces": "x"}, "no node x"),
    ],
)
async def test_what_makes_no_sense_is_refused_in_words(
    autojump_clock: MockClock, what: str, body: dict[str, str], why: str
) -> None:
    async with open_memory_cluster() as cluster, load(cluster, "a", 3):
        answer = await ask(cluster, "b", API + what, **body)
        assert why in str(answer["error"])


async def test_the_cluster_tells_who_belongs_to_it(autojump_clock: MockClock) -> None:
    async with open_memory_cluster() as cluster, load(cluster, "a", 3):
        await ask(cluster, "a", API + "ADD", name="d", address="d:1")
        info = await ask(cluster, "c", API + "INFO")
        nodes = info["nodes"]
        assert isinstance(nodes, list)
        assert [(node["name"], node["state"]) for node in nodes] == [
            ("a", "member"),
            ("b", "member"),
            ("c", "member"),
            ("d", "invited"),
        ]
        assert [node["replicas"] for node in nodes[:3]] == [1, 1, 1]
        assert sum(node["leads"] for node in nodes[:3]) == 1


async def test_who_was_removed_before_the_log_had_it_is_gone_as_well(autojump_clock: MockClock) -> None:
    async with open_memory_cluster("a", "b") as cluster:
        node, early = cluster["a"], 0xDEAD
        assert not node.member.is_gone(early)
        node.state.removed |= {early, cluster["b"].me.node}
        assert node.member.is_gone(early), "nobody would ever tell it"
        assert not node.member.is_gone(cluster["b"].me.node), (
            "it is still a member, and its vote may be needed"
        )


async def test_a_removed_node_that_nobody_reaches_is_told_when_it_dials(autojump_clock: MockClock) -> None:
    """As after its restart: its own connections stand; the others know by now and refuse its greeting."""
    async with open_memory_cluster("a", "b", "c", "d") as cluster:
        member, leaving = cluster.members["d"], cluster["d"].me.node
        others = [cluster[name].peers for name in "abc"]
        for peers in others:
            peers.learn("d", "nowhere:1")
        await until(lambda: not any(leaving in peers.up() for peers in others))
        assert (await ask(cluster, "a", API + "REMOVE", name="d"))["success"] is True
        with trio.fail_after(30):
            await member.gone.wait()
        assert isinstance(member.ended_by, NodeRemoved)


async def test_the_name_of_a_removed_node_is_dialled_seldom(autojump_clock: MockClock) -> None:
    """It is in the options of the others, perhaps for years."""
    async with open_memory_cluster("a", "b", "c", "d") as cluster:
        assert all(cluster["a"].member.is_wanted(name) for name in "bcd")
        await cluster.crash("d")
        assert (await ask(cluster, "a", API + "REMOVE", name="d"))["success"] is True
        await until(lambda: not any(cluster[name].member.is_wanted("d") for name in "abc"))
        await ask(cluster, "a", API + "ADD", name="d", address="d:1")
        await until(lambda: all(cluster[name].member.is_wanted("d") for name in "abc"))
        assert cluster["a"].member.is_wanted("b")
