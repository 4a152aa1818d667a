"""The links between real nodes, in the hands of a test: a TCP proxy in front of each node's peer port.

A node advertises its proxy's address, so everyone dials that. Who dials is read from the greeting; then the
bytes of each direction are passed on, held back (as a network that drops packets does: they arrive once it
is healed, if the connection lives as long), or the connection is reset.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterable

from trimaran.actors.peers.wire import decode_hello
from trimaran.codec.frame import FrameError, FrameReader

PIECE_BYTES = 64 * 1024


class Links:
    """All links of a cluster: from whom to whom bytes may go."""

    def __init__(self) -> None:
        self._held: dict[tuple[str, str], asyncio.Event] = {}
        self._writers: dict[tuple[str, str], set[asyncio.StreamWriter]] = {}
        self._servers: list[asyncio.Server] = []
        self._tasks: set[asyncio.Task[None]] = set()

    async def serve(self, name: str, front: int, behind: int) -> None:
        """Stand before a node: take its peers' connections at one port, pass them on to its own."""

        async def take(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.current_task()
            assert task is not None
            self._tasks.add(task)
            try:
                await self._pass_on(name, behind, reader, writer)
            except (OSError, FrameError):
                pass  # the node behind is down, or whoever dialled is no node
            except asyncio.CancelledError:
                pass  # `close`: asyncio's server would report it as an error
            finally:
                writer.close()
                self._tasks.discard(task)

        self._servers.append(await asyncio.start_server(take, "127.0.0.1", front))

    async def close(self) -> None:
        self.heal()
        for server in self._servers:
            server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    # --- what happens to them

    def hold(self, ways: Iterable[tuple[str, str]]) -> None:
        """Nothing arrives on these ways, and nobody is told."""
        for way in ways:
            self._held.setdefault(way, asyncio.Event())

    def heal(self) -> None:
        held, self._held = self._held, {}
        for event in held.values():
            event.set()

    def reset(self, ways: Iterable[tuple[str, str]]) -> None:
        """Connections between these pairs break, in the middle of whatever is under way."""
        for one, other in ways:
            for writer in [*self._writers.get((one, other), ()), *self._writers.get((other, one), ())]:
                writer.transport.abort()

    # --- inside

    async def _pass_on(
        self, to: str, port: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        greeting = b""
        while not (frames := list(FrameReader(0).feed(greeting))):
            more = await reader.read(PIECE_BYTES)
            if not more:
                return
            greeting += more
        source = decode_hello(frames[0]).name
        await self._wait((source, to))
        behind, onward = await asyncio.open_connection("127.0.0.1", port)
        onward.write(greeting)
        pumps = [
            asyncio.create_task(self._pump((source, to), reader, onward)),
            asyncio.create_task(self._pump((to, source), behind, writer)),
        ]
        try:
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for pump in pumps:
                pump.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)
            onward.close()

    async def _wait(self, way: tuple[str, str]) -> None:
        while (held := self._held.get(way)) is not None:
            await held.wait()

    async def _pump(
        self, way: tuple[str, str], reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        writers = self._writers.setdefault(way, set())
        writers.add(writer)
        try:
            with contextlib.suppress(OSError):
                while piece := await reader.read(PIECE_BYTES):
                    await self._wait(way)
                    writer.write(piece)
                    await writer.drain()
        finally:
            writers.discard(writer)
