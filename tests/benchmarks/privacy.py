"""What redaction costs an interaction of 2 KB, and what other finders cost and find: `python -m tests.benchmarks.privacy`.

    clean    the demo's problems, as in the other races: nothing to replace
    code     pages of this project's own source: many words that ask for a closer look, hardly anything to replace
    dirty    a problem with three snippets of the labelled set in it

Prints microseconds of CPU an interaction, the collector's whole step from bytes to bytes, and recall and precision on the
labelled set. Presidio (its pattern recognisers, without a language model) and detect-secrets (all its plugins, line by line)
take part where they are installed: uv pip install presidio-analyzer detect-secrets. Nothing here gates.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

from ruminate.collector.privacy.policy import PERSONAL, SECRETS, PrivacyPolicy
from ruminate.collector.privacy.redaction import Redactor
from ruminate.collector.privacy.scan import Scanner
from ruminate.collector.privacy.text import Look
from ruminate.schemas.interaction import InteractionCompleted, Message, Response
from ruminate.shared.decoding import encode
from tests.benchmarks import report, workload
from tests.benchmarks.peers.steps import RawHeaders, Step, step_of
from tests.data.privacy.labelled import Snippet, snippets
from tests.data.privacy.scores import Score, Span, scores

INTERACTIONS: Final = 200
STEPS: Final = 2000
PAGE_CHARACTERS: Final = 1700
ROUNDS: Final = 3
Find = Callable[[str], Sequence[Span]]


def main() -> None:
    """Measure and print a table."""
    clean = [workload.completed(variant) for variant in range(INTERACTIONS)]
    kinds = {"clean": clean, "code": list(_code(clean)), "dirty": list(_dirty(clean))}
    print(f"{report.measured_on()}\n")
    redact = Redactor(PrivacyPolicy()).interaction
    for name, interactions in kinds.items():
        print(f"redact, {name}: {_us(redact, interactions):,.0f} µs an interaction")
    for name, interactions in kinds.items():
        cost = _us(partial(_taken, step_of("collector")), list(_records(interactions)), rounds=1)
        print(f"decode, normalise, redact, encode, {name}: {cost:,.0f} µs")
    print()
    print("| finder | clean | code | dirty | secrets found | personal data found | right |\n|---|---|---|---|---|---|---|")
    for name, find in _finders():
        texts = {kind: ["\n".join(_texts(each)) for each in interactions] for kind, interactions in kinds.items()}
        fewer = 1 if name == "ours" else 10
        costs = [f"{_us(find, some[::fewer], rounds=1):,.0f} µs" for some in texts.values()]
        print(f"| {name} | {' | '.join(costs)} | {_found(find, SECRETS)} | {_found(find, PERSONAL)} | {_right(find)} |")


def _records(interactions: Sequence[InteractionCompleted]) -> Iterable[tuple[bytes, RawHeaders]]:
    """As a broker gives them, each with an id of its own: what comes again is not redacted again."""
    for number, written in enumerate(workload.interactions(range(STEPS))):
        own = {"interaction_id": workload.interaction_id(number)}
        yield encode(interactions[number % len(interactions)].model_copy(update=own)), written.headers


def _taken(step: Step, record: tuple[bytes, RawHeaders]) -> None:
    step(*record)


def _us(do: Callable[[Any], object], inputs: Sequence[Any], rounds: int = ROUNDS) -> float:
    best = float("inf")
    for _ in range(rounds):
        begun = time.process_time()
        for each in inputs:
            do(each)
        best = min(best, time.process_time() - begun)
    return best / len(inputs) * 1e6


def _texts(interaction: InteractionCompleted) -> Iterable[str]:
    for message in interaction.messages:
        yield message.content
    yield interaction.response.content
    yield interaction.response.thinking or ""


def _code(clean: Sequence[InteractionCompleted]) -> Iterable[InteractionCompleted]:
    source = "".join(path.read_text() for path in sorted(Path("services").rglob("*.py")) if "privacy" not in path.parts)
    for number, interaction in enumerate(clean):
        at = number * len(source) // len(clean)
        message = Message(role="user", content=source[at : at + PAGE_CHARACTERS // 2])
        response = Response(content=source[at + PAGE_CHARACTERS // 2 : at + PAGE_CHARACTERS])
        yield interaction.model_copy(update={"messages": (message,), "response": response, "reference_answer": None})


def _dirty(clean: Sequence[InteractionCompleted]) -> Iterable[InteractionCompleted]:
    labelled = [snippet for snippet in snippets() if snippet.labels and len(snippet.text) < 300]
    for number, interaction in enumerate(clean):
        more = tuple(Message(role="user", content=labelled[(3 * number + at) % len(labelled)].text) for at in range(3))
        yield interaction.model_copy(update={"messages": (*more, *interaction.messages[-1:])})


def _finders() -> Iterable[tuple[str, Find]]:
    scanner = Scanner(PrivacyPolicy())
    yield "ours", lambda text: [Span(*found) for found in scanner.find(Look.at(text), scanner.recognisers_for(text))]
    if find_spec("presidio_analyzer"):
        yield "Presidio", _presidio()
    if find_spec("detect_secrets"):
        yield "detect-secrets", _detect_secrets()


def _presidio() -> Find:
    from presidio_analyzer import RecognizerRegistry

    registry = RecognizerRegistry()
    registry.load_predefined_recognizers()
    recognizers = [each for each in registry.recognizers if hasattr(each, "patterns")]

    def find(text: str) -> list[Span]:
        spans = [
            Span(found.start, found.end, found.entity_type)
            for each in recognizers
            for found in each.analyze(text, each.supported_entities, None) or ()
            if found.score >= 0.35
        ]
        return _longest(spans)

    return find


def _detect_secrets() -> Find:
    from detect_secrets.core.scan import scan_line
    from detect_secrets.settings import default_settings

    for_good = ExitStack()  # to enter it for each text would build the plugins each time
    for_good.enter_context(default_settings())

    def find(text: str, _: object = for_good) -> list[Span]:
        spans = []
        start = 0
        for line in text.split("\n"):
            for secret in scan_line(line):
                value = secret.secret_value or ""
                at = line.find(value)
                if value and at >= 0:
                    spans.append(Span(start + at, start + at + len(value), secret.type))
            start += len(line) + 1
        return _longest(spans)

    return find


def _longest(spans: list[Span]) -> list[Span]:
    kept: list[Span] = []
    for span in sorted(spans, key=lambda each: (each.start, -each.end)):
        if not kept or span.start >= kept[-1].end:
            kept.append(span)
    return kept


def _found(find: Find, kinds: frozenset[str]) -> str:
    def covered(snippet: Snippet) -> Iterable[bool]:
        spans = find(snippet.text)
        for label in snippet.labels:
            if label.kind in kinds:
                yield any(span.start <= label.start and label.start + len(label.value) <= span.end for span in spans)

    verdicts = [verdict for snippet in snippets() if snippet.labels for verdict in covered(snippet)]
    return f"{sum(verdicts) / len(verdicts):.1%}"


def _right(find: Find) -> str:
    score: Score = scores(find, None)["all"]
    return f"{score.precision:.1%}"


if __name__ == "__main__":
    main()
