"""The tables of docs/testing.md: `python -m tests.mutations.table > table.md`; `--kept` writes caught.json.

Every bug is hunted from several first seeds (`--runs`), on as many processes as `--jobs` says. It may take an
hour.
"""

from __future__ import annotations

import json
import statistics
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from itertools import count, repeat
from pathlib import Path

from .bugs import BUGS
from .hunting import Caught, hunt
from .plant import Bug
from .slips import SLIPS
from .unforeseen import UNFORESEEN

KEPT = Path(__file__).parent / "caught.json"
"""For each bug seeds that catch it, to be tried first by the tests."""
ALL = (*BUGS, *SLIPS, *UNFORESEEN)
TABLES = {"classic bugs": BUGS, "slips": SLIPS, "bugs that nobody tuned for": UNFORESEEN}
RUNS = (0, 10_000, 20_000)
CPU_SECONDS = 30.0
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


def hunts(position: int, runs: int) -> list[Caught | None]:
    """The hunts for one bug of `ALL`, in a process of their own."""
    return [hunt(ALL[position], count(first), CPU_SECONDS) for first in RUNS[:runs]]


def results(jobs: int, runs: int) -> Iterator[list[Caught | None]]:
    """What became of each bug, in order."""
    with ProcessPoolExecutor(jobs) as pool:
        yield from pool.map(hunts, range(len(ALL)), repeat(runs))


def number(arguments: Sequence[str], name: str, otherwise: int) -> int:
    """What follows an argument of this name."""
    return int(arguments[arguments.index(name) + 1]) if name in arguments else otherwise


def main(arguments: Sequence[str]) -> int:
    kept: dict[str, list[int]] = {}
    found = results(number(arguments, "--jobs", 1), number(arguments, "--runs", len(RUNS)))
    for name, bugs in TABLES.items():
        rows = ["| bug | property that caught it | median seeds | median CPU seconds |", "|---|---|---|---|"]
        count_caught = 0
        for bug in bugs:
            caught = next(found)
            rows.append(row(bug, caught))
            sys.stderr.write(rows[-1] + "\n")
            seeds = [each.seed for each in caught if each is not None]
            if seeds:
                kept[bug.name] = seeds
                count_caught += 1
        sys.stdout.write(f"{name}: {count_caught} of {len(bugs)}\n\n" + "\n".join(rows) + "\n\n")
    if "--kept" in arguments:
        KEPT.write_text(json.dumps(kept, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
