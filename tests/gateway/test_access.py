"""Users: who gets in by which secret, and what each may publish and hear."""

import base64
import binascii
import json
import logging

import bcrypt
import pytest
import trio
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from trio.testing import MockClock

from tests.gateway.fakes import Running, ask, running
from trimaran.actors.gateway.access import Access, Permissions, Responses, Rules, User, is_user_nkey
from trimaran.actors.gateway.client import Settings
from trimaran.actors.gateway.memory_port import MemoryPeer

HASHED = bcrypt.hashpw(b"s3cret", bcrypt.gensalt(4)).decode()


def hello(**fields: object) -> bytes:
    return b"CONNECT %b\r\n" % json.dumps({"verbose": False, "headers": True, **fields}).encode()


async def verdict(up: Running, **fields: object) -> str:
    """What a connection that shows these fields comes to."""
    peer = await up.raw(hello(**fields) + b"PING\r\n")
    await peer.until(lambda peer: b"\r\n" in peer.received)
    return bytes(peer.received).decode()


REFUSED = "-ERR 'Authorization Violation'\r\n"


@pytest.mark.parametrize(
    ("user", "password", "answer"),
    [
        ("plain", "s3cret", "PONG\r\n"),
        ("hashed", "s3cret", "PONG\r\n"),
        ("plain", "wrong", REFUSED),
        ("hashed", "wrong", REFUSED),
        ("hashed", HASHED, REFUSED),
        ("hashed", "s3cret" + "x" * 72, REFUSED),
        ("nobody", "s3cret", REFUSED),
        ("", "s3cret", REFUSED),
        ("empty", "?", REFUSED),
    ],
)
async def test_a_password_admits_its_user(user: str, password: str, answer: str) -> None:
    access = Access([User("plain", "s3cret"), User("hashed", HASHED), User("empty", "x")])
    async with running(access=access) as up:
        assert (await verdict(up, **{"user": user, "pass": password}))[: len(answer)] == answer


async def test_what_follows_a_hashed_password_waits_and_is_not_lost() -> None:
    async with running(access=Access([User("u", HASHED)])) as up:
        peer = await up.raw(hello(**{"user": "u", "pass": "s3cret"}) + b"SUB a 1\r\nPING\r\nPUB a 1\r\nx\r\n")
        await peer.until(lambda peer: b"x\r\n" in peer.received)
        assert bytes(peer.received) == b"PONG\r\nMSG a 1 1\r\nx\r\n"


async def test_a_client_that_leaves_while_its_password_is_checked_harms_nobody() -> None:
    async with running(access=Access([User("u", HASHED)])) as up:
        peer = await up.raw(hello(**{"user": "u", "pass": "s3cret"}))
        peer.close()
        assert (await verdict(up, **{"user": "u", "pass": "s3cret"})).startswith("PONG")


