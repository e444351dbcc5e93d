"""Plots and histograms of a dataset card."""

from __future__ import annotations

import xml.etree.ElementTree as ET

from hypothesis import given
from hypothesis import strategies as st

from ruminate.command.datasets.measure import tenths, words
from ruminate.command.datasets.plots import bars, of_ratios, of_words


@given(st.lists(st.tuples(st.text(st.characters(codec="utf-8", categories=["L", "N", "P", "S", "Zs"])), st.integers(0, 10**9))))
def test_whatever_the_labels_a_plot_is_sound_svg(values: list[tuple[str, int]]) -> None:
    root = ET.fromstring(bars("Rows <by> & kind", values))
    assert len(root.findall("{http://www.w3.org/2000/svg}rect")) == len(values) + 1


def test_of_a_long_label_both_ends_are_shown_so_that_it_is_told_from_its_like() -> None:
    domain = "a domain that has quite a long name"
    root = ET.fromstring(bars("Strata", [(f"{domain}/{end}", 1) for end in ("simple/thinking", "simple/direct", "short")]))
    shown = [text.text or "" for text in root.findall("{http://www.w3.org/2000/svg}text[@text-anchor='end']")]
    assert shown == ["a domain…e/simple/thinking", "a domain…ame/simple/direct", "a domain…a long name/short"]
    assert all(len(text) == 26 for text in shown)


def test_a_ratio_falls_into_the_bin_that_holds_it_and_one_into_the_last() -> None:
    histogram = tenths()
    for value in (0.0, 0.1, 0.95, 1.0):
        histogram.add(value)
    assert [count for _, count in of_ratios(histogram)] == [1, 1, 0, 0, 0, 0, 0, 0, 0, 2]
    assert histogram.mean == 2.05 / 4
    assert tenths().mean is None


def test_lengths_are_doubled_and_end_with_the_last_that_there_is() -> None:
    histogram = words()
    for value in (0, 1, 16, 17, 40):
        histogram.add(value)
    assert of_words(histogram) == [("none", 1), ("1 – 16", 2), ("17 – 32", 1), ("33 – 64", 1)]
    assert of_words(words()) == [("none", 0)]
