"""The experiment on learning measures right, and a turn of it teaches: what is asked is never taught, and figures add up."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from xml.etree import ElementTree

import pytest
from typer.testing import CliRunner

from ruminate.trainer.plan import Hyperparameters
from tests.benchmarks.learning import __main__ as command
from tests.benchmarks.learning import chain, practising, telling
from tests.benchmarks.learning.chain import Chain, Turn
from tests.benchmarks.learning.matter import BASE_TASKS, PRACTISED, TASKS, Portion, asked, batch, ending_with, to_practise
from tests.benchmarks.learning.measure import Ability, Mode
from tests.benchmarks.learning.plots import Line, Panel, draw
from tests.benchmarks.learning.turn import Gate, Taken

PORTIONS: tuple[Portion, ...] = ("measured", "chosen on")
QUICK = Hyperparameters(learning_rate=1.5e-3, batch_rows=16, micro_batch_rows=16, epochs=1.0, warmup_ratio=0.1, early_stop_looks=0)


def questions_of(rows: list[dict[str, object]]) -> list[str]:
    """What rows ask."""
    return [json.loads(json.dumps(row))["prompt"][0]["content"] for row in rows]


@pytest.mark.parametrize("turn", range(1, len(TASKS) + 1))
def test_nothing_that_is_asked_is_taught_or_rehearsed_or_practised(turn: int) -> None:
    given = batch(turn, seed=3, rows=1500, replay_ratio=0.5, held_out=160)
    learned = {*questions_of(given.rows), *questions_of(given.rehearsed), *(each.question for each in given.practised)}
    for task in (*BASE_TASKS, *TASKS):
        measured = {exercise.question for exercise in asked(task, "measured")}
        assert len(measured) == 1000
        assert not learned & measured
        if task not in BASE_TASKS:  # what the base can do it has learned before
            assert not learned & {exercise.question for exercise in asked(task, "chosen on")}
    own = {exercise.question for exercise, _ in given.held_out}
    assert len(own) == 160
    assert not own & {*questions_of(given.rows)}
    assert len(set(questions_of(given.rows))) == len(given.rows) == 1500
    practised = {exercise.question for exercise in to_practise(PRACTISED, 2000, seed=3)}
    assert len(practised) == 2000
    assert not practised & {each.question for portion in PORTIONS for each in asked(PRACTISED, portion)}


def test_the_share_that_is_rehearsed_is_what_was_asked_for_and_every_earlier_task_has_a_like_part_of_it() -> None:
    for replay, wanted in ((0.5, 1500), (0.25, 500), (0.0, 0)):
        given = batch(5, seed=0, rows=1500, replay_ratio=replay, held_out=160)
        assert len(given.rehearsed) == wanted
        earlier = [{each.question for each in task.exercises()} for task in TASKS[:4]]
        counts = [sum(question in questions for question in questions_of(given.rehearsed)) for questions in earlier]
        assert max(counts) - min(counts) <= 1
        assert sum(counts) == round(wanted * 4 / 7)
    taught = set(questions_of(batch(1, seed=0, rows=1500, replay_ratio=0.5, held_out=160).rows))
    of_first = {each.question for each in TASKS[0].exercises()}
    assert set(questions_of(batch(2, seed=0, rows=1500, replay_ratio=0.5, held_out=160).rehearsed)) & of_first <= taught


def test_a_seed_gives_the_same_rows_again_and_another_gives_others() -> None:
    first, again, other = (batch(3, seed=seed, rows=200, replay_ratio=0.5, held_out=40) for seed in (1, 1, 2))
    assert first == again
    assert first.rows != other.rows
    thinking = sum("reasoning_content" in each["completion"][0] for each in first.rows)
    assert 120 <= thinking <= 180


def test_more_rows_than_a_task_has_are_refused() -> None:
    with pytest.raises(ValueError, match="joined has 6600 exercises to teach; 6600 rows and 1 held out are more"):
        batch(1, seed=0, rows=6600, replay_ratio=0.5, held_out=1)


def test_a_fifth_task_that_there_is_not_is_refused_with_those_that_there_are() -> None:
    assert [task.name for task in ending_with("cross sum")] == ["joined", "exchanged", "sum of units", "mirrored", "cross sum"]
    with pytest.raises(ValueError, match="no fifth task is joined; there are cross sum, larger, product of units"):
        ending_with("joined")


def test_what_five_turns_teach_is_worked_out_rightly() -> None:
    worked = {task.name: task.work(47, 38) for task in TASKS}
    assert worked == {
        "joined": ("47 with 38?", "4, 3, 7, 8", "4378"),
        "exchanged": ("exchange the units of 47 and 38?", "7, 8", "48 37"),
        "sum of units": ("units of 47 plus units of 38?", "7+8=15", "15"),
        "mirrored": ("turn 47 and add 38?", "74, 4+8=12, 7+3+1=11", "112"),
        "larger": ("larger, 47 or 38?", "4>3", "47"),
    }
    assert PRACTISED.work(47, 38) == ("units of 47 times units of 38?", "7*8=56", "56")


def ability(task: str, right: float, *, obedient: float = 1.0) -> Ability:
    """A task that is known so well."""
    return Ability(
        task=task,
        thinking=Mode(questions=1000, right=right, obedient=obedient, well_formed=1.0),
        direct=Mode(questions=250, right=right, obedient=1.0, well_formed=1.0),
    )


def made_up(seed: int, *, second: float, forgotten: float = 0.0) -> Chain:
    """Two turns, after the second of which the first task is worth less."""
    gate = Gate(
        passed=True, explanation="reasoning was kept", kept=True, learned=True, attempts=("as_planned",), accepted=0, findings=()
    )
    taken = Taken(gate=gate, seconds=60.0, steps=100)
    base = tuple(ability(task.name, 1.0) for task in BASE_TASKS)
    return Chain(
        seed=seed,
        replay_ratio=0.5,
        enforcement="enforce",
        rows=100,
        questions=None,
        portion="measured",
        hyperparameters=QUICK,
        at_first=(*base, ability("joined", 0.0), ability("exchanged", 0.01)),
        turns=(
            Turn(number=1, task="joined", taken=taken, abilities=(*base, ability("joined", 0.98))),
            Turn(
                number=2,
                task="exchanged",
                taken=taken,
                abilities=(*base, ability("joined", 0.98 - forgotten), ability("exchanged", second, obedient=0.9)),
            ),
        ),
    )


def test_a_rise_is_over_the_base_and_a_fall_is_under_what_had_been_learned() -> None:
    one = made_up(1, second=0.51, forgotten=0.03)
    assert telling.rise(one, one.turns[1]) == pytest.approx(0.5)
    assert telling.falls(one, one.turns[1]) == pytest.approx(
        {"addition": 0.0, "subtraction": 0.0, "last digits": 0.0, "joined": 0.03}
    )
    assert telling.obedience(one.turns[1].abilities) == pytest.approx(1 - 100 / 6250)


def test_the_report_says_met_and_not_met_over_all_seeds_and_draws_them(tmp_path: Path) -> None:
    for one in (made_up(1, second=0.5), made_up(2, second=0.25, forgotten=0.2)):
        (tmp_path / str(one.seed)).mkdir()
        (tmp_path / str(one.seed) / chain.CHAIN_FILE).write_text(one.model_dump_json(), encoding="utf-8")
    done = CliRunner().invoke(command.app, ["report", "--out", str(tmp_path)])
    assert done.exit_code == 0, done.output
    assert "| 2: exchanged | 1.0 → 37.5 (25.0–50.0) | 100.0; 100.0 | 88.0 (78.0–98.0) | 10.0 (0.0 to 20.0) |" in done.output
    assert "each new task rises by ≥ 30%: **not met** (least 24.0 points)" in done.output
    assert "together fall by ≤ 2 points to the end, each seed: **not met** (2.5 (0.0 to 5.0))" in done.output
    assert "mean of seeds: **not met** (worst: joined, 10.0 (0.0 to 20.0))" in done.output
    assert "obedience ≥ 0.99: **not met** (least 0.9840)" in done.output
    assert "gate: 4 of 4 turns pass" in done.output
    assert set(telling.pictures(telling.found_in(tmp_path))) == {"learning-turns.svg"}


def test_a_plot_is_a_picture_with_every_mean_in_it_and_its_spread() -> None:
    lines = [Line("a & b", [(0.0, [0.0, 0.2]), (5.0, [1.0, 1.0])]), Line("c", [(0.0, [1.0]), (5.0, [0.25])])]
    drawn = draw("Shares", [Panel("one", lines), Panel("two", lines[:1])], across="turn")
    picture = ElementTree.fromstring(drawn)
    named = "{http://www.w3.org/2000/svg}"
    (said,) = picture.iter(f"{named}desc")
    assert said.text == "one: a & b 100.0%, c 25.0%; two: a & b 100.0%"
    ends = [
        [tuple(map(float, point.split(","))) for point in each.attrib["points"].split()]
        for each in picture.iter(f"{named}polyline")
    ]
    assert len(ends) == 3
    (_, risen), (_, fallen) = ((first[1], last[1]) for first, last in ends[:2])
    assert risen < fallen  # up is less
    assert all(first[0] < last[0] for points in ends for first, last in pairwise(points))
    spreads = [each for each in picture.iter(f"{named}line") if each.attrib["class"].startswith("spread")]
    assert [float(each.attrib["y1"]) > float(each.attrib["y2"]) for each in spreads] == [True, False, False, False, True, False]


def test_a_turn_teaches_its_task_and_what_was_done_is_not_done_again(tmp_path: Path) -> None:
    said: list[str] = []

    def one_turn() -> Chain:
        return chain.run(
            tmp_path / "turns",
            seed=1,
            replay_ratio=0.5,
            enforcement="enforce",
            hyperparameters=QUICK,
            rows=480,
            turns=1,
            questions=64,
            exam_questions=128,
            probes=0,
            say=said.append,
        )

    first = one_turn()
    (turn,) = first.turns
    assert telling.rise(first, turn) >= telling.LEAST_RISE
    assert turn.taken.gate.learned
    assert turn.taken.gate.attempts[0] == "as_planned"
    assert any(finding.startswith("right (sums, thinking): ") for finding in turn.taken.gate.findings)
    assert turn.of("joined").thinking.questions == 64
    assert turn.of("last digits").thinking.questions == 16
    adapter = tmp_path / "turns" / "1" / "adapter" / "adapter_model.safetensors"
    made = adapter.stat().st_mtime_ns
    assert one_turn() == first
    assert adapter.stat().st_mtime_ns == made
    assert "turn 1 of 1: joined, 480 rows and 480 rehearsed" in said


@pytest.mark.long
def test_five_turns_meet_the_bars(tmp_path: Path) -> None:
    done = CliRunner().invoke(command.app, ["turns", "--seed", "4", "--out", str(tmp_path)])
    assert done.exit_code == 0, done.output
    (found,) = telling.found_in(tmp_path).chains
    assert min(telling.rise(found, turn) for turn in found.turns) >= telling.LEAST_RISE
    assert min(telling.obedience(turn.abilities) for turn in found.turns) >= telling.LEAST_OBEDIENCE
    assert sum(turn.taken.gate.passed for turn in found.turns) >= 4
    assert max(telling.falls(found, found.turns[-1]).values()) <= 1.5 * telling.MOST_FALL  # one seed; the bar is of their mean


@pytest.mark.long
def test_practice_betters_what_few_rows_have_taught(tmp_path: Path) -> None:
    done = CliRunner().invoke(command.app, ["practise", "--seed", "4", "--out", str(tmp_path)])
    assert done.exit_code == 0, done.output
    (found,) = telling.found_in(tmp_path).practised
    assert found.gain() > 0
    assert len(found.practised.rewards) == practising.STEPS
