"""Passed, or why not: what two sittings of one exam say."""

from __future__ import annotations

from collections.abc import Sequence

from ruminate.proof.exam import HOLD_OUT, Check, Question
from ruminate.proof.judge import Finding, Judgement, Policy, compare_served, harmed, in_words, judge, lost
from ruminate.proof.messages import Message
from ruminate.proof.spoken import Answered, Sitting

POLICY = Policy()
ANCHORS = 128
HELD_OUT = 40


def question(set_name: str, number: int, *, thinks: bool, checked: bool = True) -> Question:
    """One question in one mode."""
    return Question(
        set=set_name,
        prompt=(Message(role="user", content=f"{number}?"),),
        thinks=thinks,
        check=Check(kind="exact", content=str(number)) if checked else None,
    )


QUESTIONS = [
    *(question("sums", number, thinks=thinks) for thinks in (True, False) for number in range(ANCHORS)),
    *(question(HOLD_OUT, number, thinks=True) for number in range(HELD_OUT)),
]


def answer(*, right: bool | None = True, thinks: bool = True, well_formed: bool = True, tokens: int = 20) -> Answered:
    """One answer."""
    return Answered(
        right=right,
        well_formed=well_formed,
        obedient=well_formed,
        thinking_tokens=tokens if thinks else 0,
        answer_tokens=tokens + 3,
        cut=False,
    )


def sitting(
    *,
    thinking_right: int = ANCHORS,
    direct_right: int = ANCHORS,
    held_out_right: int = 0,
    well_formed: int = ANCHORS,
    tokens: int = 20,
    traces: Sequence[float] = (0.1,) * 20,
    rows: Sequence[float] = (),
) -> Sitting:
    """A sitting in which the first so many of each are right."""
    return Sitting(
        answers=(
            *(answer(right=n < thinking_right, well_formed=n < well_formed, tokens=tokens) for n in range(ANCHORS)),
            *(answer(right=n < direct_right, thinks=False) for n in range(ANCHORS)),
            *(answer(right=n < held_out_right) for n in range(HELD_OUT)),
        ),
        trace_losses=tuple(traces),
        row_losses=tuple(rows),
    )


BEFORE = sitting()


def finding(judgement: Judgement, measure: str, group: str) -> Finding:
    """The one finding of a measure in a group."""
    (found,) = (each for each in judgement.findings if (each.measure, each.group) == (measure, group))
    return found


def test_reasoning_that_is_as_it_was_and_answers_that_are_better_pass() -> None:
    judgement = judge(QUESTIONS, BEFORE, sitting(held_out_right=30), POLICY)
    assert (judgement.kept, judgement.learned, judgement.passed) == (True, True, True)
    assert judgement.explanation == "reasoning was kept, and something was learned"
    assert finding(judgement, "right", HOLD_OUT).verdict == "learned"


def test_reasoning_that_is_kept_and_nothing_learned_does_not_pass() -> None:
    judgement = judge(QUESTIONS, BEFORE, BEFORE, POLICY)
    assert (judgement.kept, judgement.learned, judgement.passed) == (True, False, False)
    assert judgement.explanation.startswith("nothing learned: right (hold-out): 0.0% right before, 0.0% after on 40")


def test_a_gain_that_chance_could_have_made_is_none() -> None:
    assert not judge(QUESTIONS, BEFORE, sitting(held_out_right=4), POLICY).learned
    assert judge(QUESTIONS, BEFORE, sitting(held_out_right=5), POLICY).learned


def test_thinking_that_stops_does_not_pass_whatever_was_learned() -> None:
    judgement = judge(QUESTIONS, BEFORE, sitting(well_formed=0, held_out_right=40), POLICY)
    assert not judgement.kept
    assert finding(judgement, "well_formed", "sums, thinking").verdict == "lost"
    assert finding(judgement, "obedient", "sums, thinking").verdict == "lost"
    assert "reasoning was not kept: well_formed (sums, thinking): 100.0% before, 0.0% after" in judgement.explanation


def test_answers_that_were_right_and_no_longer_are_do_not_pass_in_either_mode() -> None:
    for worse, group in ((sitting(thinking_right=100), "sums, thinking"), (sitting(direct_right=100), "sums, direct")):
        judgement = judge(QUESTIONS, BEFORE, worse, POLICY)
        assert not judgement.kept
        assert finding(judgement, "right", group).verdict == "lost"


