"""Grade: is this answer right, by a check of the kind that datasets carry? For whoever holds two texts and no interaction.

    reference      compared: numbers, expressions (by the mathematician), words
    exact          compared
    json_schema    held against it by the validator: that the form fits is right with a certainty of a half
    python_tests   run, confined, where there are limits for it

A recorded interaction is graded by the very same parts, so of the same question, answer and check the same is said, to the word.
"""

from __future__ import annotations

from typing import Final, Literal, Self, get_args

from ruminate.grading.checking.answers import Comparison, compare
from ruminate.grading.checking.checker import Checker
from ruminate.grading.checking.limits import Limits
from ruminate.grading.checking.mathematician import Mathematician
from ruminate.grading.finding.answered import AnsweredText
from ruminate.grading.finding.wording import MOST_CHARACTERS
from ruminate.schemas.interaction import AnswerCheck

CheckKind = Literal["reference", "exact", "json_schema", "python_tests"]
CHECK_KINDS: Final[tuple[CheckKind, ...]] = get_args(CheckKind)


class Grader:
    """Somebody who can be asked whether answers are right, from any thread. Close it, or use it as a context.

    What numbers and words settle takes microseconds. Expressions and schemas are asked of two processes. Each is started when it is
    needed, which takes a second or several, and ends with the thread that needed it: ask from threads that live as long.
    """

    def __init__(self, limits: Limits | None = None, *, most_characters: int = MOST_CHARACTERS) -> None:
        """Without `limits` no code is run, and tests are undecided. Of a text over `most_characters`, both ends are read."""
        self._checker = Checker(limits)
        self._mathematician = Mathematician()
        self._most_characters = most_characters

    def __enter__(self) -> Self:
        self._checker.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the processes that were started."""
        self._mathematician.close()
        self._checker.close()

    def grade(self, kind: CheckKind, content: str, *, question: str, answer: str) -> Comparison:
        """What the check comes to. `question` is what the user said last: its words are no part of what a reference adds.

        An answer without text is wrong, whatever the check. Raises ValueError for a kind that is none of `CHECK_KINDS`, and
        RuntimeError where the mathematician cannot be started.
        """
        if kind not in CHECK_KINDS:
            raise ValueError(f"no check is of the kind {kind!r}; there are {', '.join(CHECK_KINDS)}. Is it of a later version?")
        if not answer.strip():
            return Comparison("wrong", "an empty answer", by="reference" if kind == "reference" else "check")
        if kind == "reference":
            answered = AnsweredText.of(question, answer, most_characters=self._most_characters)
            return compare(answered, content, self._mathematician)
        return self._checker(AnswerCheck(kind=kind, content=content), answer)
