"""Arithmetic in running text: every equation that can be recomputed, and whether it holds.

Understands `48/2 = 24`, `$12 x 3 = $36`, `1,200 + 5% of 400 = 1,220`, `5 apples + 3 apples = 8 apples`, `3 kg + 500 g = 3.5 kg`,
`50 - 20% = 40`, `3 1/2 + 1/2 = 4`, chains (`2*3 = 6 = 12/2`), calculator marks (`<<48/2=24>>`), and what notation.py spells
plainly: LaTeX, words (`half of 48 is 24`) and signs. What has a variable in it, or a word before it that takes part in the
sum, is left alone: a wrong accusation costs more than a miss.
Linear in the length of the text: each side of an equals sign is looked at over 120 characters.
"""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable, Iterator
from itertools import islice, pairwise
from typing import Final, NamedTuple

from ruminate.assessor.finding.notation import ABOUT, AND, SAID, SCALES, WEAK, WORD_OPERATORS, plain

_REACH = 120
_MOST_EQUATIONS = 500
_MOST_SIDES = 5_000
_EXPRESSION_CHARACTERS = "0123456789 \t,.$€£%()+-*/x×÷−^" + AND + "".join(SCALES) + "".join(WORD_OPERATORS)
_OPERATOR_CHARACTERS = "+-*/x×÷−^%(" + "".join(WORD_OPERATORS)
_OPERATORS = frozenset(_OPERATOR_CHARACTERS)
_TOKEN = re.compile(r"\d{1,3}(?:,\d{3})+(?:\.\d+)?|\d+(?:\.\d+)?|\.\d+|[-+*/x×÷−^()%⁺³⁶⁹⊕⊖⊗⊘]")
# "5 apples + 3", "$5/apple * 3", "11 cars/minute": words between a number and what follows it are its unit.
_UNIT = re.compile(
    r"(?<=\d)(?=[ /A-Za-z])(?: ?[A-Za-z][A-Za-z-]{1,14}){0,2}(?:/(?:a )?[A-Za-z][A-Za-z-]{1,14}){0,2} ?(?=[-+*/×÷−)]|x [$€£]?\d|\Z)"
)
_UNIT_IN_SUM = re.compile(r"(?:/?[A-Za-z][A-Za-z-]{1,14} ?){1,3}(?:[-+*/×÷−]|x) ?[$€£(]?\d")
# "minus" before a sum takes part in it; what it means for the sum is not decided here.
_OPERATOR_WORD = re.compile(
    r"(?:\b(?:half|third|quarter|twice|double|triple|thrice|times|plus|minus|less|by|over|than|per|root|log|\d and)"
    r"|(?:[\d%]|half|hird|uarter|ercent|ths?) of)\s*\Z",
    re.IGNORECASE,
)
_VARIABLE = re.compile(r"[A-Za-z](?![A-Za-z])|[A-Z]|:\d")
_PAIR = re.compile(
    r"(?:\A|[A-Za-z>\n(,:;]\s|<<|\n)[$€£]?(\d{1,15}(?:\.\d{1,15})?) ?([-+*/x]) ?[$€£]?(\d{1,15}(?:\.\d{1,15})?)\s?\Z"
)
_RESULT = re.compile(r"\s?[$€£]?(\d{1,15}(?:\.\d{1,15})?)(?!\d|[.,:]\d|[%^⁺³⁶⁹]|\s?[-+*/x(⊕⊖⊗⊘]|\s?(?:cents|¢))")
_NUMERIC = re.compile(rf"[{WEAK}{SAID}{ABOUT}]?[\s$€£(+\-−]{{0,8}}[\d.]")
_OPERATIONS: dict[str, Callable[[float, float], float]] = {
    "+": operator.add, "-": operator.sub, "*": operator.mul, "x": operator.mul, "/": operator.truediv
}  # fmt: skip
_ADD = {"+": 1.0, "-": -1.0, "−": -1.0, "⊕": 1.0, "⊖": -1.0}
_SUBTRACT = frozenset("-−⊖")
_MULTIPLY = frozenset("*x×⊗")
_DIVIDE = frozenset("/÷⊘")
_BETWEEN_NUMBERS = frozenset("+-−*x×/÷")
_NO_NUMBERS = frozenset("-+*/x×÷−^()%⁺³⁶⁹⊕⊖⊗⊘")
_ABOUT_RATIO = 0.1
"""How far off an *about* may be, beside what rounding allows."""
_DECIMAL_COMMA = re.compile(r"(?<![\d,.])(\d+),(\d{1,2})(?![\d,.])")

