"""What was measured, told: tables and bars over seeds, and the plots that stand in the docs."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Final, NamedTuple

from ruminate.proof.confidence import share
from ruminate.schemas.payload import Part
from tests.benchmarks.learning.chain import CHAIN_FILE, Chain, Through, Turn
from tests.benchmarks.learning.matter import BASE_TASKS, TASKS
from tests.benchmarks.learning.measure import Ability
from tests.benchmarks.learning.plots import Line, Panel, draw
from tests.benchmarks.learning.practising import PRACTISED_FILE, Practised

ROOT: Final = Path(__file__).parents[3]
KEPT: Final = Path(__file__).with_name("results.json")
IMAGES: Final = ROOT / "docs" / "images"
LEAST_RISE: Final = 0.30
MOST_FALL: Final = 0.02
LEAST_OBEDIENCE: Final = 0.99
LEAST_GAIN: Final = 0.10
STEPS_DRAWN: Final = 20
"""Steps of practice whose rewards are drawn as one point."""


class Results(Part):
    """Everything that is told."""

    chains: tuple[Chain, ...] = ()
    practised: tuple[Practised, ...] = ()


class Kind(NamedTuple):
    """What chains have in common that differ by their seeds."""

    replay_ratio: float
    enforcement: str
    asks_earlier: bool
    tasks: tuple[str, ...]
    """Where they are others than usual."""
    rows: int
    """New ones of a turn."""
    through: Through = "job"

    @classmethod
    def of(cls, chain: Chain) -> Kind:
        """The kind of a chain."""
        taught = tuple(turn.task for turn in chain.turns)
        usual = tuple(task.name for task in TASKS[: len(taught)])
        others = () if taught == usual else taught
        return cls(chain.replay_ratio, chain.enforcement, chain.asks_earlier, others, chain.rows, chain.through)


def tell(out: Path, *, keep: bool) -> str:
    """Tables and bars of what lies in `out`, or of what is kept in the tree; `keep` adds it there, with the plots."""
    kept, results = Results.model_validate_json(KEPT.read_bytes()), found_in(out)
    if not results.chains and not results.practised:
        results = kept
    if keep:
        results = added(kept, results)
        KEPT.write_text(results.model_dump_json() + "\n", encoding="utf-8")
        for name, picture in pictures(results).items():
            IMAGES.mkdir(exist_ok=True)
            (IMAGES / name).write_text(picture, encoding="utf-8")
    return "\n".join(_told(results))


def found_in(out: Path) -> Results:
    """The finished runs of a folder; those that only chose something are no results."""
    chains = [Chain.model_validate_json(path.read_bytes()) for path in sorted(out.glob(f"*/{CHAIN_FILE}"))]
    practised = [Practised.model_validate_json(path.read_bytes()) for path in sorted(out.glob(f"*/{PRACTISED_FILE}"))]
    return Results(
        chains=tuple(chain for chain in chains if chain.portion == "measured"),
        practised=tuple(each for each in practised if each.portion == "measured"),
    )


def added(kept: Results, found: Results) -> Results:
    """All of both; what was found takes the place of a run of its kind and seed."""
    chains = {(Kind.of(chain), chain.seed): chain for chain in (*kept.chains, *found.chains)}
    practised = {each.seed: each for each in (*kept.practised, *found.practised)}
    return Results(chains=tuple(chains.values()), practised=tuple(practised.values()))


def by_kind(chains: Sequence[Chain]) -> Mapping[Kind, list[Chain]]:
    """Chains of one kind together, each in the order of seeds; most replay first."""
    kinds: defaultdict[Kind, list[Chain]] = defaultdict(list)
    for chain in sorted(chains, key=_place):
        kinds[Kind.of(chain)].append(chain)
    return kinds


def _place(chain: Chain) -> tuple[object, ...]:
    kind = Kind.of(chain)
    return (kind.tasks, kind.through, kind.asks_earlier, -kind.rows, -kind.replay_ratio, kind.enforcement, chain.seed)


def known(chain: Chain, turn: Turn) -> dict[str, float]:
    """What each task of before the turn was worth when it had been learned: the base's at first, others behind their turn."""
    learned = {ability.task: ability.right for ability in chain.at_first if ability.task in _BASE}
    learned |= {earlier.task: earlier.of(earlier.task).right for earlier in chain.turns if earlier.number < turn.number}
    return learned


def rise(chain: Chain, turn: Turn) -> float:
    """How much better the turn's own task is answered than by the base."""
    return turn.of(turn.task).right - next(each.right for each in chain.at_first if each.task == turn.task)


def falls(chain: Chain, turn: Turn) -> dict[str, float]:
    """How much worse each task of before the turn is answered than when it had been learned."""
    return {task: was - turn.of(task).right for task, was in known(chain, turn).items()}