def test_a_loss_that_may_be_larger_than_allowed_is_not_proven_to_be_smaller() -> None:
    found = finding(judge(QUESTIONS, BEFORE, sitting(thinking_right=ANCHORS - 5), POLICY), "right", "sums, thinking")
    assert found.verdict == "unproven"
    assert found.change is not None
    assert found.low is not None
    assert found.low < -POLICY.most_loss < found.change < 0
    assert "5.0 points are allowed" in found.because
    assert (
        finding(judge(QUESTIONS, BEFORE, sitting(thinking_right=ANCHORS - 1), POLICY), "right", "sums, thinking").verdict == "kept"
    )


def test_few_questions_prove_nothing() -> None:
    few = [each for each in QUESTIONS if each.set == "sums" and each.thinks][:30]
    same = Sitting(answers=BEFORE.answers[:30])
    assert finding(judge(few, same, same, POLICY), "right", "sums, thinking").verdict == "unproven"


def test_what_the_one_before_fails_is_not_applicable_and_never_kept() -> None:
    cannot = sitting(direct_right=5)
    judgement = judge(QUESTIONS, cannot, sitting(direct_right=0, held_out_right=40), POLICY)
    assert finding(judgement, "right", "sums, direct").verdict == "not_applicable"
    assert judgement.passed


def test_a_base_that_does_not_think_has_no_reasoning_to_be_kept() -> None:
    before = sitting(thinking_right=0, direct_right=0, well_formed=0, traces=())
    judgement = judge(QUESTIONS, before, sitting(held_out_right=40, thinking_right=0, direct_right=0), POLICY)
    about_thinking = [each.verdict for each in judgement.findings if each.group == "sums, thinking"]
    assert set(about_thinking) == {"not_applicable"}
    assert finding(judgement, "trace_perplexity", "base").verdict == "not_applicable"


def test_thinking_much_longer_or_all_but_gone_for_the_same_answers_does_not_pass() -> None:
    for tokens, verdict in ((20, "kept"), (30, "kept"), (60, "lost"), (4, "lost")):
        found = finding(
            judge(QUESTIONS, BEFORE, sitting(tokens=tokens), POLICY), "thinking_tokens_a_right_answer", "sums, thinking"
        )
        assert found.verdict == verdict, tokens
        assert found.after == tokens


def test_the_bases_own_thoughts_must_stay_likely() -> None:
    found = finding(judge(QUESTIONS, BEFORE, sitting(traces=(0.2,) * 20), POLICY), "trace_perplexity", "base")
    assert found.verdict == "kept"
    found = finding(judge(QUESTIONS, BEFORE, sitting(traces=(0.5,) * 20), POLICY), "trace_perplexity", "base")
    assert found.verdict == "lost"
    assert "1.25 times as much is allowed" in found.because


def test_where_too_few_can_be_checked_the_loss_on_rows_held_out_decides() -> None:
    unchecked = [*QUESTIONS[: 2 * ANCHORS], *(question(HOLD_OUT, number, thinks=True, checked=False) for number in range(HELD_OUT))]

    def with_rows(losses: Sequence[float]) -> Sitting:
        same = sitting(rows=losses)
        return same.model_copy(update={"answers": (*same.answers[: 2 * ANCHORS], *[answer(right=None)] * HELD_OUT)})

    worse = [2.0 + 0.01 * (n % 7) for n in range(HELD_OUT)]
    better = [loss - 0.5 + 0.1 * (n % 3) for n, loss in enumerate(worse)]
    judgement = judge(unchecked, with_rows(worse), with_rows(better), POLICY)
    assert finding(judgement, "row_loss", HOLD_OUT).verdict == "learned"
    judgement = judge(unchecked, with_rows(worse), with_rows(worse), POLICY)
    assert finding(judgement, "row_loss", HOLD_OUT).verdict == "not_learned"
    hardly = [loss - 0.001 for loss in worse]  # as sure as can be, and nothing
    judgement = judge(unchecked, with_rows(worse), with_rows(hardly), POLICY)
    assert finding(judgement, "row_loss", HOLD_OUT).verdict == "not_learned"
    assert "the least that means something" in judgement.explanation
    few = judge(unchecked, with_rows(worse[:5]), with_rows(better[:5]), POLICY)
    assert not few.learned
    assert "20 of either are needed" in few.explanation


