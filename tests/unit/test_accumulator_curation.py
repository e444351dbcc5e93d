"""Which rows are trained, held out or left out: one thing counts once, what is held out is never trained, nothing is lost."""

from __future__ import annotations

import hashlib
import random
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ruminate.accumulator.curation.asked import asked_in, texts_in
from ruminate.accumulator.curation.curate import MOST_HELD_OUT, Curated, LeftOutRow, Rules, Standing, curate
from ruminate.accumulator.curation.decontaminate import Protected
from ruminate.accumulator.curation.known import Known, Settled
from ruminate.accumulator.curation.wording import digest_of_normalised

VOCABULARY = """tide moon river engine violin glacier beetle lantern harbour comet orchard bridge anchor basket candle desert
ember feather garden hammer island jungle kettle ladder meadow needle ocean pepper quarry ribbon saddle temple umbrella valley
window"""
WORDS = VOCABULARY.split()
TOPICS = WORDS[:12]
TEXTS: dict[int, tuple[str, ...]] = {}
"""The texts of the rows of a test, by offset."""


def line(question: str, answer: str, thinking: str | None = "I think about it.", **more: Any) -> bytes:
    completion: dict[str, Any] = {"role": "assistant", "content": answer, **more}
    if thinking is not None:
        completion["reasoning_content"] = thinking
    prompt = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": question}]
    row = {"prompt": prompt, "completion": [completion], "chat_template_kwargs": {"enable_thinking": thinking is not None}}
    return orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE)


def digest(text: str) -> bytes:
    return hashlib.blake2b(text.encode(), digest_size=16).digest()


def standing(
    offset: int,
    question: str,
    answer: str = "It takes a while to say.",
    *,
    thinking: str | None = "I think about it.",
    conversation: str | None = None,
    score: float = 0.5,
) -> Standing:
    row = line(question, answer, thinking)
    TEXTS[offset] = texts_in(row)
    return Standing(
        offset=offset,
        recorded=digest(f"r-{offset}"),
        conversation=digest(conversation or f"c-{offset}"),
        score=score,
        asked=asked_in(row),
    )


def curated(
    rows: list[Standing],
    known: Known,
    *,
    holdout_ratio: float,
    most_a_cluster: int = 8,
    most_held_out: int = MOST_HELD_OUT,
    protected: Protected | None = None,
) -> Curated:
    rules = Rules(holdout_ratio, most_a_cluster, most_held_out, protected)
    return curate(rows, known, rules, texts=TEXTS.__getitem__)


def asked(topic: str) -> str:
    """A question of its own for each topic: of like ones, words are all that could tell them apart."""
    words = random.Random(topic).sample(WORDS, 16)
    return f"How is the {topic} tied to {' '.join(words)}?"


def settled(known: Known, rows: list[Standing], found: Curated) -> None:
    """Seal a batch into what is known."""
    kept = [row for row in rows if row.offset in found.train or row.offset in found.holdout]
    known.settle(
        (
            Settled(row.recorded, row.conversation, row.asked, row.offset in found.holdout),
            TEXTS[row.offset][0] if row.offset in found.holdout else None,
        )
        for row in kept
    )


def reasons(found: Curated) -> dict[int, str]:
    return {row.offset: row.reason for row in found.left_out}


# The wording of a row.


def test_the_wording_is_read_from_the_line() -> None:
    direct = line("What is the  capital of Zarvex?", "Amber Bay", None)
    assert asked_in(direct).question == digest_of_normalised("what is the capital of zarvex")
    assert asked_in(direct).lane == "direct"
    assert texts_in(direct) == ("What is the  capital of Zarvex?", "Amber Bay")
    assert texts_in(line("q", "a", "t")) == ("q", "a", "t")


def test_all_that_the_user_asked_is_the_question() -> None:
    row = orjson.loads(line("And then?", "x"))
    row["prompt"][1:1] = [{"role": "user", "content": "First."}, {"role": "assistant", "content": "Yes."}]
    assert asked_in(orjson.dumps(row)).question == digest_of_normalised("first and then")


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("Amber Bay", "It is amber bay.", True),
        ("Amber Bay", "amber bay!", True),
        ("Amber Bay", "Amber Hill", False),
        ("The capital is Amber Bay", "Amber Bay", True),
    ],
)
def test_a_thing_is_what_a_short_answer_adds_to_the_question(one: str, other: str, same: bool) -> None:
    things = [asked_in(line("What is the capital of Zarvex?", answer)).thing for answer in (one, other)]
    assert None not in things
    assert (things[0] == things[1]) is same


@pytest.mark.parametrize("answer", ["42", "Yes.", "no", "", "7 apples", "A long explanation of many things that goes on and on."])
def test_numbers_yes_and_no_and_long_answers_name_no_thing(answer: str) -> None:
    assert asked_in(line("What is it?", answer, tool_calls=[{"type": "function"}] if not answer else None)).thing is None


