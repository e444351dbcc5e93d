"""Dead letters on a screen, and as JSON. Contents only where they are asked for, and never a character that moves the cursor."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from typing import Any, Final
from uuid import UUID

from rich.console import Console
from rich.table import Table
from rich.text import Text

from ruminate.command.dlq.choose import shown_length
from ruminate.command.terminal import line, printable
from ruminate.schemas.dead_letter import DeadLetterSettled
from ruminate.schemas.envelope import moment
from ruminate.shared.dead_letters import DeadLetter, without_provenance
from ruminate.shared.letters import Box, Letter, Letters
from ruminate.shared.record import Position, Record

_HEX_WIDTH: Final = 16
_AGES: Final = ((86_400, "d"), (3_600, "h"), (60, "min"), (1, "s"))
_SIZES: Final = ((1024 * 1024, "MiB"), (1024, "KiB"), (1, "B"))


# For people.


def show_letters(letters: Sequence[Letter], known: Letters, out: Console, *, now: datetime) -> None:
    """A table for each reader."""
    length = shown_length(known.ids())
    by_box: dict[Box, list[Letter]] = {}
    for letter in letters:
        by_box.setdefault(letter.box, []).append(letter)
    for box, lying in by_box.items():
        line(out, f"\n{box.topic.name}, given up by {box.reader}")
        table = _table("id", "age", "bytes", "tries", "reason", "explanation")
        for letter in lying:
            row = (
                str(letter.id)[:length],
                _largest(int((now - letter.at).total_seconds()), _AGES),
                _largest(letter.value_bytes, _SIZES),
                str(len(letter.tries) or "?"),
                letter.reason,
                letter.explanation,
            )
            table.add_row(*(Text(printable(cell)) for cell in row))
        out.print(table)


def show_settled(words: Sequence[DeadLetterSettled], known: Letters, out: Console) -> None:
    """What was decided about letters that no longer stand."""
    length = shown_length(known.ids())
    line(out, "\nsettled")
    for word in words:
        line(out, f"{str(word.letter_id)[:length]}  {word.reader}, {word.reason}: {said(word)}")


def dead_letters(count: int) -> str:
    """So many of them."""
    return "1 dead letter" if count == 1 else f"{count:,} dead letters"


def counted(reasons: Iterable[str]) -> str:
    """`not_json 3, conflict 1`: the most frequent first."""
    return ", ".join(f"{printable(reason)} {count:,}" for reason, count in Counter(reasons).most_common())


def describe(letter: Letter, known: Letters) -> Iterator[str]:
    """All of a letter but its contents, a line each."""
    yield f"dead letter {letter.id}"
    yield f"  given up by   {letter.box.reader}, {_at(letter.at)}"
    yield f"  reason        {letter.reason}"
    yield f"  explanation   {letter.explanation}"
    if letter.tries:
        first = letter.tries[0]
        yield f"  record        {_place(first.position)}, of {_at(moment(first.timestamp_ms))}"
        yield f"  contents      {letter.value_bytes:,} bytes" if letter.tries[-1].had_value else "  contents      none: a tombstone"
    yield f"  lies in       {letter.box.letters.name} {letter.partition}:{letter.offset}"
    if len(letter.tries) > 1:
        yield f"  tries         {len(letter.tries)}"
        for number, each in enumerate(letter.tries, start=1):
            yield f"    {number}  {_try(each)}"
            yield from (f"       {said(word)}" for word in _words_at(known, letter.box, each.position))
    for word in known.words(letter.id):
        yield f"  said before   {said(word)}"
    if known.said(letter, "replayed"):
        yield "  it was sent back, and whoever did that was cut short: `replay` ends it"


def said(word: DeadLetterSettled) -> str:
    """What was decided, when, by whom, and why."""
    return f"{word.action} {_at(word.settled_at)} by {word.settled_by}" + (f": {word.why}" if word.why else "")


def contents(value: bytes) -> Iterator[str]:
    """The contents, a line each: JSON with its indentation, anything else in hexadecimal."""
    try:
        text = json.dumps(json.loads(value.decode()), indent=2, ensure_ascii=False)
    except (ValueError, RecursionError):
        for start in range(0, len(value), _HEX_WIDTH):
            piece = value[start : start + _HEX_WIDTH]
            text = "".join(chr(byte) if 32 <= byte < 127 else "." for byte in piece)
            yield f"{start:08x}  {piece.hex(' '):<{_HEX_WIDTH * 3}} {text}"
        return
    yield from text.split("\n")


def headers(record: Record) -> Iterator[str]:
    """The key and the headers that its writer gave the record, a line each."""
    for name, raw in without_provenance(record.headers):
        # A header may be null, whatever its type says.
        yield f"{name}: {'null' if raw is None else raw.decode(errors='backslashreplace')}"


# For programs.


def letter_as_json(letter: Letter) -> dict[str, Any]:
    """Everything but the contents."""
    return {
        "id": str(letter.id),
        "state": "standing",
        "topic": letter.box.topic.name,
        "reader": letter.box.reader,
        "reason": letter.reason,
        "explanation": letter.explanation,
        "given_up_at": letter.at.isoformat(),
        "bytes": letter.value_bytes,
        "tries": [
            {"record": _place_as_json(each.position), "given_up_at": each.at.isoformat(), "reason": each.reason}
            for each in letter.tries
        ],
        "lies_in": _place_as_json(Position(letter.box.letters.name, letter.partition, letter.offset)),
    }


def word_as_json(word: DeadLetterSettled) -> dict[str, Any]:
    """A letter that no longer stands."""
    return {
        "id": str(word.letter_id),
        "state": word.action,
        "topic": word.topic,
        "reader": word.reader,
        "reason": word.reason,
        "record": _place_as_json(Position(word.topic, word.partition, word.offset)),
        "settled_at": word.settled_at.isoformat(),
        "settled_by": word.settled_by,
        "why": word.why,
    }


def short(letter_id: UUID, known: Letters) -> str:
    """As much of an id as tells it apart."""
    return str(letter_id)[: shown_length(known.ids())]


def _words_at(known: Letters, box: Box, place: Position) -> list[DeadLetterSettled]:
    return [
        word for word in known.settled() if (word.reader, Position(word.topic, word.partition, word.offset)) == (box.reader, place)
    ]


def _try(each: DeadLetter) -> str:
    return f"{_at(each.at)}, {_place(each.position)}: {each.reason}, {each.explanation}"


def _at(time: datetime) -> str:
    return f"{time:%Y-%m-%d %H:%M:%S %Z}"


def _place(position: Position) -> str:
    return f"{position.topic} {position.partition}:{position.offset}"


def _place_as_json(position: Position) -> dict[str, Any]:
    return {"topic": position.topic, "partition": position.partition, "offset": position.offset}


def _largest(amount: int, units: Sequence[tuple[int, str]]) -> str:
    size, name = next((unit for unit in units if amount >= unit[0]), units[-1])
    return f"{amount // size} {name}"


def _table(*columns: str) -> Table:
    table = Table(box=None, header_style="dim", padding=(0, 2, 0, 0))
    for name in columns:
        numeric = name in ("age", "bytes", "tries")
        table.add_column(name, justify="right" if numeric else "left", no_wrap=numeric or name == "id", overflow="fold")
    return table
