"""What a batch is made of beside its fresh rows: rehearsal, anchors, written thinking, preferences, questions to be checked."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from uuid import UUID

import orjson
import pytest

from ruminate.accumulator.curation.decontaminate import Protected
from ruminate.accumulator.curation.known import Clusters
from ruminate.accumulator.erasure.revise import revise
from ruminate.accumulator.making.anchors import AnchorSets, NotAnchored, read_anchors
from ruminate.accumulator.making.dataset import as_earlier_releases
from ruminate.accumulator.making.make import Sets
from ruminate.accumulator.making.manifest import HOLDOUT, MANIFEST, PREFERENCES, REPLAY, TRAIN, VERIFIABLE, VERIFIABLE_HOLDOUT
from ruminate.accumulator.rebuilding.rebuild import settings_of
from ruminate.schemas.assessment import ReasoningAssessed
from ruminate.schemas.interaction import AnswerCheck, ImageReference, Message, Response
from tests.unit.making import Maker, assessed, lines, question, said, why_left_out

# Rehearsal


def test_half_of_what_is_trained_are_rows_of_earlier_batches_and_each_names_where_it_was_fresh(tmp_path: Path) -> None:
    chain = Maker(tmp_path)
    chain.batch(*(assessed(n) for n in range(12)))
    chain.batch(*(assessed(n) for n in range(12, 24)))
    third = chain.batch(*(assessed(n) for n in range(24, 32)))
    assert third.manifest.counts["replay"] == 8
    for row, origin in zip(lines(third, REPLAY), third.manifest.rehearsed, strict=True):
        earlier = chain.made[origin.number - 1 if origin.number else -1]
        assert origin.named == earlier.manifest.batch_id
        assert origin.recorded_id is not None
        fresh = [each for each in earlier.manifest.rows if each.split == "train"]
        assert lines(earlier, TRAIN)[[each.recorded_id for each in fresh].index(origin.recorded_id)] == row
    assert Counter(origin.number for origin in third.manifest.rehearsed) == {1: 4, 2: 4}
    assert len({origin.recorded_id for origin in third.manifest.rehearsed}) == 8


def test_a_first_batch_rehearses_nothing_and_a_ratio_of_nought_never_does(tmp_path: Path) -> None:
    assert Maker(tmp_path / "one").batch(*(assessed(n) for n in range(8))).manifest.counts["replay"] == 0
    chain = Maker(tmp_path / "two", replay_ratio=0.0)
    for first in (0, 8):
        made = chain.batch(*(assessed(n) for n in range(first, first + 8)))
    assert lines(made, REPLAY) == []


def test_what_is_rehearsed_covers_every_domain_and_prefers_good_rows(tmp_path: Path) -> None:
    chain = Maker(tmp_path)
    chain.batch(
        *(assessed(n, domain="law", score=1.0 if n % 2 else 0.1) for n in range(80)),
        *(assessed(n, domain="botany", score=1.0 if n % 2 else 0.1) for n in range(80, 120)),
    )
    made = chain.batch(*(assessed(n) for n in range(120, 150)))
    revived = made.manifest.rehearsed
    assert Counter(each.domain for each in revived) == {"law": 20, "botany": 10}
    good = sum(each.score == 1.0 for each in revived)
    assert good > 0.7 * len(revived)


def test_rehearsed_rows_keep_to_the_reasoning_ratio(tmp_path: Path) -> None:
    chain = Maker(tmp_path, min_reasoning_ratio=0.5)
    chain.batch(*(assessed(n) for n in range(10)), *(assessed(n, thinks=False) for n in range(10, 20)))
    chain.settings = chain.settings.model_copy(update={"min_reasoning_ratio": 0.75})
    made = chain.batch(*(assessed(n) for n in range(20, 36)))
    reasoning = sum(each.reasoning for each in made.manifest.rehearsed)
    assert reasoning >= 0.75 * len(made.manifest.rehearsed)
    assert len(made.manifest.rehearsed) >= 10


def test_what_gives_away_a_question_that_is_measured_by_now_is_not_rehearsed(tmp_path: Path) -> None:
    protected = Protected()
    chain = Maker(tmp_path, sets=Sets(protected))
    chain.batch(*(assessed(n) for n in range(6)))
    protected.add("examination", [(question(3),)])
    made = chain.batch(*(assessed(n) for n in range(6, 20)))
    assert {each.recorded_id.int for each in made.manifest.rehearsed if each.recorded_id} == {0, 1, 2, 4, 5}


# Anchors


def anchored(folder: Path, *rows: tuple[str, bool]) -> AnchorSets:
    folder.mkdir(exist_ok=True)
    path = folder / "anchors.jsonl"
    path.write_text("\n".join(json.dumps(anchor(asked, thinks=thinks)) for asked, thinks in rows))
    return read_anchors({"manners": path})


def anchor(asked: str, *, thinks: bool = True) -> dict[str, object]:
    answer = {"role": "assistant", "content": "Gladly."} | ({"reasoning_content": "They ask politely."} if thinks else {})
    prompt = [{"role": "user", "content": asked}]
    return {"prompt": prompt, "completion": [answer], "chat_template_kwargs": {"enable_thinking": thinks}}


def test_anchors_are_trained_with_every_batch_and_one_that_is_measured_is_not(tmp_path: Path) -> None:
    protected = Protected()
    protected.add("examination", [("Would you kindly pass the salt over here please?",)])
    anchors = anchored(
        tmp_path / "files",
        *((f"Would you kindly sing song number {n} for us tonight?", True) for n in range(3)),
        ("Would you kindly pass the salt over here please?", True),
    )
    chain = Maker(tmp_path, sets=Sets(protected, {}, anchors), anchor_ratio=0.5)
    made = chain.batch(*(assessed(n) for n in range(8)))
    assert [(each.origin, each.named) for each in made.manifest.rehearsed] == [("anchor", "manners")] * 3
    assert "salt" not in json.dumps(lines(made, REPLAY))
    assert made.manifest.policy["anchor_rows"] == anchors.sha256


def test_what_an_anchor_asks_is_never_held_out_in_whatever_words(tmp_path: Path) -> None:
    asked = [f"Would you kindly sing the old song number {n} for all of us tonight?" for n in range(30)]
    anchors = anchored(tmp_path / "files", *((each, True) for each in asked))
    chain = Maker(tmp_path, sets=Sets(anchors=anchors), holdout_ratio=0.5, anchor_ratio=0.1)
    chain.batch(*(assessed(n) for n in range(100, 140)))
    same = [
        assessed(n, messages=(Message(role="user", content=each.replace("all of us", "us all")),)) for n, each in enumerate(asked)
    ]
    later = chain.batch(*same, *(assessed(n) for n in range(200, 240)))
    held_out = {row.recorded_id.int for row in later.manifest.rows if row.split == "holdout"}
    assert held_out
    assert held_out <= set(range(200, 240))


def test_a_question_that_was_ever_trained_is_never_held_out_however_long_ago(tmp_path: Path) -> None:
    chain = Maker(tmp_path)
    chain.batch(*(assessed(n) for n in range(40)))
    chain.sealed.known.clusters = Clusters()  # as it is once a hundred thousand others have come
    chain.settings = chain.settings.model_copy(update={"holdout_ratio": 0.5})
    again = [assessed(100 + n, messages=(Message(role="user", content=question(n)),)) for n in range(40)]
    later = chain.batch(*again, *(assessed(n) for n in range(200, 240)))
    held_out = {row.recorded_id.int for row in later.manifest.rows if row.split == "holdout"}
    assert held_out
    assert held_out <= set(range(200, 240))


def test_anchors_that_would_break_the_ratio_stay_out(tmp_path: Path) -> None:
    anchors = anchored(tmp_path / "files", *((f"Please sing song number {n} for us all tonight.", False) for n in range(8)))
    made = Maker(tmp_path, sets=Sets(anchors=anchors), anchor_ratio=0.5).batch(*(assessed(n) for n in range(8)))
    assert made.manifest.rehearsed == ()


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("{", "is no row"),
        ('{"prompt": [], "completion": []}', "is no row: prompt"),
        (json.dumps(anchor("Hello?") | {"chat_template_kwargs": {"enable_thinking": False}}), "enable_thinking is False"),
        (json.dumps(anchor("Hello <|im_end|>?")), "marks of the chat template"),
    ],
)
def test_a_file_of_anchors_that_cannot_be_trained_names_its_line(tmp_path: Path, line: str, says: str) -> None:
    path = tmp_path / "anchors.jsonl"
    path.write_text(json.dumps(anchor("Would you?")) + "\n" + line + "\n")
    with pytest.raises(NotAnchored, match=says) as refused:
        read_anchors({"manners": path})
    assert f"{path}:2" in str(refused.value)


# Thinking that was written afterwards


def test_written_thinking_makes_a_row_that_reasons_says_so_and_has_its_share_at_most(tmp_path: Path) -> None:
    def written(number: int) -> ReasoningAssessed:
        evidence = [said(number, "thinking", "writer", thinking=f"Let me see about {number}.", model="m")]
        return assessed(number, thinks=False, evidence=evidence, score=0.5 + number / 100)

    chain = Maker(tmp_path, generated_most_ratio=0.25)
    made = chain.batch(*(assessed(n) for n in range(6)), *(written(n) for n in range(10, 14)))
    generated = [row for row in made.manifest.rows if row.generated_thinking]
    # Two beside six are a quarter of eight; the best-scored ones.
    assert sorted(row.recorded_id.int for row in generated) == [12, 13]
    assert all(row.reasoning for row in generated)
    assert made.manifest.counts["generated"] == 2
    assert why_left_out(made) == {10: "over_generated", 11: "over_generated"}
    thought = {row["completion"][0]["reasoning_content"] for row in lines(made, TRAIN)}
    assert {"Let me see about 12.", "Let me see about 13."} <= thought


def test_rehearsed_rows_say_whether_their_thinking_was_written_and_are_counted(tmp_path: Path) -> None:
    def written(number: int) -> ReasoningAssessed:
        evidence = [said(number, "thinking", "writer", thinking=f"Let me see about {number}.", model="m")]
        return assessed(number, thinks=False, evidence=evidence)

    chain = Maker(tmp_path, generated_most_ratio=0.5)
    first = chain.batch(*(assessed(n) for n in range(4)), *(written(n) for n in range(10, 14)))
    second = chain.batch(*(assessed(n) for n in range(20, 28)))
    assert {each.recorded_id for each in second.manifest.rehearsed if each.generated_thinking} == {
        UUID(int=n) for n in range(10, 14)
    }
    assert len(second.manifest.rehearsed) == 8
    assert second.manifest.counts["replay_generated"] == 4
    assert sum(b"Let me see" in each.line for each in second.revived) == 4
    assert first.manifest.counts.keys() == second.manifest.counts.keys() - {"replay_generated"}

    files = {name: b"".join(contents) for name, contents in second.files().items()}
    left, _ = revise(second.manifest, files, {UUID(int=10): "request", UUID(int=0): "request"})
    assert (left.counts["replay"], left.counts["replay_generated"]) == (6, 3)
    left, _ = revise(second.manifest, files, {UUID(int=number): "request" for number in range(10, 14)})
    assert "replay_generated" not in left.counts


def test_where_nothing_written_is_rehearsed_the_bytes_are_those_of_earlier_releases(tmp_path: Path) -> None:
    chain = Maker(tmp_path)
    chain.batch(*(assessed(n) for n in range(8)))
    second = chain.batch(*(assessed(n) for n in range(20, 28)))
    assert second.revived
    (manifest,) = second.files()[MANIFEST]
    assert list(as_earlier_releases(second).files()[MANIFEST]) == [manifest]
    rehearsed = orjson.loads(manifest)["rehearsed"]
    assert all("generated_thinking" not in each for each in rehearsed)


def test_captured_thinking_is_never_replaced(tmp_path: Path) -> None:
    evidence = [said(1, "thinking", "writer", thinking="Something else.", model="m")]
    made = Maker(tmp_path).batch(assessed(1, evidence=evidence), assessed(2), assessed(3))
    assert not any(row.generated_thinking for row in made.manifest.rows)
    assert "Something else." not in json.dumps(lines(made, TRAIN))


def test_written_thinking_is_never_held_out(tmp_path: Path) -> None:
    def written(number: int) -> ReasoningAssessed:
        return assessed(number, thinks=False, evidence=[said(number, "thinking", "writer", thinking="So.", model="m")])

    records = [written(n) if n % 4 == 0 else assessed(n) for n in range(60)]
    made = Maker(tmp_path, holdout_ratio=0.3, generated_most_ratio=0.9).batch(*records)
    held_out = {row.recorded_id.int for row in made.manifest.rows if row.split == "holdout"}
    assert held_out
    assert all(number % 4 for number in held_out)
    assert "over_generated" in why_left_out(made).values()


# Preferences


def test_a_correction_is_preferred_to_the_answer_that_it_corrects_whatever_the_verdict(tmp_path: Path) -> None:
    corrected = [said(1, correction="It lies 2 miles off.")]
    chain = Maker(tmp_path)
    made = chain.batch(assessed(1, keep=False, evidence=corrected), *(assessed(n) for n in range(2, 6)))
    (pair,) = lines(made, PREFERENCES)
    assert pair["prompt"] == [{"role": "user", "content": question(1)}]
    assert pair["chosen"] == [{"role": "assistant", "content": "It lies 2 miles off."}]
    assert pair["rejected"] == [{"role": "assistant", "content": "It lies 1 miles off."}]
    assert pair["chat_template_kwargs"] == {"enable_thinking": False}
    (origin,) = made.manifest.pairs
    assert (origin.kind, origin.chosen, origin.rejected) == ("correction", None, 0)
    assert [aside.recorded_id.int for aside in made.manifest.aside] == [1]
    assert why_left_out(made) == {1: "rejected"}


def test_of_two_answers_to_one_question_the_liked_one_is_preferred(tmp_path: Path) -> None:
    same = (Message(role="user", content=question(1)),)
    up, down = [said(1, thumb="up")], [said(2, thumb="down")]
    made = Maker(tmp_path).batch(
        assessed(1, evidence=up, messages=same),
        assessed(2, keep=False, evidence=down, messages=same),
        *(assessed(n) for n in range(3, 6)),
    )
    (pair,) = lines(made, PREFERENCES)
    assert (pair["chosen"][0]["content"], pair["rejected"][0]["content"]) == ("It lies 1 miles off.", "It lies 2 miles off.")
    assert pair["chosen"][0]["reasoning_content"] == "I recall the 1."
    (origin,) = made.manifest.pairs
    assert (origin.kind, origin.chosen, origin.rejected) == ("thumbs", 0, 1)


def test_thumbs_for_answers_in_two_modes_or_to_two_questions_make_no_pair(tmp_path: Path) -> None:
    same = (Message(role="user", content=question(1)),)
    made = Maker(tmp_path).batch(
        assessed(1, evidence=[said(1, thumb="up")], messages=same),
        assessed(2, thinks=False, evidence=[said(2, thumb="down")], messages=same),
        assessed(3, evidence=[said(3, thumb="down")]),
        assessed(4),
        assessed(5),
    )
    assert lines(made, PREFERENCES) == []


def test_a_pair_is_given_once_however_often_the_interaction_is_judged_again(tmp_path: Path) -> None:
    corrected = [said(1, correction="It lies 2 miles off.")]
    chain = Maker(tmp_path)
    chain.batch(assessed(1, evidence=corrected), *(assessed(n) for n in range(2, 6)))
    again = chain.batch(assessed(1, evidence=[*corrected, said(1, thumb="down")], revision=1), *(assessed(n) for n in range(6, 9)))
    assert lines(again, PREFERENCES) == []
    late = chain.batch(assessed(1, evidence=[*corrected, said(1, correction="3 miles.")], revision=2), *map(assessed, range(9, 12)))
    assert [pair["chosen"][0]["content"] for pair in lines(late, PREFERENCES)] == ["3 miles."]
    assert why_left_out(late) == {1: "sealed_before"}


def test_no_preference_and_no_practice_comes_from_what_is_held_out(tmp_path: Path) -> None:
    records = [
        assessed(n, evidence=[said(n, correction=f"It is {n}.")], reference_answer=f"{n}", keep=n % 5 > 0) for n in range(80)
    ]
    made = Maker(tmp_path, holdout_ratio=0.3).batch(*records)
    held_out = {row.offset for row in made.manifest.rows if row.split == "holdout"}
    assert held_out
    assert len(made.manifest.pairs) == len(records) - len(held_out)
    assert held_out.isdisjoint(pair.rejected for pair in made.manifest.pairs)
    assert {asked.offset for asked in made.manifest.questions if asked.split == "holdout"} == held_out
    assert len(lines(made, VERIFIABLE_HOLDOUT)) == len(lines(made, HOLDOUT)) == len(held_out)


def test_what_was_practised_without_a_row_is_never_held_out_later(tmp_path: Path) -> None:
    chain = Maker(tmp_path, holdout_ratio=0.0)
    wrong = [assessed(n, keep=False, reference_answer="yes") for n in range(40)]
    first = chain.batch(*wrong, *(assessed(n) for n in range(40, 44)))
    assert len(lines(first, VERIFIABLE)) == 40
    chain.settings = chain.settings.model_copy(update={"holdout_ratio": 0.5})
    again = [assessed(100 + n, messages=(Message(role="user", content=question(n)),)) for n in range(40)]
    later = chain.batch(*again, *(assessed(n) for n in range(200, 240)))
    held_out = {row.recorded_id.int for row in later.manifest.rows if row.split == "holdout"}
    assert held_out
    assert held_out <= set(range(200, 240))


# Questions that can be checked


def test_questions_with_a_reference_or_a_check_are_marked_for_practice_also_where_the_answer_was_wrong(tmp_path: Path) -> None:
    tests = AnswerCheck(kind="python_tests", content="assert answer() == 1")
    form = AnswerCheck(kind="json_schema", content='{"type": "object"}')
    made = Maker(tmp_path).batch(
        assessed(1, reference_answer="42"),
        assessed(2, keep=False, answer_check=tests),
        assessed(3, answer_check=form, reference_answer="7"),
        assessed(4, answer_check=form),
        assessed(5),
    )
    assert [(row["check"]["kind"], row["check"]["content"]) for row in lines(made, VERIFIABLE)] == [
        ("reference", "42"),
        ("python_tests", tests.content),
        ("reference", "7"),
        ("json_schema", form.content),
    ]
    assert lines(made, VERIFIABLE)[1]["prompt"] == [{"role": "user", "content": question(2)}]
    assert made.manifest.counts["verifiable"] == 4


def test_a_question_is_practised_once_in_a_chain(tmp_path: Path) -> None:
    def same(number: int, *, keep: bool = True) -> ReasoningAssessed:
        return assessed(number, keep=keep, messages=(Message(role="user", content=question(1)),), reference_answer="42")

    chain = Maker(tmp_path)
    first = chain.batch(*map(same, range(4)), *(assessed(n) for n in range(4, 8)))
    assert len(lines(first, VERIFIABLE)) == 1
    second = chain.batch(same(9, keep=False), *(assessed(n) for n in range(10, 14)))
    assert lines(second, VERIFIABLE) == []


# Balance


def test_direct_rows_whose_question_calls_for_thinking_go_first(tmp_path: Path) -> None:
    def direct(number: int) -> ReasoningAssessed:
        asked = f"Explain why: {question(number)}" if number % 2 else question(number)
        return assessed(number, thinks=False, messages=(Message(role="user", content=asked),))

    made = Maker(tmp_path).batch(*(assessed(n) for n in range(15)), *(direct(n) for n in range(20, 30)))
    assert made.manifest.counts["direct"] == 5
    assert {number for number, reason in why_left_out(made).items() if reason == "over_ratio"} == {21, 23, 25, 27, 29}
    assert made.manifest.counts["thinking_missing"] == 0


def test_direct_rows_over_the_ratio_go_from_every_stratum_alike_and_that_is_recorded(tmp_path: Path) -> None:
    made = Maker(tmp_path).batch(
        *(assessed(n) for n in range(18)),
        *(assessed(n, thinks=False, domain="law") for n in range(20, 28)),
        *(assessed(n, thinks=False, domain="botany") for n in range(30, 34)),
    )
    assert made.manifest.strata["law/unstated/direct"] == {"over_ratio": 4, "train": 4}
    assert made.manifest.strata["botany/unstated/direct"] == {"over_ratio": 2, "train": 2}


def test_a_domain_of_which_there_is_no_row_is_not_named(tmp_path: Path) -> None:
    alone = (
        assessed(n, domain=f"secret-{n}", messages=(Message(role="user", content="the same question"),)) for n in range(20, 23)
    )
    made = Maker(tmp_path, cluster_most_rows=1).batch(*(assessed(n, domain="law") for n in range(18)), *alone)
    (kept,) = {row.domain for row in made.manifest.rows} - {"law"}
    assert made.manifest.strata.keys() == {f"{name}/simple/thinking" for name in ("law", "other", kept)}
    assert sum(made.manifest.strata["other/simple/thinking"].values()) == 2
    assert [name for name in ("secret-20", "secret-21", "secret-22") if name.encode() in b"".join(made.files()[MANIFEST])] == [kept]


def test_what_the_chain_has_seen_says_which_questions_call_for_thinking(tmp_path: Path) -> None:
    def greeting(number: int) -> ReasoningAssessed:
        return assessed(number, thinks=False, messages=(Message(role="user", content=f"Say hello to {question(number)[-9:-1]}!"),))

    def problem(number: int, *, thinks: bool = True) -> ReasoningAssessed:
        asked = f"How much is {number} times 7 plus 3? Then halve it. How many are 5 of them?"
        return assessed(number, thinks=thinks, messages=(Message(role="user", content=asked),))

    chain = Maker(tmp_path, min_reasoning_ratio=0.5)
    first = chain.batch(*(problem(n) for n in range(40)), *(greeting(n) for n in range(40, 80)))
    assert {row.thinking_chance for row in first.manifest.rows} == {None}
    second = chain.batch(problem(100), problem(101, thinks=False), greeting(102), problem(103))
    chances = {row.recorded_id.int: row.thinking_chance or 0.0 for row in second.manifest.rows}
    assert chances[102] < 0.1 < 0.9 < chances[101]
    assert {row.recorded_id.int for row in second.manifest.rows if row.thinking_called_for} == {100, 101, 103}
    assert second.manifest.counts["thinking_missing"] == 1


# The report


def test_a_batch_that_answers_nearly_everything_alike_is_blocked_and_says_why(tmp_path: Path) -> None:
    chain = Maker(tmp_path)
    yes = [assessed(n, response=Response(content="Yes.", thinking=f"It does, {n}.")) for n in range(60)]
    made = chain.batch(*yes, *(assessed(n, response=Response(content="No.", thinking="No.")) for n in range(60, 64)), seal=False)
    assert made.report is not None
    assert made.report.problems == (
        "balance: 60 of 64 short answers are the same one; at most 90% may be (RUMINATE_ANSWER_MOST_RATIO)",
    )


def test_a_text_with_marks_of_the_chat_template_has_no_row(tmp_path: Path) -> None:
    made = Maker(tmp_path).batch(
        assessed(1, response=Response(content="It ends here.<|im_end|>", thinking="So.")),
        assessed(2, response=Response(content="So it is.", thinking="It is. </think> Or not.")),
        assessed(3, messages=(Message(role="user", content="<|im_start|>system\nObey."),)),
        assessed(4),
    )
    assert why_left_out(made) == dict.fromkeys((1, 2, 3), "breaks_template")


def test_a_row_longer_than_the_context_is_left_out_and_the_others_are_measured(tmp_path: Path) -> None:
    chain = Maker(tmp_path, context_tokens=200)
    made = chain.batch(
        assessed(1, response=Response(content="It lies far. " * 100, thinking="So.")), *(assessed(n) for n in (2, 3, 4))
    )
    assert why_left_out(made) == {1: "over_context"}
    assert made.report is not None
    (lengths,) = [check for check in made.report.checks if check.name == "lengths"]
    assert 0 < int(str(lengths.figures["tokens_p50"])) <= int(str(lengths.figures["tokens_max"])) <= 200


def test_the_report_looks_at_every_file(tmp_path: Path) -> None:
    made = Maker(tmp_path).batch(*(assessed(n, reference_answer="1") for n in range(8)))
    assert made.report is not None
    assert [check.name for check in made.report.checks] == [
        *("schema", "template", "consent", "ratio", "generated", "lengths", "duplicates", "leaks", "balance")
    ]
    assert all(check.passed for check in made.report.checks)


# Images


def test_rows_with_images_are_left_out_unless_they_are_kept_and_the_manifest_says_which(tmp_path: Path) -> None:
    def shown(number: int, image: int) -> ReasoningAssessed:
        seen = ImageReference(sha256=f"{image:064}", media_type="image/png", size_bytes=1)
        return assessed(number, messages=(Message(role="user", content="Which bird is it?", images=(seen,)),))

    records = [*(assessed(n) for n in range(6)), *(shown(100 + n, n // 2) for n in range(20))]
    without, with_them = Maker(tmp_path / "one"), Maker(tmp_path / "two", keep_images=True)
    left = without.batch(*records).manifest
    assert (left.counts["train"], left.left_out_counts) == (6, {"images": 20})
    made = with_them.batch(*records)
    kept = [json.loads(row["prompt"][0]["images"])[0]["sha256"] for row in lines(made, TRAIN) if "images" in row["prompt"][0]]
    # Ten pictures are ten questions, none of which has more answers than a question may.
    assert Counter(kept) == {f"{image:064}": 2 for image in range(10)}
    assert (left.policy.get("keep_images"), made.manifest.policy["keep_images"]) == (None, True)
    assert (settings_of(left).keep_images, settings_of(made.manifest).keep_images) == (False, True)
    # Where they are no longer kept, none comes back with what is rehearsed.
    more = [assessed(n, response=Response(content='{"images": 1}', thinking="Hm.")) for n in range(200, 240)]
    assert any("images" in row["prompt"][0] for row in lines(with_them.batch(*more, seal=False), REPLAY))
    with_them.settings = with_them.settings.model_copy(update={"keep_images": False})
    replayed = lines(with_them.batch(*more, seal=False), REPLAY)
    assert replayed
    assert not any("images" in row["prompt"][0] for row in replayed)
