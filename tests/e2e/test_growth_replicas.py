"""Two replicas of a service share its work; when one is killed, the other takes over, and each effect is there once."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from infra.real.kafka import KafkaCluster
from ruminate.schemas.flow import INTERACTION_RECORDED, REASONING_ASSESSED, TRAINING_BATCH_SEALED
from ruminate.shared.topics import ensure_topics
from tests.e2e.fleet import Fleet, chains, eventually, fleet_at, fresh_rows, interactions, once

TARGETS = 6
ROWS_A_BATCH = 20
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

        # The second half comes while one of each dies, a different one each time.
        fleet.publish(interactions(range(first, second), targets=TARGETS))
        for number, (survivor, victim) in enumerate(pairs.values()):
            moment = first + 20 * number
            eventually(lambda moment=moment: fleet.count(REASONING_ASSESSED) > moment, what="the second half is on its way")
            (survivor if number % 2 else victim).kill()
        eventually(lambda: sealed_rows(fleet) == second, what="the second half is sealed")
        for service in pairs:
            eventually(lambda service=service: fleet.is_divided(service, members=1), what=f"one {service} has every partition")

        recorded, assessed = once(fleet.read(INTERACTION_RECORDED)), once(fleet.read(REASONING_ASSESSED))
        assert {each.payload.interaction_id for each in recorded.values()} == {f"i-{number}" for number in range(second)}
        assert len(recorded) == len(assessed) == second
        rows = fresh_rows(fleet)
        assert set(rows.values()) == {1}
        assert rows.keys() == {str(each.payload.recorded_id) for each in recorded.values()}
        fleet.audit()
        # No trainer runs, and verdicts that were told again behind the last batch wait for the next one.
        waiting = ("trainer", "accumulator")
        eventually(
            lambda: not any(lag for name, lag in fleet.lags().items() if not name.startswith(waiting)), what="nothing is unread"
        )


def unread(fleet: Fleet, *readers: str) -> dict[str, int | None]:
    return {name: lag for name, lag in fleet.lags().items() if lag != 0 and name.startswith(readers)}


def sealed_rows(fleet: Fleet) -> int:
    return sum(batch.rows for chain in chains(fleet.read(TRAINING_BATCH_SEALED)).values() for batch in chain)
