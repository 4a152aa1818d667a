"""`trimaran top`: what nodes do, a line each, renewed until Ctrl-C."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import click
from rich.live import Live
from rich.markup import escape as plain
from rich.table import Table

from ..logs import escape
from .status import EXIT_UNREACHABLE, NodeStatus, fetch_status, groups, lag_of, number, urls_option
from .tables import table_console

SHORTEST_INTERVAL: Final = 0.1
COLUMNS: Final = (
    *("node", "clients", "leads", "in/s", "out/s", "MiB in/s", "batches/s", "entries/batch", "syncs/s"),
    *("sync p50", "lag", "health"),
)


@dataclass(frozen=True, slots=True)
class Sample:
    """A node's counters at one moment."""

    status: NodeStatus
    moment: float
    """Seconds of a monotonic clock."""

    def counter(self, name: str) -> float:
        """One of /varz, or with a dot, of what is inside."""
        value: object = self.status.varz
        for part in name.split("."):
            value = value.get(part) if isinstance(value, Mapping) else None
        return number(value)

    def summed(self, name: str) -> float:
        """A counter of every group on the node."""
        return sum(number(state.get(name)) for _, state in groups(self.status.raftz))


def row(before: Sample, after: Sample) -> list[str]:
    """What happened between two samples of one node, as `COLUMNS` say."""
    seconds = max(after.moment - before.moment, 1e-9)

    def rate(now: float, then: float) -> float:
        return max(0.0, now - then) / seconds  # a restarted node counts from zero

    def counted(name: str) -> float:
        return rate(after.counter(name), before.counter(name))

    status = after.status
    batches = rate(after.summed("batches"), before.summed("batches"))
    entries = rate(after.summed("entries"), before.summed("entries"))
    states = [state for _, state in groups(status.raftz)]
    shown = [
        str(status.varz.get("server_name", status.url)),
        f"{after.counter('connections'):.0f}",
        f"{sum(state.get('role') == 'leader' for state in states)}/{len(states)}",
        f"{counted('in_msgs'):,.0f}",
        f"{counted('out_msgs'):,.0f}",
        f"{counted('in_bytes') / 2**20:,.1f}",
        f"{batches:,.0f}",
        f"{entries / batches:,.1f}" if batches else "-",
        f"{counted('wal.writes'):,.0f}",
        f"{after.counter('wal.sync_p50_seconds') * 1000:.2f} ms",
        str(max(map(lag_of, states), default=0)),
        "ok" if status.healthy else str(status.health.get("error", "unknown")),
    ]
    return [plain(escape(text)) for text in shown]


def table(before: Sequence[Sample], after: Sequence[Sample]) -> Table:
    """One row per node."""
    made = Table()
    for number_, name in enumerate(COLUMNS):
        made.add_column(name, justify="left" if number_ in (0, len(COLUMNS) - 1) else "right")
    for then, now in zip(before, after, strict=True):
        made.add_row(*row(then, now), style="" if now.status.healthy else "red")
    return made


@click.command(short_help="Show what nodes do, each second anew.")
@urls_option
@click.option(
    "--interval", type=click.FloatRange(SHORTEST_INTERVAL), default=1.0, show_default=True, help="Seconds."
)
@click.option(
    "--count", type=click.IntRange(0), default=0, help="So many times, then end. [default: until Ctrl-C]"
)
def top(urls: tuple[str, ...], interval: float, count: int) -> int:
    """Show what nodes do: rates since the last look, sizes of batches, syncs, lag.

    The exit code is 0, or 2 if no node could be reached at last.
    """
    samples = look(urls)
    with Live(table(samples, samples), console=table_console(), auto_refresh=False) as live:
        looks = 0
        while not count or looks < count:
            time.sleep(interval)
            before, samples = samples, look(urls)
            live.update(table(before, samples), refresh=True)
            looks += 1
    return EXIT_UNREACHABLE if all(sample.status.unreachable for sample in samples) else 0


def look(urls: Sequence[str]) -> list[Sample]:
    """A sample of each node."""
    return [Sample(fetch_status(url), time.monotonic()) for url in urls]
