"""What ten thousand durable consumers on one node cost: memory, rest, creation, and a publish beside them.

    python benchmarks/consumers.py [--consumers 10000] [--waiting]

With `--waiting` each of them also has a pull request that waits for a message which never comes.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

WINDOW = 200
"""Requests under way at once."""
IDLE_SECONDS = 10.0
LOOK_SECONDS = 0.05


class Client:
    """A blocking connection that asks many things at once."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=60)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.file = self.socket.makefile("rb")
        self.file.readline()
        self.socket.sendall(b'CONNECT {"verbose":false,"headers":true}\r\nSUB inbox 1\r\nPING\r\n')
        while self.file.readline() != b"PONG\r\n":
            pass

    def ask_all(self, requests: list[tuple[str, bytes]]) -> list[bytes]:
        """The answers, in whatever order they come."""
        answers: list[bytes] = []
        sent = 0
        while len(answers) < len(requests):
            batch = requests[sent : min(len(answers) + WINDOW, len(requests))]
            lines = [b"PUB %b inbox %d\r\n%b\r\n" % (s.encode(), len(body), body) for s, body in batch]
            self.socket.sendall(b"".join(lines))
            sent += len(batch)
            words = self.file.readline().split()
            if words[0] in (b"MSG", b"HMSG"):
                answers.append(self.file.read(int(words[-1]) + 2)[:-2])
            elif words[0] == b"PING":
                self.socket.sendall(b"PONG\r\n")
        return answers


def resident(pid: int) -> float:
    """MiB."""
    text = Path(f"/proc/{pid}/status").read_text()
    return int(text.partition("VmRSS:")[2].split()[0]) / 1024


def processor(pid: int) -> float:
    """Seconds used so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def start(data: Path, port: int) -> subprocess.Popen[bytes]:
    """A node that serves clients."""
    command = [sys.executable, "-m", "trimaran", "node", "--data", str(data), "--listen", f"127.0.0.1:{port}"]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    while process.poll() is None:
        try:
            answer = Client(port).ask_all([("$JS.API.STREAM.NAMES", b"")])
            if b"error" not in answer[0]:
                return process
        except OSError:
            pass  # nobody listens yet
        time.sleep(LOOK_SECONDS)
    raise SystemExit(f"the node ended with exit code {process.returncode}")


def idle(pid: int) -> float:
    """Share of a processor that the node takes when nothing happens."""
    before = processor(pid)
    time.sleep(IDLE_SECONDS)
    return (processor(pid) - before) / IDLE_SECONDS


def publish_rate(client: Client, count: int = 20_000) -> float:
    """Acknowledged messages per second."""
    began = time.monotonic()
    client.ask_all([("s.x", b"0123456789")] * count)
    return count / (time.monotonic() - began)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--consumers", type=int, default=10_000)
    parser.add_argument("--waiting", action="store_true")
    arguments = parser.parse_args()
    count: int = arguments.consumers
    with socket.socket() as chosen:
        chosen.bind(("127.0.0.1", 0))
        port: int = chosen.getsockname()[1]
    with tempfile.TemporaryDirectory() as directory:
        data = Path(directory) / "data"
        process = start(data, port)
        try:
            client = Client(port)
            client.ask_all(
                [("$JS.API.STREAM.CREATE.S", json.dumps({"name": "S", "subjects": ["s.>"]}).encode())]
            )
            print(
                f"without consumers: {resident(process.pid):.0f} MiB, {publish_rate(client):,.0f} publishes/s"
            )
            before, began = resident(process.pid), time.monotonic()
            answers = client.ask_all([create(number) for number in range(count)])
            seconds = time.monotonic() - began
            assert all(b'"error"' not in answer for answer in answers), answers[0]
            grown = resident(process.pid) - before
            print(f"{count:,} made at {count / seconds:,.0f}/s, {grown * 1024 / count:.1f} KiB each")
            if arguments.waiting:
                body = json.dumps({"batch": 1, "expires": 3600 * 10**9}).encode()
                for number in range(count):
                    subject = f"$JS.API.CONSUMER.MSG.NEXT.S.c{number}"
                    client.socket.sendall(b"PUB %b inbox %d\r\n%b\r\n" % (subject.encode(), len(body), body))
                client.ask_all([("$JS.API.STREAM.INFO.S", b"")])
            print(f"at rest: {idle(process.pid):.1%} of a processor, {resident(process.pid):.0f} MiB")
            print(f"beside them: {publish_rate(client):,.0f} publishes/s")
            process.kill()
            process.wait()
            began = time.monotonic()
            process = start(data, port)
            [names] = Client(port).ask_all([("$JS.API.CONSUMER.NAMES.S", b"")])
            assert json.loads(names)["total"] == count, names[:200]
            seconds = time.monotonic() - began
            print(f"all there again {seconds:.1f} s after a kill, {resident(process.pid):.0f} MiB")
        finally:
            process.kill()
            process.wait()


def create(number: int) -> tuple[str, bytes]:
    """A request for a durable consumer with a filter of its own: an idle device, say."""
    name = f"c{number}"
    config = {"durable_name": name, "ack_policy": "explicit", "filter_subject": f"s.{number}"}
    body = json.dumps({"stream_name": "S", "config": config}).encode()
    return f"$JS.API.CONSUMER.CREATE.S.{name}.s.{number}", body


if __name__ == "__main__":
    main()
