"""/metrics: the node's numbers in Prometheus' text format, version 0.0.4.

Names are those of NATS' exporter where it has one (`gnatsd_varz_*`, `jetstream_*`), so that
existing dashboards show them; what it doesn't have is called `jetstream_raft_*`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

from ..storage.histogram import Histogram

__all__ = ["CONTENT_TYPE", "Family", "exposition", "of_histogram"]

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
_ESCAPES: Final = str.maketrans({"\\": "\\\\", '"': '\\"', "\n": "\\n"})

Labels = Mapping[str, str]


@dataclass(slots=True)
class Family:
    """One metric: its samples differ by their labels."""

    name: str
    kind: str
    """`counter`, `gauge` or `histogram`."""
    help: str
    samples: list[tuple[str, Labels, float]] = field(default_factory=list)
    """(suffix of the name, labels, value)."""

    def add(self, value: float, **labels: str) -> Family:
        self.samples.append(("", labels, value))
        return self


def of_histogram(name: str, help: str, histogram: Histogram) -> Family:
    """A histogram as its cumulative buckets, sum and count."""
    family = Family(name, "histogram", help)
    count = 0
    for bound, here in zip((*histogram.bounds, None), histogram.counts, strict=True):
        count += here
        family.samples.append(("_bucket", {"le": "+Inf" if bound is None else f"{bound:g}"}, count))
    family.samples += [("_sum", {}, histogram.total), ("_count", {}, count)]
    return family


def exposition(families: Iterator[Family], common: Labels) -> Iterator[str]:
    """The text, a family a piece. `common` labels stand on every sample."""
    for family in families:
        lines = [f"# HELP {family.name} {family.help}", f"# TYPE {family.name} {family.kind}"]
        for suffix, labels, value in family.samples:
            shown = ",".join(
                f'{name}="{text.translate(_ESCAPES)}"' for name, text in {**common, **labels}.items()
            )
            lines.append(f"{family.name}{suffix}{{{shown}}} {value:.17g}")
        yield "\n".join(lines) + "\n"
