"""Looking for a planted bug: with seeds of either tier, or with enumerated crash states."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from trimaran.testing import Options, core, nodes
from trimaran.testing.crash_states import PROTOCOLS, StateLost, enumerate_states

from .plant import Bug

STATES = 400
"""Of each protocol, for each seed of a bug that is looked for by crash states."""


@dataclass(frozen=True, slots=True)
class Caught:
    """What caught a bug: at which seed, after how many, and what it cost."""

    seed: int
    seeds: int
    cpu_seconds: float
    property: str


def hunt(bug: Bug, seeds: Iterable[int], cpu_seconds: float = float("inf")) -> Caught | None:
    """Plant the bug and play seeds until one fails; None if none did, or the time was over."""
    began = time.process_time()
    with bug.planted():
        for count, seed in enumerate(seeds, 1):
            found = WAYS[bug.by](seed)
            spent = time.process_time() - began
            if found:
                return Caught(seed, count, spent, found)
            if spent > cpu_seconds or count >= bug.within:
                break
    return None


def by_core(seed: int) -> str:
    report = core.play(seed, Options())
    return report.violations[0].property if report.violations else ""


def by_actors(seed: int) -> str:
    report = nodes.play(seed, Options())
    return report.violations[0].property if report.violations else ""


def by_states(seed: int) -> str:
    for name, protocol in PROTOCOLS.items():
        try:
            enumerate_states(protocol, limit=STATES, seed=seed)
        except StateLost:
            return f"crash states of {name}"
    return ""


WAYS: Final = {"core": by_core, "actor": by_actors, "states": by_states}
"""What a seed finds: the property that does not hold, or nothing."""
