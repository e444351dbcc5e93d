"""Beside the rows: pairs of answers of which people prefer one, and questions whose answers can be checked. Pure.

    preferences.jsonl  {"prompt": […], "chosen": [answer], "rejected": [answer], "chat_template_kwargs": {…}, "tools": …}
    verifiable.jsonl   {"prompt": […], "check": {"kind": …, "content": …}, "tools": …}

A *correction* is preferred to the answer that it corrects; of two answers to one question in one mode, the one with thumbs up to
the one with thumbs down. A question is worth practising whatever was answered, so rejected answers give theirs, too. Nothing here
comes from what is held out, or gives it away.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, NamedTuple

import orjson

from ruminate.accumulator.curation.asked import Asked
from ruminate.accumulator.curation.digests import DIGEST_BYTES
from ruminate.accumulator.curation.known import Known
from ruminate.accumulator.making.candidate import Candidate
from ruminate.accumulator.records.facts import Check, CheckKind

PairKind = Literal["correction", "thumbs"]
MOST_PAIRS_A_QUESTION: Final = 4


class Pair(NamedTuple):
    """Two answers to one question. `chosen` is the offset of the interaction with the better one, None for a correction."""

    kind: PairKind
    chosen: int | None
    rejected: int
    line: bytes

    @property
    def digest(self) -> bytes:
        """Names it among all pairs of a chain."""
        return hashlib.sha256(self.line).digest()[:DIGEST_BYTES]


class Question(NamedTuple):
    """A question whose answers can be checked; `held_out` as its row is."""

    offset: int
    held_out: bool
    kind: CheckKind
    line: bytes

    @property
    def digest(self) -> bytes:
        """Names it among all questions of a chain."""
        return hashlib.sha256(self.line).digest()[:DIGEST_BYTES]


@dataclass(frozen=True, slots=True)
class Source:
    """A record that may give something, and its texts, read when they are needed."""

    candidate: Candidate
    asked: Asked
    line: Callable[[], bytes]
    correction: Callable[[], str | None]
    check: Callable[[], Check | None]

    @property
    def offset(self) -> int:
        """Of the record."""
        return self.candidate.item.offset


Clean = Callable[[Sequence[str], bytes], bool]
"""Whether texts, the question first, with the signature of the question, give nothing away of what is measured."""


def pairs_of(sources: Sequence[Source], known: Known, *, clean: Clean) -> Iterator[Pair]:
    """Every new pair, once, in the order of the log."""
    signatures = {source.offset: source.asked.signature for source in sources}
    found = [*_corrections(sources), *_thumbs(sources)]
    seen: set[bytes] = set()
    for pair in sorted(found, key=lambda each: (each.rejected, -1 if each.chosen is None else each.chosen, each.kind)):
        if pair.digest in seen or pair.digest in known.pairs:
            continue
        (chosen,) = orjson.loads(pair.line)["chosen"]
        texts = (asked_in_prompt(pair.line), chosen["content"], chosen.get("reasoning_content") or "")
        if clean(texts, signatures[pair.rejected]):
            seen.add(pair.digest)
            yield pair


def questions_of(sources: Iterable[Source], known: Known, *, held_out: Callable[[int], bool], clean: Clean) -> Iterator[Question]:
    """Every new question that can be checked, once; `sources` are in the order in which they come."""
    seen: set[bytes] = set()
    for source in sources:
        found = question_line(source)
        if found is None:
            continue
        kind, line = found
        question = Question(source.offset, held_out(source.offset), kind, line)
        if question.digest in seen or question.digest in known.questions:
            continue
        if question.held_out or clean((asked_in_prompt(line),), source.asked.signature):
            seen.add(question.digest)
            yield question


def correction_line(source: Source) -> bytes | None:
    """The pair of a correction and what it corrects; None where there is none."""
    correction = source.correction()
    if correction is None:
        return None
    row = orjson.loads(source.line())
    (answer,) = row["completion"]
    if answer.get("tool_calls"):
        return None
    # What was thought belongs to the answer that was wrong: so both are answers without thinking.
    chosen, rejected = ({"role": "assistant", "content": said} for said in (correction, answer["content"]))
    return _pair_line(row, chosen, rejected, thinks=False)


def thumbs_line(better: Source, worse: Source) -> bytes | None:
    """The pair of two answers to one question; None where they are the same."""
    row, other = orjson.loads(better.line()), orjson.loads(worse.line())
    (chosen,), (rejected,) = row["completion"], other["completion"]
    return None if chosen == rejected else _pair_line(row, chosen, rejected, thinks="reasoning_content" in chosen)


def question_line(source: Source) -> tuple[CheckKind, bytes] | None:
    """How answers to its question are checked, and its line; None where they cannot be."""
    check = source.check()
    if check is None:
        return None
    row = orjson.loads(source.line())
    practice = {"prompt": row["prompt"], "check": {"kind": check.kind, "content": check.content}}
    return check.kind, _line(practice | _offered(row))


def asked_in_prompt(line: bytes) -> str:
    """All that the user asks in a line of any of the files."""
    return "\n".join(turn["content"] for turn in orjson.loads(line)["prompt"] if turn["role"] == "user")


def _corrections(sources: Iterable[Source]) -> Iterator[Pair]:
    for source in sources:
        line = correction_line(source)
        if line is not None:
            yield Pair("correction", None, source.offset, line)


def _thumbs(sources: Iterable[Source]) -> Iterator[Pair]:
    """The best liked answer beside the worst, the second best beside the second worst, and so on around."""
    up: dict[tuple[bytes, str], list[Source]] = {}
    down: dict[tuple[bytes, str], list[Source]] = {}
    for source in sources:
        mark = source.candidate.facts.mark
        if mark is not None:
            (up if mark == "up" else down).setdefault((source.asked.question, source.asked.lane), []).append(source)
    for place, disliked in down.items():
        better = sorted(up.get(place, ()), key=lambda source: (-source.candidate.score, source.offset))
        worse = sorted(disliked, key=lambda source: (source.candidate.score, source.offset))
        for number in range(min(MOST_PAIRS_A_QUESTION, max(len(better), len(worse))) if better else 0):
            one, other = better[number % len(better)], worse[number % len(worse)]
            line = thumbs_line(one, other)
            if line is not None:
                yield Pair("thumbs", one.offset, other.offset, line)


def _pair_line(row: dict[str, Any], chosen: dict[str, Any], rejected: dict[str, Any], *, thinks: bool) -> bytes:
    answers = {"chosen": [chosen], "rejected": [rejected], "chat_template_kwargs": {"enable_thinking": thinks}}
    return _line({"prompt": row["prompt"], **answers, **_offered(row)})


def _offered(row: dict[str, Any]) -> dict[str, Any]:
    """The tools of a row, where it has some: they are part of what is asked."""
    return {"tools": row["tools"]} if "tools" in row else {}


def _line(row: dict[str, Any]) -> bytes:
    # An exact copy, for all of a batch are kept: orjson leaves a short text in the 8 KB that it was written into.
    return bytes(memoryview(orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE)))
