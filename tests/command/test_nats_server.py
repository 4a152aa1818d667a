"""`trimaran nats-server`: what nats-server's flags and configuration mean for a node."""

import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.certificates import Authority
from tests.system.processes import NodeProcess, ProcessCluster, free_ports
from trimaran.actors.gateway.access import User
from trimaran.actors.gateway.conf import BadConf, parse_conf
from trimaran.actors.options import from_mapping
from trimaran.actors.security import BadSecurity
from trimaran.actors.setting import BadOption
from trimaran.commands import Failure
from trimaran.commands.nats_server import Wanted, load_security, read_flags, wanted


def given(*arguments: str, conf: str = "") -> Wanted:
    return wanted(read_flags(arguments), parse_conf(conf))


def options(*arguments: str, conf: str = "") -> dict[str, object]:
    return given(*arguments, conf=conf).options


def test_flags_come_with_one_dash_or_two_and_a_blank_or_an_equals_sign() -> None:
    for arguments in (["-p", "4333", "-js"], ["--port=4333", "--jetstream"], ["-p=4333", "-js=true"]):
        assert read_flags(arguments) == {"port": "4333", "jetstream": "true"}
    assert read_flags(["-js=false", "-DV"]) == {"debug": "true"}


@pytest.mark.parametrize("arguments", [["-nothing"], ["word"], ["-p"], ["--config"]])
def test_what_is_no_flag_is_refused(arguments: list[str]) -> None:
    with pytest.raises(Failure):
        read_flags(arguments)


@pytest.mark.parametrize(
    ("arguments", "conf", "listen", "http"),
    [
        ((), "", "0.0.0.0:4222", None),
        (("-a", "127.0.0.1", "-p", "-1", "-m", "8333"), "", "127.0.0.1:-1", "127.0.0.1:8333"),
        ((), "listen: 127.0.0.1:5000\nhttp: 8222", "127.0.0.1:5000", "127.0.0.1:8222"),
        ((), "host: h\nport: 5\nhttp: 'localhost:6'", "h:5", "localhost:6"),
        (("-p", "6"), "port: 5\nmonitor_port: 7", "0.0.0.0:6", "0.0.0.0:7"),
        ((), "http_port: 0", "0.0.0.0:4222", None),
    ],
)
def test_addresses(arguments: tuple[str, ...], conf: str, listen: str, http: str | None) -> None:
    found = options(*arguments, conf=conf)
    assert (found["listen"], found.get("http")) == (listen, http)


def test_without_jetstream_little_is_stored_and_nothing_for_clients() -> None:
    plain = given()
    assert not plain.stores and plain.options["jetstream"] == "off" and "data" not in plain.options
    for stored in (given("-js", "-sd=/x"), given(conf="jetstream { store_dir: '/x' }")):
        assert stored.stores and stored.options["data"] == Path("/x/trimaran")


def test_the_domain_is_one_token() -> None:
    for conf, domain in (("domain: hub", "hub"), ("store_dir: '/x'", None), ("domain: ''", None)):
        found = given(conf=f"jetstream {{ {conf} }}")
        assert from_mapping(found.options | {"data": "/x"}).jetstream_domain == domain and not found.notes
    for wrong in ("'a.b'", "'*'", "'>'", "'a b'", "5"):
        with pytest.raises(BadOption, match="jetstream-domain"):
            from_mapping(given(conf=f"jetstream {{ domain: {wrong} }}").options)


def test_limits_times_and_levels() -> None:
    conf = """max_payload: 4MB, max_connections: 7, max_subscriptions: 3, ping_interval: "1m"
    authorization { timeout: 0.5 }, debug: true, nonsense: 5, write_deadline: 2s"""
    found = given(conf=conf)
    made = from_mapping(found.options | {"data": "/x"})
    assert (made.max_payload, made.max_connections, made.max_subscriptions) == (4 << 20, 7, 3)
    assert (made.ping_interval_ms, made.auth_timeout_ms, made.log_level) == (60_000, 500, "debug")
    assert found.notes == ["configuration: nonsense is left out", "configuration: write_deadline is left out"]


