"""What is counted for every record: plain numbers while records pass, Prometheus' families when somebody looks.

A counter of the client library takes a lock and 0.5 microseconds, a histogram 2: a tenth of what a record may cost.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator
from itertools import accumulate
from typing import Final

from prometheus_client import REGISTRY
from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

AGE_BOUNDS_SECONDS: Final = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1000.0, 3600.0, 86400.0)


class Tally:
    """Of one reader on one topic. Ages are those of records that were done."""

    __slots__ = ("age_buckets", "age_sum_seconds", "outcomes")

    def __init__(self) -> None:
        self.outcomes: Counter[str] = Counter(done=0, dead_letter=0, tombstone=0)
        self.age_buckets = [0] * (len(AGE_BOUNDS_SECONDS) + 1)
        self.age_sum_seconds = 0.0

    def settled(self, outcome: str, age_seconds: float | None) -> None:
        """One record ended."""
        self.outcomes[outcome] += 1
        if outcome == "done" and age_seconds is not None:
            self.age_buckets[bisect_left(AGE_BOUNDS_SECONDS, age_seconds)] += 1
            if age_seconds > 0:  # clocks differ
                self.age_sum_seconds += age_seconds


class Tallies:
    """All of this process, by topic and reader."""

    def __init__(self) -> None:
        self._tallies: dict[tuple[str, str], Tally] = {}

    def of(self, topic: str, reader: str) -> Tally:
        """That of one reader on one topic."""
        return self._tallies.setdefault((topic, reader), Tally())

    def __iter__(self) -> Iterator[tuple[tuple[str, str], Tally]]:
        return iter(list(self._tallies.items()))


class _Tallied(Collector):
    label_names: tuple[str, ...]
    family: type[CounterMetricFamily] | type[HistogramMetricFamily]

    def __init__(self, tallies: Tallies, name: str, says: str) -> None:
        self.name, self.says = name, says
        self._tallies = tallies
        REGISTRY.register(self)

    def describe(self) -> list[Metric]:
        """The family without its samples."""
        return [self.family(self.name, self.says, labels=self.label_names)]


class SettledCounter(_Tallied):
    """How many records ended, by outcome."""

    label_names = ("topic", "reader", "outcome")
    family = CounterMetricFamily

    def collect(self) -> Iterator[Metric]:
        """As of now."""
        family = CounterMetricFamily(self.name, self.says, labels=self.label_names)
        for (topic, reader), tally in self._tallies:
            for outcome, count in list(tally.outcomes.items()):
                family.add_metric((topic, reader, outcome), count)
        yield family


class AgeHistogram(_Tallied):
    """How old events were when they were done."""

    label_names = ("topic", "reader")
    family = HistogramMetricFamily

    def collect(self) -> Iterator[Metric]:
        """As of now."""
        family = HistogramMetricFamily(self.name, self.says, labels=self.label_names)
        for names, tally in self._tallies:
            bounds = [*map(str, AGE_BOUNDS_SECONDS), "+Inf"]
            family.add_metric(names, list(zip(bounds, accumulate(tally.age_buckets), strict=True)), tally.age_sum_seconds)
        yield family