async def test_no_secret_is_logged_or_shown(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    access = Access([User("u", "s3cret")])
    async with running(access=access) as up:
        await verdict(up, **{"user": "u", "pass": "guessed"})
    assert "authorization violation" in caplog.text
    assert "s3cret" not in caplog.text and "guessed" not in caplog.text
    candidate = access.identify({"user": "u", "pass": "guessed"}, b"", None)
    assert "s3cret" not in repr(candidate) and "guessed" not in repr(candidate)


# --- nkeys --------------------------------------------------------------------------------------------------


def nkey_of(key: Ed25519PrivateKey, prefix: int = 20 << 3) -> str:
    raw = bytes([prefix]) + key.public_key().public_bytes_raw()
    checked = raw + binascii.crc_hqx(raw, 0).to_bytes(2, "little")
    return base64.b32encode(checked).decode().rstrip("=")


async def signed_hello(peer: MemoryPeer, key: Ed25519PrivateKey, nkey: str) -> str:
    info = json.loads((await peer.receive_until(b"\r\n"))[5:])
    assert info["auth_required"] is True
    signature = base64.urlsafe_b64encode(key.sign(info["nonce"].encode())).decode().rstrip("=")
    peer.send(hello(nkey=nkey, sig=signature) + b"PING\r\n")
    await peer.until(lambda peer: b"\r\n" in peer.received)
    return bytes(peer.received).decode()


async def test_an_nkey_admits_who_signs_this_connections_nonce() -> None:
    key, other = Ed25519PrivateKey.generate(), Ed25519PrivateKey.generate()
    assert nkey_of(key).startswith("U") and is_user_nkey(nkey_of(key))
    async with running(access=Access([User(nkey=nkey_of(key))])) as up:
        assert await signed_hello(up.port.connect(), key, nkey_of(key)) == "PONG\r\n"
        assert await signed_hello(up.port.connect(), other, nkey_of(key)) == REFUSED
        assert await signed_hello(up.port.connect(), other, nkey_of(other)) == REFUSED
        assert await verdict(up, nkey=nkey_of(key), sig="x") == REFUSED


def test_a_harmed_nkey_is_none() -> None:
    good = nkey_of(Ed25519PrivateKey.generate())
    other = "A" if good[10] != "A" else "B"
    for bad in (good[:-1], good[:10] + other + good[11:], "U", "", good.lower()):
        assert not is_user_nkey(bad)
    assert not is_user_nkey(nkey_of(Ed25519PrivateKey.generate(), prefix=0))


# --- permissions ---------------------------------------------------------------------------------------


def limited(
    publish: Rules | None = None, subscribe: Rules | None = None, responses: Responses | None = None
) -> Access:
    permissions = Permissions(publish or Rules(), subscribe or Rules(), responses)
    return Access([User("u", "p", permissions=permissions), User("all", "p")])


async def join(up: Running, user: str = "u") -> MemoryPeer:
    return await up.client(hello(**{"user": user, "pass": "p"}))


@pytest.mark.parametrize(
    ("rules", "subject", "allowed"),
    [
        (Rules(("a.*",)), "a.b", True),
        (Rules(("a.*",)), "a.b.c", False),
        (Rules(("a.>",), ("a.secret",)), "a.secret", False),
        (Rules(deny=("a.>",)), "b", True),
        (Rules(deny=("a.>",)), "a.b", False),
        (Rules(()), "a", False),
        (Rules(("a.b",)), "a.*", False),
    ],
)
async def test_publishing_is_limited_to_what_is_allowed_and_not_denied(
    rules: Rules, subject: str, allowed: bool
) -> None:
    async with running(access=limited(publish=rules)) as up:
        listener, peer = await join(up, "all"), await join(up)
        await ask(listener, b"SUB > 1\r\n")
        answer = await ask(peer, f"PUB {subject} 1\r\nx\r\n".encode())
        violation = f"-ERR 'Permissions Violation for Publish to \"{subject}\"'\r\n".encode()
        assert answer == (b"" if allowed else violation)
        assert bool(await ask(listener, b"")) == allowed


async def test_of_many_publishes_to_a_stream_those_that_are_allowed_are_stored() -> None:
    async with running(access=limited(publish=Rules(("s.1", "s.3")))) as up:
        up.node.add_stream("S", "s.>")
        peer = await join(up)
        answer = await ask(peer, b"".join(b"PUB s.%d 1\r\nx\r\n" % number for number in (1, 1, 2, 3, 2)))
        assert answer.count(b"Permissions Violation") == 2
        assert sum(chunk.count for _, chunk in up.node.chunks) == 3


@pytest.mark.parametrize(
    ("rules", "line", "allowed"),
    [
        (Rules(("a.*",)), "a.b", True),
        (Rules(("a.*",)), "a.>", False),
        (Rules(("a.b",)), "a.*", False),
        (Rules(("a.>",)), "a.*", True),
        (Rules(deny=("a.>",)), "a.*", False),
        (Rules(deny=("a.b",)), "a.*", True),
        (Rules(("a q",)), "a", False),
        (Rules(("a q",)), "a q", True),
        (Rules(("a q.*",)), "a q.1", True),
        (Rules(("a", "a q")), "a r", False),
        (Rules(deny=("a q",)), "a q", False),
        (Rules(deny=("a q",)), "a", True),
    ],
)
async def test_subscribing_is_limited_to_what_is_wholly_allowed(
    rules: Rules, line: str, allowed: bool
) -> None:
    async with running(access=limited(subscribe=rules)) as up:
        answer = await ask(await join(up), f"SUB {line} 1\r\n".encode())
        subject, _, queue = line.partition(" ")
        group = f' using queue "{queue}"' if queue else ""
        violation = f"-ERR 'Permissions Violation for Subscription to \"{subject}\"{group}'\r\n".encode()
        assert answer == (b"" if allowed else violation)


async def test_a_wide_subscription_does_not_hear_what_is_denied() -> None:
    async with running(access=limited(subscribe=Rules(deny=("a.secret",)))) as up:
        peer, speaker = await join(up), await join(up, "all")
        await ask(peer, b"SUB a.* 1\r\n")
        await ask(speaker, b"PUB a.secret 1\r\nx\r\nPUB a.open 1\r\ny\r\n")
        assert await ask(peer, b"") == b"MSG a.open 1 1\r\ny\r\n"


async def test_who_may_answer_may_answer_once_and_in_time(autojump_clock: MockClock) -> None:
    access = limited(publish=Rules(()), responses=Responses(maximum=1, seconds=5))
    async with running(access=access) as up:
        server, client = await join(up), await join(up, "all")
        await ask(server, b"SUB service 1\r\n")
        await ask(client, b"SUB inbox.* 1\r\nPUB service inbox.1 1\r\nx\r\nPUB service inbox.2 1\r\nx\r\n")
        answers = await ask(server, b"PUB inbox.1 1\r\na\r\nPUB inbox.1 1\r\nb\r\n")
        assert answers.count(b"Permissions Violation") == 1
        await trio.sleep(6)
        assert b"Permissions Violation" in await ask(server, b"PUB inbox.2 1\r\nc\r\n")
        assert await ask(client, b"") == b"MSG inbox.1 1 1\r\na\r\n"


async def test_who_shows_nothing_is_the_user_for_that() -> None:
    guest = User("guest", "x", permissions=Permissions(publish=Rules(("open",))))
    async with running(access=Access([guest, User("u", "p")], no_auth_user="guest")) as up:
        peer = up.port.connect()
        assert "auth_required" not in json.loads((await peer.receive_until(b"\r\n"))[5:])
        assert b"Permissions Violation" in await ask(peer, b"PUB closed 1\r\nx\r\n"), "even without CONNECT"
        assert b"Permissions Violation" in await ask(await up.client(hello()), b"PUB closed 1\r\nx\r\n")
        assert await verdict(up, **{"user": "u", "pass": "wrong"}) == REFUSED


def test_the_user_for_nobody_must_exist() -> None:
    with pytest.raises(ValueError, match="guest"):
        Access([User("u", "p")], no_auth_user="guest")


async def test_subscriptions_beyond_the_limit_are_refused() -> None:
    async with running(settings=Settings(max_subscriptions=2)) as up:
        peer = await up.client(hello())
        answer = await ask(peer, b"SUB a 1\r\nSUB b 2\r\nSUB c 3\r\nUNSUB 1\r\nSUB d 4\r\n")
        assert answer == b"-ERR 'maximum subscriptions exceeded'\r\n" and not peer.closed


async def test_other_users_from_now_on() -> None:
    async with running(access=Access([User("u", "p"), User("v", "p"), User("w", "p")])) as up:
        peers = {name: await join(up, name) for name in "uvw"}
        up.gateway.reload(Access([User("u", "p"), User("v", "other")]), None)
        for name in "vw":
            await peers[name].until(lambda peer: peer.closed)
        assert not peers["u"].closed
        assert await verdict(up, **{"user": "v", "pass": "p"}) == REFUSED
        assert await verdict(up, **{"user": "v", "pass": "other"}) == "PONG\r\n"
