"""What happens to the nodes of a cluster in memory: a disk that takes its time, a network that takes its
time, loses connections, or swallows what it is given.

Each draws what it does from a seeded source, so a run repeats.
"""

from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from random import Random
from typing import TypeVar, cast

import outcome
import trio

from trimaran.actors.peers.network import Listener, MemoryNetwork
from trimaran.codec import Buffer
from trimaran.storage import Disk, Lane

T = TypeVar("T")


class SlowRunner:
    """Runs blocking calls in lanes, each call after a moment of virtual time, as the threads of a node do."""

    def __init__(self, nursery: trio.Nursery, random: Random, longest: float) -> None:
        self._nursery = nursery
        self._random = random
        self._longest = longest
        self._lanes: dict[Lane, _Lane] = {}

    async def run(self, lane: Lane, function: Callable[..., T], *args: object) -> T:
        done = trio.Event()
        outcomes: list[outcome.Maybe[T]] = []

        def job() -> None:
            outcomes.append(outcome.capture(function, *args))
            done.set()

        self._lane(lane).give(job)
        await done.wait()
        return outcomes[0].unwrap()

    async def write_and_sync(
        self, disk: Disk, descriptor: int, buffers: Sequence[Buffer], offset: int
    ) -> None:
        """The process may end between the two."""
        await self.run(Lane.LOG, disk.pwritev, descriptor, buffers, offset)
        await self.run(Lane.LOG, disk.fdatasync, descriptor)

    def close(self, seconds: float = 0.0) -> bool:
        """Every job that was given is done before this returns, as when threads are joined."""
        for lane in self._lanes.values():
            lane.finish()
        self._lanes.clear()
        return True

    def _lane(self, lane: Lane) -> "_Lane":
        found = self._lanes.get(lane)
        if found is None:
            found = self._lanes[lane] = _Lane(self._random, self._longest)
            self._nursery.start_soon(found.run)
        return found


class _Lane:
    def __init__(self, random: Random, longest: float) -> None:
        self._random = random
        self._longest = longest
        self._jobs: deque[Callable[[], None]] = deque()
        self._given = trio.Event()
        self._scope = trio.CancelScope()

    def give(self, job: Callable[[], None]) -> None:
        self._jobs.append(job)
        self._given.set()

    def finish(self) -> None:
        self._scope.cancel()
        while self._jobs:
            self._jobs.popleft()()

    async def run(self) -> None:
        with self._scope:
            while True:
                await self._given.wait()
                self._given = trio.Event()
                while self._jobs:
                    # Half of the time goes by before the disk has it, the rest before the caller hears of it.
                    await self._pass_time()
                    self._jobs.popleft()()
                    await self._pass_time()

    async def _pass_time(self) -> None:
        await trio.sleep(self._random.uniform(0, self._longest) / 2)


class Sea:
    """The network as one node dials it. `cut` breaks connections, `calm` lets nothing through, unnoticed."""

    def __init__(self, network: MemoryNetwork, random: Random, longest: float) -> None:
        self.longest = longest
        self.random = random
        self._network = network
        self._cut: set[str] = set()
        self._becalmed: dict[str, trio.Event] = {}
        self._streams: list[tuple[str, _Crossing]] = []

    async def dial(self, address: str) -> trio.abc.HalfCloseableStream:
        if address in self._cut:
            raise ConnectionRefusedError(f"{address} is cut off")
        crossing = _Crossing(self, address, await self._network.dial(address))
        self._streams = [(to, stream) for to, stream in self._streams if not stream.closed]
        self._streams.append((address, crossing))
        return crossing

    async def listen(self, address: str) -> Listener:
        return await self._network.listen(address)

    def cut(self, address: str) -> None:
        self._cut.add(address)
        for to, stream in self._streams:
            if to == address:
                stream.break_off()

    def calm(self, address: str) -> None:
        self._becalmed.setdefault(address, trio.Event())

    def heal(self) -> None:
        self._cut.clear()
        for wind in self._becalmed.values():
            wind.set()
        self._becalmed.clear()

    async def cross(self, address: str) -> None:
        await trio.sleep(self.random.uniform(0, self.longest))
        if address in self._becalmed:
            await self._becalmed[address].wait()


class _Crossing(trio.abc.HalfCloseableStream):
    """One connection, near end."""

    def __init__(self, sea: Sea, address: str, stream: trio.abc.HalfCloseableStream) -> None:
        self.closed = False
        self._sea = sea
        self._address = address
        self._stream = stream

    def break_off(self) -> None:
        self.closed = True
        both = cast(
            "trio.StapledStream[trio.testing.MemorySendStream, trio.testing.MemoryReceiveStream]",
            self._stream,
        )
        both.send_stream.close()
        both.receive_stream.close()

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await self._sea.cross(self._address)
        await self._stream.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        await self._stream.wait_send_all_might_not_block()

    async def send_eof(self) -> None:
        await self._stream.send_eof()

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        return await self._stream.receive_some(max_bytes)

    async def aclose(self) -> None:
        self.closed = True
        with suppress(trio.BrokenResourceError):
            await self._stream.aclose()
