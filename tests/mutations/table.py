"""The tables of docs/testing.md: several hunts for every bug, and what each of them found.

    python -m tests.mutations.table --results FILE [--hunts 5] [--seeds 250] [--jobs 2] [--minutes 6]

Each hunt plays its own fresh seeds, the same for all bugs, until one fails or there were so many. Its result
is a line of FILE, and no hunt is done twice: so it can be stopped at any time, and goes on where it was.
The first hunt for every bug comes before all second ones. `--only` takes bugs whose name has this in it.
With `--write` the tables of what FILE has go into docs/testing.md, and seeds for the tests into caught.json:
of bugs that most of their hunts caught.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import asdict, dataclass, replace
from itertools import islice
from math import inf
from pathlib import Path
from typing import Final

from .bugs import BUGS
from .careless import CARELESS
from .hunting import hunt
from .plant import Bug
from .slips import SLIPS
from .unforeseen import UNFORESEEN

KEPT: Final = Path(__file__).parent / "caught.json"
"""For each bug seeds that catch it, to be tried first by the tests."""
PAGE: Final = Path(__file__).parents[2] / "docs" / "testing.md"
TABLES: Final[Mapping[str, Sequence[Bug]]] = {
    "classic bugs": BUGS,
    "slips": SLIPS,
    "bugs that nobody had tuned for": UNFORESEEN,
    "bugs that nobody has tuned for": CARELESS,
}
ALL: Final = tuple(bug for bugs in TABLES.values() for bug in bugs)
FIRST: Final = 3_000_000
"""The first hunt's first seed."""
APART: Final = 10_000
"""Seeds from one hunt's first to that of the next."""
HEADS: Final = ("| bug | property that caught it | hunts | seeds | CPU seconds |", "|---|---|---|---|---|")
KEPT_SEEDS: Final = 3


@dataclass(frozen=True, slots=True)
class Result:
    """One hunt for one bug, of at most `limit` seeds; `property` is empty if nothing caught it."""

    bug: str
    hunt: int
    limit: int
    seed: int
    seeds: int
    cpu_seconds: float
    property: str


def hunt_once(position: int, number: int, limit: int) -> Result:
    """The hunt for one bug of `ALL`, in a process of its own."""
    bug = ALL[position]
    first, began = FIRST + APART * number, time.process_time()
    limited = bug if bug.by == "states" else replace(bug, within=limit)
    caught = hunt(limited, range(first, first + limit))
    if caught is None:
        spent = time.process_time() - began
        return Result(bug.name, number, limit, 0, limited.within, round(spent, 1), "")
    spent = round(caught.cpu_seconds, 2)
    return Result(bug.name, number, limit, caught.seed, caught.seeds, spent, caught.property)


def read(file: Path, limit: int) -> list[Result]:
    """What was found up to now, of hunts with this limit."""
    lines = file.read_text().splitlines() if file.exists() else []
    found = [Result(**json.loads(line)) for line in lines]
    return [result for result in found if result.limit == limit]


def missing(found: Iterable[Result], hunts: int, only: str) -> Iterator[tuple[int, int]]:
    """(position in ALL, hunt) of what is to be done, all first hunts first."""
    done = {(result.bug, result.hunt) for result in found}
    for number in range(hunts):
        for position, bug in enumerate(ALL):
            if only in bug.name and (bug.name, number) not in done:
                yield position, number


def play(todo: Iterator[tuple[int, int]], limit: int, jobs: int, minutes: float) -> Iterator[Result]:
    """Hunt on so many processes; begin no more once the time is over."""
    end = time.monotonic() + 60 * minutes
    with ProcessPoolExecutor(jobs) as pool:
        waiting: set[Future[Result]] = set()
        while True:
            if time.monotonic() < end:
                for position, number in islice(todo, jobs - len(waiting)):
                    waiting.add(pool.submit(hunt_once, position, number, limit))
            if not waiting:
                return
            ended, waiting = wait(waiting, return_when=FIRST_COMPLETED)
            yield from (future.result() for future in ended)


