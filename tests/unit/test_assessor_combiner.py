"""What is found and what is known become one probability; it is taught by what turned out, and nobody teaches it much alone."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ruminate.assessor.finding.findings import find
from ruminate.assessor.judging.combiner import BEFORE, MOST_OPINION, UNTAUGHT, Combiner, Snapshot
from ruminate.assessor.judging.decide import untaught, weigh
from ruminate.assessor.judging.knowledge import MOST_KNOWLEDGE, Agreement, Knowledge, Opinion
from ruminate.assessor.judging.signals import NAMES, Signals
from ruminate.assessor.learning.teacher import (
    MOST_CORRECTION,
    Lesson,
    Teacher,
    lesson_of,
    packed,
    reliability,
    source_digest,
    unpacked,
)
from ruminate.assessor.policy import Policy, Weights
from ruminate.grading.checking.answers import Comparison
from ruminate.schemas.assessment import Verdict
from tests.solutions import interaction

POLICY = Policy()
NOTHING = Signals(*[0.0] * len(NAMES))
RIGHT = Comparison("right", "the final number")
WRONG = Comparison("wrong", "the final number")


def verdict(knowledge: Knowledge, combiner: Combiner | None = None) -> Verdict:
    it = interaction("Ann has 3 apples and buys 4. How many apples has she?", "She has 3 + 4 = 7 apples.", "7")
    found = find(it, most_characters=1000)
    return weigh(it, found, knowledge, POLICY, combiner or untaught(POLICY))[0]


def value(knowledge: Knowledge) -> float:
    found = verdict(knowledge).overall.value
    assert found is not None
    return found


# What somebody knows.


def test_knowledge_outweighs_all_opinion() -> None:
    assert MOST_KNOWLEDGE >= 2 * MOST_OPINION
    assert value(Knowledge(comparison=RIGHT)) > 0.97
    assert value(Knowledge(comparison=WRONG)) < 0.03


def test_each_kind_of_knowledge_moves_it_and_a_complaint_more_than_praise() -> None:
    base = value(Knowledge())
    praised = value(Knowledge(opinions=(Opinion("ann", thumb="up"),)))
    blamed = value(Knowledge(opinions=(Opinion("ann", thumb="down"),)))
    assert blamed < base < praised
    assert base - blamed > praised - base
    assert value(Knowledge(outcome="succeeded")) > base > value(Knowledge(outcome="failed"))
    assert value(Knowledge(asked_again=True)) < base
    assert value(Knowledge(agreement=Agreement(3, 0))) > base > value(Knowledge(agreement=Agreement(0, 3)))
    assert value(Knowledge(opinions=(Opinion("ann", score=0.9),))) > base > value(Knowledge(opinions=(Opinion("ann", score=0.1),)))
    assert value(Knowledge(opinions=(Opinion("ann", corrected=True),))) < 0.1


def test_of_one_person_the_last_word_counts_and_of_many_the_last_three() -> None:
    again = tuple(Opinion("ann", thumb="up") for _ in range(50))
    assert Knowledge(opinions=again).logit() == Knowledge(opinions=again[:1]).logit()
    assert Knowledge(opinions=(*again, Opinion("ann", thumb="down"))).logit() < 0
    crowd = tuple(Opinion(f"person {number}", thumb="up") for number in range(50))
    assert Knowledge(opinions=crowd).logit() == Knowledge(opinions=crowd[:3]).logit()


def test_a_correction_rejects_and_the_verdict_says_so() -> None:
    corrected = verdict(Knowledge(opinions=(Opinion("ann", corrected=True),)))
    assert corrected.decision == "reject"
    assert any(reason.startswith("corrected:") for reason in corrected.reasons)
    assert "it was corrected" in corrected.overall.evidence


# The combiner.


def test_every_weight_names_a_signal_and_the_untaught_one_is_number_0() -> None:
    assert set(BEFORE) <= set(NAMES)
    assert UNTAUGHT.version == "0"
    assert verdict(Knowledge()).combiner == "0"


def test_a_snapshot_corrects_weights_by_name_and_the_verdict_names_it() -> None:
    snapshot = Snapshot(number=7, lessons=100, bias=-2.0, corrections={"concludes": -1.0, "no longer a signal": 9.0})
    taught = verdict(Knowledge(), Combiner(POLICY.weights, snapshot))
    assert taught.combiner == snapshot.version
    assert taught.combiner.startswith("7-")
    assert taught.overall.value is not None
    assert taught.overall.value < value(Knowledge())


def test_equal_snapshots_have_one_version_and_every_change_another() -> None:
    one = Snapshot(number=1, lessons=5, corrections={"concludes": 0.5})
    assert one.version == Snapshot(number=1, lessons=5, corrections={"concludes": 0.5}).version
    assert one.version != Snapshot(number=1, lessons=5, corrections={"concludes": 0.6}).version


def test_the_most_telling_signals_are_named_with_what_they_added() -> None:
    shown = NOTHING._replace(wrong_arithmetic=1.0, concludes=1.0, hedges=0.1)
    assert Combiner(Weights()).telling(shown) == [("wrong_arithmetic", -3.0), ("concludes", 0.8)]


# The teacher.


def lessons(count: int, *, seed: int, sources: int = 50) -> list[Lesson]:
    """A world in which only `concludes` tells, and `hedges` is noise."""
    rng = random.Random(seed)
    made = []
    for _ in range(count):
        concludes, hedges = float(rng.random() < 0.5), rng.random()
        good = rng.random() < (0.9 if concludes else 0.2)
        shown = NOTHING._replace(concludes=concludes, hedges=hedges)
        made.append(Lesson(shown, good, 1.0, source_digest(str(rng.randrange(sources))), by_reference=True))
    return made


def taught(count: int = 2000) -> Teacher:
    teacher = Teacher(Weights())
    for lesson in lessons(count, seed=1):
        teacher.learn(lesson)
    return teacher


def test_it_learns_the_probabilities_of_its_world() -> None:
    teacher = taught()
    assert teacher.predict(NOTHING._replace(concludes=1.0, hedges=0.5)) == pytest.approx(0.9, abs=0.03)
    assert teacher.predict(NOTHING._replace(hedges=0.5)) == pytest.approx(0.2, abs=0.03)
    assert teacher.reliability().calibration_error < 0.04
    assert teacher.reliability().lessons == 1000


def test_the_snapshot_predicts_what_the_teacher_predicts_and_its_number_goes_up() -> None:
    teacher = taught(300)
    first = teacher.snapshot()
    shown = NOTHING._replace(concludes=1.0)
    combiner = Combiner(Weights(), first)
    assert 1 / (1 + 2.718281828459045 ** -combiner.logit(shown)) == pytest.approx(teacher.predict(shown), abs=1e-5)
    assert (first.number, first.lessons) == (1, 300)
    assert teacher.snapshot().number == 2


def test_the_order_of_lessons_hardly_matters() -> None:
    forth, back = Teacher(Weights()), Teacher(Weights())
    for lesson in lessons(1000, seed=3):
        forth.learn(lesson)
    for lesson in reversed(lessons(1000, seed=3)):
        back.learn(lesson)
    shown = NOTHING._replace(concludes=1.0, hedges=0.3)
    assert forth.predict(shown) == pytest.approx(back.predict(shown), abs=0.03)


@pytest.mark.parametrize("good", [True, False])
def test_one_agent_with_a_thousand_thumbs_moves_it_by_a_bounded_amount(good: bool) -> None:
    teacher = taught()
    shown = [NOTHING._replace(concludes=float(number % 2), hedges=number / 20) for number in range(20)]
    before = [teacher.predict(each) for each in shown]
    moved = []
    for number in range(10_000):
        teacher.learn(Lesson(shown[number % 20], good, 0.4, source_digest("poisoner"), by_reference=False))
        if number in (999, 9_999):
            moved.append(max(abs(teacher.predict(each) - was) for each, was in zip(shown, before, strict=True)))
    assert moved[0] < 0.15
    assert moved[1] < moved[0] + 0.05


def test_no_correction_leaves_its_bounds() -> None:
    teacher = Teacher(Weights())
    shown = NOTHING._replace(concludes=1.0)
    for number in range(500):
        teacher.learn(Lesson(shown, False, 1.0, source_digest(str(number)), by_reference=True))
    assert all(abs(correction) <= MOST_CORRECTION for correction in teacher.corrections)
    assert 0.0 < teacher.predict(shown) < 0.2


def test_a_lesson_is_what_somebody_knows_for_sure() -> None:
    def lesson(knowledge: Knowledge) -> Lesson | None:
        return lesson_of(NOTHING, knowledge, source="agent")

    assert lesson(Knowledge()) is None
    assert lesson(Knowledge(comparison=Comparison("undecided", "a negation"))) is None
    assert lesson(Knowledge(opinions=(Opinion("ann", score=0.6),))) is None
    by_reference = lesson(Knowledge(comparison=WRONG, outcome="succeeded"))
    assert by_reference is not None
    assert (by_reference.good, by_reference.weight, by_reference.by_reference) == (False, 1.0, True)
    by_outcome = lesson(Knowledge(outcome="succeeded"))
    assert by_outcome is not None
    assert (by_outcome.good, by_outcome.source) == (True, source_digest("agent"))
    by_thumb = lesson(Knowledge(opinions=(Opinion("ann", thumb="down"),)))
    assert by_thumb is not None
    assert (by_thumb.good, by_thumb.source) == (False, source_digest("ann"))


def test_the_covariance_packs_and_comes_back() -> None:
    teacher = taught(50)
    again = unpacked(packed(teacher.covariance), len(NAMES) + 1)
    assert again[3] == pytest.approx(teacher.covariance[3], abs=1e-6)
    with pytest.raises(ValueError, match="bytes"):
        unpacked(packed(teacher.covariance), 3)


def test_reliability_of_perfect_and_of_hopeless_predictions() -> None:
    assert reliability([]).lessons == 0
    assert reliability([(1.0, True), (0.0, False)] * 5).brier == 0.0
    hopeless = reliability([(1.0, False)] * 5)
    assert (hopeless.brier, hopeless.calibration_error) == (1.0, 1.0)
    assert reliability([(0.5, True), (0.5, False)]).calibration_error == 0.0


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.lists(st.floats(-1.5, 1.5), min_size=len(NAMES), max_size=len(NAMES)), st.booleans()), max_size=20))
def test_whatever_it_is_taught_it_stays_a_probability(taught_by: list[tuple[list[float], bool]]) -> None:
    teacher = Teacher(Weights())
    for shown, good in taught_by:
        assert 0.0 < teacher.learn(Lesson(Signals(*shown), good, 1.0, "s", by_reference=True)) < 1.0
    assert all(row[at] > 0 for at, row in enumerate(teacher.covariance))
