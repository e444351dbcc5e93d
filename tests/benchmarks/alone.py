"""What a service's decision costs without a bus, and what decoding and encoding add: `python -m tests.benchmarks.alone JOB`.

Prints microseconds of CPU a message: the decision on payloads that are there already, then the whole step from bytes to bytes.
"""

from __future__ import annotations

import gc
import json
import sys
import time
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from itertools import islice
from typing import Any, Final
from uuid import UUID

from ruminate.accumulator.sealing.chain import Fold, Sealed, item_of
from ruminate.accumulator.sealing.decide import Progress, reason_to_seal
from ruminate.accumulator.settings import AccumulatorSettings
from ruminate.assessor.judging.decide import judge
from ruminate.assessor.policy import Policy
from ruminate.collector.decide import check_id, check_source, judge_repeat, normalise, record, redact
from ruminate.collector.privacy.policy import PrivacySettings
from ruminate.collector.privacy.redaction import Privacy
from ruminate.schemas.assessment import ReasoningAssessed
from ruminate.schemas.interaction import InteractionCompleted
from tests.benchmarks import workload
from tests.benchmarks.peers.steps import step_of

MESSAGES: Final = 10_000


def main(job: str) -> None:
    """Measure and print as JSON."""
    decisions: dict[str, Callable[[], float]] = {
        "pipe": lambda: 0.0,
        "collector": _collector,
        "assessor": _assessor,
        "accumulator": _accumulator,
    }
    print(json.dumps({"decide_us": decisions[job](), "step_us": _step(job)}))


def _per_message_us(do: Callable[[Any], object], inputs: Iterable[Any]) -> float:
    ready = list(inputs)
    gc.collect()
    gc.freeze()  # the inputs are no part of the work
    begun = time.process_time()
    for each in ready:
        do(each)
    return (time.process_time() - begun) / len(ready) * 1e6


def _cycle(build: Callable[[int], Any]) -> list[Any]:
    variants = [build(variant) for variant in range(workload.DIFFERENT)]
    return [variants[number % workload.DIFFERENT] for number in range(MESSAGES)]


def _collector() -> float:
    recorded_id, privacy = UUID(int=1), Privacy(PrivacySettings())

    def collect(payload: InteractionCompleted) -> bytes:
        check_id(payload, payload.interaction_id)
        check_source(workload.AGENT_SOURCE)
        completed = normalise(payload)
        judge_repeat(None, completed.fingerprint, None)
        return record(redact(completed, privacy), source=workload.AGENT_SOURCE, recorded_id=recorded_id)

    return _per_message_us(collect, _cycle(workload.completed))


def _assessor() -> float:
    policy, version = Policy(), Policy().version
    return _per_message_us(lambda interaction: judge(interaction, policy, policy_version=version), _cycle(workload.recorded))


def _accumulator() -> float:
    settings = AccumulatorSettings()
    fold, policy, now = Fold(sealed=Sealed()), settings.policy, datetime.now(UTC)

    def fold_one(numbered: tuple[int, ReasoningAssessed]) -> object:
        number, assessed = numbered
        fold.add(
            item_of(assessed, event_id=str(number), assessed_at=now, offset=number, limits=settings.row_limits),
        )
        return reason_to_seal(Progress(fold.counts(), None, fold.waiting_since, now, now), policy, now=now)

    # Each its own interaction, as in the log; else the fold would take them for later revisions of a thousand.
    different = [
        assessed.model_copy(update={"recorded_id": UUID(int=number)}) for number, assessed in enumerate(_cycle(workload.assessed))
    ]
    return _per_message_us(fold_one, enumerate(different))


def _step(job: str) -> float:
    step = step_of(job)
    records = islice(workload.RECORDS[job](range(MESSAGES)), MESSAGES)
    return _per_message_us(lambda written: step(written.value, written.headers), records)


if __name__ == "__main__":
    main(sys.argv[1])