# --- the page -----------------------------------------------------------------------------------------------


def row(bug: Bug, found: Sequence[Result]) -> str:
    """Medians over all hunts; one that found nothing counts as more seeds than any."""
    hits = [result for result in found if result.property]
    limit = max((result.seeds for result in found if not result.property), default=0)
    if not hits:
        return f"| {bug.name} | **nothing** | 0 of {len(found)} | > {limit} in each | |"
    names = ", ".join(name for name, _ in Counter(each.property for each in hits).most_common(2))
    seeds = statistics.median_high(each.seeds if each.property else inf for each in found)
    spent = statistics.median(each.cpu_seconds for each in found)
    told = f"{seeds:g}" if seeds < inf else f"> {limit}"
    return f"| {bug.name} | {names} | {len(hits)} of {len(found)} | {told} | {spent:.1f} |"


def table(bugs: Sequence[Bug], found: Sequence[Result]) -> str:
    """How many were caught, and the rows."""
    of = {bug.name: [result for result in found if result.bug == bug.name] for bug in bugs}
    hunted = {name: results for name, results in of.items() if results}
    caught = [results for results in hunted.values() if any(each.property for each in results)]
    always = sum(all(each.property for each in results) for results in caught)
    share = f"{100 * len(caught) / len(hunted):.1f} %" if hunted else "none"
    says = f"**{len(caught)} of {len(hunted)} were caught ({share})**, {always} of them in every hunt."
    return "\n".join([says, "", *HEADS, *(row(bug, of[bug.name]) for bug in bugs if of[bug.name])])


def with_table(page: str, name: str, content: str) -> str:
    """The page with another table between the marks of this name."""
    begin, end = f"<!-- table: {name} -->\n", f"<!-- end of table: {name} -->"
    before, found, rest = page.partition(begin)
    _, closed, after = rest.partition(end)
    assert found and closed, f"{PAGE.name} has no marks for {name}"
    return f"{before}{begin}{content}\n{end}{after}"


def write(found: Sequence[Result]) -> None:
    page = PAGE.read_text()
    for name, bugs in TABLES.items():
        page = with_table(page, name, table(bugs, found))
    PAGE.write_text(page)
    kept: dict[str, list[int]] = {}
    for bug in ALL:
        hunted = [each for each in found if each.bug == bug.name]
        hits = sorted((each for each in hunted if each.property), key=_cost)
        if 2 * len(hits) > len(hunted):  # else a test could not find another seed soon, once it must
            kept[bug.name] = [each.seed for each in hits[:KEPT_SEEDS]]
    KEPT.write_text(json.dumps(kept, indent=1) + "\n")


def _cost(result: Result) -> int:
    return result.seeds


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Hunts for planted bugs.")
    parser.add_argument("--results", type=Path, required=True)
    parser.add_argument("--hunts", type=int, default=5)
    parser.add_argument("--seeds", type=int, default=250)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--minutes", type=float, default=inf)
    parser.add_argument("--only", default="")
    parser.add_argument("--write", action="store_true")
    given = parser.parse_args(arguments)
    found = read(given.results, given.seeds)
    todo = list(missing(found, given.hunts, given.only))
    with given.results.open("a") as out:
        for result in play(iter(todo), given.seeds, given.jobs, given.minutes):
            found.append(result)
            out.write(json.dumps(asdict(result)) + "\n")
            out.flush()
            sys.stderr.write(f"{result.bug}: {result.property or 'nothing'} after {result.seeds} seeds\n")
    sys.stderr.write(f"{len(list(missing(found, given.hunts, given.only)))} hunts are left\n")
    if given.write:
        write(found)
    else:
        sys.stdout.write("\n\n".join(f"{name}: {table(bugs, found)}" for name, bugs in TABLES.items()) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
