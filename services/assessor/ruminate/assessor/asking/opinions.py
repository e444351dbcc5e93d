"""Opinions: which questions are put to a panel, which of its answers count, and when it has said enough. Pure.

Answers are compared as those in the log are (agreement.py). What has no short form there is not asked: every answer would be
paid for, and none could be compared.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from ruminate.assessor.asking.question import OfInteraction, in_words
from ruminate.assessor.asking.rubric import MOST_CHARACTERS, drawn
from ruminate.assessor.evidence.agreement import YES_NO, answer_key
from ruminate.assessor.finding.findings import Findings, find
from ruminate.assessor.finding.reading import control_characters
from ruminate.assessor.judging.knowledge import Agreement, Knowledge
from ruminate.assessor.judging.parts import declines
from ruminate.assessor.judging.signals import MOST_WEIGHED
from ruminate.schemas.assessment import Verdict
from ruminate.schemas.interaction import InteractionRecorded, Response

NOBODY: Final = Agreement(0, 0)


@dataclass(frozen=True, slots=True)
class Asked(OfInteraction):
    """A question that is to be answered again, and what its answer in the log says."""

    said: str
    """The form of its answer, as agreement.py has it."""
    logged: Agreement = NOBODY
    """What other answers in the log say, as far as that is known."""

    @property
    def thinks(self) -> bool:
        """Whether it is answered with thinking: as it was."""
        return self.interaction.thinking.mode_used == "thinking"

    @property
    def messages(self) -> list[dict[str, Any]]:
        """The question as it was asked. The thinking of earlier turns is left out, as templates leave it out."""
        return [{"role": message.role, "content": message.content} for message in self.interaction.messages]

    @property
    def digest(self) -> bytes:
        """The same for whatever has the same answers: the same words to the same mode, of one tenant."""
        turns = "\x1f".join(f"{message.role}\x1e{message.content}" for message in self.interaction.messages)
        return f"{self.tenant}\x1d{self.thinks}\x1d{turns}".encode()


class Given(NamedTuple):
    """An answer of the panel: what it says, None where that has no short form, and a digest of all its words."""

    said: str | None
    wording: bytes


def asked_of(interaction: InteractionRecorded, found: Findings, *, model: str) -> Asked | None:
    """The question of an interaction; None where it cannot be asked again as it was, or where its answer cannot be compared."""
    messages, response = interaction.messages, interaction.response
    if not in_words(interaction) or sum(len(message.content) for message in messages) > MOST_CHARACTERS:
        return None
    said = answer_key(found)
    if said is None:
        return None
    if _is_own(interaction, model) and not (response.thinking or "").strip() and len(found.reading.answer_words) <= _FEW_WORDS:
        # It would say the same in the same few words, which is a copy, or something else, which is none: only blame could count.
        return None
    return Asked(interaction, said)


_FEW_WORDS: Final = 12


def _is_own(interaction: InteractionRecorded, model: str) -> bool:
    """Whether the model that is asked gave the answer itself."""
    return model in (interaction.target_model, interaction.answering_version)


def is_chosen(
    interaction: InteractionRecorded,
    verdict: Verdict,
    knowledge: Knowledge,
    *,
    share: float,
    doubt: tuple[float, float],
    enough: int,
) -> bool:
    """Whether to ask a panel: where the verdict is in doubt, nothing can decide it, and the log has too few other answers.

    Decided by the interaction's id, so every replica decides the same, again and again.
    """
    overall = verdict.overall.value
    if overall is None or not doubt[0] <= overall <= doubt[1] or knowledge.turned_out is not None:
        return False
    if interaction.reference_answer is not None or interaction.answer_check is not None:
        return False
    return sum(knowledge.agreement or NOBODY) < enough and drawn(interaction.recorded_id, b"panel") < share


def given_of(asked: Asked, content: str, thinking: str, *, most_characters: int) -> Given:
    """An answer of the panel, read as if the log had it."""
    response = Response(content=content, thinking=thinking or None)
    found = find(asked.interaction.model_copy(update={"response": response}), most_characters=most_characters)
    is_none = declines(found.reading.answer) or found.reading.answer_repeats or control_characters(content)
    return Given(None if is_none else answer_key(found), wording_of(content, thinking))


def wording_of(content: str, thinking: str | None) -> bytes:
    """A digest of thinking and answer: what has the same is a copy."""
    return hashlib.blake2b(f"{(thinking or '').strip()}\x1e{content.strip()}".encode(), digest_size=16).digest()


def counted(asked: Asked, given: Iterable[Given], *, model: str) -> Agreement:
    """How many answers of the panel agree and how many do not. A wording counts once: whoever repeats it, adds nothing.

    Words beside a number are no other number: what has another kind of form did not take the question in the same way. The
    answer's own wording is a copy where its thinking is repeated, too, or where the model is the one that gave it; two models
    that say "7" have said the same independently.
    """
    response = asked.interaction.response
    seen: set[bytes] = set()
    if (response.thinking or "").strip() or _is_own(asked.interaction, model):
        seen.add(wording_of(response.content, response.thinking))
    agreeing = disagreeing = 0
    for each in given:
        if each.said is None or each.wording in seen or _kind(each.said) != _kind(asked.said):
            continue
        seen.add(each.wording)
        agreeing += each.said == asked.said
        disagreeing += each.said != asked.said
    return Agreement(agreeing, disagreeing)


def _kind(said: str) -> str:
    """What kind of form an answer has: JSON, words, yes or no, or a number."""
    return said[0] if said[0] in "jw" else "yes or no" if said in YES_NO else "number"


def has_said_enough(asked: Asked, given: Sequence[Given], *, model: str, answers: int) -> bool:
    """Whether further answers are not worth asking for.

    The log's answers are part of the `answers` that are wanted. It is enough where one side has as many as are weighed, and those
    that are left cannot give the other one more; where the first ones have no form to compare; or where they are the same text.
    """
    left = answers - sum(asked.logged) - len(given)
    if left <= 0:
        return True
    agreement = counted(asked, given, model=model)
    if len(given) >= _FRUITLESS and (not sum(agreement) or len({each.wording for each in given}) == 1):
        return True
    agreeing, disagreeing = agreement.agreeing + asked.logged.agreeing, agreement.disagreeing + asked.logged.disagreeing
    return max(agreeing, disagreeing) >= MOST_WEIGHED and abs(agreeing - disagreeing) > left


_FRUITLESS: Final = 2
