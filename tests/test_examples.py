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


def pytest_says(directory: Path, planted: str, *arguments: str) -> str:
    """The end of a run of the example of a test, with this in its machine's rule."""
    source = (EXAMPLES / "test_my_state_machine.py").read_text()
    line = "self.items[item] = self.items.get(item, 0) + number"
    assert source.count(line) == 1
    test = directory / "test_planted.py"
    test.write_text(source.replace(line, line + planted))
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *arguments, str(test)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=directory).stdout


def test_the_example_of_a_test_passes_and_finds_a_planted_bug(tmp_path: Path) -> None:
    assert "2 passed" in pytest_says(tmp_path, "")
    by_chance = pytest_says(tmp_path, " + __import__('random').randrange(2)", "-k", "test_stock")
    assert "1 failed" in by_chance and "replicas:" in by_chance
