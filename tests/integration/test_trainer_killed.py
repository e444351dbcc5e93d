"""Killed with -9 at any step of any stage, while it prepares, measures, exports or checks: the same adapter, by the same curves."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pytest

from ruminate.trainer.base import most_adapters
from ruminate.trainer.job import finished
from ruminate.trainer.outcome import PLAN_FILE
from ruminate.trainer.plan import Enforcement, JobPlan
from tests.integration.killing import (
    ADAPTER_BYTES,
    PLACES,
    WEIGHTS,
    Course,
    Kill,
    Made,
    Moment,
    dealt,
    drawn,
    four_stages,
    largest_difference,
    made,
    run_killed,
)

LARGEST_DIFFERENCE = 1e-4
"""Of any loss, reward or look at any step."""
BESIDE_ADAPTERS_BYTES = 4_000_000
"""The exported base (2.1 MB), rows, exams and what they came to."""
HANDS = 9


def undisturbed(folder: Path, enforcement: Enforcement, *, probes: int = 0) -> tuple[Made, Course]:
    """What the job comes to that nobody kills."""
    course = run_killed(four_stages(folder, enforcement, probes=probes))
    assert course.killed == []
    return made(folder), course


def run_as_if_nothing_happened(folder: Path, kills: Sequence[Kill], reference: Made) -> tuple[Course, float]:
    """Run the job through its kills; how far its curves are apart from those of the one that nobody has killed, at most."""
    course = run_killed(folder, kills)
    found = made(folder)
    difference = largest_difference(found, reference)
    assert difference <= LARGEST_DIFFERENCE
    assert found.result == reference.result
    assert found.proof == reference.proof
    assert found.files[WEIGHTS] == reference.files[WEIGHTS]
    assert found.files == reference.files, "a file is missing, or too many, or another"
    require_bounded(folder, course)
    return course, difference


def require_bounded(folder: Path, course: Course) -> None:
    """At no moment was there more in the folder than is asked for before a job begins."""
    plan = JobPlan.model_validate_json((folder / PLAN_FILE).read_bytes())
    headers = 1.05  # of the files
    assert course.most_adapters <= headers * most_adapters(plan)
    assert course.largest_bytes <= headers * most_adapters(plan) * ADAPTER_BYTES + BESIDE_ADAPTERS_BYTES


def moment(place: str, step: int = 1) -> Moment:
    """The moment of a place by its name."""
    return Moment(PLACES.index(place), step)


@pytest.mark.timeout(600)
def test_a_job_of_four_stages_that_is_killed_in_practice_in_preferences_and_behind_its_result_is_the_same_job(
    tmp_path: Path,
) -> None:
    reference, course = undisturbed(tmp_path / "undisturbed", "report")
    assert reference.result["stages"] == ["cold_start", "reasoning_rl", "thinking_fusion", "general_rl"]
    require_bounded(tmp_path / "undisturbed", course)
    kills = [
        Kill("child", at=moment("training reasoning_rl", 7)),  # in the second time through the questions
        Kill("service", at=moment("training general_rl", 4)),  # behind a checkpoint, beside a reference
        Kill("child", at=moment("checking")),
    ]
    folder = four_stages(tmp_path / "job", "report")
    course, _ = run_as_if_nothing_happened(folder, kills, reference)
    assert Counter(course.killed)["child, training reasoning_rl"] == 1
    assert any(each.startswith("service") for each in course.killed)
    before = finished(folder)
    assert run_killed(folder).moments == [], "whoever is given the job again finds it done"
    assert finished(folder) == before


@pytest.mark.long
@pytest.mark.timeout(7200)
def test_over_many_seeds_every_phase_and_stage_is_killed_and_each_job_is_the_same_job(tmp_path: Path) -> None:
    references: dict[Enforcement, tuple[Made, Course]] = {}
    kinds: tuple[Enforcement, ...] = ("report", "enforce")
    for kind in kinds:
        references[kind] = undisturbed(tmp_path / kind, kind, probes=1)
    stages = references["enforce"][0].result["metrics"]["stages"]
    assert any(len(stage["attempts"]) > 1 for stage in stages), "it has to recover somewhere"
    killed: Counter[str] = Counter()
    largest = 0.0
    for seed, hand in enumerate(dealt(seed=1, hands=HANDS, decks=2)):
        kind = kinds[seed % 2]
        reference, alone = references[kind]
        kills = drawn(seed, hand, instants=int(seed % 3 == 0), longest_seconds=alone.seconds)
        folder = four_stages(tmp_path / f"seed-{seed}", kind, probes=1)
        course, difference = run_as_if_nothing_happened(folder, kills, reference)
        killed.update(course.killed)
        largest = max(largest, difference)
        print(
            f"seed {seed} ({kind}): {course.killed}, {course.seconds:.0f} s (undisturbed {alone.seconds:.0f} s), "
            f"largest difference {difference:g}, at most {course.most_adapters:.1f} adapters, {course.largest_bytes} bytes"
        )
    print(f"{sum(killed.values())} kills: {dict(sorted(killed.items()))}; largest difference {largest:g}")
    assert sum(killed.values()) >= 20
    places = {each.partition(", ")[2] for each in killed}
    assert places >= set(PLACES) - {"checking"}, f"never killed in {set(PLACES) - places}"