def obedience(abilities: Sequence[Ability]) -> float:
    """Of all questions in both modes: how many were answered with thinking if and only if it was asked for."""
    modes = [mode for ability in abilities for mode in (ability.thinking, ability.direct)]
    return sum(mode.obedient * mode.questions for mode in modes) / sum(mode.questions for mode in modes)


_BASE: Final = frozenset(task.name for task in BASE_TASKS)


def _told(results: Results) -> Iterator[str]:
    for kind, chains in by_kind(results.chains).items():
        seeds = ", ".join(str(chain.seed) for chain in chains)
        asked = {chain.questions or "all" for chain in chains}
        yield (
            f"**{kind.replay_ratio:.0%} rehearsed, gate {'decides' if kind.enforcement == 'enforce' else 'reports'}"
            f"{', and asks what earlier turns have taught' if kind.asks_earlier else ''}"
            f"{f', last task {kind.tasks[-1]}' if kind.tasks else ''}"
            f"{', through the running loop' if kind.through == 'loop' else ''}** "
            f"({kind.rows:,} new rows a turn; seeds {seeds}; {', '.join(map(str, asked))} questions)\n"
        )
        yield from _table(chains)
        yield ""
        yield from _bars(chains)
        yield ""
    if results.practised:
        yield f"**Practice** ({results.practised[0].practice.steps} steps)\n"
        yield from _practice_table(results.practised)
        yield ""


def _table(chains: Sequence[Chain]) -> Iterator[str]:
    yield "| turn | right, before and after | sums; last digits | earlier tasks | worst fall, points | obedience | gate | minutes |"
    yield "|---|---|---|---|---|---|---|---|"
    for number in range(1, max(len(chain.turns) for chain in chains) + 1):
        pairs = [(chain, turn) for chain in chains for turn in chain.turns if turn.number == number]
        turns = [turn for _, turn in pairs]
        task = turns[0].task
        before = [next(each.right for each in chain.at_first if each.task == task) for chain, _ in pairs]
        sums = [fmean(turn.of(name).right for name in ("addition", "subtraction")) for turn in turns]
        digits = [turn.of("last digits").right for turn in turns]
        earlier = [
            fmean(turn.of(each.task).right for each in chain.turns if each.number < number) for chain, turn in pairs if number > 1
        ]
        worst = [max(falls(chain, turn).values()) for chain, turn in pairs]
        yield (
            f"| {number}: {task} | {_spread(before)} → {_spread([turn.of(task).right for turn in turns])} "
            f"| {_spread(sums)}; {_spread(digits)} | {_spread(earlier) if earlier else ''} | {_points(worst)} "
            f"| {min(obedience(turn.abilities) for turn in turns):.3f} | {'; '.join(_decided(turn) for turn in turns)} "
            f"| {_minutes(turns)} |"
        )


def _bars(chains: Sequence[Chain]) -> Iterator[str]:
    pairs = [(chain, turn) for chain in chains for turn in chain.turns]
    rises = [rise(chain, turn) for chain, turn in pairs]
    yield _bar(f"each new task rises by ≥ {LEAST_RISE:.0%}", min(rises) >= LEAST_RISE, f"least {100 * min(rises):.1f} points")
    by_task: defaultdict[str, list[float]] = defaultdict(list)
    for chain in chains:
        for task, fall in falls(chain, chain.turns[-1]).items():
            by_task[task].append(fall)
    worst_task, found = max(by_task.items(), key=lambda item: fmean(item[1]))
    every = [fmean(falls(chain, chain.turns[-1]).values()) for chain in chains]
    yield _bar(
        f"old tasks together fall by ≤ {100 * MOST_FALL:.0f} points to the end, each seed",
        max(every) <= MOST_FALL,
        _points(every),
    )
    yield _bar(
        f"each old task falls by ≤ {100 * MOST_FALL:.0f} points to the end, mean of seeds",
        fmean(found) <= MOST_FALL,
        f"worst: {worst_task}, {_points(found)}",
    )
    least = min(obedience(turn.abilities) for _, turn in pairs)
    yield _bar(f"obedience ≥ {LEAST_OBEDIENCE}", least >= LEAST_OBEDIENCE, f"least {least:.4f}")
    passed = sum(turn.taken.gate.passed for _, turn in pairs)
    yield f"- gate: {passed} of {len(pairs)} turns pass"


