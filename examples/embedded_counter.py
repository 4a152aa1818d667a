"""A state machine of your own, replicated on three nodes inside one Trio program.

    python examples/embedded_counter.py [DIRECTORY]

Every count is acknowledged only after a majority of the three logs was synced to disk.
"""

import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import trio

from trimaran import NotDone, open_cluster, open_group


class Counter:
    """Adds up numbers. Deterministic: the same entries give the same total on every replica."""

    def __init__(self) -> None:
        self.total = 0

    def apply(self, entries: Sequence[bytes], index: int, time: int) -> list[object]:
        results: list[object] = []
        for entry in entries:
            self.total += int(entry)
            results.append(self.total)
        return results

    def snapshot(self) -> bytes:
        return str(self.total).encode()

    def restore(self, state: bytes) -> None:
        self.total = int(state)


async def count(directory: Path) -> int:
    """Count to 55 through all three nodes in turn, and return what the third replica says."""
    async with open_cluster(directory, machines={"counter": Counter}) as nodes:
        counters = [await open_group(node, "hits", machine="counter", replicas=3) for node in nodes]
        for number in range(1, 11):
            try:
                total = await counters[number % 3].propose(str(number).encode())
            except NotDone as end:
                print(f"{number}: {end}")  # end.outcome: NotApplied is safe to retry, Unknown is not
                raise
            print(f"+{number} = {total}")
        machine = await counters[2].read()  # from any replica: it shows all that was acknowledged
        assert isinstance(machine, Counter)
        return machine.total


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as scratch:
        where = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(scratch)
        print("total:", trio.run(count, where))
