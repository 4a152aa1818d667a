"""Other clients, as they are, against three real nodes: `python -m tests.clients.run DIRECTORY`.

DIRECTORY is where `npm install nats` was run. Not part of the test suite, since it needs node and npm.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

from tests.system.processes import ProcessCluster

SCRIPT = Path(__file__).with_name("javascript.mjs")


def main(modules: Path) -> int:
    with tempfile.TemporaryDirectory() as directory:
        cluster = ProcessCluster(Path(directory))
        copy = modules / SCRIPT.name  # node looks for modules beside the script
        copy.write_text(SCRIPT.read_text())
        try:
            cluster.start()
            return subprocess.run(["node", copy, ",".join(cluster.urls)], timeout=120, check=False).returncode
        finally:
            for node in cluster.nodes.values():
                if node.process is not None:
                    node.kill()


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
