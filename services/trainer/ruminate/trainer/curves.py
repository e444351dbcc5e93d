"""Curves: how each stage of a job went, as a picture and for TensorBoard; they travel with the adapter.

curves/loss.png                        a panel a stage and measure
curves/events.out.tfevents.ruminate    the same values; `tensorboard --logdir` takes the folder

The same values give the same bytes: no clock, and no name of the machine.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

from PIL import Image, ImageDraw, ImageFont
from tensorboardX.proto.event_pb2 import Event
from tensorboardX.proto.summary_pb2 import Summary
from tensorboardX.record_writer import RecordWriter

CURVES_FOLDER: Final = "curves"
PICTURE_FILE: Final = "loss.png"
EVENTS_FILE: Final = "events.out.tfevents.ruminate"

_WIDTH, _HEIGHT = 720, 220
_LEFT, _RIGHT, _TOP, _BOTTOM = 72, 16, 36, 28
_GROUND, _GRID, _TEXT = "#ffffff", "#d0d7de", "#1f2328"
_COLOURS: Final = {"loss": "#0969da", "held-out loss": "#bc4c00", "reward": "#1a7f37"}
_FONT_PIXELS: Final = 13


class Curve(NamedTuple):
    """The values of one measure over the steps of a stage."""

    measure: str
    points: tuple[tuple[int, float], ...]


class Panel(NamedTuple):
    """What is drawn over the same axes."""

    title: str
    curves: tuple[Curve, ...]


def write_curves(records: Iterable[Mapping[str, Any]], folder: Path) -> None:
    """Write both files for the stages of a job into its adapter's folder; nothing where no stage has a curve."""
    panels = list(panels_of(records))
    if not panels:
        return
    out = folder / CURVES_FOLDER
    out.mkdir()
    draw(panels).save(out / PICTURE_FILE, format="PNG", optimize=True)
    events = RecordWriter(str(out / EVENTS_FILE))
    try:
        for event in events_of(panels):
            events.write(event.SerializeToString(deterministic=True))
    finally:
        events.close()


def panels_of(records: Iterable[Mapping[str, Any]]) -> Iterator[Panel]:
    """The panels of every stage: its losses, on rows that it trains and on rows held out, and its rewards."""
    for number, record in enumerate(records, start=1):
        title = f"{number}-{record['stage']}"
        losses = (_curve("loss", record.get("losses")), _curve("held-out loss", record.get("looks")))
        rewards = (_curve("reward", record.get("rewards")),)
        for curves in (losses, rewards):
            if there := tuple(curve for curve in curves if curve.points):
                yield Panel(title, there)


def _curve(measure: str, points: Sequence[Sequence[float]] | None) -> Curve:
    return Curve(measure, tuple((int(step), float(value)) for step, value in points or ()))


def events_of(panels: Iterable[Panel]) -> Iterator[Event]:
    """The values as TensorBoard reads them; a tag is `stage/measure`."""
    yield Event(wall_time=0.0, file_version="brain.Event:2")
    for panel in panels:
        for curve in panel.curves:
            tag = f"{panel.title}/{curve.measure.replace(' ', '_')}"
            for step, value in curve.points:
                summary = Summary(value=[Summary.Value(tag=tag, simple_value=value)])
                yield Event(wall_time=0.0, step=step, summary=summary)


def draw(panels: Sequence[Panel]) -> Image.Image:
    """One panel below the other."""
    picture = Image.new("RGB", (_WIDTH, _HEIGHT * len(panels)), _GROUND)
    pen, font = ImageDraw.Draw(picture), ImageFont.load_default(_FONT_PIXELS)
    for place, panel in enumerate(panels):
        _draw_panel(pen, font, panel, top=_HEIGHT * place)
    return picture


def _draw_panel(pen: ImageDraw.ImageDraw, font: Any, panel: Panel, *, top: int) -> None:
    points = [point for curve in panel.curves for point in curve.points]
    first, last = min(step for step, _ in points), max(step for step, _ in points)
    low, high = min(value for _, value in points), max(value for _, value in points)
    across, down = max(1, last - first), (high - low) or 1.0
    left, right, above, below = _LEFT, _WIDTH - _RIGHT, top + _TOP, top + _HEIGHT - _BOTTOM

    def at(step: int, value: float) -> tuple[float, float]:
        return left + (step - first) / across * (right - left), below - (value - low) / down * (below - above)

    for share in (0.0, 0.5, 1.0):
        y = below - share * (below - above)
        pen.line(((left, y), (right, y)), fill=_GRID)
        pen.text((left - 8, y), f"{low + share * (high - low):.3g}", fill=_TEXT, font=font, anchor="rm")
    pen.text((left, below + 6), f"step {first}", fill=_TEXT, font=font, anchor="la")
    pen.text((right, below + 6), str(last), fill=_TEXT, font=font, anchor="ra")
    pen.text((left, top + 10), panel.title, fill=_TEXT, font=font, anchor="la")
    x = float(right)
    for curve in panel.curves:
        colour, line = _COLOURS[curve.measure], [at(step, value) for step, value in curve.points]
        pen.text((x, top + 10), curve.measure, fill=colour, font=font, anchor="ra")
        x -= pen.textlength(curve.measure, font=font) + 16
        if len(line) > 1:
            pen.line(line, fill=colour, width=2)
        for where in line if len(line) <= 60 else ():
            pen.ellipse((where[0] - 2, where[1] - 2, where[0] + 2, where[1] + 2), fill=colour)
