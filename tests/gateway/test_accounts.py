"""Accounts are apart: on one node, between nodes, whatever the pattern, and streams belong to one of them."""

import json
from pathlib import Path

import pytest

from tests.gateway.fakes import FakeNode, Running, link, running
from trimaran.actors.gateway.conf import BadConf, load_conf
from trimaran.actors.gateway.memory_port import MemoryPeer
from trimaran.actors.security import access_from, limits_from
from trimaran.actors.stream.account_limits import UNLIMITED, AccountLimits

CONF = """
accounts {
  a { users = [ { user: anna, password: p }, { user: adam, password: p } ] }
  b { users = [ { user: bob, password: p, permissions: { subscribe: "b.>" } } ] }
  main { jetstream: enabled, users = [ { user: mia, password: p } ] }
}
no_auth_user: mia
"""


def written(directory: Path, text: str) -> Path:
    path = directory / "conf"
    path.write_text(text)
    return path


async def client(up: Running, user: str) -> MemoryPeer:
    hello = {
        "verbose": False,
        "headers": True,
        "no_responders": True,
        "protocol": 1,
        "user": user,
        "pass": "p",
    }
    return await up.client(b"CONNECT %b\r\n" % json.dumps(hello).encode())


async def heard(peer: MemoryPeer, said: bytes = b"") -> bytes:
    """What it has been told, once this is answered, but for the PONG."""
    peer.send(said + b"PING\r\n")
    return (await peer.receive_until(b"PONG\r\n")).removesuffix(b"PONG\r\n")


async def test_subjects_of_accounts_are_apart(tmp_path: Path) -> None:
    access = access_from(load_conf(written(tmp_path, CONF)))
    async with running(access=access) as up:
        anna, adam, bob, mia = [await client(up, name) for name in ("anna", "adam", "bob", "mia")]
        for peer in (anna, adam, mia):
            await heard(peer, b"SUB > 1\r\nSUB a.* 2\r\n")
        await heard(bob, b"SUB b.> 1\r\n")
        assert await heard(anna, b"PUB a.x 5\r\nhello\r\n") == (
            b"MSG a.x 1 5\r\nhello\r\nMSG a.x 2 5\r\nhello\r\n"
        )
        assert (await heard(adam)).count(b"hello") == 2
        assert await heard(mia) == await heard(bob) == b""
        await heard(mia, b"PUB a.x 4\r\nmine\r\n")
        assert await heard(anna) == await heard(adam) == b""
        assert b"503" in await heard(bob, b"SUB b.i 9\r\nPUB a.x b.i 1\r\nx\r\n"), "nobody of its own listens"
        bob.close()
        await bob.until(lambda peer: peer.closed)
        assert len(up.gateway.accounts.of("b").table) == 0


async def test_streams_belong_to_the_main_account(tmp_path: Path) -> None:
    access = access_from(load_conf(written(tmp_path, CONF)))
    async with running(access=access) as up:
        up.node.add_stream("S", "s.>")
        anna, mia = await client(up, "anna"), await client(up, "mia")
        await heard(mia, b"SUB i.* 1\r\nPUB s.x i.1 1\r\nx\r\n")
        assert b'"seq":1' in await heard(mia)
        assert b"503" in await heard(anna, b"SUB i.* 1\r\nPUB s.x i.1 1\r\nx\r\n")
        assert b"503" in await heard(anna, b"PUB $JS.API.INFO i.2 0\r\n\r\n")
        assert b"503" in await heard(anna, b"PUB $TRIMARAN.API.CLUSTER.INFO i.3 0\r\n\r\n")
        await heard(anna, b"PUB $JS.ACK.S.c.1.1.1.1.1 0\r\n\r\n")
        assert len(up.node.chunks) == 1 and not up.node.requests and not up.node.to_consumers


async def test_accounts_are_apart_between_nodes(tmp_path: Path) -> None:
    access = access_from(load_conf(written(tmp_path, CONF)))
    async with running(access=access) as one, running(FakeNode(node_id=2), access=access) as two:
        link(one, two)
        anna, mia = await client(one, "anna"), await client(one, "mia")
        adam, other = await client(two, "adam"), await client(two, "mia")
        await heard(adam, b"SUB > 1\r\nSUB work crew 2\r\n")
        await heard(other, b"SUB > 1\r\n")
        await heard(anna, b"PUB a.x r.1 5\r\nhello\r\n")
        assert await heard(adam) == b"MSG a.x 1 r.1 5\r\nhello\r\n"
        assert await heard(other) == b""
        await heard(mia, b"PUB a.x 4\r\nmine\r\n")
        assert await heard(other) == b"MSG a.x 1 4\r\nmine\r\n"
        assert await heard(adam) == b""
        await heard(anna, b"PUB work 3\r\njob\r\n")
        assert sorted((await heard(adam)).splitlines()) == sorted(
            [b"MSG work 1 3", b"job", b"MSG work 2 3", b"job"]
        )
        two.gateway.on_peer_down(1)
        one.gateway.on_peer_down(2)
        assert len(one.gateway.accounts.of("a").table) == 0


async def test_a_user_moves_to_another_account_with_its_next_connect(tmp_path: Path) -> None:
    access = access_from(load_conf(written(tmp_path, CONF)))
    async with running(access=access) as up:
        peer = await up.client()  # shows nothing: it is mia
        anna = await client(up, "anna")
        await heard(peer, b"SUB a.x 1\r\n")
        await heard(peer, b'CONNECT {"verbose":false,"user":"adam","pass":"p"}\r\nSUB a.x 2\r\n')
        await heard(anna, b"PUB a.x 1\r\nx\r\n")
        assert await heard(peer) == b"MSG a.x 2 1\r\nx\r\n"
        assert len(up.gateway.table) == 0


@pytest.mark.parametrize(
    "conf",
    [
        "accounts { a { jetstream: on, users: [{user: a}] } b { jetstream: on, users: [{user: b}] } }",
        "accounts { a { users: [{user: a}], exports: [{stream: x}] } }",
        "accounts { a { users: [{user: a}] } b { users: [{user: a}] } }",
    ],
)
def test_what_would_be_missed_is_refused(tmp_path: Path, conf: str) -> None:
    with pytest.raises(BadConf):
        access_from(load_conf(written(tmp_path, conf)))


def test_the_only_account_is_the_main_one(tmp_path: Path) -> None:
    access = access_from(
        load_conf(written(tmp_path, "accounts { a { users: [{user: a}] } $SYS { users: [{user: s}] } }"))
    )
    assert access is not None and not access.accounts


def test_limits_of_the_account_with_the_streams(tmp_path: Path) -> None:
    conf = """
    accounts {
      a { users: [{user: a}], jetstream { mem: 1K, max_file: 2KB, streams: 3, consumers: 4, max_ack_pending: 5
        mem_max_stream_bytes: 6, disk_max_stream_bytes: 7, max_bytes: true } }
      b { users: [{user: b}] }
    }
    """
    assert limits_from(load_conf(written(tmp_path, conf))) == AccountLimits(1000, 2048, 3, 4, 5, 6, 7, True)
    for text in ("", "accounts { a { users: [{user: a}], jetstream: enabled } }"):
        assert limits_from(load_conf(written(tmp_path, text))) == UNLIMITED


@pytest.mark.parametrize("limit", ["nonsense: 1", "max_mem: many", "max_streams: true"])
def test_a_limit_that_means_nothing_is_refused(tmp_path: Path, limit: str) -> None:
    with pytest.raises(BadConf):
        limits_from(load_conf(written(tmp_path, f"accounts {{ a {{ jetstream {{ {limit} }} }} }}")))