def test_nodes_of_a_cluster_are_named_by_their_addresses() -> None:
    routes = "nats://127.0.0.1:6222,nats-route://u:p@127.0.0.1:6223,localhost:6224"
    found = options(
        "--cluster", "nats://127.0.0.1:6222", "--routes", routes, "--cluster_name", "C", "-n", "x"
    )
    assert found["peer-listen"] == "127.0.0.1:6222" and found["cluster-name"] == "C"
    assert found["name"] == "127-0-0-1-6222"
    assert found["peer"] == ("127-0-0-1-6223=127.0.0.1:6223", "localhost-6224=localhost:6224")
    in_file = options(conf="cluster { name: C, listen: '127.0.0.1:6222', routes: ['nats://127.0.0.1:6223'] }")
    assert in_file["peer"] == ("127-0-0-1-6223=127.0.0.1:6223",)
    assert from_mapping(in_file | {"data": "/x"}).clustered
    assert options("-n", "alone")["name"] == "alone"


@pytest.mark.parametrize(
    "conf",
    [
        "websocket { port: 1 }",
        "operator: x",
        "cluster { routes: ['nats://a:1'] }",
        "cluster: 5",
    ],
)
def test_what_would_be_missed_is_refused(conf: str) -> None:
    with pytest.raises(BadConf):
        given(conf=conf)


def test_users_and_certificates(tmp_path: Path) -> None:
    pair = Authority(tmp_path).sign("server")
    flags = read_flags(
        ["--user", "u", "--pass", "p", "--tlscert", str(pair.certificate), "--tlskey", str(pair.key)]
    )
    security = load_security(flags)
    assert security.tls is not None and not security.tls.verifies and security.access is not None
    candidate = security.access.identify({"user": "u", "pass": "p"}, b"", None)
    assert not isinstance(candidate, User) and candidate is not None and candidate.verify()
    token = load_security(read_flags(["--auth", "t"])).access
    assert token is not None and token.announced
    with pytest.raises(BadSecurity, match="authority"):
        load_security({**flags, "tlsverify": "true"})
    file = tmp_path / "server.conf"
    file.write_text("authorization { users: 5 }")
    with pytest.raises(BadSecurity, match="users"):
        load_security({"config": str(file)})


class NatsServer(NodeProcess):
    """A node started as a client's tests start nats-server."""

    def start(self) -> None:
        with self.log.open("ab") as log:
            command = [sys.executable, "-m", "trimaran", "nats-server", *self.arguments]
            self.process = subprocess.Popen(command, stdout=log, stderr=log)


def test_it_is_ready_soon_and_writes_what_starters_wait_for(tmp_path: Path) -> None:
    client, http = free_ports(2)
    server = NatsServer("s", tmp_path, client, 0, http)
    log, pid = tmp_path / "log", tmp_path / "pid"
    server.arguments = [
        *("-p", str(client), "-m", str(http), "-a", "127.0.0.1"),
        "-l",
        str(log),
        "-P",
        str(pid),
    ]
    began = time.monotonic()
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TMPDIR", str(temporary))
        patch.chdir(temporary)
        server.start()
    try:
        ProcessCluster(tmp_path, ()).wait(lambda: server.get("/varz")[0] == 200)
        # Alone it takes half a second; a machine under load must not fail this.
        assert time.monotonic() - began < 10
        text = log.read_text()
        assert f"Listening for client connections on 127.0.0.1:{client}" in text and "Server is ready" in text
        assert int(pid.read_text()) == server.pid
        assert not list(temporary.iterdir()), "it leaves nothing behind, also when it is killed"
    finally:
        assert server.stop() == 0


def test_a_server_without_users_and_http_imports_nothing_that_only_those_need() -> None:
    """Importing is all that a server does for long before it is ready: clients' tests wait for it."""
    program = """
import pathlib, sys, trio
import trimaran.commands.nats_server
from trimaran import Options, World, open_node

async def main():
    options = Options(data=pathlib.Path("unused"), listen="127.0.0.1:0")
    async with open_node(options, world=World.forgetful()):
        pass

trio.run(main)
print(*sorted({"asyncio", "bcrypt", "cryptography", "h11", "rich", "statistics"} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


@pytest.mark.parametrize("flag", ["-v", "--help"])
def test_version_and_help(flag: str) -> None:
    command = [sys.executable, "-m", "trimaran", "nats-server", flag]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "nats-server" in done.stdout


def test_a_configuration_can_be_checked(tmp_path: Path) -> None:
    file = tmp_path / "server.conf"
    for text, code in (("port: 4222", 0), ("port: [", 2), ("authorization { users: 5 }", 2)):
        file.write_text(text)
        command = [sys.executable, "-m", "trimaran", "nats-server", "-t", "-c", str(file)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == code, done.stderr
