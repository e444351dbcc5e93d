"""Bars as SVG, readable on light and on dark: what a dataset card shows. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Final
from xml.sax.saxutils import escape

from ruminate.command.datasets.measure import Histogram

_WIDTH: Final = 720
_LABEL: Final = 224
_NUMBER: Final = 130
_ROW: Final = 22
_TOP: Final = 44
_LETTERS: Final = 26
"""So many of a label fit beside its bar."""
_END: Final = 17
"""So many of its last stay where it does not fit: difficulty and mode of a stratum."""

# An image cannot see the colours of the page that it stands on, only what its reader prefers: so it brings its own ground.
_STYLE: Final = """
    .ground { fill: #ffffff; stroke: #d0d7de }
    .bar { fill: #0969da }
    text { fill: #1f2328; font: 13px system-ui, sans-serif }
    .title { font-weight: 600 }
    .number { fill: #57606a }
    @media (prefers-color-scheme: dark) {
      .ground { fill: #0d1117; stroke: #3d444d }
      .bar { fill: #4493f8 }
      text { fill: #e6edf3 }
      .number { fill: #9198a1 }
    }
"""


def bars(title: str, values: Sequence[tuple[str, int]]) -> str:
    """One bar a value, the longest over the whole width, with its count and its share of all."""
    most, total = max((count for _, count in values), default=0), sum(count for _, count in values)
    height = _TOP + _ROW * len(values) + 12
    space = _WIDTH - _LABEL - _NUMBER - 32
    says = "; ".join(f"{label}: {count}" for label, count in values) or "nothing"
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" width="{_WIDTH}" height="{height}" role="img">',
        f"  <title>{escape(title)}</title>",
        f"  <desc>{escape(says)}</desc>",
        f"  <style>{_STYLE}  </style>",
        f'  <rect class="ground" x="0.5" y="0.5" width="{_WIDTH - 1}" height="{height - 1}" rx="6"/>',
        f'  <text class="title" x="16" y="26">{escape(title)}</text>',
    ]
    for place, (label, count) in enumerate(values):
        y = _TOP + _ROW * place
        width = space * count / most if most else 0.0
        share = f"{count} ({count / total:.0%})" if total else str(count)
        parts += [
            f'  <text x="{_LABEL}" y="{y + 14}" text-anchor="end">{escape(_shortened(label))}</text>',
            f'  <rect class="bar" x="{_LABEL + 10}" y="{y + 2}" width="{width:.1f}" height="{_ROW - 6}" rx="2"/>',
            f'  <text class="number" x="{_LABEL + 18 + width:.1f}" y="{y + 14}">{share}</text>',
        ]
    return "\n".join([*parts, "</svg>"]) + "\n"


def _shortened(label: str) -> str:
    """What stands at its end tells it from its like as often as what stands at its beginning."""
    return label if len(label) <= _LETTERS else f"{label[: _LETTERS - _END - 1]}…{label[-_END:]}"


def of_ratios(histogram: Histogram) -> list[tuple[str, int]]:
    """The bins of a ratio, with what they hold."""
    edges = [0.0, *histogram.edges, 1.0]
    return [(f"{low:.1f} – {high:.1f}", count) for (low, high), count in zip(pairwise(edges), histogram.counts, strict=True)]


def of_words(histogram: Histogram) -> list[tuple[str, int]]:
    """The bins of a length, with what they hold; those behind the last value are left out."""
    edges = [0, *(int(edge) for edge in histogram.edges)]
    names = [
        *("none" if not low else f"{low} – {high - 1}" for low, high in pairwise(edges)),
        f"{edges[-1]} or more",
    ]
    last = max((place for place, count in enumerate(histogram.counts) if count), default=0)
    return list(zip(names, histogram.counts, strict=True))[: last + 1]
