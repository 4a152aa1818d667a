"""Small nodes for tests: links and what rides on them, over a network in memory."""

import random
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

import trio

from trimaran.actors.peers.network import MemoryNetwork
from trimaran.actors.peers.peers import Peers
from trimaran.actors.peers.requests import Requests
from trimaran.actors.peers.wire import PROTOCOL_VERSION, FrameKind, Hello
from trimaran.storage.turns import Turns

LINK_BYTES = 1 << 20


class LinkedNode:
    """A node that has nothing but links and requests."""

    def __init__(
        self,
        number: int,
        name: str,
        known: Mapping[str, str],
        network: MemoryNetwork,
        speaks: int = PROTOCOL_VERSION,
    ) -> None:
        self.number = number
        hello = Hello(speaks, 1, 0, "test", number, number, name, f"{name}:1")
        others = {other: address for other, address in known.items() if other != name}
        self.peers = Peers(hello, network, random.Random(number), others, LINK_BYTES, Turns())
        self.requests = Requests(self.peers, 1)
        self.peers.handle(FrameKind.ASK, self.requests.on_ask)
        self.peers.handle(FrameKind.ANSWER, self.requests.on_answer)
        self.peers.on_down.append(self.requests.on_peer_down)
        self.changed = trio.Event()
        self.peers.on_up.append(lambda _: self._pulse())
        self.peers.on_down.append(lambda _: self._pulse())

    def _pulse(self) -> None:
        self.changed.set()
        self.changed = trio.Event()

    async def wait_linked(self, *others: int) -> None:
        """Return once links stand to exactly these nodes."""
        while set(self.peers.up()) != set(others):
            await self.changed.wait()


@asynccontextmanager
async def linked(
    network: MemoryNetwork, *names: str, speaks: Mapping[str, int] = {}
) -> AsyncIterator[list[LinkedNode]]:
    """Nodes 1, 2, ... of these names, every link up. `speaks`: whose protocol is not the newest."""
    known = {name: f"{name}:1" for name in names}
    nodes = [
        LinkedNode(number, name, known, network, speaks.get(name, PROTOCOL_VERSION))
        for number, name in enumerate(names, start=1)
    ]
    async with trio.open_nursery() as nursery:
        for node in nodes:
            await nursery.start(node.requests.run)
            listener = await network.listen(node.peers.me.address)
            await nursery.start(node.peers.run, listener)
        numbers = {node.number for node in nodes}
        for node in nodes:
            await node.wait_linked(*(numbers - {node.number}))
        yield nodes
        nursery.cancel_scope.cancel()