_AFTER_A_NUMBER: Final = frozenset({"%", AND, *SCALES})

_MASS, _LENGTH, _VOLUME, _TIME, _MONEY = range(5)
_UNITS: Final[dict[str, tuple[int, float]]] = {
    "mg": (_MASS, 0.001), "g": (_MASS, 1.0), "grams": (_MASS, 1.0), "kg": (_MASS, 1000.0), "kilograms": (_MASS, 1000.0),
    "mm": (_LENGTH, 0.001), "cm": (_LENGTH, 0.01), "m": (_LENGTH, 1.0), "meters": (_LENGTH, 1.0), "km": (_LENGTH, 1000.0),
    "centimeters": (_LENGTH, 0.01), "kilometers": (_LENGTH, 1000.0), "inches": (_LENGTH, 0.0254), "feet": (_LENGTH, 0.3048),
    "foot": (_LENGTH, 0.3048), "ft": (_LENGTH, 0.3048), "yards": (_LENGTH, 0.9144),
    "ml": (_VOLUME, 0.001), "cl": (_VOLUME, 0.01), "l": (_VOLUME, 1.0), "liters": (_VOLUME, 1.0), "litres": (_VOLUME, 1.0),
    "seconds": (_TIME, 1.0), "second": (_TIME, 1.0), "minutes": (_TIME, 60.0), "minute": (_TIME, 60.0), "min": (_TIME, 60.0),
    "hours": (_TIME, 3600.0), "hour": (_TIME, 3600.0), "h": (_TIME, 3600.0), "days": (_TIME, 86400.0), "day": (_TIME, 86400.0),
    "weeks": (_TIME, 604800.0), "week": (_TIME, 604800.0),
    "cents": (_MONEY, 0.01), "cent": (_MONEY, 0.01), "dollars": (_MONEY, 1.0), "dollar": (_MONEY, 1.0),
    "euros": (_MONEY, 1.0), "euro": (_MONEY, 1.0),
}  # fmt: skip
"""What may stand beside each other in one sum: the kind of a unit, and how many of the kind's own unit it is."""
_MEASURE = re.compile(r"(\d+(?:\.\d+)?) ?([a-z]{1,11})(?![A-Za-z/^])")


class Equation(NamedTuple):
    """One recomputed equation: the numbers in it, the result as stated and as it should be, and whether it is right."""

    operands: tuple[float, ...]
    stated: float
    holds: bool
    computed: float
    takes_away: bool = False
    """Its left side is a difference."""


