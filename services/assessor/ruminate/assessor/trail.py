"""The trail of the numbers: which were given, which were computed, which of them were used, and where the answer comes from.

A step that was left out leaves an operand that nobody gave; a step that leads nowhere leaves a result that nobody uses; a
conclusion that was exchanged leaves an answer that is not what the last step found.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

from ruminate.assessor.reading import Reading, numbers

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
    said = frozenset[float]().union(*reading.step_numbers)
    seen = set(COMMON_NUMBERS.union(*reading.given.values()))
    times: dict[float, int] = {}
    founded = operands = 0
    for equation in equations:
        for operand in equation.operands:
            founded += operand in seen
            times[operand] = times.get(operand, 0) + 1
        operands += len(equation.operands)
        seen.add(equation.stated)
    used = said.union(times)
    words = frozenset[str]().union(*reading.step_words)
    unused = sum(word not in words and used.isdisjoint(forms) for word, forms in reading.given.items())
    results = [equation.stated for equation in equations]
    led_nowhere = sum(
        not any(result in later.operands or result == later.stated for later in equations[at + 1 : at + 1 + _LATER])
        for at, result in enumerate(results[:-1])
    )
    return Trail(
        given=len(reading.given),
        unused_given=unused if reading.steps else 0,
        operands=operands,
        founded=founded,
        results=len(results),
        unused_results=led_nowhere,
        wrong=sum(not equation.holds for equation in equations),
        reused=sum(count > 1 for count in times.values()),
        longest=max((len(equation.operands) for equation in equations), default=0),
        differences=sum(equation.takes_away for equation in equations),
        conclusion=_conclusion(reading, results, said, final),
        odd_form=_odd_form(reading, final),
        echoes=final is not None and final in reading.question_numbers and final not in results,
    )


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
