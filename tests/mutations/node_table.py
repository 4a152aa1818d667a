"""The table of bugs that only whole nodes show: `python -m tests.mutations.node_table > table.md`.

Arguments, if any, are parts of names of bugs to look for. All of it may take half an hour on one core.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from itertools import count

from .hunting import Caught, hunt
from .node_bugs import NODE_BUGS, WITHIN
from .node_unforeseen import NODE_UNFORESEEN
from .plant import Bug

FIRST = 70_000
CPU_SECONDS = 150.0
"""At most so much for one bug."""


def row(bug: Bug, caught: Caught | None) -> str:
    if caught is None:
        return f"| {bug.name} | **nothing** | > {WITHIN} | |"
    return f"| {bug.name} | {caught.property} | {caught.seeds} | {caught.cpu_seconds:.0f} |"


def main(arguments: Sequence[str]) -> int:
    logging.disable(logging.CRITICAL)
    known = (*NODE_BUGS, *NODE_UNFORESEEN)
    bugs = [bug for bug in known if not arguments or any(part in bug.name for part in arguments)]
    rows = ["| bug | property that caught it | seeds | CPU seconds |", "|---|---|---|---|"]
    for bug in bugs:
        caught = hunt(bug, count(FIRST), CPU_SECONDS)
        rows.append(row(bug, caught))
        sys.stderr.write(f"{rows[-1]}{f' seed {caught.seed}' if caught else ''}\n")
    sys.stdout.write("\n".join(rows) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
