"""Two replicas of a service share its work; when one is killed, the other takes over, and each effect is there once."""

from __future__ import annotations

import asyncio
from functools import partial
from pathlib import Path

import pytest

from infra.real.kafka import KafkaCluster
from ruminate.schemas.flow import REASONING_ASSESSED
from ruminate.shared.topics import ensure_topics
from tests.e2e.fleet import Fleet, check_each_once, eventually, fleet_at, interactions, sealed_rows

TARGETS = 6
ROWS_A_BATCH = 20
PART = 10 * TARGETS
SEALING = {"RUMINATE_SEAL_AT_ROWS": str(ROWS_A_BATCH), "RUMINATE_HOLDOUT_RATIO": "0"}


@pytest.mark.real
@pytest.mark.timeout(400)
def test_two_of_each_share_the_work_and_when_one_is_killed_the_other_does_all_of_it(
    kafka_of_one: KafkaCluster, tmp_path: Path
) -> None:
    with fleet_at(kafka_of_one.bootstrap, tmp_path, **SEALING) as fleet:
        asyncio.run(ensure_topics(fleet.client))
        pairs = fleet.start_two("collector", "assessor", "accumulator")
        first, second = 40 * TARGETS, 80 * TARGETS
        fleet.publish(interactions(range(first), targets=TARGETS))
        eventually(lambda: sealed_rows(fleet) == first, what="the first half is sealed")
        for service, pair in pairs.items():
            assert all(replica.done() for replica in pair), f"one replica of {service} did nothing"

        # The second half comes in parts, while one of each dies, not always the same one; the last part finds one of each.
        parts = [range(begin, begin + PART) for begin in range(first, second, PART)]
        for number, (part, pair) in enumerate(zip(parts, pairs.values(), strict=False)):
            fleet.publish(interactions(part, targets=TARGETS))
            moment = first + 20 * number
            eventually(partial(has_judged, fleet, moment + 1), what="the second half is on its way")
            pair[1 - number % 2].kill()
        for part in parts[len(pairs) :]:
            fleet.publish(interactions(part, targets=TARGETS))
        eventually(lambda: sealed_rows(fleet) == second, what="the second half is sealed")
        for service in pairs:
            eventually(partial(fleet.is_divided, service, members=1), what=f"one {service} has every partition")

        check_each_once(fleet, second)
        # No trainer runs, and verdicts that were told again behind the last batch wait for the next one.
        eventually(lambda: not unread(fleet, "collector", "assessor"), what="nothing is unread")


def has_judged(fleet: Fleet, count: int) -> bool:
    return fleet.count(REASONING_ASSESSED) >= count


def unread(fleet: Fleet, *readers: str) -> dict[str, int | None]:
    """What these have before them, or nobody knows."""
    return {name: lag for name, lag in fleet.lags().items() if lag != 0 and name.startswith(readers)}