def test_what_one_conversation_asks_is_one_observation() -> None:
    def out_of(conversations: int) -> list[Question]:
        return [
            each.model_copy(update={"conversation": f"c{number % conversations}"}) if each.set == HOLD_OUT else each
            for number, each in enumerate(QUESTIONS)
        ]

    better = sitting(held_out_right=40)
    assert judge(out_of(40), BEFORE, better, POLICY).learned
    few = judge(out_of(3), BEFORE, better, POLICY)
    assert not few.learned
    assert finding(few, "right", HOLD_OUT).chance == 1 / 8
    assert "40 questions held out, of 3 conversations" in finding(few, "right", HOLD_OUT).because
    assert not harmed(out_of(3), better, BEFORE, POLICY)
    assert harmed(out_of(40), better, BEFORE, POLICY)


def test_the_interval_of_what_was_learned_is_that_of_its_conversations() -> None:
    """Half of the questions are right afterwards, but in each conversation all of them or none: eight observations, not forty."""
    begin = len(QUESTIONS) - HELD_OUT
    by_conversation = [
        each.model_copy(update={"conversation": f"c{(number - begin) // 5}"}) if each.set == HOLD_OUT else each
        for number, each in enumerate(QUESTIONS)
    ]
    half = sitting(held_out_right=HELD_OUT // 2)
    alone, together = (
        finding(judge(questions, BEFORE, half, POLICY), "right", HOLD_OUT) for questions in (QUESTIONS, by_conversation)
    )
    assert alone.change == together.change
    assert alone.low is not None and alone.high is not None and together.low is not None and together.high is not None
    assert together.high - together.low > 1.5 * (alone.high - alone.low)


def test_rows_of_one_conversation_are_one_observation() -> None:
    unchecked = [question(HOLD_OUT, number, thinks=True, checked=False) for number in range(HELD_OUT)]
    worse, better = (Sitting(answers=(answer(right=None),) * HELD_OUT, row_losses=(loss,) * 30) for loss in (2.0, 1.0))
    assert judge(unchecked, worse, better, POLICY).learned
    few = [f"c{number % 3}" for number in range(30)]
    judgement = judge(unchecked, worse, better, POLICY, rows=few)
    assert not judgement.learned
    assert "30 rows held out, of 3 conversations" in finding(judgement, "row_loss", HOLD_OUT).because
    assert harmed(unchecked, better, worse, POLICY)
    assert not harmed(unchecked, better, worse, POLICY, rows=few)


def test_harm_is_a_fall_on_the_hold_out_that_chance_does_not_explain() -> None:
    good = sitting(held_out_right=30)
    assert harmed(QUESTIONS, good, sitting(held_out_right=15), POLICY)
    assert not harmed(QUESTIONS, good, sitting(held_out_right=29), POLICY)
    assert not harmed(QUESTIONS, good, sitting(held_out_right=40), POLICY)


def served(*, thinking_right: int = ANCHORS, held_out_right: int = 20, tokens: int = 20) -> dict[tuple[str, str], Finding]:
    """What a node makes of a version that answers half of its own hold-out rightly."""
    proven = sitting(held_out_right=20)
    on_node = sitting(thinking_right=thinking_right, held_out_right=held_out_right, tokens=tokens)
    return {(each.measure, each.group): each for each in compare_served(QUESTIONS, proven.answers, on_node.answers, POLICY)}


def test_what_is_served_as_it_was_proven_loses_nothing_and_its_own_hold_out_counts_too() -> None:
    found = served()
    assert lost(tuple(found.values())) == ()
    assert found["right", "sums, thinking"].verdict == "kept"
    assert ("right", "hold-out, thinking") in found
    assert not any(each.verdict in ("learned", "not_learned") for each in found.values())


def test_a_loss_on_the_way_to_the_node_is_seen_in_either() -> None:
    anchors = lost(tuple(served(thinking_right=100).values()))
    assert [(each.measure, each.group) for each in anchors] == [("right", "sums, thinking")]
    own = lost(tuple(served(held_out_right=2).values()))
    assert [(each.measure, each.group) for each in own] == [("right", "hold-out, thinking")]
    assert "right (hold-out, thinking): 50.0% before, 5.0% after" in in_words(own)


def test_a_few_answers_more_or_less_are_no_loss_where_it_was_proven_before() -> None:
    found = served(thinking_right=ANCHORS - 5)["right", "sums, thinking"]
    assert found.verdict == "unproven"
    assert lost((found,)) == ()


def test_a_node_that_lets_think_three_times_as_long_does_not_serve_what_was_proven() -> None:
    (found,) = lost(tuple(served(tokens=60).values()))
    assert (found.measure, found.group) == ("tokens_a_right_answer", "sums, thinking")
