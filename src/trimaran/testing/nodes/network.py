"""The network between simulated machines: byte streams as TCP gives them, and what happens to them.

Between two machines lies a `Way` in each direction. A way takes its time, may hold everything back (a
partition, a clog: what is lost on it is sent again, so it arrives when the way is open again), or be slow.
Connections may be reset, in the middle of a frame too, with what was on its way still arriving or not.

TCP loses and doubles nothing. What the protocol above allows is done to single frames nevertheless: a Raft
message may be dropped (links do that when they are full) or come once more, later.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from random import Random
from typing import Final

import trio

from ...actors.peers.network import EagerStream, Listener, Serve
from ...actors.peers.peers import RAFT_KINDS
from ...actors.units import split_address
from ...codec.frame import FRAME_HEADER
from ..swarm import NetworkFaults
from .agenda import Agenda

WINDOW_BYTES: Final = 256 * 1024
"""What a connection takes before its reader has taken it: the kernels' buffers on both sides."""
SLOW_SECONDS: Final = 0.05
"""The mean delay of a slow way: an election's timeout is ten times as long, and must be."""
REPLAY_SECONDS: Final = 10.0
SPLIT_SHARE: Final = 0.05
"""Of arrivals come in two pieces, cut anywhere."""
PARTIAL_SHARE: Final = 0.05
"""Of writes that do not wait are taken in part only, as if there was no more room."""

OnFrame = Callable[[str, str, int, bytes], None]
"""(from machine, to machine, kind, the frame): told of every frame that a node sends."""


@dataclass(slots=True)
class Way:
    """From one machine to another."""

    slow: bool = False
    blocks: int = 0
    """Partitions and clogs that hold it now."""
    waiting: list[Callable[[], None]] = field(default_factory=list)


class _End(EagerStream):
    """One end of a connection: what it has got, and the way to the other end."""

    def __init__(self, network: SimulatedNetwork, host: Host, to: str) -> None:
        self.host = host
        self.to = to
        self.peer: _End
        self._network = network
        self._arrived = bytearray()
        self._eof = False
        self._broken = False
        self._closed = False
        self._on_its_way = 0
        self._last_arrival = 0.0
        self._frames = _Frames()
        self._news = trio.Event()
        self._room = trio.Event()
        self._brimful = False

    # --- the Stream interface; as in TcpStream, nothing gives way that need not wait

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        self._check()
        while self._on_its_way > WINDOW_BYTES:
            self._room = trio.Event()
            await self._room.wait()
            self._check()
        self._take_out(bytes(data))

    def send_some(self, data: bytes | bytearray | memoryview) -> int:
        gone = not self.is_open or self.host.is_cut
        size = self._network.room_for(len(data), 0 if gone else WINDOW_BYTES - self._on_its_way)
        self._take_out(bytes(data[:size]))
        return size

    def _take_out(self, data: bytes) -> None:
        # Only what leaves here fills the window: of the start of a frame that waits for its end, nobody could
        # take anything, and its sender would wait for room before it sent that end.
        for kind, frame in self._frames.cut(data):
            self._on_its_way += len(frame)
            self._network.send(self, kind, frame)

    async def wait_send_all_might_not_block(self) -> None:
        await trio.lowlevel.checkpoint()

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        if self._brimful:
            await trio.lowlevel.checkpoint()
        while not self._arrived:
            if self._closed:
                raise trio.ClosedResourceError("this node closed the connection")
            if self._broken:
                raise trio.BrokenResourceError("the connection is gone")
            if self._eof:
                return b""
            self._news = trio.Event()
            await self._news.wait()
        size = len(self._arrived) if max_bytes is None else min(max_bytes, len(self._arrived))
        data = bytes(self._arrived[:size])
        del self._arrived[:size]
        self._brimful = bool(self._arrived)
        self.peer.made_room(size)
        return data

    async def send_eof(self) -> None:
        await trio.lowlevel.checkpoint()
        self._network.deliver_later(self, self.peer.end)

    async def aclose(self) -> None:
        self.close()
        await trio.lowlevel.checkpoint()

    # --- what happens to it

    def close(self) -> None:
        """From this side; the other side hears of it when the news has travelled."""
        if not self._closed:
            self._closed = True
            self.host.ends.pop(self, None)
            if not self._broken:
                self._network.send_start(self, self._frames.rest)
            self._network.deliver_later(self, self.peer.end)
            self._wake()

    def take(self, data: bytes) -> None:
        """Bytes have come."""
        if self._network.is_dark(self.host):
            return  # a machine without power does not even refuse
        if not self.host.is_up or self._closed:
            self._network.deliver_later(self, self.peer.break_off)  # nobody there: a reset comes back
        elif not self._broken:
            self._arrived += data
            self._news.set()

    def end(self) -> None:
        """The other side sends no more."""
        self._eof = True
        self._wake()

    def break_off(self) -> None:
        """The connection is gone for this side."""
        self._broken = True
        self.host.ends.pop(self, None)
        self._wake()

    def made_room(self, size: int) -> None:
        self._on_its_way -= size
        self._room.set()

    def arrival(self, delay: float) -> float:
        """When what is sent now arrives: never before what was sent earlier."""
        self._last_arrival = max(self._last_arrival, trio.current_time() + delay)
        return self._last_arrival

    @property
    def is_open(self) -> bool:
        return not (self._closed or self._broken)

    def _wake(self) -> None:
        self._news.set()
        self._room.set()

    def _check(self) -> None:
        if self._closed:
            raise trio.ClosedResourceError("this node closed the connection")
        if self._broken or self.host.is_cut:
            raise trio.BrokenResourceError("the connection is gone")


