"""What a client is told that goes beyond a limit, or makes no sense: a real nats-server says the same."""

import json
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pytest

from tests.system.processes import free_ports
from tests.waiting import wait_for

CONF: Final = """
max_payload: 1024
max_control_line: 512
max_pending: 65536
max_subscriptions: 3
max_connections: 4
authorization { user: u, password: p, timeout: 0.5 }
jetstream: enabled
"""
LOGIN: Final = (
    b'CONNECT {"verbose":false,"user":"u","pass":"p","headers":true,"no_responders":true,"protocol":0}\r\n'
)
PATIENCE: Final = 10.0
COUNTERS: Final = ("in_msgs", "in_bytes", "out_msgs", "out_bytes", "slow_consumers", "connections")
DIALOGUES: Final[Mapping[str, bytes]] = {
    "a payload at the limit": LOGIN + b"PUB a 1024\r\n%b\r\n" % bytes(1024),
    "a payload beyond it": LOGIN + b"PUB a 1025\r\n%b\r\n" % bytes(1025),
    "headers and payload beyond it": LOGIN + b"HPUB a 12 1025\r\n%b\r\n" % bytes(1025),
    "a long control line": LOGIN + b"PUB %b 1\r\nx\r\n" % (b"a" * 600),
    "a long control line of SUB": LOGIN + b"SUB %b 1\r\n" % (b"a" * 600),
    "a long control line without its end": LOGIN + b"PUB %b" % (b"a" * 600),
    "too many subscriptions": LOGIN + b"SUB a 1\r\nSUB b 2\r\nSUB c 3\r\nSUB d 4\r\n",
    "a sid in use at the limit": LOGIN + b"SUB a 1\r\nSUB b 2\r\nSUB c 3\r\nSUB a 1\r\n",
    "room for subscriptions again": LOGIN + b"SUB a 1\r\nSUB b 2\r\nSUB c 3\r\nUNSUB 1\r\nSUB d 4\r\n",
    "no introduction in time": b"",
    "a wrong password": b'CONNECT {"user":"u","pass":"no"}\r\n',
    "a wrong password, later": LOGIN + b'CONNECT {"user":"u","pass":"no"}\r\n',
    "no introduction": b"PUB a 1\r\nx\r\n",
    "no word of the protocol, and no introduction": b"GET / HTTP/1.1\r\n\r\n",
    "no word of the protocol": LOGIN + b"HELLO\r\n",
    "a payload that doesn't end": LOGIN + b"PUB a 2\r\nxyz\r\n",
    "a wildcard in a publish": LOGIN + b"PUB a.* 1\r\nx\r\n",
    "a subject with an empty token": LOGIN + b"SUB a..b 1\r\n",
    "no responders without headers": b'CONNECT {"user":"u","pass":"p","no_responders":true}\r\n',
    "verbose": b'CONNECT {"user":"u","pass":"p"}\r\nSUB a 1\r\nPUB b 1\r\nx\r\nUNSUB 1\r\n',
    "pedantic": b'CONNECT {"user":"u","pass":"p","pedantic":true,"verbose":false}\r\nPUB a.* 1\r\nx\r\n',
    "nobody answers": LOGIN + b"SUB i 1\r\nPUB nobody i 1\r\nx\r\n",
}


@dataclass(frozen=True)
class Server:
    port: int
    http: int

    def counters(self) -> dict[str, Any]:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.http}/varz", timeout=PATIENCE) as answer:
            found = json.loads(answer.read())
        return {name: found[name] for name in COUNTERS}

    def until(self, **wanted: object) -> dict[str, Any]:
        """The counters, once these are so."""

        def look() -> dict[str, Any] | None:
            found = self.counters()
            return found if found | wanted == found else None

        return wait_for(look, PATIENCE, lambda: (wanted, self.counters()))

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=PATIENCE)


@contextmanager
def server(directory: Path, *command: str, conf: str = CONF) -> Iterator[Server]:
    port, http = free_ports(2)
    directory.mkdir()
    (directory / "conf").write_text(conf)
    log = directory / "log"
    arguments = ["-a", "127.0.0.1", "-p", str(port), "-m", str(http), "-sd", str(directory / "store")]
    with log.open("wb") as file:
        process = subprocess.Popen([*command, "-c", str(directory / "conf"), *arguments], stderr=file)
    try:
        wait_for(
            lambda: "Server is ready" in log.read_text() or process.poll() is not None,
            PATIENCE,
            log.read_text,
        )
        assert process.poll() is None, log.read_text()
        yield Server(port, http)
    finally:
        process.kill()
        process.wait()


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Server, Server]]:
    """A real nats-server and Trimaran, with the same configuration."""
    directory = tmp_path_factory.mktemp("limits")
    with ExitStack() as stack:
        real = server(directory / "real", str(Path(sys.executable).with_name("nats-server")))
        ours = server(directory / "ours", sys.executable, "-m", "trimaran", "nats-server")
        yield stack.enter_context(real), stack.enter_context(ours)


