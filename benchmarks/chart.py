"""Bars with ranges as SVG: enough for a README, and nothing to install."""

from __future__ import annotations

from dataclasses import dataclass, field
from html import escape

WIDTH, LABEL, BAR, GAP, TITLE = 860, 330, 22, 6, 34
SPAN = WIDTH - LABEL - 110
OURS, OTHERS, RANGE = "#1f6feb", "#9aa4b2", "#333"
STYLE = "text{font:13px system-ui,sans-serif;fill:#222}.t{font-weight:600}"


@dataclass(frozen=True)
class Bar:
    """A median with the lowest and highest value."""

    label: str
    value: float
    low: float
    high: float


@dataclass
class Panel:
    """Bars of one scale."""

    title: str
    bars: list[Bar] = field(default_factory=list)

    @property
    def height(self) -> int:
        return TITLE + len(self.bars) * (BAR + GAP) + GAP


def draw(panels: list[Panel]) -> str:
    """One SVG with the panels below each other; the first bar of each is ours."""
    height = sum(panel.height for panel in panels)
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" '
        f'viewBox="0 0 {WIDTH} {height}"><style>{STYLE}</style><rect width="100%" height="100%" fill="#fff"/>'
    ]
    top = 0
    for panel in panels:
        lines += _panel(panel, top)
        top += panel.height
    return "\n".join([*lines, "</svg>"]) + "\n"


def _panel(panel: Panel, top: int) -> list[str]:
    lines = [f'<text class="t" x="8" y="{top + 22}">{escape(panel.title)}</text>']
    most = max((bar.high for bar in panel.bars), default=0) or 1
    for number, bar in enumerate(panel.bars):
        y = top + TITLE + number * (BAR + GAP)
        middle = y + BAR / 2
        colour = OTHERS if number else OURS
        length, low, high = (value / most * SPAN for value in (bar.value, bar.low, bar.high))
        lines += [
            f'<text x="8" y="{middle + 4:.0f}">{escape(bar.label)}</text>',
            f'<rect x="{LABEL}" y="{y}" width="{length:.1f}" height="{BAR}" fill="{colour}"/>',
            f'<path d="M{LABEL + low:.1f} {middle}H{LABEL + high:.1f}" stroke="{RANGE}" stroke-width="2"/>',
            f'<text x="{LABEL + max(length, high) + 8:.0f}" y="{middle + 4:.0f}">{bar.value:,.0f}</text>',
        ]
    return lines
