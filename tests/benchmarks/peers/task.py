"""What a peer's process is told, by its environment."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Self

from prometheus_client import Gauge, start_http_server

from tests.benchmarks.peers.steps import Accumulate, Step, step_of

FOLDED = "bench_folded"


@dataclass(frozen=True)
class Task:
    """A job, from where, to where."""

    job: str
    bootstrap: str
    group: str
    source: str
    sink: str
    folder: str

    @classmethod
    def from_environment(cls) -> Self:
        """Read `BENCH_*`."""
        return cls(*(os.environ[f"BENCH_{name.upper()}"] for name in cls.__dataclass_fields__))

    def step(self) -> Step:
        """What is done with each record; an accumulator's progress is shown as a metric, as ours shows it."""
        step = step_of(self.job)
        if isinstance(step, Accumulate):
            Gauge(FOLDED, "Records folded.").set_function(lambda: len(step.fold.items))
            start_http_server(int(os.environ["RUMINATE_OPERATIONS_PORT"]), "127.0.0.1")
        return step