class _Expression:
    """Recursive descent over tokens: sums of products of powers. Stops where the text stops being arithmetic."""

    def __init__(self, tokens: list[str]) -> None:
        self.tokens = tokens
        self.at = 0
        self.numbers: list[float] = []
        self.operators = 0
        self.words = 0
        self.additions = 0
        self.divisions = 0
        self.of_the_sum: float | None = None
        """Another reading of the whole: `50 - 20%` takes a fifth of the 50 away."""

    def whole(self) -> float | None:
        """The expression from its first token on."""
        value = self._sum_of_numbers()
        return self.sum() if value is None else value

    def _sum_of_numbers(self) -> float | None:
        """Nothing but numbers with signs between them, as most are, and no division by zero: that takes no descent."""
        signs, numbers = self.tokens[1::2], self.tokens[::2]
        if len(signs) + 1 != len(numbers) or not (_BETWEEN_NUMBERS.issuperset(signs) and _NO_NUMBERS.isdisjoint(numbers)):
            return None
        values = [float(number.replace(",", "")) for number in numbers]
        total, sign_of_term, term = 0.0, 1.0, values[0]
        additions = divisions = 0
        for sign, value in zip(signs, values[1:], strict=True):
            if sign in _ADD:
                total += sign_of_term * term
                sign_of_term, term = _ADD[sign], value
                additions += 1
            elif sign in _MULTIPLY:
                term *= value
            elif value:
                term /= value
                divisions += 1
            else:
                return None
        self.at, self.numbers, self.operators = len(self.tokens), values, len(signs)
        self.additions, self.divisions = additions, divisions
        return total + sign_of_term * term

    def sum(self, depth: int = 0) -> float | None:
        value = self._product(depth)
        while value is not None and (sign := _ADD.get(self.peek())) is not None:
            term = self._operand(self._product, depth)
            if term is None:
                break
            whole = self.at == len(self.tokens) and depth == 0 and self.tokens[-1] == "%" and self.tokens[-3] in _ADD
            self.of_the_sum = value * (1 + sign * term) if whole else None
            value += sign * term
        return value

    def _product(self, depth: int) -> float | None:
        value = self._power(depth)
        while value is not None:
            sign = self.peek()
            if sign == "x" and self.peek(1) in _ADD:  # 3x - 5: a variable
                break
            if sign in _MULTIPLY or sign in _DIVIDE:
                factor = self._operand(self._power, depth)
            elif sign == "(":  # 3(4 + 5)
                factor = self._power(depth)
                self.operators += factor is not None
            else:
                break
            if factor is None:
                break
            if sign in _DIVIDE:
                if factor == 0:
                    return None
                value /= factor
            else:
                value *= factor
        return value

    def _power(self, depth: int) -> float | None:
        value = self._atom(depth)
        if value is not None and self.peek() == "^":
            exponent = self._operand(self._atom, depth)
            if exponent is not None:
                try:
                    power = value**exponent
                except (OverflowError, ZeroDivisionError):
                    return None
                return power if isinstance(power, float) else None
        return value

    def _atom(self, depth: int) -> float | None:
        symbol = self.peek()
        if symbol == "(" and depth < 20:
            began = self.at
            self.at += 1
            value = self.sum(depth + 1)
            if value is None or self.peek() != ")":
                self.at = began
                return None
            self.at += 1
        elif symbol in ("-", "−"):
            self.at += 1
            inner = self._atom(depth + 1) if depth < 20 else None
            if inner is None:
                self.at -= 1
                return None
            value = -inner
        elif symbol and (symbol[0].isdecimal() or symbol[0] == "."):
            self.at += 1
            value = float(symbol.replace(",", ""))
            self.numbers.append(value)
        else:
            return None
        while (sign := self.peek()) in _AFTER_A_NUMBER:
            self.at += 1
            if sign == "%":
                value /= 100
            elif sign != AND:
                value *= SCALES[sign]
            elif (fraction := self._fraction()) is not None:
                value += fraction
            else:
                return None
        return value

    def _fraction(self) -> float | None:
        """The `1/2` of `3⁺1/2`."""
        if self.at + 2 >= len(self.tokens) or self.tokens[self.at + 1] != "/":
            return None
        above, _, below = self.tokens[self.at : self.at + 3]
        if not (above.isdecimal() and below.isdecimal() and int(below)):
            return None
        self.at += 3
        return int(above) / int(below)

    def _operand(self, parse: Callable[[int], float | None], depth: int) -> float | None:
        """What follows an operator; without it, the operator is not part of the expression."""
        operator_at = self.at
        self.at += 1
        value = parse(depth)
        if value is None:
            self.at = operator_at
        else:
            self.operators += 1
            sign = self.tokens[operator_at]
            self.words += sign in WORD_OPERATORS
            self.additions += sign in _ADD
            self.divisions += sign in _DIVIDE
        return value

    def peek(self, ahead: int = 0) -> str:
        at = self.at + ahead
        return self.tokens[at] if at < len(self.tokens) else ""


def equations(text: str) -> tuple[Equation, ...]:
    """The equations of `text` that can be judged, in order: at most 500, from the first 5,000 equals signs."""
    return tuple(islice(_judged(plain(text).split("=")), _MOST_EQUATIONS))


def _judged(sides: list[str]) -> Iterator[Equation]:
    for left, right in islice(pairwise(sides), _MOST_SIDES):
        if left and right and (equation := _judge(left, right)) is not None:
            yield equation


def _judge(left: str, right: str) -> Equation | None:
    # Most equations are two numbers and an operator, and hold: those need no parser.
    result = _RESULT.match(right)
    if result is None:
        if _NUMERIC.match(right) is None:
            return None
    elif pair := _PAIR.search(left[-40:]):
        one, sign, other, stated = float(pair[1]), pair[2], float(pair[3]), float(result[1])
        if (other or sign != "/") and _OPERATIONS[sign](one, other) == stated:
            return Equation((one, other), stated, holds=True, computed=stated, takes_away=sign == "-")
    kind = right[0] if right[0] in (WEAK, SAID, ABOUT) else ""
    right = right[len(kind) :]
    equation = _parse(left, right, kind)
    if equation is None or not equation.holds:
        for other_left, other_right in _read_otherwise(left, right):
            again = _parse(other_left, other_right, kind, measured=True)
            if again is not None and again.holds:
                known = equation or again
                operands, results = _measured_numbers(left[-_REACH:]), _measured_numbers(right[:_REACH])
                return Equation(operands or known.operands, (*results, known.stated)[0], holds=True, computed=again.computed)
    return equation


