"""Other clients, as they are, against three real nodes.

    python -m tests.clients.run --node DIRECTORY --go DIRECTORY --examples DIRECTORY

Not part of the test suite, since it needs what is not in this repository:

- `--node`: where `npm install nats @nats-io/transport-node @nats-io/jetstream @nats-io/kv @nats-io/obj` ran
- `--go`: a GOPATH that has nats.go. Debian's golang-github-nats-io-go-nats-dev has it in /usr/share/gocode
- `--examples`: `examples` of nats-py's repository. The nodes listen on ports 4222 to 4224 then
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.clients.examples import CLIENT_PORTS, run_examples
from tests.system.processes import ProcessCluster

HERE = Path(__file__).parent
SECONDS = 180


def node_command(modules: Path, script: str) -> list[str]:
    """Run a script with the modules of a directory: node looks for them beside it."""
    for each in (script, "steps.mjs"):
        shutil.copy(HERE / each, modules / each)
    return ["node", str(modules / script)]


def go_command(gopath: Path, directory: Path) -> list[str]:
    """Build the Go program."""
    program = directory / "client"
    environment = {"GO111MODULE": "off", "GOPATH": str(gopath), "GOCACHE": str(directory / "cache")}
    build = ["go", "build", "-o", str(program), str(HERE / "client.go")]
    subprocess.run(build, env=os.environ | environment, check=True)
    return [str(program)]


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--node", type=Path)
    parser.add_argument("--go", type=Path)
    parser.add_argument("--examples", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        commands: list[list[str]] = []
        if arguments.node is not None:
            commands += [node_command(arguments.node, each) for each in ("javascript.mjs", "nats_io.mjs")]
        if arguments.go is not None:
            commands.append(go_command(arguments.go, directory))
        ports = CLIENT_PORTS if arguments.examples is not None else ()
        cluster = ProcessCluster(directory, client_ports=ports)
        try:
            cluster.start()
            urls = ",".join(cluster.urls)
            codes = [
                subprocess.run([*each, urls], timeout=SECONDS, check=False).returncode for each in commands
            ]
            if arguments.examples is not None:
                codes.append(run_examples(arguments.examples, SECONDS))
        finally:
            for node in cluster.nodes.values():
                if node.process is not None:
                    node.kill()
    return max(codes, default=1)


if __name__ == "__main__":
    sys.exit(main())