# Duplicates.


def test_the_same_question_and_answer_counts_once_and_the_best_is_kept() -> None:
    rows = [standing(n, asked("tide"), score=score) for n, score in enumerate((0.2, 0.9, 0.9))]
    found = curated(rows, Known(), holdout_ratio=0.0)
    assert found.train == (1,)
    assert reasons(found) == {0: "duplicate_exact", 2: "duplicate_exact"}


def test_several_answers_to_one_question_are_kept_up_to_the_limit() -> None:
    rows = [standing(n, asked("tide"), f"Answer in words {TOPICS[n]}.", score=n / 10) for n in range(6)]
    found = curated(rows, Known(), holdout_ratio=0.0, most_a_cluster=4)
    assert found.train == (2, 3, 4, 5)
    assert reasons(found) == {0: "over_cluster_limit", 1: "over_cluster_limit"}
    assert len(set(found.clusters.values())) == 1


def test_a_think_row_and_a_direct_row_of_one_question_are_no_duplicates() -> None:
    rows = [standing(0, asked("tide")), standing(1, asked("tide"), thinking=None)]
    assert curated(rows, Known(), holdout_ratio=0.0, most_a_cluster=1).train == (0, 1)


def test_earlier_batches_take_part() -> None:
    known = Known()
    first = [standing(n, asked("tide"), f"Answer in words {TOPICS[n]}.") for n in range(3)]
    settled(known, first, curated(first, known, holdout_ratio=0.0, most_a_cluster=4))
    rows = [
        standing(10, asked("tide"), f"Answer in words {TOPICS[0]}."),
        standing(11, asked("tide"), f"Answer in words {TOPICS[5]}.", score=0.1),
        standing(12, asked("tide"), f"Answer in words {TOPICS[6]}.", score=0.9),
        standing(13, asked("comet")),
    ]
    found = curated(rows, known, holdout_ratio=0.0, most_a_cluster=4)
    assert found.train == (12, 13)
    assert reasons(found) == {10: "duplicate_exact", 11: "over_cluster_limit"}
    assert found.clusters[12] == first[0].recorded


# Sides.


def many(ratio: float, count: int = 400) -> tuple[list[Standing], Curated]:
    rows = [standing(n, asked(f"{TOPICS[n % 12]} of year {n}")) for n in range(count)]
    return rows, curated(rows, Known(), holdout_ratio=ratio)


def test_about_the_wanted_share_is_held_out_and_always_the_same() -> None:
    _, found = many(0.2)
    assert 50 < len(found.holdout) < 110
    assert found == many(0.2)[1]
    assert not many(0.0)[1].holdout


def test_one_question_is_on_one_side_whoever_asks_and_however() -> None:
    rows, found = many(0.3)
    held = next(row for row in rows if row.offset in found.holdout)
    trained = next(row for row in rows if row.offset in found.train)
    known = Known()
    settled(known, rows, found)
    later = [
        standing(1000, TEXTS[held.offset][0].replace("How is", "Why is"), "Something else entirely is said."),
        standing(1001, TEXTS[trained.offset][0].replace("How is", "Why is"), "Something else entirely is said."),
    ]
    after = curated(later, known, holdout_ratio=0.0)
    assert (after.holdout, after.train) == ((1000,), (1001,))


def test_a_conversation_is_on_one_side() -> None:
    rows, found = many(0.3)
    held = next(row for row in rows if row.offset in found.holdout)
    together = [
        standing(0, TEXTS[held.offset][0], conversation="shared"),
        standing(1, asked("violin"), conversation="shared"),
    ]
    both = curated(together, Known(), holdout_ratio=0.3)
    assert (both.holdout, both.train) in (((0, 1), ()), ((), (0, 1)))
    known = Known()
    known.conversations.settle(digest("shared"), held_out=True)
    assert curated(together, known, holdout_ratio=0.0).holdout == (0, 1)


def test_what_fits_neither_side_is_left_out() -> None:
    known = Known()
    first = [standing(0, asked("tide"))]
    settled(known, first, curated(first, known, holdout_ratio=0.0))  # the question is trained
    known.conversations.settle(digest("measured"), held_out=True)
    found = curated([standing(5, asked("tide"), "Another answer.", conversation="measured")], known, holdout_ratio=0.0)
    assert found.left_out == (LeftOutRow(5, "contaminated", "holdout/split"),)


def test_the_last_cluster_that_teaches_a_thing_is_never_held_out() -> None:
    alone = [standing(n, asked(topic), f"Orlo{topic} of Amber Bay") for n, topic in enumerate(TOPICS)]
    assert not curated(alone, Known(), holdout_ratio=1.0).holdout
    wordings = [asked("tide"), asked("comet")]
    twice = [standing(n, wording, "Orlo of Amber Bay") for n, wording in enumerate(wordings)]
    found = curated(twice, Known(), holdout_ratio=1.0)
    assert (found.train, found.holdout) == ((0,), (1,))