def _read_otherwise(left: str, right: str) -> Iterator[tuple[str, str]]:
    """Other readings of two sides that do not hold as they stand: units of one kind, and a comma before decimals."""
    unit = _MEASURE.search(right[:_REACH])
    if unit and unit[2] in _UNITS and (measured := _in_one_unit(left[-_REACH:], right[:_REACH])) is not None:
        yield measured
    if "," in left and "." not in left[-_REACH:].rstrip(". "):
        commas = [_DECIMAL_COMMA.sub(r"\1.\2", side) for side in (left[-_REACH:], right[:_REACH])]
        if commas[0] != left[-_REACH:]:
            yield commas[0], commas[1]


def _in_one_unit(left: str, right: str) -> tuple[str, str] | None:
    """Both sides with every measure in the same unit of its kind; None where they hold fewer than two units of one kind."""
    found = [unit for side in (left, right) for _, name in _MEASURE.findall(side) if (unit := _UNITS.get(name)) is not None]
    if len({kind for kind, _ in found}) != 1 or len(set(found)) < 2:
        return None

    def measured(match: re.Match[str]) -> str:
        unit = _UNITS.get(match[2])
        return match[0] if unit is None else f"{float(match[1]) * unit[1]:.12g}"

    return _MEASURE.sub(measured, left), _MEASURE.sub(measured, right)


def _measured_numbers(side: str) -> tuple[float, ...]:
    """The numbers of a side before they were brought to one unit."""
    return tuple(float(number) for number, _ in _MEASURE.findall(side))


def _parse(left: str, right: str, kind: str, *, measured: bool = False) -> Equation | None:
    stated = _read_right(right)
    if stated is None:
        return None
    computed = _read_left(left)
    if computed is None:
        return None
    if stated.operators == 0 and len(computed.operands) < 2 and not measured:
        return None
    value = computed.value
    holds = _equal(value, stated) or (stated.operators > 0 and math.isclose(value, stated.value, rel_tol=1e-9, abs_tol=1e-9))
    holds = holds or (computed.of_the_sum is not None and _equal(computed.of_the_sum, stated))
    holds = holds or (kind == ABOUT and abs(value - stated.first) <= _ABOUT_RATIO * abs(value))
    if not holds and not (_accuses(computed, kind) and stated.certain and len(computed.operands) > 1):
        return None
    return Equation((*computed.operands, *stated.operands), stated.first, holds, value, computed.takes_away)


def _accuses(computed: _Left, kind: str) -> bool:
    """Whether a left side can mean nothing else: words leave open what goes first, and an `is` what it says."""
    if computed.words and computed.additions and computed.operators > 1:
        return False
    if computed.divisions > 1:  # 6 km / 1/30 hour
        return False
    if kind == SAID and computed.fraction:  # "since 3/4 is equal to $15"
        return False
    return computed.certain and (kind != WEAK or computed.words > 0)


class _Right(NamedTuple):
    """The right side: the number that it begins with, and the whole expression where it is one."""

    first: float
    unit: float
    scale: float
    hundredths: bool
    value: float
    operators: int
    operands: tuple[float, ...]
    certain: bool


