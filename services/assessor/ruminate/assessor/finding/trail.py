"""The trail of the numbers: which were given, which were computed, which of them were used, and where the answer comes from.

A step that was left out leaves an operand that nobody gave; a step that leads nowhere leaves a result that nobody uses; a
conclusion that was exchanged leaves an answer that is not what the last step found.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

from ruminate.assessor.finding.arithmetic import Equation
from ruminate.assessor.finding.reading import Reading
from ruminate.grading.finding.wording import numbers

# Numbers that a computation may bring along without the question having given them: units, calendars, percentages.
COMMON_NUMBERS: Final = frozenset(
    {0.0, 0.5, 1.0, 2.0, 3.0, 4.0, 7.0, 10.0, 12.0, 24.0, 30.0, 31.0, 52.0, 60.0, 100.0, 365.0, 1000.0, 3600.0}
)
_LATER = 20
"""Equations after a result in which its use is looked for."""

Conclusion = Literal["last result", "last number", "earlier result", "in an earlier step", "nowhere", "unknown"]
"""What the number of the answer is to the thinking."""


@dataclass(frozen=True, slots=True)
class Trail:
    """What became of each number. `unused_given` and `unused_results` are counts, as are `founded` and `operands`."""

    given: int
    unused_given: int
    operands: int
    founded: int
    results: int
    unused_results: int
    wrong: int
    reused: int
    longest: int
    differences: int
    """Equations that take something away."""
    conclusion: Conclusion
    odd_form: bool
    """The answer is a fraction or negative, and no number of the question is."""
    echoes: bool
    """The answer is a number of the question, and no result."""

    @property
    def unfounded(self) -> int:
        """Operands that neither the question nor an earlier equation gave."""
        return self.operands - self.founded


def follow_numbers(reading: Reading, final: float | None) -> Trail:
    """Follow every number through the thinking to `final`, the number that the answer ends in."""
    equations = reading.equations
    seen = set(COMMON_NUMBERS.union(*reading.given.values()))
    times: dict[float, int] = {}
    founded = operands = longest = wrong = differences = 0
    for equation in equations:
        for operand in equation.operands:
            founded += operand in seen
            times[operand] = times.get(operand, 0) + 1
        operands += len(equation.operands)
        longest = max(longest, len(equation.operands))
        wrong += not equation.holds
        differences += equation.takes_away
        seen.add(equation.stated)
    said, words = reading.said_numbers, reading.said_words
    used = said.union(times)
    unused = sum(word not in words and used.isdisjoint(forms) for word, forms in reading.given.items())
    results = [equation.stated for equation in equations]
    return Trail(
        given=len(reading.given),
        unused_given=unused if reading.steps else 0,
        operands=operands,
        founded=founded,
        results=len(results),
        unused_results=_led_nowhere(equations),
        wrong=wrong,
        reused=sum(count > 1 for count in times.values()),
        longest=longest,
        differences=differences,
        conclusion=_conclusion(reading, results, said, final),
        odd_form=_odd_form(reading, final),
        echoes=final is not None and final in reading.question_numbers and final not in results,
    )


def _led_nowhere(equations: Sequence[Equation]) -> int:
    """How many results, but for the last one, none of the next equations holds."""
    found = 0
    next_at: dict[float, int] = {}
    for at in range(len(equations) - 1, -1, -1):  # from the end, so that the next use of each number is known
        operands, result = equations[at].operands, equations[at].stated
        if at + 1 < len(equations):
            found += next_at.get(result, at + _LATER + 1) > at + _LATER
        next_at.update(dict.fromkeys(operands, at))
        next_at[result] = at
    return found


def _conclusion(reading: Reading, results: list[float], said: frozenset[float], final: float | None) -> Conclusion:
    if final is None or not reading.steps:
        return "unknown"
    if results and results[-1] == final:
        return "last result"
    if numbers(reading.steps[-1])[-1:] == (final,):
        return "last number"
    if final in results:
        return "earlier result"
    return "in an earlier step" if final in said else "nowhere"


def _odd_form(reading: Reading, final: float | None) -> bool:
    if final is None or not reading.question_numbers:
        return False
    if final < 0:
        return all(number >= 0 for number in reading.question_numbers)
    return final != int(final) and all(number == int(number) for number in reading.question_numbers)