def test_a_thing_that_earlier_batches_train_may_be_held_out() -> None:
    known = Known()
    first = [standing(0, asked("tide"), "Orlo of Amber Bay")]
    settled(known, first, curated(first, known, holdout_ratio=0.0))
    later = [standing(1, f"{asked('comet')} Of whom do they speak?", "It is Orlo of Amber Bay")]
    assert curated(later, known, holdout_ratio=1.0).holdout == (1,)


def test_a_chain_holds_no_more_out_than_it_may() -> None:
    rows, free = many(0.3)
    known = Known()
    first = curated(rows[:200], known, holdout_ratio=0.3, most_held_out=40)
    assert len(first.holdout) == 40 < len(free.holdout)
    settled(known, rows[:200], first)
    assert known.held_out_rows == 40
    assert not curated(rows[200:], known, holdout_ratio=0.3, most_held_out=40).holdout


# Decontamination.


def test_a_row_that_gives_an_evaluation_away_is_left_out_and_the_manifest_can_say_which() -> None:
    protected = Protected()
    protected.add("exam", [(asked("comet"), "Because the sky was clear.")])
    rows = [
        standing(0, asked("comet").replace("tied", "bound")),
        standing(1, "Repeat after me.", thinking=f"The exam says: {asked('comet')}"),
        standing(2, asked("orchard")),
    ]
    found = curated(rows, Known(), holdout_ratio=0.0, protected=protected)
    assert found.train == (2,)
    assert {row.offset: (row.reason, row.detail) for row in found.left_out} == {
        0: ("contaminated", "exam/near"),
        1: ("contaminated", "exam/ngram"),
    }


def test_a_row_that_quotes_what_is_held_out_is_left_out() -> None:
    rows, found = many(0.3)
    held = next(row for row in rows if row.offset in found.holdout)
    quoting = standing(5000, "What did they ask?", f"They asked this: {TEXTS[held.offset][0]} and nothing more than that.")
    again = curated([*rows, quoting], Known(), holdout_ratio=0.3)
    assert LeftOutRow(5000, "contaminated", "holdout/ngram") in again.left_out
    known = Known()
    settled(known, rows, found)
    assert curated([quoting], known, holdout_ratio=0.0).left_out[0].detail == "holdout/ngram"


def test_two_rows_of_one_offset_are_a_mistake() -> None:
    with pytest.raises(ValueError, match="one offset"):
        curated([standing(1, "a"), standing(1, "b")], Known(), holdout_ratio=0.0)


# What holds for all rows.


@st.composite
def batches(draw: st.DrawFn) -> list[list[Standing]]:
    made: list[list[Standing]] = []
    offset = 0
    for _ in range(draw(st.integers(1, 3))):
        rows = []
        for _ in range(draw(st.integers(0, 12))):
            rows.append(
                standing(
                    offset,
                    asked(draw(st.sampled_from(TOPICS[:5]))),
                    draw(st.sampled_from(["Amber Bay", "North Ridge", "It depends on the weather of that day."])),
                    thinking=draw(st.sampled_from([None, "I think."])),
                    conversation=draw(st.sampled_from("abcdef")),
                    score=draw(st.sampled_from([0.1, 0.5, 0.9])),
                )
            )
            offset += 1
        made.append(rows)
    return made


@settings(max_examples=80, deadline=None)
@given(batches(), st.sampled_from([0.0, 0.3, 0.7, 1.0]), st.integers(1, 3))
def test_every_row_has_one_fate_and_nothing_is_ever_on_both_sides(
    made: list[list[Standing]], ratio: float, most_a_cluster: int
) -> None:
    known = Known()
    sides: dict[bytes, set[str]] = {}
    kept: dict[tuple[bytes, str], int] = {}
    contents: set[tuple[str, bytes]] = set()
    for rows in made:
        found = curated(rows, known, holdout_ratio=ratio, most_a_cluster=most_a_cluster)
        fates = [*found.train, *found.holdout, *(row.offset for row in found.left_out)]
        assert sorted(fates) == [row.offset for row in rows]
        assert found == curated(list(reversed(rows)), known, holdout_ratio=ratio, most_a_cluster=most_a_cluster)
        for row in rows:
            side = "train" if row.offset in found.train else "holdout" if row.offset in found.holdout else None
            if side is None:
                continue
            for name in (row.conversation, found.clusters[row.offset]):
                sides.setdefault(name, set()).add(side)
            place = (found.clusters[row.offset], row.asked.lane)
            kept[place] = kept.get(place, 0) + 1
            assert (row.asked.lane, row.asked.content) not in contents
            contents.add((row.asked.lane, row.asked.content))
        settled(known, rows, found)
    assert all(len(each) == 1 for each in sides.values())
    assert all(count <= most_a_cluster for count in kept.values())
