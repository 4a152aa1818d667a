"""The simulated network is a byte stream, though it looks for frames in what it carries."""

from collections.abc import Awaitable, Callable
from random import Random

import trio

from trimaran.actors.peers.network import EagerStream
from trimaran.codec.frame import encode_frame
from trimaran.testing.nodes.agenda import Agenda
from trimaran.testing.nodes.network import WINDOW_BYTES, SimulatedNetwork
from trimaran.testing.nodes.scheduler import SimulatedClock, run_simulated
from trimaran.testing.swarm import NetworkFaults

PATIENCE_SECONDS = 60.0


def carried(seed: int, send: Callable[[EagerStream], Awaitable[None]]) -> bytes:
    """What arrives at one machine of what another one sends there."""
    arrived = bytearray()
    agenda = Agenda()

    async def main() -> None:
        network = SimulatedNetwork(
            agenda, Random(seed), NetworkFaults(), lambda *facts: None, lambda *facts: None
        )
        listener = await network.host("b").listen("b:1")

        async def read(stream: trio.abc.HalfCloseableStream) -> None:
            while data := await stream.receive_some():
                arrived.extend(data)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(listener.serve, read)
            stream = await network.host("a").dial("b:1")
            assert isinstance(stream, EagerStream)
            with trio.move_on_after(PATIENCE_SECONDS):
                await send(stream)
            await trio.sleep(PATIENCE_SECONDS)
            nursery.cancel_scope.cancel()

    run_simulated(1, SimulatedClock(Random(1), agenda), main, 3600.0)
    return bytes(arrived)


def test_a_frame_of_several_windows_arrives_though_its_sender_cuts_it_beyond_the_first() -> None:
    """A link writes what it has in pieces of about a MiB, and cuts between the batches of one frame."""
    attachment = bytes(3 * WINDOW_BYTES)
    frame = encode_frame(1, (), len(attachment)) + attachment

    async def send(stream: EagerStream) -> None:
        await stream.send_all(frame[: 2 * WINDOW_BYTES])
        await stream.send_all(frame[2 * WINDOW_BYTES :])

    assert carried(1, send) == frame


def test_what_is_taken_in_part_arrives_whole() -> None:
    frames = [encode_frame(1, (number,), 5000) + Random(number).randbytes(5000) for number in range(400)]
    taken: list[int] = []

    async def send(stream: EagerStream) -> None:
        for frame in frames:
            taken.append(stream.send_some(frame))
            await stream.send_all(frame[taken[-1] :])

    assert carried(2, send) == b"".join(frames)
    assert {0, 5000}.issubset({min(size, 5000) for size in taken}) and any(0 < size < 5000 for size in taken)


def test_of_a_frame_that_is_never_ended_the_start_arrives() -> None:
    frame = encode_frame(1, (), 100) + bytes(100)

    async def send(stream: EagerStream) -> None:
        await stream.send_all(frame + frame[:40])
        await stream.aclose()
        assert stream.send_some(frame) == 0

    assert carried(3, send) == frame + frame[:40]
