"""Deterministic simulation: a whole cluster from one seed.

    python -m trimaran.testing run --seed 7
    python -m trimaran.testing soak --minutes 10

A seed decides everything that is random: which faults there are and how strong, when they strike, how long
a message or a sync takes, what clients do. The same seed gives the same events in the same order on every
machine, so a failing seed is a bug report. docs/testing.md tells what is simulated and what is checked.
"""

from .report import FaultCount, Options, Report, Trace, Violation
from .seeds import Streams

__all__ = ["FaultCount", "Options", "Report", "Streams", "Trace", "Violation"]