class _Frames:
    """Finds the frames in what is sent, so that they can be told, dropped and doubled as such."""

    def __init__(self) -> None:
        self.rest = b""
        """The start of a frame whose end is still to be sent."""

    def cut(self, data: bytes) -> list[tuple[int, bytes]]:
        """(kind, bytes) of each frame that is whole now."""
        data, found, at = self.rest + data, [], 0
        while len(data) - at >= FRAME_HEADER.size:
            _, _, kind, envelope, attachment, _ = FRAME_HEADER.unpack_from(data, at)
            size = FRAME_HEADER.size + envelope + attachment
            if len(data) - at < size:
                break
            found.append((kind, data[at : at + size]))
            at += size
        self.rest = data[at:]
        return found


class Host:
    """The network as one machine has it: a `Network` for its node, until it is cut."""

    def __init__(self, network: SimulatedNetwork, name: str) -> None:
        self.name = name
        self.is_up = True
        """Its machine did not lose power since the process began."""
        self.is_cut = False
        """The process is gone: nothing that it still says leaves it."""
        self.ends: dict[_End, None] = {}
        self._network = network

    async def dial(self, address: str) -> trio.abc.HalfCloseableStream:
        return await self._network.dial(self, address)

    async def listen(self, address: str) -> Listener:
        await trio.lowlevel.checkpoint()
        return self._network.listen(self, address)

    def cut(self, *, power: bool) -> None:
        """The process is gone. Without power loss the kernel closes its connections, and tells."""
        self.is_cut = True
        self._network.unlisten(self)
        if power:
            self.is_up = False
        else:
            for end in list(self.ends):
                end.close()


class _Listener:
    def __init__(self, host: Host, address: str) -> None:
        self.address = address
        self.host = host
        self._waiting: list[_End] = []
        self._news = trio.Event()

    def accept(self, end: _End) -> None:
        """The kernel takes the connection; the process hears of it when it runs."""
        self._waiting.append(end)
        self._news.set()

    async def serve(self, handler: Serve) -> None:
        async with trio.open_nursery() as nursery:
            while True:
                self._news = trio.Event()
                waiting, self._waiting = self._waiting, []
                for end in waiting:
                    nursery.start_soon(handler, end)
                await self._news.wait()


