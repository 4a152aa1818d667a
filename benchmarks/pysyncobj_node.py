"""One PySyncObj node, and the load on it: told so on standard input, the one that leads calls its own method.

    python benchmarks/pysyncobj_node.py JOURNAL ADDRESS OTHER_ADDRESS...

A line `[window, size, warm_up, seconds]` is answered by one line of JSON, `null` from a node that doesn't
lead. The journal is what PySyncObj has for durability: it is written to a mapped file and never synced.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from typing import Any

from pysyncobj import SyncObj, SyncObjConf, replicated


class Messages(SyncObj):  # type: ignore[misc]  # untyped
    """Counts what was published; keeping it would only measure Python's lists."""

    def __init__(self, journal: str, address: str, others: list[str]) -> None:
        super().__init__(address, others, SyncObjConf(journalFile=journal, commandsQueueSize=1_000_000))
        self.stored = 0

    @replicated  # type: ignore[untyped-decorator]  # untyped
    def publish(self, payload: bytes) -> int:
        self.stored += 1
        return self.stored


class Generator:
    """Keeps `window` calls under way."""

    def __init__(self, messages: Messages, payload: bytes) -> None:
        self.messages = messages
        self.payload = payload
        self.latencies: list[float] = []
        self.total = self.under_way = 0
        self.counting = False
        self.sending = True
        self.idle = threading.Event()

    def send(self) -> None:
        self.under_way += 1
        begun = time.perf_counter()
        self.messages.publish(self.payload, callback=lambda result, error: self.done(error, begun))

    def done(self, error: Any, begun: float) -> None:
        self.under_way -= 1
        if not error:
            self.total += 1
            if self.counting:
                self.latencies.append(time.perf_counter() - begun)
        if self.sending:
            self.send()
        elif not self.under_way:
            self.idle.set()


def run(messages: Messages, window: int, size: int, warm_up: float, seconds: float) -> dict[str, float]:
    generator = Generator(messages, b"x" * size)
    for _ in range(window):
        generator.send()
    time.sleep(warm_up)
    generator.counting, began = True, time.perf_counter()
    time.sleep(seconds)
    generator.counting, took = False, time.perf_counter() - began
    generator.sending = False
    generator.idle.wait(10)
    latencies = sorted(generator.latencies)
    return {
        "rate": len(latencies) / took,
        "p50": latencies[len(latencies) // 2] if latencies else 0.0,
        "p99": latencies[len(latencies) * 99 // 100] if latencies else 0.0,
        "total": generator.total,
        "generator_cpu": 0.0,
    }


def main() -> None:
    journal, address, *others = sys.argv[1:]
    messages = Messages(journal, address, others)
    for line in sys.stdin:
        while not messages.isReady() or messages._getLeader() is None:
            time.sleep(0.05)
        leads = str(messages._getLeader()) == address
        answer = run(messages, *json.loads(line)) if leads else None
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
