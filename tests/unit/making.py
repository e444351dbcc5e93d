"""Batches made of assessed interactions, one after the other, without a broker: what a test says of each is all that differs."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

from ruminate.accumulator.making.choose import interval_of
from ruminate.accumulator.making.dataset import Made, keep_dataset
from ruminate.accumulator.making.describe import Cut
from ruminate.accumulator.making.holdings import Holdings, account
from ruminate.accumulator.making.make import Sets, make
from ruminate.accumulator.making.shelf import Shelf
from ruminate.accumulator.making.spool import Spool
from ruminate.accumulator.sealing.chain import BEGINNING, Fold, Link, Sealed
from ruminate.accumulator.settings import AccumulatorSettings
from ruminate.schemas.assessment import ReasoningAssessed, ReasoningQuality, Score, Verdict
from ruminate.schemas.evidence import EvidenceKind, EvidenceRecorded
from ruminate.schemas.interaction import InteractionRecorded, Message, Response, Thinking
from ruminate.schemas.payload import ArtifactReference
from ruminate.shared.store import FileStore

START = datetime(2026, 3, 1, tzinfo=UTC)
_NOTHING = Score(value=None)
_WORDS = "amber birch cedar delta ember fjord grove heath inlet juniper kelp lagoon marsh nectar oasis pebble quartz ravine"
WORDS = _WORDS.split()


def question(number: int) -> str:
    """A question that is like no other."""
    a, b, c = (WORDS[(number // 18**power + power) % 18] for power in range(3))
    return f"Where does the {a} {b} of {c} lie, the one called {WORDS[number % 18]}{number}?"


def assessed(
    number: int,
    *,
    thinks: bool = True,
    keep: bool = True,
    score: float = 0.9,
    fits: float | None = None,
    evidence: Sequence[EvidenceRecorded] = (),
    revision: int = 0,
    **changed: Any,
) -> ReasoningAssessed:
    """Interaction `number` with its verdict, changed as told."""
    fields: dict[str, Any] = {
        "interaction_id": f"i-{number}",
        "conversation_id": f"c-{number}",
        "agent": "tester",
        "target_model": "t",
        "occurred_at": START + timedelta(seconds=number),
        "messages": (Message(role="user", content=question(number)),),
        "response": Response(content=f"It lies {number} miles off.", thinking=f"I recall the {number}." if thinks else None),
        "thinking": Thinking(mode_used="thinking" if thinks else "direct"),
        "training_allowed": True,
        "source": "/tester",
        "recorded_id": UUID(int=number),
    } | changed
    interaction = InteractionRecorded(**fields)
    verdict = Verdict(
        answer_quality=_NOTHING,
        reasoning_quality=ReasoningQuality(
            logical_coherence=_NOTHING,
            problem_decomposition=_NOTHING,
            evidence_usage=_NOTHING,
            conclusion_validity=_NOTHING,
            step_by_step_clarity=_NOTHING,
        ),
        mode_appropriateness=Score(value=fits),
        overall=Score(value=score),
        evidence_ratio=0.5,
        decision="keep" if keep else "reject",
        reasons=("as told",),
        thinking_words=5 if thinks else 0,
    )
    return ReasoningAssessed(
        target_model="t",
        recorded_id=interaction.recorded_id,
        revision=revision,
        policy_version="p",
        scorer_version="s",
        verdict=verdict,
        evidence=tuple(evidence),
        interaction=interaction,
    )


def said(number: int, kind: EvidenceKind = "feedback", by: str = "reader", **what: Any) -> EvidenceRecorded:
    """What somebody said of interaction `number`."""
    return EvidenceRecorded(
        recorded_id=UUID(int=number), conversation_id=f"c-{number}", kind=kind, said_by=by, said_at=START, **what
    )


class Maker:
    """One chain, and the log that it is cut from."""

    def __init__(self, folder: Path, *, sets: Sets | None = None, **values: Any) -> None:
        self.settings = AccumulatorSettings.written_down({"holdout_ratio": 0.0} | values)
        self.store = FileStore(folder / "store")
        self.sealed = Sealed()
        self.datasets: dict[int, ArtifactReference] = {}
        self.made: list[Made] = []
        self._sets = sets or Sets()
        self._offset = 0
        self._link = BEGINNING

    def batch(self, *records: ReasoningAssessed, seal: bool = True) -> Made:
        """The dataset of these records, which are the next of the log; it is sealed unless told otherwise."""
        fold = Fold(sealed=self.sealed)
        with Spool() as spool:
            entries = {}
            for offset, record in enumerate(records, self._offset):
                event_id = f"{record.recorded_id}/{record.revision}"
                entry = spool.add(record, event_id=event_id, assessed_at=record.interaction.occurred_at, offset=offset)
                entries[offset] = entry
                fold.add(entry.item(offset=offset, limits=self.settings.row_limits))
            number = self._link.number + 1
            end = self._offset + len(records) - 1
            making = make(
                interval_of(fold),
                entries,
                spool,
                cut=Cut(f"t-{number}", f"0/t-{number}", "default", "t", 0, self._link, end),
                known=self.sealed.known,
                shelf=Shelf(self.store, spool, self.datasets),
                sets=self._sets,
                settings=self.settings,
            )
            made = asyncio.run(making)
        assert isinstance(made, Made)
        if seal:
            assert made.report is not None
            assert not made.report.problems, made.report.problems
            self.datasets[number] = asyncio.run(keep_dataset(self.store, made))
            account(Holdings.of(made), self.sealed)
            self._link, self._offset = Link(number, f"t-{number}", end), end + 1
            self.made.append(made)
        return made


def lines(made: Made, name: str) -> list[dict[str, Any]]:
    """The rows of one of its files."""
    return [json.loads(line) for line in made.files()[name]]


def why_left_out(made: Made) -> dict[int, str]:
    """By interaction."""
    return {left.recorded_id.int: left.reason for left in made.manifest.left_out}
