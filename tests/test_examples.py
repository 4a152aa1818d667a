"""The examples of the documentation run as they are shown."""

import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parent.parent / "examples"


@pytest.mark.parametrize(
    ("example", "last_line"),
    [
        ("embedded_counter.py", "total: 55"),
        ("embedded_stream.py", "[b'order 1', b'order 2', b'order 3']"),
    ],
)
def test_an_example_runs_and_prints_its_result(example: str, last_line: str) -> None:
    ran = subprocess.run(
        [sys.executable, str(EXAMPLES / example)], capture_output=True, text=True, timeout=60, check=True
    )
    assert ran.stdout.splitlines()[-1] == last_line
