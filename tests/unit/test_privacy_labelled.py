"""The bars of the labelled set: what has to be found is found, and little else, on contexts that were and were not tuned on."""

from __future__ import annotations

import pytest

from ruminate.collector.privacy.policy import PrivacyPolicy
from ruminate.collector.privacy.scan import Scanner
from ruminate.collector.privacy.text import Look
from tests.data.privacy.labelled import Part, snippets
from tests.data.privacy.scores import Span, report, scores

LEAST_RECALL, LEAST_PRECISION = 0.98, 0.95


@pytest.mark.parametrize("part", ["tuned", "held_out", "fresh"])
def test_secrets_and_personal_data_are_found_and_little_else(part: Part) -> None:
    scanner = Scanner(PrivacyPolicy())

    def find(text: str) -> list[Span]:
        return [Span(*found) for found in scanner.find(Look.at(text), scanner.recognisers_for(text))]

    table = scores(find, part)
    print(report(table))
    for group, score in table.items():
        shown = "\n".join([f"{group} on {part}", *score.misses, "mistaken:", *score.mistakes])
        assert score.recall >= LEAST_RECALL, shown
        assert score.precision >= LEAST_PRECISION, shown


def test_the_set_is_large_and_nearly_half_of_it_holds_nothing() -> None:
    made = snippets()
    assert len(made) >= 1000
    assert sum(not snippet.labels for snippet in made) >= 0.45 * len(made)
    for snippet in made:
        for label in snippet.labels:
            assert snippet.text.startswith(label.value, label.start)
