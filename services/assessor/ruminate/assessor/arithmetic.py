"""Arithmetic in running text: every equation that can be recomputed, and whether it holds.

Understands `48/2 = 24`, `$12 x 3 = $36`, `1,200 + 5% of 400 = 1,220`, `5 apples + 3 apples = 8 apples`, chains
(`2*3 = 6 = 12/2`), LaTeX's `\\times`, `\\div`, `\\cdot` and calculator marks (`<<48/2=24>>`). What has a variable in it,
or a word before it that takes part in the sum (`twice 5 + 3`), is left alone: a wrong accusation costs more than a miss.
Linear in the length of the text: each side of an equals sign is looked at over 120 characters.
"""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice, pairwise

_REACH = 120
_MOST_EQUATIONS = 500
_MOST_SIDES = 5_000
_EXPRESSION_CHARACTERS = "0123456789 \t,.$€£%()+-*/x×÷−^"
_TOKEN = re.compile(r"\d{1,3}(?:,\d{3})+(?:\.\d+)?|\d+(?:\.\d+)?|\.\d+|[-+*/x×÷−^()%]")
# "5 apples + 3": words between a number and what follows it are its unit.
_UNIT = re.compile(r"(?<=\d)(?: ?[A-Za-z]{2,15}){1,2} ?(?=[-+*/×÷−]|x \d|\Z)")
_LATEX = (("\\times", "*"), ("\\cdot", "*"), ("\\div", "/"), ("\\$", "$"), ("\\%", "%"))
# "minus" before a sum takes part in it; what it means for the sum is not decided here.
_OPERATOR_WORD = re.compile(
    r"\b(?:of|half|third|quarter|twice|double|triple|thrice|times|plus|minus|less|by|over|than|per|root|log|\d and)\s*\Z",
    re.IGNORECASE,
)
_VARIABLE = re.compile(r"[A-Za-z](?![A-Za-z])|:\d")
_PAIR = re.compile(
    r"(?:\A|[A-Za-z>\n(,:;]\s|<<|\n)[$€£]?(\d{1,15}(?:\.\d{1,15})?) ?([-+*/x]) ?[$€£]?(\d{1,15}(?:\.\d{1,15})?)\s?\Z"
)
_RESULT = re.compile(r"\s?[$€£]?(\d{1,15}(?:\.\d{1,15})?)(?!\d|[.,:]\d|[%^]|\s?[-+*/x(]|\s?(?:cents|¢))")
_OPERATIONS: dict[str, Callable[[float, float], float]] = {
    "+": operator.add, "-": operator.sub, "*": operator.mul, "x": operator.mul, "/": operator.truediv
}  # fmt: skip
_ADD = {"+": 1.0, "-": -1.0, "−": -1.0}
_MULTIPLY = frozenset("*x×")
_DIVIDE = frozenset("/÷")


@dataclass(frozen=True, slots=True)
class Equation:
    """One recomputed equation: the numbers on its left, the result as stated, and whether it is right."""

    operands: tuple[float, ...]
    stated: float
    holds: bool


class _Expression:
    """Recursive descent over tokens: sums of products of powers. Stops where the text stops being arithmetic."""

    def __init__(self, tokens: list[str]) -> None:
        self.tokens = tokens
        self.at = 0
        self.numbers: list[float] = []
        self.operators = 0

    def sum(self, depth: int = 0) -> float | None:
        value = self._product(depth)
        while value is not None and (sign := _ADD.get(self.peek())) is not None:
            term = self._operand(self._product, depth)
            if term is None:
                break
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
        elif symbol and (symbol[0].isdigit() or symbol[0] == "."):
            self.at += 1
            value = float(symbol.replace(",", ""))
            self.numbers.append(value)
        else:
            return None
        while self.peek() == "%":
            self.at += 1
            value /= 100
        return value

    def _operand(self, parse: Callable[[int], float | None], depth: int) -> float | None:
        """What follows an operator; without it, the operator is not part of the expression."""
        operator_at = self.at
        self.at += 1
        value = parse(depth)
        if value is None:
            self.at = operator_at
        else:
            self.operators += 1
        return value

    def peek(self, ahead: int = 0) -> str:
        at = self.at + ahead
        return self.tokens[at] if at < len(self.tokens) else ""


def equations(text: str) -> tuple[Equation, ...]:
    """The equations of `text` that can be judged, in order: at most 500, from the first 5,000 equals signs."""
    if "\\" in text:
        for command, sign in _LATEX:
            text = text.replace(command, sign)
    text = text.replace("% of ", "% * ")
    found: list[Equation] = []
    sides = text.split("=")
    for left, right in islice(pairwise(sides), _MOST_SIDES):
        if left and right and (equation := _judge(left, right)) is not None:
            found.append(equation)
            if len(found) == _MOST_EQUATIONS:
                break
    return tuple(found)


