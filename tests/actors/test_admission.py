"""`admit = anybody`: servers that are told of one other find each other, and clients learn of all of them."""

import json
from dataclasses import replace
from typing import Any

import trio
from trio.testing import MockClock

from tests.actors.cluster import OPTIONS, Cluster, until
from tests.actors.test_nodes import meta_voters
from trimaran.actors.gateway.memory_port import MemoryPeer

OPEN = replace(OPTIONS, admit="anybody")
HELLO = b'CONNECT {"verbose":false,"protocol":1}\r\nPING\r\n'


def infos(peer: MemoryPeer) -> list[dict[str, Any]]:
    """Every INFO it has been sent."""
    lines = bytes(peer.received).split(b"\r\n")
    return [json.loads(line[5:]) for line in lines if line.startswith(b"INFO ")]


async def connect(cluster: Cluster, name: str) -> MemoryPeer:
    peer = cluster.members[name].port.connect()
    peer.send(HELLO)
    await peer.until(lambda _: b"PONG\r\n" in peer.received)
    return peer


async def start_knowing(cluster: Cluster, name: str, *known: str) -> None:
    """Start a node that is told of these others alone."""
    everybody = cluster.addresses
    cluster.addresses = {each: everybody[each] for each in (name, *known)}
    await cluster.start(name)
    cluster.addresses = everybody


async def test_servers_that_know_one_seed_become_one_cluster(autojump_clock: MockClock) -> None:
    async with trio.open_nursery() as nursery:
        cluster = Cluster(nursery, ("a", "b", "c"), {}, OPEN, 1)
        await start_knowing(cluster, "a")
        client = await connect(cluster, "a")
        assert "connect_urls" not in infos(client)[-1], "there is nobody else"
        await start_knowing(cluster, "b", "a")
        await start_knowing(cluster, "c", "a")
        await until(lambda: len(infos(client)[-1].get("connect_urls", ())) == 3)
        await cluster.ready()
        await until(lambda: all(len(meta_voters(cluster, name)) == 3 for name in "abc"))
        at_c = await connect(cluster, "c")
        await until(lambda: len(infos(at_c)[-1].get("connect_urls", ())) == 3)  # b was found through a
        await cluster.crash("b")
        await until(lambda: len(infos(client)[-1].get("connect_urls", ())) == 2)
        nursery.cancel_scope.cancel()


async def test_a_seed_that_lost_its_disk_comes_back_to_the_others(autojump_clock: MockClock) -> None:
    async with trio.open_nursery() as nursery:
        cluster = Cluster(nursery, ("a", "b", "c"), {}, OPEN, 2)
        await start_knowing(cluster, "a")
        await start_knowing(cluster, "b", "a")
        await start_knowing(cluster, "c", "a")
        await cluster.ready()
        await until(lambda: all(len(meta_voters(cluster, name)) == 3 for name in "abc"))
        first = cluster["b"].peers.me.cluster
        await cluster.crash("a")
        cluster.wipe("a")
        await start_knowing(cluster, "a")
        await cluster.ready("a")
        assert cluster["a"].peers.me.cluster == first
        await until(lambda: cluster["a"].me.node in meta_voters(cluster, "b"))
        nursery.cancel_scope.cancel()


async def test_nobody_comes_in_uninvited_unless_told_so(autojump_clock: MockClock) -> None:
    async with trio.open_nursery() as nursery:
        cluster = Cluster(nursery, ("a", "b"), {}, OPTIONS, 3)
        await start_knowing(cluster, "a")
        await cluster.ready("a")
        await start_knowing(cluster, "b", "a")
        await trio.sleep(20)
        assert not cluster["b"].ready.is_set() and len(cluster["a"].state.nodes) == 1
        nursery.cancel_scope.cancel()


async def test_lists_that_differ_found_nothing(autojump_clock: MockClock) -> None:
    """Else b and c, who both list a alone, would each found a cluster of two with it."""
    async with trio.open_nursery() as nursery:
        cluster = Cluster(nursery, ("a", "b", "c"), {}, OPTIONS, 4)
        await start_knowing(cluster, "a", "b", "c")
        await start_knowing(cluster, "b", "a")
        await start_knowing(cluster, "c", "a")
        await trio.sleep(20)
        assert [cluster[name].peers.me.cluster for name in "abc"] == [0, 0, 0]
        for name in "bc":  # told of everybody, they found one
            await cluster.crash(name)
            await cluster.start(name)
        await cluster.ready()
        assert len({cluster[name].peers.me.cluster for name in "abc"}) == 1
        nursery.cancel_scope.cancel()
