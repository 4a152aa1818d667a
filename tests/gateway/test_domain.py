"""JetStream's domain: another name of its API, by the same permissions, where the streams are."""

import json

import pytest

from tests.gateway.fakes import FakeNode, Running, ask, running
from trimaran.actors.gateway.access import Access, Permissions, Rules, User
from trimaran.actors.gateway.client import Settings

INFO = "$JS.API.INFO"
ALIAS = b"PUB $JS.hub.API.INFO i.1 0\r\n\r\n"


def node() -> FakeNode:
    return FakeNode(answers={INFO: b"{}"})


async def greeted(up: Running, account: User | None = None) -> tuple[dict[str, object], bytes]:
    """INFO, and what is said to a request to the alias."""
    peer = up.port.connect()
    info = json.loads((await peer.receive_until(b"\r\n"))[5:])
    login = {"user": account.name, "pass": account.password} if account else {}
    fields = {"verbose": False, "headers": True, "no_responders": True, **login}
    await ask(peer, b"CONNECT %b\r\nSUB i.* 1\r\n" % json.dumps(fields).encode())
    return info, await ask(peer, ALIAS)


@pytest.mark.parametrize(
    ("settings", "domain"),
    [
        (Settings(domain="hub"), "hub"),
        (Settings(domain="other"), "other"),
        (Settings(), None),
        (Settings(domain="hub", jetstream=False), None),
    ],
)
async def test_only_the_domain_itself_is_an_alias(settings: Settings, domain: str | None) -> None:
    async with running(node(), settings) as up:
        info, said = await greeted(up)
        assert info.get("domain") == domain
        if domain == "hub":
            assert said == b"MSG i.1 1 2\r\n{}\r\n" and up.node.requests == [(INFO, b"")]
        else:
            assert b"503\r\nNats-Subject: $JS.hub.API.INFO\r\n" in said and not up.node.requests


@pytest.mark.parametrize(
    ("rules", "refused"),
    [
        (Rules(deny=("$JS.API.>",)), b"$JS.API.INFO"),
        (Rules(deny=("$JS.hub.>",)), b"$JS.hub.API.INFO"),
        (Rules(allow=("$JS.API.>",)), b"$JS.hub.API.INFO"),
        (Rules(allow=("$JS.hub.API.>",)), b"$JS.API.INFO"),
        (Rules(allow=("$JS.*.API.>", "$JS.API.>")), b""),
    ],
)
async def test_the_alias_is_for_who_may_publish_to_both(rules: Rules, refused: bytes) -> None:
    user = User("u", "p", permissions=Permissions(publish=rules))
    async with running(node(), Settings(domain="hub"), access=Access([user])) as up:
        _, said = await greeted(up, user)
        if refused:
            assert said == b"-ERR 'Permissions Violation for Publish to \"%b\"'\r\n" % refused
        assert len(up.node.requests) == (not refused)


async def test_an_account_without_streams_has_no_alias() -> None:
    user = User("u", "p", account="other")
    async with running(node(), Settings(domain="hub"), access=Access([user])) as up:
        _, said = await greeted(up, user)
        assert b"503\r\nNats-Subject: $JS.hub.API.INFO\r\n" in said and not up.node.requests


async def test_acknowledgements_name_the_domain() -> None:
    """Those on the straight way to an inbox, and those that go by their reply subject."""
    up_node = node()
    up_node.add_stream("S", "s.>")
    async with running(up_node, Settings(domain="hub")) as up:
        peer = await up.client()
        for subscribed in (b"SUB i.* 1\r\n", b"SUB i.x 2\r\n"):
            said = await ask(peer, subscribed + b"PUB s.x i.x 1\r\nx\r\n")
            assert b'{"stream":"S","domain":"hub","seq":' in said
