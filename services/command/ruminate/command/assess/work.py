"""The work of `assess`: twice over the file, first for what each answer says, then for the verdicts. Memory holds no texts.

The first pass keeps the question and the answer of each line as digests, so that the second knows what the others answered. With
`learn`, the second pass also teaches a combiner with all that is known, each line after it was predicted.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

from ruminate.assessor.evidence.agreement import answer_key, question_key
from ruminate.assessor.finding.findings import find
from ruminate.assessor.judging.combiner import Combiner, Snapshot
from ruminate.assessor.judging.decide import knowledge_of, weigh
from ruminate.assessor.judging.knowledge import Agreement, Knowledge
from ruminate.assessor.learning.teacher import Teacher, lesson_of
from ruminate.assessor.policy import Policy
from ruminate.command.assess.lines import Refused, Taken, take
from ruminate.grading.checking.answers import Comparison
from ruminate.grading.checking.checks import Checks, checked_by, unchecked
from ruminate.grading.checking.mathematics import Equal, nobody
from ruminate.schemas.assessment import Verdict

Told = Callable[[int], None]
"""Called with the bytes that were read, line by line."""

_MOST_REFUSED_SHOWN: Final = 1_000


@dataclass(frozen=True, slots=True)
class Assessed:
    """A line with its verdict."""

    taken: Taken
    verdict: Verdict
    agreement: Agreement | None


@dataclass(slots=True)
class Survey:
    """What the first pass found: how often each answer was given to each question."""

    answers: dict[bytes, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    lines: int = 0
    refused: list[tuple[int, str]] = field(default_factory=list)
    refused_count: int = 0

    def agreement(self, question: bytes, own: str | None) -> Agreement | None:
        """How many of the other answers to a question agree with this one."""
        if own is None:
            return None
        given = self.answers[question]
        agreeing = given[own] - 1
        others = given.total() - 1
        return Agreement(agreeing, others - agreeing) if others > 0 else None


def survey(file: Path, policy: Policy, *, told: Told = lambda _: None) -> Survey:
    """The first pass. Raises OSError."""
    found = Survey()
    for data, line in _lines(file, told):
        found.lines += 1
        try:
            taken = take(data, line)
        except Refused as error:
            found.refused_count += 1
            if len(found.refused) < _MOST_REFUSED_SHOWN:
                found.refused.append((line, str(error)))
            continue
        said = answer_key(find(taken.interaction, most_characters=policy.most_characters))
        if said is not None:
            found.answers[question_key(taken.interaction)][said] += 1
    return found


def assess_file(
    file: Path,
    policy: Policy,
    surveyed: Survey,
    *,
    snapshot: Snapshot | None = None,
    teacher: Teacher | None = None,
    agreement: bool = True,
    equal: Equal = nobody,
    checks: Checks = unchecked,
    told: Told = lambda _: None,
) -> Iterator[Assessed]:
    """The second pass: every line with its verdict, by a snapshot or by a teacher, who learns from each line after it."""
    combiner = Combiner(policy.weights, snapshot) if snapshot is not None else Combiner(policy.weights)
    for data, line in _lines(file, told):
        try:
            taken = take(data, line)
        except Refused:
            continue  # the first pass has it
        interaction = taken.interaction
        found = find(interaction, most_characters=policy.most_characters)
        others = surveyed.agreement(question_key(interaction), answer_key(found)) if agreement else None
        knowledge = replace(knowledge_of(found, interaction, equal, checked_by(checks, interaction)), agreement=others)
        if teacher is not None:
            combiner = Combiner(policy.weights, teacher.corrected())
        verdict, shown = weigh(interaction, found, knowledge, policy, combiner)
        if teacher is not None:
            known = _with_label(knowledge, taken.right)
            if (lesson := lesson_of(shown, known, source=interaction.agent)) is not None:
                teacher.learn(lesson)
        yield Assessed(taken, verdict, others)


def _with_label(knowledge: Knowledge, right: bool | None) -> Knowledge:
    """A label of the file teaches like a reference; it is no input of the verdict."""
    if right is None:
        return knowledge
    return replace(knowledge, comparison=Comparison("right" if right else "wrong", "the label of the line"))


def _lines(file: Path, told: Told) -> Iterator[tuple[bytes, int]]:
    with file.open("rb") as lines:
        for number, data in enumerate(lines, start=1):
            told(len(data))
            if data.strip():
                yield data, number
