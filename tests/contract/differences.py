"""What a program does otherwise than the contract that its suite runs: stated beside the suite, strict, and told to readers.

A suite is a class whose tests come from a contract (`BusContract`, `BrokerContract`, `OllamaContract`). Where the program
under test differs, the suite says so; the contract itself knows nobody by name and has no flags:

    class TestEmbeddedBroker(BrokerContract):
        subject = "the embedded broker"
        differences = {
            "test_records_of_aborted_transactions_are_not_seen": "it knows no transactions",
            "test_create_refuses[quantize]": "one case of a parametrised test, by the name that pytest gives it",
        }

Each such test still runs, as a strict expected failure: the day it passes, the suite fails, and the line goes. A sentence
of the contract is a promise, so write one test a promise (split a test that a program keeps by half), and the reason as
what the program does instead. `docs/differences.md` is written from these tables by `make generate`; `make check` and
`tests/contract/test_differences.py` fail where they and the page are not the same.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Protocol, TypeGuard

SUITES = Path(__file__).parent


class Suite(Protocol):
    """What a suite that differs says of itself."""

    subject: ClassVar[str]
    """Who is tested, as a reader calls it."""
    differences: ClassVar[Mapping[str, str]]
    """Reason by the name of a test, or of one case of it."""


@dataclass(frozen=True, order=True)
class Difference:
    """One promise that one program does not keep."""

    contract: str
    """First word of the module of the contract's test."""
    subject: str
    promise: str
    reason: str


def reason_of(suite: type | None, test: str, case: str) -> str | None:
    """Why this test, or this case of it, is expected to fail in this suite; None where it is not."""
    differences: Mapping[str, str] = getattr(suite, "differences", {})
    return differences.get(case, differences.get(test))


def suites() -> Iterator[type[Suite]]:
    """Every suite beside this module that states differences."""
    for path in sorted(SUITES.glob("test_*.py")):
        module = importlib.import_module(f"tests.contract.{path.stem}")
        for _, found in inspect.getmembers(module, inspect.isclass):
            if found.__module__ == module.__name__ and _is_suite(found):
                yield found


def _is_suite(found: type) -> TypeGuard[type[Suite]]:
    return "differences" in vars(found)


def known() -> list[Difference]:
    """All differences of all suites."""
    return sorted(_difference(suite, case, reason) for suite in suites() for case, reason in suite.differences.items())


def _difference(suite: type[Suite], case: str, reason: str) -> Difference:
    name, _, parameters = case.partition("[")
    test = getattr(suite, name, None)
    if test is None:
        raise LookupError(f"{suite.__name__} states a difference for {name}, which is none of its tests")
    contract = test.__module__.rpartition(".")[2].partition("_")[0]
    promise = name.removeprefix("test_").replace("_", " ")
    return Difference(contract, suite.subject, promise + (f" ({parameters.rstrip(']')})" if parameters else ""), reason)


_INTRODUCTIONS = {
    "bus": "What every bus does, in memory, on the embedded broker and on Apache Kafka.",
    "broker": "What the services, and what people build beside them, may ask of a broker.",
    "ollama": "What a node that speaks Ollama's API does.",
}


def page(note: str) -> str:
    """The page of the docs."""
    lines = [f"<!-- {note} -->", "", "# Where embedded and real parts differ", ""]
    lines += [
        "One contract is run by every program that can take its place: the embedded broker and Apache Kafka 4.1, the embedded",
        "node, Ollama 0.24.0 (the engine before llama-server) and Ollama 0.34.0. What a program does otherwise is an expected",
        "failure in its suite, with its reason, and is listed here. Nothing else is known to differ.",
        "",
    ]
    found = known()
    unknown = {difference.contract for difference in found} - _INTRODUCTIONS.keys()
    if unknown:
        raise LookupError(f"no introduction to {', '.join(sorted(unknown))}, so its differences would not be on the page")
    for contract, introduction in _INTRODUCTIONS.items():
        rows = [difference for difference in found if difference.contract == contract]
        lines += [f"## {contract.capitalize()}", "", introduction, ""]
        if rows:
            lines += ["| the contract says | not so | instead |", "|---|---|---|"]
            lines += [f"| {row.promise} | {row.subject} | {row.reason} |" for row in rows]
        else:
            lines += ["No program is known to differ."]
        lines.append("")
    return "\n".join(lines)
