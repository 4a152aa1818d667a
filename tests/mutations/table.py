"""The table of docs/testing.md: `python -m tests.mutations.table > table.md`; `--kept` writes caught.json.

Every bug is hunted from several first seeds. It may take an hour on one core, most of it for bugs that hide.
"""

from __future__ import annotations

import json
import statistics
import sys
from collections import Counter
from collections.abc import Sequence
from itertools import count
from pathlib import Path

from .bugs import BUGS
from .hunting import Caught, hunt
from .plant import Bug

KEPT = Path(__file__).parent / "caught.json"
"""For each bug a seed that catches it, to be tried first by the tests."""
RUNS = (0, 10_000, 20_000)
CPU_SECONDS = 40.0
"""At most so much for one bug from one first seed."""


def row(bug: Bug, caught: Sequence[Caught | None]) -> str:
    found = [each for each in caught if each is not None]
    if not found:
        return f"| {bug.name} | **nothing** | | > {CPU_SECONDS:.0f} |"
    names = ", ".join(name for name, _ in Counter(each.property for each in found).most_common(2))
    seeds = statistics.median(each.seeds for each in found)
    spent = statistics.median(each.cpu_seconds for each in found)
    share = "" if len(found) == len(caught) else f" ({len(found)} of {len(caught)} runs)"
    return f"| {bug.name} | {names}{share} | {seeds:g} | {spent:.1f} |"


def main(arguments: Sequence[str]) -> int:
    kept: dict[str, int] = {}
    rows = ["| bug | property that caught it | median seeds | median CPU seconds |", "|---|---|---|---|"]
    for bug in BUGS:
        caught = [hunt(bug, count(first), CPU_SECONDS) for first in RUNS]
        rows.append(row(bug, caught))
        found = sorted((each.cpu_seconds, each.seed) for each in caught if each is not None)
        if found:
            kept[bug.name] = min(found)[1]
        sys.stderr.write(rows[-1] + "\n")
    sys.stdout.write("\n".join(rows) + "\n")
    if "--kept" in arguments:
        KEPT.write_text(json.dumps(kept, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
