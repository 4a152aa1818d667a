"""Rows of a table of figures, and how two things are compared: in turn, pair by pair, in one run."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Figure:
    """One row: what was compared with what, the ratio or value, and the target if there is one."""

    what: str
    mine: str
    other: str
    result: str
    target: str = ""
    met: bool | None = None
    """None: there is nothing to reach, the figure is for comparison."""

    @property
    def verdict(self) -> str:
        return {True: "met", False: "MISSED", None: ""}[self.met]


def markdown(figures: list[Figure]) -> str:
    lines = [
        "| what | Trimaran | compared with | result | target | verdict |",
        "|---|---:|---:|---:|---|---|",
    ]
    lines += [
        f"| {one.what} | {one.mine} | {one.other} | {one.result} | {one.target} | {one.verdict} |"
        for one in figures
    ]
    return "\n".join(lines)


@dataclass(frozen=True)
class Pair:
    """Seconds of one call of each of two functions, and the first's share of the second's: all medians."""

    mine: float
    other: float
    ratio: float


def _seconds(function: Callable[[], object], number: int) -> float:
    began = time.perf_counter()
    for _ in range(number):
        function()
    return (time.perf_counter() - began) / number


def paired(
    mine: Callable[[], object], other: Callable[[], object], *, rounds: int = 41, at_least: float = 0.004
) -> Pair:
    """Both in turn, each for about `at_least` seconds a round; the ratio is the median of the rounds' ratios.

    What disturbs the machine for longer than a round disturbs both, and what is shorter is an outlier.
    """
    numbers = [max(1, int(at_least / max(_seconds(one, 1), _seconds(one, 1), 1e-8))) for one in (mine, other)]
    pairs = [(_seconds(mine, numbers[0]), _seconds(other, numbers[1])) for _ in range(rounds)]
    return Pair(
        statistics.median(one for one, _ in pairs),
        statistics.median(two for _, two in pairs),
        statistics.median(one / two for one, two in pairs),
    )


def bandwidth(size: int, seconds: float) -> str:
    return f"{size / seconds / 1e9:.1f} GB/s"


def microseconds(seconds: float) -> str:
    return f"{seconds * 1e6:.1f} µs" if seconds < 1e-3 else f"{seconds * 1e6:,.0f} µs"
