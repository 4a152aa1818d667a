"""What a person mistypes ends as one line that says what is wrong and where to look, never as a traceback."""

from __future__ import annotations

import socket
import threading
from pathlib import Path

import pytest

from trimaran.__main__ import main

FILES = {
    "unit.toml": 'name = "a"\nheartbeat = "100"\n',
    "unknown.toml": 'nmae = "a"\n',
    "syntax.toml": "name = ",
    "file": "",
    "cert.pem": "",
}
WRONG = {
    "nod": (2, "No such command 'nod'. See trimaran --help"),
    "node --nmae a": (2, "No such option '--nmae'. Did you mean '--name'? See trimaran node --help"),
    "node extra": (2, "Got unexpected extra argument (extra). See trimaran node --help"),
    "node --listen 127.0.0.1:99999": (2, "--listen: '127.0.0.1:99999' is not HOST:PORT with a port from 0"),
    "node --listen :4222": (2, "--listen: ':4222' names no host; 0.0.0.0:4222 would listen on all"),
    "node --data file": (1, "cannot use file: it is no directory"),
    "node --heartbeat 100": (2, "--heartbeat: '100' is not a duration such as 100ms, 1.5s or 2m"),
    "node --max-payload 1XB": (2, "--max-payload: '1XB' is not a size such as 64MiB, 512KiB or a number"),
    "node --max-payload 100GiB": (2, "--max-payload: 100GiB is not between 1KiB and"),
    "node --election-min 100ms": (2, "--election-min: 100ms is not above twice the heartbeat (100ms)"),
    "node --peer b": (2, "--peer: 'b' is not NAME=HOST:PORT"),
    "node --peer b=127.0.0.1": (2, "--peer: '127.0.0.1' is not HOST:PORT with a port from 0 to 65535"),
    "node --peer b=127.0.0.1:6222": (2, "--peer: b=127.0.0.1:6222 is this node's own --peer-listen"),
    "node --config none.toml": (2, "--config: none.toml: No such file or directory"),
    "node --config unit.toml": (2, "unit.toml: heartbeat: '100' is not a duration"),
    "node --config unknown.toml": (2, "unknown.toml: nmae: there is no such option"),
    "node --config syntax.toml": (2, "--config: syntax.toml: Invalid value"),
    "node --log-level loud": (2, "--log-level: 'loud' is none of debug, info, warning, error"),
    "node --tls-cert cert.pem": (2, "--tls-cert: a certificate and its key are needed, --tls-key"),
    "node --tls-cert cert.pem --tls-key key.pem": (2, "key.pem: no such file"),
    "node --tls-cert unit.toml --tls-key unit.toml": (
        2,
        "unit.toml with unit.toml: no certificate or key in it",
    ),
    "node --access none.conf": (2, "none.conf: No such file or directory"),
    "node --listen 192.0.2.1:0": (3, "cannot listen on 192.0.2.1:0: "),
    "status --url 127.0.0.1:8222": (2, "127.0.0.1:8222 is no http:// address. See trimaran status --help"),
    "top --url x": (2, "Invalid value for '--url': x is no http:// address. See trimaran top --help"),
    "cluster info --server a..b:1": (
        2,
        "'--server': 'a..b:1' is not an address such as nats://127.0.0.1:4222",
    ),
    "cluster info --server nats://[::1:1": (2, "'--server': 'nats://[::1:1' is not an address such as nats:"),
    "cluster add b": (2, "Invalid value: 'b' is not NAME=HOST:PORT"),
    "cluster add b=host": (2, "Invalid value: 'host' is not HOST:PORT"),
    "cluster replace a b*=127.0.0.1:6223": (2, "Invalid value: 'b*' has a blank, a control character or one"),
    "backup": (2, "Missing argument 'FILE'. See trimaran backup --help"),
    "backup none/x": (1, "none/x: No such file or directory"),
    "restore none": (2, "Invalid value for 'FILE': File 'none' does not exist. See trimaran restore"),
    "restore file --check": (3, "file is not whole: it ends too soon"),
    "recover --data none": (1, "none is no node's directory"),
    "log inspect --data none": (2, "No such option '--data'. See trimaran log inspect --help"),
    "log verify none": (1, "none is no node's directory"),
    "nats-server --nosuch": (2, "--nosuch: there is no such flag"),
}


@pytest.mark.parametrize("line", WRONG)
def test_one_line_says_what_is_wrong(
    line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, text in FILES.items():
        (tmp_path / name).write_text(text)
    code, told = WRONG[line]
    assert main(line.split()) == code
    [error] = capsys.readouterr().err.splitlines()
    assert told in error and error.startswith("trimaran: ")


@pytest.mark.parametrize("group", ["cluster", "log"])
def test_a_group_of_commands_alone_lists_them(group: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([group]) == 0
    listed = capsys.readouterr().out
    assert "Commands:" in listed and "..." not in listed.split("Commands:")[1], "no line is cut"


def test_no_command_is_cut_in_the_list_of_all(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    assert "..." not in capsys.readouterr().out.split("Commands:")[1]


def test_what_is_no_monitor_is_not_quoted(capsys: pytest.CaptureFixture[str]) -> None:
    """A client port greets with a line of JSON, which says nothing to whoever mixed the ports up."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def greet() -> None:
            connection, _ = server.accept()
            with connection:
                connection.sendall(b'INFO {"server_id":"X"}\r\n')
                connection.recv(1000)

        threading.Thread(target=greet, daemon=True).start()
        url = f"http://127.0.0.1:{server.getsockname()[1]}"
        assert main(["status", "--url", url]) == 2
    assert capsys.readouterr().err == f"trimaran: no monitor at {url}: what listens there is none\n"
