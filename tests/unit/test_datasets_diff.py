"""Two versions of a dataset beside each other, row by row."""

from __future__ import annotations

from uuid import UUID

from ruminate.command.datasets.diff import Line, Version, compare, sentences


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
