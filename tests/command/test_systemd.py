"""Readiness as systemd hears it."""

import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.system.processes import free_ports
from trimaran.systemd import notify


def test_nobody_is_told_where_nobody_listens(tmp_path: Path) -> None:
    assert not notify("READY=1", {})
    assert not notify("READY=1", {"NOTIFY_SOCKET": "relative"})
    assert not notify("READY=1", {"NOTIFY_SOCKET": str(tmp_path / "nothing")})


@pytest.mark.parametrize("abstract", [False, True])
def test_a_node_says_when_it_is_ready_reads_again_and_stops(tmp_path: Path, abstract: bool) -> None:
    name = f"@trimaran-{tmp_path}" if abstract else str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as heard:
        heard.bind("\0" + name[1:] if abstract else name)
        heard.settimeout(30)
        [port] = free_ports(1)
        command = [sys.executable, "-m", "trimaran", "node", "--data", str(tmp_path / "data")]
        with subprocess.Popen(
            [*command, "--listen", f"127.0.0.1:{port}"],
            env={"NOTIFY_SOCKET": name},
            stderr=subprocess.DEVNULL,
        ) as node:
            try:
                assert heard.recv(100) == b"READY=1"
                node.send_signal(signal.SIGHUP)
                assert heard.recv(100).startswith(b"RELOADING=1\nMONOTONIC_USEC=")
                assert heard.recv(100) == b"READY=1"
                node.send_signal(signal.SIGTERM)
                assert heard.recv(100) == b"STOPPING=1"
                assert node.wait(20) == 0
            finally:
                node.kill()