def _judge(left: str, right: str) -> Equation | None:
    # Most equations are two numbers and an operator, and hold: those need no parser.
    pair, result = _PAIR.search(left[-40:]), _RESULT.match(right)
    if pair and result:
        one, other, stated = float(pair[1]), float(pair[3]), float(result[1])
        if (other or pair[2] != "/") and _OPERATIONS[pair[2]](one, other) == stated:
            return Equation((one, other), stated, holds=True)
    return _parse(left, right)


def _parse(left: str, right: str) -> Equation | None:
    stated = _read_right(right)
    if stated is None:
        return None
    computed = _read_left(left)
    if computed is None:
        return None
    value, operands, certain = computed
    if stated.operators == 0 and len(operands) < 2:
        return None
    holds = _equal(value, stated) or (stated.operators > 0 and math.isclose(value, stated.value, rel_tol=1e-9, abs_tol=1e-9))
    if not holds and not (certain and stated.certain and len(operands) > 1):
        return None
    return Equation((*operands, *stated.operands), stated.first, holds)


@dataclass(frozen=True, slots=True)
class _Right:
    """The right side: the number that it begins with, and the whole expression where it is one."""

    first: float
    decimals: int
    hundredths: bool
    value: float
    operators: int
    operands: tuple[float, ...]
    certain: bool


def _read_right(text: str) -> _Right | None:
    window = text[:_REACH]
    rest = window.lstrip(_EXPRESSION_CHARACTERS)
    run = window[: len(window) - len(rest)]
    tokens = _TOKEN.findall(run)
    if not tokens:
        return None
    expression = _Expression(tokens)
    value = expression.sum()
    if value is None or not expression.numbers or not math.isfinite(value):
        return None
    first = expression.numbers[0]
    index = next(at for at, token in enumerate(tokens) if token[0].isdigit() or token[0] == ".")
    negative = index > 0 and tokens[index - 1] in ("-", "−")
    _, _, fraction = tokens[index].partition(".")
    # "= 3y" and "= 2x + 1" speak of a variable, "= 7:30" of a time; "= 24 clips" does not.
    certain = not (rest and run[-1].isdigit() and _VARIABLE.match(rest)) and expression.peek() != "x"
    return _Right(
        first=-first if negative else first,
        decimals=len(fraction),
        hundredths="%" in tokens[index + 1 : index + 2] or rest.startswith(("cent", "¢")),
        value=value,
        operators=expression.operators,
        operands=tuple(expression.numbers[1:]) if expression.operators else (),
        certain=certain,
    )


def _read_left(text: str) -> tuple[float, tuple[float, ...], bool] | None:
    """Value, numbers, and whether it is certain that nothing before the expression takes part in it."""
    window = text[-_REACH:]
    before = window.rstrip(_EXPRESSION_CHARACTERS)
    if not any(character in "+-*/x×÷−^%(" for character in window[len(before) :].strip(" -")):
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
    certain = not _OPERATOR_WORD.search(before[-10:]) and not (run[:1].strip() and (before[-1:].isalnum() or before[-1:] == ":"))
    stripped = run.lstrip(" $€£.,")
    if stripped[:1] in ("-", "−") and not before.strip():
        tokens = tokens[1:] if stripped[1:2] == " " else tokens  # a bullet
    elif (stripped[:1] and stripped[0] in "+-*/x×÷−^)%") or len(run) == _REACH:
        certain = False
    expression = _Expression(tokens)
    while expression.at < len(tokens):
        began = expression.at
        expression.numbers = []
        value = expression.sum()
        if value is not None and expression.at == len(tokens):
            return (value, tuple(expression.numbers), certain) if math.isfinite(value) else None
        # What stands before is not part of the sum; what follows may be.
        certain = False
        expression.at = max(expression.at, began + 1)
    return None


def _equal(value: float, stated: _Right) -> bool:
    """Right as written: exact where the result has that few decimals, else within one unit of the last place."""
    unit = 10.0**-stated.decimals
    for wanted in (value, value * 100) if stated.hundredths else (value,):
        exact = abs(wanted / unit - round(wanted / unit)) < 1e-6 if abs(wanted / unit) < 1e15 else True
        tolerance = 64 * math.ulp(max(1.0, abs(wanted))) if exact else unit
        if abs(wanted - stated.first) <= tolerance:
            return True
    return False
