"""Two versions of a dataset beside each other, row by row."""

from __future__ import annotations

from pathlib import Path
from uuid import UUID

from ruminate.command.datasets.diff import Line, Version, compare, sentences
from tests.unit.making import Maker, assessed, said


def version(name: str, lines: dict[int, Line], **left_out: int) -> Version:
    made = Version(name, {UUID(int=number): line for number, line in lines.items()})
    made.left_out.update(left_out)
    return made


def line(byte: int, *, split: str = "train", reasoning: bool = True, origin: str = "fresh") -> Line:
    return Line(bytes([byte]) * 32, split, reasoning, origin)


def test_a_version_equals_itself() -> None:
    one = version("one", {1: line(1), 2: line(2)})
    diff = compare(one, one)
    assert (diff.equal, diff.same, diff.differences, dict(diff.values)) == (True, 2, (), {})


def test_rows_are_added_leave_and_change_by_interaction_and_what_changed_is_named() -> None:
    one = version("one", {1: line(1), 2: line(2), 3: line(3), 4: line(4)})
    two = version("two", {2: line(2), 3: line(9), 4: line(4, split="holdout"), 5: line(5)})
    diff = compare(one, two)
    assert (diff.equal, diff.same) == (False, 1)
    assert [(each.kind, each.recorded_id.int, each.changed) for each in diff.differences] == [
        ("left", 1, ()),
        ("changed", 3, ("sha256",)),
        ("changed", 4, ("split",)),
        ("added", 5, ()),
    ]


def test_counts_and_rules_that_differ_are_said_and_do_not_make_rows_unequal() -> None:
    one, two = version("one", {1: line(1)}, rejected=2), version("two", {1: line(1)}, continued=1)
    one.values, two.values = {"policy.seed": [0], "scorer_versions": ["a"]}, {"policy.seed": [0], "scorer_versions": ["b"]}
    diff = compare(one, two)
    assert diff.equal
    assert diff.values == {"scorer_versions": (["a"], ["b"])}
    said = "\n".join(sentences(diff, shown=3))
    assert "by left out: rejected 2 -> 0, continued 0 -> 1" in said
    assert "scorer_versions: a  ->  b" in said


def test_long_lists_end_with_how_many_more_there_are() -> None:
    diff = compare(version("none", {}), version("many", {number: line(1) for number in range(7)}))
    said = list(sentences(diff, shown=2))
    assert said[-1] == "  and 5 more; --json has all of them"
    assert len(diff.as_json()["added"]) == 7


def test_what_stands_beside_the_rows_is_compared_by_its_lines_and_makes_versions_unequal(tmp_path: Path) -> None:
    chain = Maker(tmp_path)
    corrected = [said(1, correction="Two miles.")]
    chain.batch(assessed(1, evidence=corrected, reference_answer="2"), *(assessed(n, reference_answer="1") for n in range(2, 9)))
    chain.batch(*(assessed(n) for n in range(10, 18)))
    sides = Version("one"), Version("two")
    for side, made in zip(sides, chain.made, strict=True):
        side.add(made.manifest)
    diff = compare(*sides)
    assert {name: (moved.same, len(moved.added), len(moved.left)) for name, moved in diff.beside.items()} == {
        "replay": (0, 8, 0),
        "preferences": (0, 0, 1),
        "verifiable": (0, 0, 8),
        "verifiable-holdout": (0, 0, 0),
    }
    assert "  replay.jsonl: 0 lines are the same, 8 added, 0 left" in list(sentences(diff, shown=1))
    (pair,) = chain.made[0].manifest.pairs
    assert diff.as_json()["beside"]["preferences"]["left"] == [pair.sha256]
    without = Version("without")
    without.add(chain.made[1].manifest.model_copy(update={"rehearsed": ()}))
    assert not compare(sides[1], without).differences
    assert not compare(sides[1], without).equal


def test_values_of_a_policy_that_are_others_are_said(tmp_path: Path) -> None:
    chain = Maker(tmp_path, replay_ratio=0.25)
    one, two = Version("one"), Version("two")
    one.add(chain.batch(*(assessed(n) for n in range(8))).manifest)
    chain.settings = chain.settings.model_copy(update={"replay_ratio": 0.5})
    two.add(chain.batch(*(assessed(n) for n in range(8, 16))).manifest)
    assert "  policy.replay_ratio: 0.25  ->  0.5" in list(sentences(compare(one, two), shown=1))
