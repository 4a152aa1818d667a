"""Users and TLS on real nodes: nats-py comes in as it should, nobody else does; links show certificates."""

import asyncio
import os
import signal
import ssl
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import nats
import nats.errors
import pytest

from tests.certificates import Authority, Pair
from tests.system.processes import NodeProcess, ProcessCluster

pytestmark = pytest.mark.filterwarnings(
    # nats-py leaves the transports of connections that were refused to the garbage collector.
    "ignore::pytest.PytestUnraisableExceptionWarning",
    "ignore::ResourceWarning",
)

USERS = """
authorization {
  users = [
    { user: alice, password: p }
    { user: bob, password: p, permissions: { publish: "open.>", subscribe: "_INBOX.>" } }
    { user: "carol@example.org" }
  ]
}
"""


@contextmanager
def node(directory: Path, *extra: str) -> Iterator[NodeProcess]:
    cluster = ProcessCluster(directory, ("a",), extra)
    try:
        cluster.start()
        yield cluster["a"]
    finally:
        cluster["a"].kill()


def context_of(authority: Authority, pair: Pair | None = None) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=str(authority.path))
    if pair is not None:
        context.load_cert_chain(pair.certificate, pair.key)
    return context


def round_trip(url: str, payload: bytes = b"x", **options: Any) -> bytes:
    """Connect with nats-py, and hear oneself. Raises what connecting does."""

    async def quiet(error: Exception) -> None:
        return

    async def main() -> bytes:
        client = await nats.connect(
            url, connect_timeout=5, allow_reconnect=False, max_reconnect_attempts=0, error_cb=quiet, **options
        )
        try:
            subscription = await client.subscribe("_INBOX.x")
            await client.publish("_INBOX.x", payload)
            return (await subscription.next_msg(timeout=5)).data
        finally:
            await client.close()

    return asyncio.run(asyncio.wait_for(main(), 20))


def refused(url: str, **options: Any) -> bool:
    try:
        round_trip(url, **options)
    except (nats.errors.Error, OSError, TimeoutError):
        return True
    return False


def test_users_come_in_by_password_and_others_after_a_signal(tmp_path: Path) -> None:
    users = tmp_path / "users.conf"
    users.write_text(USERS)
    with node(tmp_path, "--access", str(users)) as a:
        assert round_trip(a.url, user="alice", password="p") == b"x"
        assert refused(a.url) and refused(a.url, user="alice", password="q")
        users.write_text(USERS.replace("alice", "dora"))
        os.kill(a.pid, signal.SIGHUP)
        cluster_sees(a, "read again")
        assert round_trip(a.url, user="dora", password="p") == b"x"
        assert refused(a.url, user="alice", password="p")
        users.write_text("authorization {")
        os.kill(a.pid, signal.SIGHUP)
        cluster_sees(a, "Nothing was changed")
        assert round_trip(a.url, user="dora", password="p") == b"x"


def cluster_sees(a: NodeProcess, text: str) -> None:
    alone = ProcessCluster(a.data.parent, ())
    alone.wait(lambda: text in a.log.read_text())


@pytest.mark.parametrize("first", [False, True])
@pytest.mark.parametrize("size", [1, 900_000])
def test_clients_are_encrypted_from_the_start_or_behind_info(tmp_path: Path, first: bool, size: int) -> None:
    authority = Authority(tmp_path)
    pair = authority.sign("server")
    options = ["--tls-cert", str(pair.certificate), "--tls-key", str(pair.key)]
    with node(tmp_path, *options, "--tls-first", "on" if first else "off") as a:
        url = a.url.replace("nats:", "tls:")
        context = context_of(authority)
        assert round_trip(url, b"x" * size, tls=context, tls_handshake_first=first) == b"x" * size
        assert refused(url, tls=context_of(Authority(tmp_path, "other")), tls_handshake_first=first)


def test_a_client_shows_a_certificate_of_the_authority_and_is_who_it_says(tmp_path: Path) -> None:
    users = tmp_path / "users.conf"
    users.write_text(USERS)
    authority, other = Authority(tmp_path), Authority(tmp_path, "other")
    server, carol, dora = (
        authority.sign("server"),
        authority.sign("carol", "carol@example.org"),
        authority.sign("dora", "dora@example.org"),
    )
    stranger = other.sign("stranger", "carol@example.org")
    with node(
        tmp_path,
        *(
            "--tls-cert",
            str(server.certificate),
            "--tls-key",
            str(server.key),
            "--tls-ca",
            str(authority.path),
        ),
        *("--tls-verify", "map", "--access", str(users)),
    ) as a:
        url = a.url.replace("nats:", "tls:")
        assert round_trip(url, tls=context_of(authority, carol)) == b"x"
        for pair in (dora, stranger, None):
            assert refused(url, tls=context_of(authority, pair))


def peer_options(pair: Pair, authority: Authority) -> Sequence[str]:
    return [
        *("--peer-tls-cert", str(pair.certificate), "--peer-tls-key", str(pair.key)),
        *("--peer-tls-ca", str(authority.path)),
    ]


def test_nodes_form_a_cluster_by_certificates_and_a_peer_without_one_does_not_join(tmp_path: Path) -> None:
    authority, other = Authority(tmp_path), Authority(tmp_path, "other")
    cluster = ProcessCluster(tmp_path)
    for name, each in cluster.nodes.items():
        each.arguments += peer_options(authority.sign(name), authority)
    strangers = []
    try:
        cluster.start()

        async def publish() -> int:
            async with await nats.connect(cluster.urls) as client:
                stream = client.jetstream()
                await stream.add_stream(name="S", subjects=["s"], num_replicas=3)
                return (await stream.publish("s", b"x")).seq

        assert asyncio.run(publish()) == 1
        for name, extra in (("d", []), ("e", peer_options(other.sign("e"), other))):
            stranger = cluster.add(tmp_path, name, "a")
            stranger.arguments += extra
            strangers.append(stranger)
            stranger.start()
        cluster.wait(lambda: cluster["a"].log.read_text().count("a peer connection was refused") >= 4)
        cluster.wait(lambda: all(each.get("/healthz")[0] == 503 for each in strangers))
        cluster.wait_healthy(("a", "b", "c"))
    finally:
        for each in cluster.nodes.values():
            if each.process is not None:
                each.kill()


def test_the_command_line_talks_to_an_encrypted_node_as_a_user(tmp_path: Path) -> None:
    users = tmp_path / "users.conf"
    users.write_text(USERS)
    authority = Authority(tmp_path)
    pair = authority.sign("server")
    options = ["--tls-cert", str(pair.certificate), "--tls-key", str(pair.key), "--access", str(users)]
    with node(tmp_path, *options) as a:

        def info(url: str, trusted: Path) -> subprocess.CompletedProcess[str]:
            command = [sys.executable, "-m", "trimaran", "cluster", "info", "--server", url]
            environment = {**os.environ, "SSL_CERT_FILE": str(trusted)}
            return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)

        url = a.url.replace("nats://", "nats://alice:p@")
        done = info(url, authority.path)
        assert done.returncode == 0, done.stderr
        stranger = info(url, Authority(tmp_path, "other").path)
        assert stranger.returncode != 0 and "certificate verify failed" in stranger.stderr
