"""Streams between nodes: TCP and memory behave alike where the links rely on it."""

import logging
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
import trio.lowlevel
from trio.testing import wait_all_tasks_blocked

from tests.certificates import Authority
from trimaran.actors.certificates import peer_tls
from trimaran.actors.peers.network import EagerStream, MemoryNetwork, Network, TcpNetwork, TlsNetwork

NETWORKS = [TcpNetwork, MemoryNetwork]
Stream = trio.abc.HalfCloseableStream


@asynccontextmanager
async def connected(network: Network) -> AsyncIterator[tuple[Stream, Stream]]:
    """Both ends of one connection."""
    listener = await network.listen("127.0.0.1:0")
    send, receive = trio.open_memory_channel[Stream](1)
    done = trio.Event()

    async def handle(stream: Stream) -> None:
        await send.send(stream)
        await done.wait()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(listener.serve, handle)
        await wait_all_tasks_blocked(0.01)
        near = await network.dial(listener.address)
        far = await receive.receive()
        async with near, far:
            yield near, far
        done.set()
        nursery.cancel_scope.cancel()


async def receive_exactly(stream: Stream, size: int) -> bytes:
    data = b""
    while len(data) < size:
        more = await stream.receive_some(65536)
        assert more, "the stream ended early"
        data += more
    return data


@pytest.mark.parametrize("network", NETWORKS)
async def test_bytes_arrive_whole_and_in_order_however_large(network: type[Network]) -> None:
    async with connected(network()) as (near, far):
        sent = bytes(range(256)) * 40_000  # more than any socket buffer
        async with trio.open_nursery() as nursery:
            nursery.start_soon(near.send_all, sent)
            assert await receive_exactly(far, len(sent)) == sent


@pytest.mark.parametrize("network", NETWORKS)
async def test_the_end_of_one_side_is_seen_by_the_other(network: type[Network]) -> None:
    async with connected(network()) as (near, far):
        await near.send_all(b"last words")
        await near.send_eof()
        assert await receive_exactly(far, 10) == b"last words"
        assert await far.receive_some(10) == b""
        await far.send_all(b"heard")  # the other direction still stands
        assert await receive_exactly(near, 5) == b"heard"


@pytest.mark.parametrize("network", NETWORKS)
async def test_closing_wakes_whoever_waits_on_either_side(network: type[Network]) -> None:
    async with connected(network()) as (near, far):
        ends: list[object] = []

        async def wait(stream: Stream) -> None:
            try:
                ends.append(await stream.receive_some(1))
            except (trio.ClosedResourceError, trio.BrokenResourceError) as error:
                ends.append(type(error))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait, near)
            nursery.start_soon(wait, far)
            await wait_all_tasks_blocked(0.01)
            await near.aclose()
        assert sorted(ends, key=str) == sorted([trio.ClosedResourceError, b""], key=str)


@pytest.mark.parametrize("network", NETWORKS)
async def test_sending_to_a_peer_that_is_gone_is_a_broken_connection(network: type[Network]) -> None:
    async with connected(network()) as (near, far):
        await far.aclose()
        with pytest.raises(trio.BrokenResourceError):
            for _ in range(100):
                await near.send_all(b"x" * 100_000)
                await trio.lowlevel.checkpoint()


@pytest.mark.parametrize("network", NETWORKS)
async def test_nobody_there_is_an_oserror(network: type[Network]) -> None:
    with pytest.raises(OSError):
        await network().dial("127.0.0.1:9")


@pytest.mark.parametrize(
    "address", ["a..b:5", f"{'x' * 64}:5", "a:99999999", "nowhere", "a\0b:5", "", "\ud800:5"]
)
@pytest.mark.parametrize("network", NETWORKS)
async def test_what_can_not_be_an_address_is_an_oserror(network: type[Network], address: str) -> None:
    """It may be in the meta group's log: any other error would end every node, and again at each start."""
    with pytest.raises(OSError):
        await network().dial(address)


async def test_a_peer_that_fills_every_read_does_not_starve_the_other_tasks() -> None:
    async with connected(TcpNetwork()) as (near, far):
        turns = 0
        flowing = True

        async def count() -> None:
            nonlocal turns
            while flowing:
                turns += 1
                await trio.lowlevel.checkpoint()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(count)
            nursery.start_soon(near.send_all, b"x" * 4_000_000)
            received = 0
            while received < 4_000_000:
                received += len(await far.receive_some(1000))
            flowing = False
        assert turns > 100


async def test_who_comes_again_and_again_without_a_certificate_fills_no_log(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    authority = Authority(tmp_path)
    node = authority.sign("node")
    listener = await TlsNetwork(peer_tls(node.certificate, node.key, authority.path)).listen("127.0.0.1:0")

    async def nobody(stream: trio.abc.HalfCloseableStream) -> None:
        raise AssertionError("nobody gets in")

    caplog.set_level(logging.DEBUG, "trimaran.actors.peers.network")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(listener.serve, nobody)
        for _ in range(3):
            async with await TcpNetwork().dial(listener.address) as stream:
                await stream.send_all(b"no TLS at all")
                while await stream.receive_some():
                    pass
            await wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    said = [record for record in caplog.records if "was refused" in record.message]
    assert [record.levelno for record in said] == [logging.WARNING, logging.DEBUG, logging.DEBUG]
    assert "from 127.0.0.1" in said[0].message


async def test_pieces_come_as_they_arrive_until_the_end() -> None:
    async with connected(TcpNetwork()) as (near, far):
        assert isinstance(far, EagerStream)
        sent = bytes(range(256)) * 4_000
        pieces: list[bytes] = []
        async with trio.open_nursery() as nursery:
            nursery.start_soon(far.each_piece, 200_000, pieces.append)
            await near.send_all(b"small")
            await wait_all_tasks_blocked(0.01)
            assert pieces == [b"small"]
            await near.send_all(sent)
            await near.send_eof()
        assert b"".join(pieces) == b"small" + sent
        assert max(map(len, pieces)) <= 200_000


async def test_what_is_raised_over_a_piece_comes_out_where_they_are_waited_for() -> None:
    def refuse(piece: bytes) -> None:
        raise ValueError(piece.decode())

    async with connected(TcpNetwork()) as (near, far):
        assert isinstance(far, EagerStream)
        await near.send_all(b"nonsense")
        with pytest.raises(ValueError, match="nonsense"):
            await far.each_piece(200_000, refuse)


async def test_a_connection_that_breaks_ends_the_wait_for_pieces() -> None:
    async with connected(TcpNetwork()) as (near, far):
        assert isinstance(far, EagerStream)
        near._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # type: ignore[attr-defined] # resets
        await near.aclose()
        with pytest.raises(trio.BrokenResourceError):
            await far.each_piece(200_000, lambda piece: None)