def _practice_table(practised: Sequence[Practised]) -> Iterator[str]:
    yield "| seed | SFT reached | after practice | gain, points | sums | last digits | gate | minutes |"
    yield "|---|---|---|---|---|---|---|---|"
    for each in sorted(practised, key=lambda one: one.seed):
        was, is_now = ({ability.task: ability for ability in abilities} for abilities in (each.before, each.after))
        sums = [fmean(of[name].right for name in ("addition", "subtraction")) for of in (was, is_now)]
        gate = each.practised.gate
        yield (
            f"| {each.seed} | {_with_interval(was[each.task])} | {_with_interval(is_now[each.task])} | {100 * each.gain():+.1f} "
            f"| {sums[0]:.1%} → {sums[1]:.1%} | {was['last digits'].right:.1%} → {is_now['last digits'].right:.1%} "
            f"| {_decision(gate.passed, gate.attempts, gate.accepted)} | {each.practised.seconds / 60:.0f} |"
        )
    gains = [each.gain() for each in practised]
    yield ""
    yield _bar(f"≥ {100 * LEAST_GAIN:.0f} points more", min(gains) >= LEAST_GAIN, f"{_points(gains)} gained")
    least = min(obedience(each.after) for each in practised)
    yield _bar(f"obedience ≥ {LEAST_OBEDIENCE}", least >= LEAST_OBEDIENCE, f"least {least:.4f}")


def _with_interval(ability: Ability) -> str:
    mode = ability.thinking
    found = share(round(mode.right * mode.questions), mode.questions)
    return f"{found.estimate:.1%} ({found.low:.1%}–{found.high:.1%})"


def _decided(turn: Turn) -> str:
    gate = turn.taken.gate
    if not gate.passed and turn.taken.steps:
        return "would refuse"  # it only reports
    return _decision(gate.passed, gate.attempts, gate.accepted)


def _decision(passed: bool, attempts: Sequence[str], accepted: int | None) -> str:
    """Passed as planned, or by which way; refused."""
    if not passed:
        return "refused"
    return "passed" if not accepted else f"passed ({attempts[accepted]})"


def _spread(values: Sequence[float]) -> str:
    mean = f"{100 * fmean(values):.1f}"
    return mean if max(values) - min(values) < 5e-4 else f"{mean} ({100 * min(values):.1f}–{100 * max(values):.1f})"


def _points(values: Sequence[float]) -> str:
    return f"{100 * fmean(values):.1f} ({100 * min(values):.1f} to {100 * max(values):.1f})"


def _minutes(turns: Sequence[Turn]) -> str:
    minutes = [turn.taken.seconds / 60 for turn in turns if turn.taken.seconds]
    return _range([f"{least:.1f}" for least in (min(minutes), max(minutes))]) if minutes else ""


def _range(ends: Sequence[str]) -> str:
    return ends[0] if ends[0] == ends[1] else "–".join(ends)


def _bar(bar: str, met: bool, figure: str) -> str:
    return f"- {bar}: **{'met' if met else 'not met'}** ({figure})"


def pictures(results: Results) -> dict[str, str]:
    """The plots, by their files' names."""
    drawn = {}
    if results.chains:
        shown = [chain for chain in results.chains if not chain.asks_earlier and not Kind.of(chain).tasks]
        panels = [
            Panel(
                f"{'the running loop' if kind.through == 'loop' else f'{kind.replay_ratio:.0%} rehearsed'}, {kind.rows:,} rows",
                _lines(chains),
            )
            for kind, chains in by_kind(shown).items()
        ]
        drawn["learning-turns.svg"] = draw("Right answers after each turn, on questions that no row has", panels, across="turn")
    if results.practised:
        drawn["learning-practice.svg"] = draw("Practice by rewards", _practice_panels(results.practised), across="step")
    return drawn


def _lines(chains: Sequence[Chain]) -> list[Line]:
    names = list(dict.fromkeys(ability.task for chain in chains for ability in chain.at_first))
    lines = []
    for name in names:
        # What is not taught yet is not asked after every turn: it begins where it is about to be.
        begins = next((turn.number - 1 for chain in chains for turn in chain.turns if turn.task == name), 0)
        points: list[tuple[float, Sequence[float]]] = [
            (float(begins), [each.right for chain in chains for each in chain.at_first if each.task == name])
        ]
        last = max(len(chain.turns) for chain in chains)
        for number in range(1, last + 1):
            turns = [turn for chain in chains for turn in chain.turns if turn.number == number]
            if values := [each.right for turn in turns for each in turn.abilities if each.task == name]:
                points.append((float(number), values))
        lines.append(Line(name, points))
    return lines


def _practice_panels(practised: Sequence[Practised]) -> list[Panel]:
    steps = practised[0].practice.steps
    most = 1 + practised[0].practice.form_weight
    held_out, rewards = [], []
    for each in sorted(practised, key=lambda one: one.seed):
        right = [next(ability.right for ability in of if ability.task == each.task) for of in (each.before, each.after)]
        held_out.append(Line(f"seed {each.seed}", [(0.0, [right[0]]), (float(steps), [right[1]])]))
        curve = each.practised.rewards
        points = [
            (float(curve[start][0]), [fmean(reward for _, reward in curve[start : start + STEPS_DRAWN]) / most])
            for start in range(0, len(curve), STEPS_DRAWN)
        ]
        if points:
            rewards.append(Line(f"seed {each.seed}", points))
    panels = [Panel("right answers, held out", held_out)]
    if rewards:
        panels.append(Panel("reward, share of the most", rewards))
    return panels
