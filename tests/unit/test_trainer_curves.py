"""A job's curves are a picture and a TensorBoard file: every value of every stage, and the same bytes each time."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from PIL import Image
from tensorboardX.proto.event_pb2 import Event
from tensorboardX.record_writer import masked_crc32c

from ruminate.trainer.curves import CURVES_FOLDER, EVENTS_FILE, PICTURE_FILE, panels_of, write_curves

STAGES: list[dict[str, Any]] = [
    {"stage": "cold_start", "losses": [[1, 2.0], [2, 1.5], [3, 1.0]], "rewards": [], "looks": [(2, 1.75)]},
    {"stage": "reasoning_rl", "losses": [[1, 0.1], [2, 0.1]], "rewards": [[1, 0.25], [2, 0.5]], "looks": []},
]


def events(path: Path) -> Iterator[Event]:
    """The events of a file of records, as TensorBoard reads them: length, its checksum, the record, its checksum."""
    content = path.read_bytes()
    while content:
        (length,), record = struct.unpack("<Q", content[:8]), content[12:]
        assert struct.unpack("<I", content[8:12])[0] == masked_crc32c(content[:8])
        assert struct.unpack("<I", record[length : length + 4])[0] == masked_crc32c(record[:length])
        yield Event.FromString(record[:length])
        content = record[length + 4 :]


def test_tensorboard_finds_every_value_under_its_stage_and_measure(tmp_path: Path) -> None:
    write_curves(STAGES, tmp_path)
    first, *others = events(tmp_path / CURVES_FOLDER / EVENTS_FILE)
    assert first.file_version == "brain.Event:2"
    assert [(each.summary.value[0].tag, each.step, round(each.summary.value[0].simple_value, 4)) for each in others] == [
        ("1-cold_start/loss", 1, 2.0),
        ("1-cold_start/loss", 2, 1.5),
        ("1-cold_start/loss", 3, 1.0),
        ("1-cold_start/held-out_loss", 2, 1.75),
        ("2-reasoning_rl/loss", 1, 0.1),
        ("2-reasoning_rl/loss", 2, 0.1),
        ("2-reasoning_rl/reward", 1, 0.25),
        ("2-reasoning_rl/reward", 2, 0.5),
    ]


def test_the_picture_has_a_panel_for_each_stage_and_measure_and_falling_losses_fall_in_it(tmp_path: Path) -> None:
    write_curves(STAGES, tmp_path)
    with Image.open(tmp_path / CURVES_FOLDER / PICTURE_FILE) as picture:
        assert picture.size == (720, 3 * 220)
        pixels = picture.convert("RGB")
    blue = [(x, y) for x in range(72, 704) for y in range(36, 196) if pixels.getpixel((x, y)) == (0x09, 0x69, 0xDA)]
    leftmost, rightmost = min(blue), max(blue)
    assert leftmost[1] < 50 and rightmost[1] > 180
    orange = [(x, y) for x in range(72, 704) for y in range(36, 196) if pixels.getpixel((x, y)) == (0xBC, 0x4C, 0x00)]
    assert orange and abs(sum(x for x, _ in orange) / len(orange) - (72 + 704) / 2) < 5


def test_the_same_values_give_the_same_bytes(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        write_curves(STAGES, tmp_path / name)
    for file in (PICTURE_FILE, EVENTS_FILE):
        one, two = ((tmp_path / name / CURVES_FOLDER / file).read_bytes() for name in ("one", "two"))
        assert one == two


def test_a_job_without_a_curve_writes_nothing_and_one_value_is_a_curve(tmp_path: Path) -> None:
    write_curves([{"stage": "cold_start", "losses": []}], tmp_path)
    assert list(tmp_path.iterdir()) == []
    write_curves([{"stage": "cold_start", "losses": [[1, 0.5]]}], tmp_path)
    assert (tmp_path / CURVES_FOLDER / PICTURE_FILE).exists()
    assert [panel.title for panel in panels_of([{"stage": "general_rl", "losses": [[1, 0.5]]}])] == ["1-general_rl"]
