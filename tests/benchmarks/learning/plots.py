"""Lines as SVG, readable on light and on dark: shares over turns or steps, with their spread over seeds. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean
from typing import Final, NamedTuple
from xml.sax.saxutils import escape

_PANEL: Final = 300
_HEIGHT: Final = 300
_LEFT, _RIGHT, _TOP, _BOTTOM = 44, 12, 62, 34
_LEGEND_ROW: Final = 20
_LEGEND_COLUMNS: Final = 4

# An image cannot see the colours of the page that it stands on, only what its reader prefers: so it brings its own ground.
_LIGHT: Final = ("#0969da", "#bc4c00", "#1a7f37", "#8250df", "#cf222e", "#9a6700", "#57606a", "#bf3989")
_DARK: Final = ("#4493f8", "#f0883e", "#3fb950", "#ab7df8", "#ff7b72", "#d29922", "#9198a1", "#f778ba")


class Line(NamedTuple):
    """One measure: at each place what every seed came to."""

    name: str
    points: Sequence[tuple[float, Sequence[float]]]


class Panel(NamedTuple):
    """What is drawn over the same axes; shares go from 0 to 1."""

    title: str
    lines: Sequence[Line]


def draw(title: str, panels: Sequence[Panel], *, across: str) -> str:
    """Panels side by side: means as lines, and the least and the most of the seeds as a bar at each place."""
    names = list(dict.fromkeys(line.name for panel in panels for line in panel.lines))
    legend = _LEGEND_ROW * -(-len(names) // _LEGEND_COLUMNS)
    width, height = max(2, len(panels)) * _PANEL, _HEIGHT + legend
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" role="img">',
        f"  <title>{escape(title)}</title>",
        f"  <desc>{escape(_said(panels))}</desc>",
        f"  <style>{_style()}  </style>",
        f'  <rect class="ground" x="0.5" y="0.5" width="{width - 1}" height="{height - 1}" rx="6"/>',
        f'  <text class="title" x="16" y="26">{escape(title)}</text>',
    ]
    for place, panel in enumerate(panels):
        parts += _panel(panel, _PANEL * place, names, across)
    for number, name in enumerate(names):
        x = 16 + (width - 32) / _LEGEND_COLUMNS * (number % _LEGEND_COLUMNS)
        y = _HEIGHT + _LEGEND_ROW * (number // _LEGEND_COLUMNS) + 2
        parts += [
            f'  <line class="line c{number}" x1="{x:.1f}" y1="{y}" x2="{x + 18:.1f}" y2="{y}"/>',
            f'  <text x="{x + 24:.1f}" y="{y + 4}">{escape(name)}</text>',
        ]
    return "\n".join([*parts, "</svg>"]) + "\n"


def _panel(panel: Panel, left: float, names: Sequence[str], across: str) -> list[str]:
    places = [place for line in panel.lines for place, _ in line.points]
    first, last = min(places), max(places)
    x0, x1, y0, y1 = left + _LEFT, left + _PANEL - _RIGHT, _HEIGHT - _BOTTOM, _TOP

    def x_of(place: float) -> float:
        return x0 + (x1 - x0) * (place - first) / ((last - first) or 1)

    def y_of(share: float) -> float:
        return y0 - (y0 - y1) * share

    parts = [f'  <text x="{left + _LEFT}" y="{_TOP - 12}">{escape(panel.title)}</text>']
    for share in (0.0, 0.25, 0.5, 0.75, 1.0):
        parts += [
            f'  <line class="grid" x1="{x0}" y1="{y_of(share):.1f}" x2="{x1}" y2="{y_of(share):.1f}"/>',
            f'  <text class="number" x="{x0 - 6}" y="{y_of(share) + 4:.1f}" text-anchor="end">{share:.0%}</text>',
        ]
    parts += [
        f'  <text class="number" x="{x0}" y="{y0 + 18}">{escape(across)} {first:g}</text>',
        f'  <text class="number" x="{x1}" y="{y0 + 18}" text-anchor="end">{last:g}</text>',
    ]
    for line in panel.lines:
        colour = names.index(line.name)
        means = " ".join(f"{x_of(place):.1f},{y_of(fmean(values)):.1f}" for place, values in line.points)
        parts.append(f'  <polyline class="line c{colour}" points="{means}"/>')
        for place, values in line.points if len(line.points) <= 20 else ():
            x, low, high = x_of(place), y_of(min(values)), y_of(max(values))
            parts += [
                f'  <line class="spread c{colour}" x1="{x:.1f}" y1="{low:.1f}" x2="{x:.1f}" y2="{high:.1f}"/>',
                f'  <circle class="dot f{colour}" cx="{x:.1f}" cy="{y_of(fmean(values)):.1f}" r="2.5"/>',
            ]
    return parts


def _style() -> str:
    rules = [
        ".ground { fill: #ffffff; stroke: #d0d7de }",
        ".grid { stroke: #d0d7de; stroke-width: 1 }",
        ".line { fill: none; stroke-width: 2 }",
        ".spread { stroke-width: 1 }",
        "text { fill: #1f2328; font: 13px system-ui, sans-serif }",
        ".title { font-weight: 600 }",
        ".number { fill: #57606a; font-size: 11px }",
        *(f".c{number} {{ stroke: {colour} }} .f{number} {{ fill: {colour} }}" for number, colour in enumerate(_LIGHT)),
    ]
    dark = [
        ".ground { fill: #0d1117; stroke: #3d444d }",
        ".grid { stroke: #3d444d }",
        "text { fill: #e6edf3 }",
        ".number { fill: #9198a1 }",
        *(f".c{number} {{ stroke: {colour} }} .f{number} {{ fill: {colour} }}" for number, colour in enumerate(_DARK)),
    ]
    light = "".join(f"\n    {rule}" for rule in rules)
    return f"{light}\n    @media (prefers-color-scheme: dark) {{" + "".join(f"\n      {rule}" for rule in dark) + "\n    }\n"


def _said(panels: Sequence[Panel]) -> str:
    """The last mean of every line, for whoever cannot see it."""
    return "; ".join(
        f"{panel.title}: " + ", ".join(f"{line.name} {fmean(line.points[-1][1]):.1%}" for line in panel.lines if line.points)
        for panel in panels
    )
