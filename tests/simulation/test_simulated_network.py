"""The simulated network is a byte stream, though it looks for frames in what it carries."""

from random import Random

import trio

from trimaran.codec.frame import encode_frame
from trimaran.testing.nodes.agenda import Agenda
from trimaran.testing.nodes.network import WINDOW_BYTES, SimulatedNetwork
from trimaran.testing.nodes.scheduler import SimulatedClock, run_simulated
from trimaran.testing.swarm import NetworkFaults

PATIENCE_SECONDS = 60.0


def test_a_frame_of_several_windows_arrives_though_its_sender_cuts_it_beyond_the_first() -> None:
    """A link writes what it has in pieces of about a MiB, and cuts between the batches of one frame."""
    attachment = bytes(3 * WINDOW_BYTES)
    frame = encode_frame(1, (), len(attachment)) + attachment
    arrived = bytearray()

    async def main() -> None:
        agenda = Agenda()
        network = SimulatedNetwork(
            agenda, Random(1), NetworkFaults(), lambda *facts: None, lambda *facts: None
        )
        listener = await network.host("b").listen("b:1")

        async def read(stream: trio.abc.HalfCloseableStream) -> None:
            while data := await stream.receive_some():
                arrived.extend(data)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(agenda.run)
            nursery.start_soon(listener.serve, read)
            stream = await network.host("a").dial("b:1")
            with trio.move_on_after(PATIENCE_SECONDS):
                await stream.send_all(frame[: 2 * WINDOW_BYTES])
                await stream.send_all(frame[2 * WINDOW_BYTES :])
            await trio.sleep(PATIENCE_SECONDS)
            nursery.cancel_scope.cancel()

    run_simulated(1, SimulatedClock(Random(1)), main, 3600.0)
    assert arrived == frame