def talk(server: Server, said: bytes) -> tuple[bytes, bool]:
    """What the server says to this besides INFO, and whether it hangs up. A PING at the end marks it."""
    with server.connect() as connection, connection.makefile("rb") as file:
        assert file.readline().startswith(b"INFO ")
        heard = b""
        try:
            connection.sendall(said + (b"PING\r\n" if said else b""))
            while line := file.readline():
                heard += line
                if line == b"PONG\r\n":
                    return heard, False
        except ConnectionError:
            pass  # it hung up while we were still talking
        return heard, True


class Session:
    """A connection that waits for what it wants to hear."""

    def __init__(self, server: Server, stack: ExitStack) -> None:
        self._socket = stack.enter_context(server.connect())
        self._file = stack.enter_context(self._socket.makefile("rb"))
        self.say(LOGIN)

    def say(self, said: bytes, messages: int = 0) -> None:
        """Say it, and return once so many messages came, and the server has read it all."""
        self._socket.sendall(said + b"PING\r\n")
        ponged = False
        while messages > 0 or not ponged:
            words = self._file.readline().split()
            assert words and words[0] != b"-ERR", words
            ponged |= words[0] == b"PONG"
            if words[0] in (b"MSG", b"HMSG"):
                messages -= 1
                self._file.read(int(words[-1]) + 2)


@pytest.mark.parametrize("name", DIALOGUES)
def test_the_same_is_said(servers: tuple[Server, Server], name: str) -> None:
    real, ours = (talk(each, DIALOGUES[name]) for each in servers)
    assert ours == real


def test_one_connection_too_many_is_told_so(servers: tuple[Server, Server]) -> None:
    told = []
    for each in servers:
        each.until(connections=0)
        with ExitStack() as stack:
            for _ in range(4):
                Session(each, stack).say(b"")
            info, *rest = stack.enter_context(each.connect()).makefile("rb").readlines()
            assert info.startswith(b"INFO ")
            told.append(rest)
        each.until(connections=0)
    assert told[0] == told[1] == [b"-ERR 'maximum connections exceeded'\r\n"]


def test_a_client_that_does_not_read_is_cut_off(servers: tuple[Server, Server]) -> None:
    for each in servers:
        before = each.until(connections=0)["slow_consumers"]
        with ExitStack() as stack, each.connect() as fast:
            Session(each, stack).say(b"SUB flood 1\r\n")
            fast.sendall(LOGIN)
            deadline = time.monotonic() + PATIENCE
            while each.counters()["slow_consumers"] == before:
                fast.sendall(b"PUB flood 1000\r\n%b\r\n" % bytes(1000) * 1000)
                assert time.monotonic() < deadline
            assert each.counters()["slow_consumers"] == before + 1


def grown(server: Server, before: dict[str, Any]) -> dict[str, Any]:
    now = server.counters()
    return {name: now[name] - before[name] for name in ("in_msgs", "in_bytes", "out_msgs", "out_bytes")}


def test_messages_and_their_bytes_are_counted_alike(servers: tuple[Server, Server]) -> None:
    """Headers and payloads, not the lines of the protocol; acknowledgements are messages too."""
    block = b"NATS/1.0\r\nA: b\r\n\r\n"
    core = b"".join(
        [
            b"SUB a 1\r\nSUB a 2\r\nPUB a 5\r\nhello\r\nPUB nobody 5\r\nhello\r\n",
            b"HPUB a %d %d\r\n%bhello\r\nUNSUB 1\r\nUNSUB 2\r\n" % (len(block), len(block) + 5, block),
        ]
    )
    create = b'{"name":"S","subjects":["s.>"],"storage":"memory"}'
    stored = b"".join(b"PUB s.x i.%d 3\r\nabc\r\n" % number for number in range(120))
    counted = []
    for each in servers:
        with ExitStack() as stack:
            before = each.until(connections=0)
            session = Session(each, stack)
            session.say(core, 4)
            counted.append([grown(each, before)])
            session.say(
                b"SUB i.* 3\r\nPUB $JS.API.STREAM.CREATE.S i.x %d\r\n%b\r\n" % (len(create), create), 1
            )
            before = each.counters()
            session.say(stored, 120)
            counted[-1].append(grown(each, before))
    assert counted[0] == counted[1]
