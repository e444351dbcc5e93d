"""Comparing: answers to the same question meet in one partition, and each hears how many others say the same.

    answer-noted-v1  ->  compare  ->  evidence-recorded-v1, of the kinds `agreement` and `asked_again`

With every answer, that one is told; the earlier ones are told again when there are twice as many as when they were told last, so
that a question which is asked a thousand times costs a thousand words, and not a million. State is a window, read back from the
log when a partition comes.
"""

from __future__ import annotations

from collections import OrderedDict
from contextlib import aclosing
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final
from uuid import UUID

import structlog

from ruminate.assessor.metrics import ANSWERS_COMPARED
from ruminate.schemas.evidence import AnswerNoted, EvidenceRecorded
from ruminate.schemas.flow import ANSWER_NOTED, EVIDENCE_RECORDED
from ruminate.shared.bus import BrokerUnavailable, Bus, Delivery, Unavailable

log = structlog.get_logger()

_RETRY_SECONDS: Final = 1.0
_RETRY_WITHIN: Final = timedelta(minutes=2)
"""Whoever asks the same again so soon was not content with the answer."""
_ASKED_AGAIN_ORDINAL: Final = 1_000
_MOST_OF_A_QUESTION: Final = 64
"""Answers to one question that are compared: the first ones."""


@dataclass(frozen=True, slots=True)
class _Given:
    """One answer that was given."""

    recorded_id: bytes
    conversation_id: str
    answer: str | None
    wording: str
    began_at: datetime
    occurred_at: datetime


@dataclass(slots=True)
class _Page:
    """One partition: the answers to each question, by tenant and digest, those first that were asked longest ago."""

    questions: OrderedDict[tuple[str, str], list[_Given]] = field(default_factory=OrderedDict)
    answers: int = 0


class Comparing:
    """The questions of the partitions that are ours."""

    def __init__(self, bus: Bus, *, most_answers: int) -> None:
        self._bus = bus
        self._most = max(1, most_answers // ANSWER_NOTED.partitions)
        self._pages: dict[int, _Page] = {}

    async def compare(self, delivery: Delivery[AnswerNoted]) -> None:
        """Take one answer in, and tell whom it concerns how many others say the same."""
        number = delivery.position.partition
        page = self._pages.get(number)
        if page is None:
            try:
                page = self._pages[number] = await self._read_back(number, delivery.position.offset)
            except BrokerUnavailable as error:
                raise Unavailable(str(error), retry_after_seconds=_RETRY_SECONDS) from error
        given = self._take(page, delivery.payload)
        if not given:
            return
        if (earlier := _retried(given)) is not None:
            delivery.tell(EVIDENCE_RECORDED, _asked_again(delivery, earlier), ordinal=_ASKED_AGAIN_ORDINAL)
        known = [each for each in given if each.answer is not None]
        count = len(known)
        if count < 2 or given[-1].answer is None:
            return
        told = known if count & (count - 1) == 0 else known[-1:]
        for ordinal, each in enumerate(told):
            delivery.tell(EVIDENCE_RECORDED, _agreement(delivery, each, known), ordinal=ordinal)
        ANSWERS_COMPARED.inc()

    async def forget(self, partitions: frozenset[int]) -> None:
        """These partitions are another replica's now."""
        for number in partitions:
            self._pages.pop(number, None)

    def _take(self, page: _Page, noted: AnswerNoted) -> list[_Given]:
        """All answers to the question that count, this one last; empty where it is a copy, or one too many."""
        key = (noted.tenant, noted.question)
        given = page.questions.setdefault(key, [])
        page.questions.move_to_end(key)
        fresh = _Given(
            noted.recorded_id.bytes, noted.conversation_id, noted.answer, noted.wording, noted.began_at, noted.occurred_at
        )
        if fresh in given:  # delivered again: what was told then is told again
            return given[: given.index(fresh) + 1]
        copied = any(each.wording == fresh.wording or each.recorded_id == fresh.recorded_id for each in given)
        if copied or len(given) >= _MOST_OF_A_QUESTION:
            return []
        given.append(fresh)
        page.answers += 1
        while page.answers > self._most:
            _, oldest = page.questions.popitem(last=False)
            page.answers -= len(oldest)
        return given[:]

    async def _read_back(self, number: int, end: int) -> _Page:
        """What stands before the first answer of a partition that is delivered."""
        page = _Page()
        async with aclosing(self._bus.read(ANSWER_NOTED, partitions=(number,), start=-2 * self._most)) as deliveries:
            async for earlier in deliveries:
                if earlier.position.offset >= end:
                    break
                self._take(page, earlier.payload)
        log.info("answers_read_back", partition=number, answers=page.answers)
        return page


def _retried(given: list[_Given]) -> _Given | None:
    """The answer that this question was asked again after: in the same conversation, once it was complete, and soon.

    Answers that were asked for at the same time are samples of one question, and no retry.
    """
    last = given[-1]
    before = [
        each
        for each in given[:-1]
        if each.conversation_id == last.conversation_id and timedelta() <= last.began_at - each.occurred_at <= _RETRY_WITHIN
    ]
    return before[-1] if before else None


def _asked_again(delivery: Delivery[AnswerNoted], about: _Given) -> EvidenceRecorded:
    return EvidenceRecorded(
        tenant=delivery.payload.tenant,
        recorded_id=UUID(bytes=about.recorded_id),
        conversation_id=about.conversation_id,
        kind="asked_again",
        said_by=delivery.source,
        said_at=delivery.payload.began_at,
    )


def _agreement(delivery: Delivery[AnswerNoted], about: _Given, known: list[_Given]) -> EvidenceRecorded:
    agreeing = sum(each.answer == about.answer for each in known) - 1
    return EvidenceRecorded(
        tenant=delivery.payload.tenant,
        recorded_id=UUID(bytes=about.recorded_id),
        conversation_id=about.conversation_id,
        kind="agreement",
        said_by=delivery.source,
        said_at=delivery.payload.occurred_at,
        agreeing=agreeing,
        disagreeing=len(known) - 1 - agreeing,
    )