def _read_right(text: str) -> _Right | None:
    window = text[:_REACH]
    rest = window.lstrip(_EXPRESSION_CHARACTERS)
    if _UNIT_IN_SUM.match(rest):
        window = _UNIT.sub("", window)
        rest = window.lstrip(_EXPRESSION_CHARACTERS)
    run = window[: len(window) - len(rest)]
    tokens = _TOKEN.findall(run)
    if not tokens:
        return None
    # "= 3y" and "= 2x + 1" speak of a variable, "= 7:30" of a time; "= 24 clips" does not.
    certain = not (rest and run[-1].isdigit() and _VARIABLE.match(rest))
    if len(tokens) == 1 and tokens[0] not in _NO_NUMBERS:
        number = float(tokens[0].replace(",", ""))
        unit = 10.0 ** -len(tokens[0].partition(".")[2])
        return _Right(number, unit, 1.0, rest.startswith(("cent", "¢")), number, operators=0, operands=(), certain=certain)
    expression = _Expression(tokens)
    value = expression.whole()
    if value is None or not expression.numbers or not math.isfinite(value):
        return None
    index = next(at for at, token in enumerate(tokens) if token[0].isdecimal() or token[0] == ".")
    first = expression.numbers[0]
    scale = SCALES.get(tokens[index + 1], 1.0) if index + 1 < len(tokens) else 1.0
    mixed = tokens[index + 1 : index + 2] == [AND] and expression.operators == 0
    if mixed:
        first = abs(value)
    negative = index > 0 and tokens[index - 1] in ("-", "−")
    _, _, decimals = tokens[index].partition(".")
    return _Right(
        first=(-first if negative else first) * scale,
        unit=1e-9 if mixed else scale * 10.0 ** -len(decimals),
        scale=scale,
        hundredths="%" in tokens[index + 1 : index + 2] or rest.startswith(("cent", "¢")),
        value=value,
        operators=expression.operators,
        operands=tuple(expression.numbers[1:]) if expression.operators else (),
        certain=certain and expression.peek() != "x",
    )


class _Left(NamedTuple):
    """The left side, and what stands before it; `apart`: no sign of that takes part in it."""

    value: float
    operands: tuple[float, ...]
    before: str
    apart: bool
    operators: int = 0
    words: int = 0
    additions: int = 0
    divisions: int = 0
    of_the_sum: float | None = None
    fraction: bool = False
    takes_away: bool = False

    @property
    def certain(self) -> bool:
        """Whether it is certain that nothing before it takes part in it, no word either."""
        return self.apart and not _OPERATOR_WORD.search(self.before[-12:])


def _read_left(text: str) -> _Left | None:
    window = text[-_REACH:]
    before = window.rstrip(_EXPRESSION_CHARACTERS)
    run = window[len(before) :]
    if run.lstrip()[:1] in _OPERATOR_CHARACTERS or _OPERATORS.isdisjoint(run.strip(" -")):
        window = _UNIT.sub("", window)
        before = window.rstrip(_EXPRESSION_CHARACTERS)
    run = window[len(before) :]
    if run[:1] == "x" and before[-1:].isalpha():  # the end of a word such as "box"
        before, run = before + "x", run[1:]
    for separator in (", ", ". ", "\t"):
        head, found, tail = run.rpartition(separator)
        if found:
            before, run = before + head + found, tail
    tokens = _TOKEN.findall(run)
    apart = not (run[:1].strip() and (before[-1:].isalnum() or before[-1:] == ":"))
    stripped = run.lstrip(" $€£.,")
    if stripped[:1] in ("-", "−") and not before.strip():
        tokens = tokens[1:] if stripped[1:2] == " " else tokens  # a bullet
    elif (stripped[:1] and stripped[0] in _OPERATOR_CHARACTERS + "^)" and stripped[0] != "(") or len(run) == _REACH:
        apart = False
    expression = _Expression(tokens)
    while expression.at < len(tokens):
        began = expression.at
        expression.numbers = []
        value = expression.whole() if began == 0 else expression.sum()
        if value is not None and expression.at == len(tokens):
            if not math.isfinite(value):
                return None
            return _Left(
                value=value,
                operands=tuple(expression.numbers),
                before=before,
                apart=apart,
                operators=expression.operators,
                words=expression.words,
                additions=expression.additions,
                divisions=expression.divisions,
                of_the_sum=expression.of_the_sum,
                takes_away=not _SUBTRACT.isdisjoint(tokens[began + 1 :]),
                fraction=tokens[began + 1 : began + 2] == ["/"] and len(tokens) == began + 3,
            )
        # What stands before is not part of the sum; what follows may be.
        apart = False
        expression.at = max(expression.at, began + 1)
    return None


def _equal(value: float, stated: _Right) -> bool:
    """Right as written: exact where the result has that few decimals, else within one unit of the last place."""
    wants = [value]
    if stated.hundredths:
        wants.append(value * 100)
    if stated.scale > 1:  # "32 / 2 = $16 million", of millions
        wants.append(value * stated.scale)
    for wanted in wants:
        places = abs(wanted / stated.unit)
        exact = abs(places - round(places)) < 1e-6 if places < 1e15 else True
        tolerance = 64 * math.ulp(max(1.0, abs(wanted))) if exact else stated.unit
        if abs(wanted - stated.first) <= tolerance:
            return True
    return False
