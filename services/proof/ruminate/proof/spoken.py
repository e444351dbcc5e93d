"""What was said to a question: taken apart at its tags of thinking, and what it came to. Pure."""

from __future__ import annotations

from typing import NamedTuple

from ruminate.schemas.payload import Part


class Answered(Part):
    """What one answer came to. `right` is None where there is nothing to check it by, or the check decides nothing."""

    right: bool | None
    well_formed: bool
    """Thinking opened, not empty, closed, and an answer behind it; where it shall not think, an answer and no sign of thinking."""
    obedient: bool
    """Thinks if and only if it shall."""
    thinking_tokens: int
    answer_tokens: int
    cut: bool
    """It came to no end within the tokens that it was given."""


class Sitting(Part):
    """One version's exam: an answer to each question, and how well it foresees texts that it did not write.

    All are in the order of the questions, rows or traces that they belong to; losses are means of nats a token.
    """

    answers: tuple[Answered, ...]
    row_losses: tuple[float, ...] = ()
    trace_losses: tuple[float, ...] = ()


class Spoken(NamedTuple):
    """An answer, taken apart at its tags of thinking."""

    thinking: str
    answer: str
    opened: bool
    closed: bool
    tidy: bool
    """At most one tag of each kind, in their order."""


def take_apart(text: str, *, opened: bool = False) -> Spoken:
    """What was thought and what was answered. `opened`: the prompt has opened the thinking already."""
    openings, closings = text.count("<think>"), text.count("</think>")
    starts = text.lstrip().startswith("<think>")
    tidy = closings <= 1 and openings == (0 if opened else closings or openings) and (openings == 0 or starts)
    if opened or starts:
        inner = text if opened else text.lstrip().removeprefix("<think>")
        thinking, closed, answer = inner.partition("</think>")
        return Spoken(thinking.strip(), answer.strip(), opened=True, closed=bool(closed), tidy=tidy)
    return Spoken("", text.strip(), opened=False, closed=closings > 0, tidy=not openings and not closings)


def forms(spoken: Spoken, *, thinks: bool, cut: bool) -> tuple[bool, bool]:
    """Whether an answer is well-formed, and whether it obeys the mode."""
    thought = spoken.opened and bool(spoken.thinking)
    if thinks:
        return thought and spoken.closed and spoken.tidy and bool(spoken.answer) and not cut, thought
    return not spoken.opened and spoken.tidy and bool(spoken.answer) and not cut, not thought
