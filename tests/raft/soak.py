"""More seeds than a test run has time for: `python -m tests.raft.soak FIRST LAST`.

A failing seed is run once more, with its story: who led, who crashed, and the invariant that broke.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence

from .cluster import run_seed


def soak(first: int, last: int) -> list[int]:
    """The seeds of [first, last) that fail."""
    failed: list[int] = []
    for seed in range(first, last):
        try:
            run_seed(seed)
        except AssertionError as error:
            failed.append(seed)
            sys.stdout.write(f"seed {seed}: {error}\n")
    return failed


def tell(seed: int) -> None:
    story: list[str] = []
    try:
        run_seed(seed, story=story)
    except AssertionError as error:
        story.append(str(error))
    sys.stdout.write("\n".join(["", *story[-40:], ""]))


def main(arguments: Sequence[str]) -> int:
    first, last = map(int, arguments)
    begin = time.process_time()
    failed = soak(first, last)
    for seed in failed[:3]:
        tell(seed)
    seconds = time.process_time() - begin
    sys.stdout.write(f"{last - first} seeds, {len(failed)} failed, {seconds:.1f} s of processor time\n")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