class SimulatedNetwork:
    """All machines and the ways between them.

    Args:
        note: takes facts for the trace.
        on_frame: told of every frame that is sent.
    """

    def __init__(
        self,
        agenda: Agenda,
        random: Random,
        faults: NetworkFaults,
        note: Callable[..., None],
        on_frame: OnFrame,
    ) -> None:
        self.faults = faults
        self.delivered = 0
        self._agenda = agenda
        self._random = random
        self._note = note
        self._on_frame = on_frame
        self._hosts: dict[str, Host] = {}
        self._listeners: dict[str, _Listener] = {}
        self._ways: dict[tuple[str, str], Way] = {}

    # --- machines and connections

    def host(self, name: str) -> Host:
        """A process starts on this machine: what older ones had open is reset as soon as somebody asks."""
        host = self._hosts[name] = Host(self, name)
        return host

    def is_dark(self, host: Host) -> bool:
        """Whether its machine has no power at this moment."""
        return not self._hosts[host.name].is_up

    async def dial(self, host: Host, address: str) -> _End:
        if host.is_cut:
            raise ConnectionRefusedError("the process is gone")
        to = split_address(address)[0]
        connected = trio.Event()
        answers: list[_End] = []
        """The near end, if somebody listens."""

        def knock() -> None:
            if to in self._hosts and self.is_dark(self._hosts[to]):
                return
            listener = self._listeners.get(address)
            if listener is not None and not listener.host.is_cut:
                near, far = _End(self, host, to), _End(self, listener.host, host.name)
                near.peer, far.peer = far, near
                host.ends[near] = listener.host.ends[far] = None
                listener.accept(far)
                answers.append(near)
            self._travel(to, host.name, connected.set)

        self._travel(host.name, to, knock)
        await connected.wait()
        if not answers:
            raise ConnectionRefusedError(f"nobody listens on {address}")
        return answers[0]

    def listen(self, host: Host, address: str) -> _Listener:
        if address in self._listeners:
            raise OSError(f"{address} is in use")
        listener = self._listeners[address] = _Listener(host, address)
        return listener

    def unlisten(self, host: Host) -> None:
        self._listeners = {
            address: listener for address, listener in self._listeners.items() if listener.host is not host
        }

    # --- what travels

    def send(self, end: _End, kind: int, frame: bytes) -> None:
        """A frame leaves; what the swarm has in store for it happens."""
        faults, random = self.faults, self._random
        self._on_frame(end.host.name, end.to, kind, frame)
        if kind in RAFT_KINDS:
            if random.random() < faults.loss / 5:
                self._note("dropped", end.host.name, end.to, kind, len(frame))
                end.made_room(len(frame))
                return
            if random.random() < faults.duplication:
                self._repeat(end, kind, frame, random.expovariate(1 / max(faults.delay, 1e-4)))
            if random.random() < faults.replay:
                self._repeat(end, kind, frame, random.uniform(0, REPLAY_SECONDS))
        if random.random() < SPLIT_SHARE and len(frame) > 1:
            cut = random.randrange(1, len(frame))
            self._push(end, frame[:cut])
            self._push(end, frame[cut:])
        else:
            self._push(end, frame)

    def room_for(self, wanted: int, room: int) -> int:
        """How many bytes are taken of a write that does not wait, where there is so much room."""
        most = max(0, min(wanted, room))
        return self._random.randrange(most) if most and self._random.random() < PARTIAL_SHARE else most

    def send_start(self, end: _End, start: bytes) -> None:
        """A process that ends has sent the start of a frame, and never sends its end."""
        if start:
            end.made_room(-len(start))
            self._push(end, start)

    def deliver_later(self, end: _End, act: Callable[[], None]) -> None:
        """News of the connection itself travel behind what was sent."""
        way = self.way(end.host.name, end.to)
        self._agenda.at(end.arrival(self._delay(way)), partial(self._arrive, way, act))

    def _repeat(self, end: _End, kind: int, frame: bytes, later: float) -> None:
        def again() -> None:
            if end.is_open and not end.host.is_cut:
                self._note("again", end.host.name, end.to, kind, len(frame))
                end.made_room(-len(frame))
                self._push(end, frame)

        self._agenda.after(later, again)

    def _push(self, end: _End, data: bytes) -> None:
        def deliver() -> None:
            self.delivered += 1
            self._note("delivered", end.host.name, end.to, len(data))
            end.peer.take(data)

        self.deliver_later(end, deliver)

    def _travel(self, source: str, to: str, act: Callable[[], None]) -> None:
        way = self.way(source, to)
        self._agenda.after(self._delay(way), partial(self._arrive, way, act))

    def _arrive(self, way: Way, act: Callable[[], None]) -> None:
        if way.blocks:
            way.waiting.append(act)
        else:
            act()

    def _delay(self, way: Way) -> float:
        faults, random = self.faults, self._random
        delay = random.expovariate(1 / (max(faults.delay, SLOW_SECONDS) if way.slow else faults.delay))
        if random.random() < faults.straggling:
            delay += random.uniform(0, faults.straggler)
        return delay

    # --- what happens to ways and connections

    def way(self, source: str, to: str) -> Way:
        """From one machine to another; slow or not for the whole run."""
        way = self._ways.get((source, to))
        if way is None:
            slow = self._random.random() < self.faults.slow_links
            way = self._ways[source, to] = Way(slow)
        return way

    def block(self, source: str, to: str) -> None:
        """Nothing arrives until `unblock`, as often as it was called."""
        self.way(source, to).blocks += 1

    def unblock(self, source: str, to: str) -> None:
        way = self.way(source, to)
        way.blocks -= 1
        if not way.blocks:
            self._let_pass(way)

    def free(self) -> None:
        """Unblock all ways; they are not slow any more either."""
        for way in list(self._ways.values()):  # what arrives now may open another one
            way.blocks, way.slow = 0, False
            self._let_pass(way)

    def _let_pass(self, way: Way) -> None:
        waiting, way.waiting = way.waiting, []
        for act in waiting:
            act()

    def connections(self, hosts: list[Host]) -> list[tuple[_End, _End]]:
        """The open connections that these machines dialled or accepted, both ends."""
        return [(end, end.peer) for host in hosts for end in host.ends]

    def reset(self, end: _End, *, lingering: float) -> None:
        """A connection breaks at one end; what was sent there still arrives, for so long, or does not."""
        self._note("reset", end.host.name, end.to)
        other = end.peer
        end.break_off()
        if lingering:
            self._agenda.after(lingering, other.break_off)
        else:
            other.break_off()
