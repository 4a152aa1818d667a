"""A `type: ignore` is a hole in the types: it names its code, which mypy demands, and its reason."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
FOLDERS = ("actors", "benchmarks", "codec", "csrc", "examples", "src", "storage", "tests")
UNEXPLAINED = re.compile(r"#\s*type: ignore(\[[^\]]*\])?\s*$")


def test_each_names_its_reason() -> None:
    unexplained = [
        f"{path.relative_to(ROOT)}:{number}"
        for folder in FOLDERS
        for path in sorted((ROOT / folder).rglob("*.py"))
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if UNEXPLAINED.search(line)
    ]
    assert unexplained == []
