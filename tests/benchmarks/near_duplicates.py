"""Near duplicates and decontamination by themselves: `python -m tests.benchmarks.near_duplicates`.

    recall, false joins    pairs of known likeness, beside datasketch where that is installed
    edits                  questions in slightly other words; and how many different questions are joined
    speed                  rows a second of one core's time: signature, add, find; decontamination of rows of 1 KB
    memory                 a process that holds a million clusters

A *false* join is one of two texts whose true Jaccard index is below 0.5: they have fewer shingles in common than apart. From
0.5 to the bar of 0.73 lies what an estimate cannot be sure of; the table shows it. Nothing here gates.
"""

from __future__ import annotations

import random
import resource
import string
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from importlib.metadata import PackageNotFoundError, version
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, Final

import numpy as np
import orjson
import typer

from ruminate.accumulator.curation.decontaminate import Protected
from ruminate.accumulator.curation.near import (
    BANDS,
    HASHES,
    MIN_JACCARD,
    SIGNATURE_BYTES,
    ClusterIndex,
    Likeness,
    shingles_of,
    signature_of,
)
from ruminate.accumulator.curation.wording import digest_of_normalised, normalised
from tests.benchmarks import report

RECALL_AT_080: Final = 0.95
FALSE_JOINS: Final = 0.01
ROWS_A_SECOND: Final = 10_000
MEGABYTES: Final = 1000
_LIKENESSES: Final = (0.3, 0.4, 0.5, 0.6, 0.65, 0.7, 0.73, 0.75, 0.8, 0.85, 0.9)
Pair = tuple[str, str]
app = typer.Typer(name="python -m tests.benchmarks.near_duplicates", add_completion=False, pretty_exceptions_enable=False)


def word(dice: random.Random) -> str:
    """A word that stands nowhere else, without digits."""
    return "".join(dice.choices(string.ascii_lowercase, k=9))


def pair(dice: random.Random, words: int, *, replaced: int) -> Pair:
    """A text of so many words, and the same with some of them replaced, no two of them neighbours.

    Each word replaced takes 3 of the 2n + 1 shingles, so the index of the two is (2n + 1 - 3r) / (2n + 1 + 3r).
    """
    one = [word(dice) for _ in range(words)]
    places = dice.sample(range(words - replaced + 1), replaced)
    other = one.copy()
    for gap, place in enumerate(sorted(places)):
        other[place + gap] = word(dice)
    return " ".join(one), " ".join(other)


def jaccard(one: str, other: str) -> float:
    """The true index of two normalised texts."""
    ours, theirs = set(shingles_of(one)), set(shingles_of(other))
    return len(ours & theirs) / len(ours | theirs)


def _typo(dice: random.Random, text: str) -> str:
    words = text.split()
    place = dice.choice([place for place, each in enumerate(words) if each.isalpha() and len(each) > 3])
    at = dice.randrange(len(words[place]) - 1)
    words[place] = words[place][:at] + words[place][at + 1] + words[place][at] + words[place][at + 2 :]
    return " ".join(words)


def _without_a_word(dice: random.Random, text: str) -> str:
    words = text.split()
    del words[dice.choice([place for place, each in enumerate(words) if each.isalpha()])]
    return " ".join(words)


def _another_name(dice: random.Random, text: str) -> str:
    words = text.split()
    name = dice.choice([each for each in words if each.isalpha() and len(each) > 3])
    return " ".join("quentin" if each == name else each for each in words)


def _another_number(dice: random.Random, text: str) -> str:
    words = text.split()
    numbers = [place for place, each in enumerate(words) if each.isdigit()]
    if numbers:
        words[dice.choice(numbers)] += "7"
    return " ".join(words)


EDITS: Final[dict[str, Callable[[random.Random, str], str]]] = {
    "spelling": lambda dice, text: "  " + text.title() + " ?! ",
    "please": lambda dice, text: "Please: " + text,
    "step by step": lambda dice, text: text + " Think step by step.",
    "a word dropped": _without_a_word,
    "a typo": _typo,
    "a word renamed throughout": _another_name,
    "another number": _another_number,
}
"""A question in slightly other words; the last is another question."""


def _joined(index: ClusterIndex, pairs: Sequence[Pair]) -> list[bool]:
    """Which second ones are found where all first ones are."""
    keys = [digest_of_normalised(one) for one, _ in pairs]
    for key, (one, _) in zip(keys, pairs, strict=True):
        index.add(key, signature_of(one))
    return [index.find(signature_of(other)) == key for key, (_, other) in zip(keys, pairs, strict=True)]


def _by_datasketch(pairs: Sequence[Pair]) -> list[bool]:
    from datasketch import MinHash, MinHashLSH

    first = MinHash(HASHES, seed=1, scheme="affine32")

    def sketch(text: str) -> Any:
        made = MinHash(HASHES, permutations=first.permutations, scheme="affine32")
        made.update_batch([each.encode() for each in shingles_of(text)])
        return made

    index = MinHashLSH(num_perm=HASHES, params=(BANDS, HASHES // BANDS))
    sketches = {str(number): sketch(one) for number, (one, _) in enumerate(pairs)}
    for name, each in sketches.items():
        index.insert(name, each)
    found = []
    for number, (_, other) in enumerate(pairs):
        probe, name = sketch(other), str(number)
        found.append(name in index.query(probe) and probe.jaccard(sketches[name]) >= MIN_JACCARD)
    return found


def likenesses(pairs_each: int) -> str:
    """Which share of pairs is joined, by their true index."""
    ways: dict[str, Callable[[Sequence[Pair]], list[bool]]] = {"ours (rensa)": lambda pairs: _joined(ClusterIndex(), pairs)}
    try:
        ways[f"datasketch {version('datasketch')}"] = _by_datasketch
    except PackageNotFoundError:
        print("datasketch is not installed: uv pip install datasketch shows it beside ours")
    rows = [
        "| true Jaccard | " + " | ".join(f"{way} joins | CPU µs a pair" for way in ways) + " |",
        "|---" * (1 + 2 * len(ways)) + "|",
    ]
    shares: dict[float, float] = {}
    for wanted in _LIKENESSES:
        dice = random.Random(int(100 * wanted))
        pairs = []
        for _ in range(pairs_each):
            words = dice.randrange(20, 80)
            pairs.append(pair(dice, words, replaced=round((2 * words + 1) * (1 - wanted) / (1 + wanted) / 3)))
        truth = float(np.mean([jaccard(*each) for each in pairs]))
        cells = []
        for way, joins in ways.items():
            begun = time.process_time()
            share = float(np.mean(joins(pairs)))
            cells.append(f"{share:.4f} | {(time.process_time() - begun) / len(pairs) * 1e6:.0f}")
            if way.startswith("ours"):
                shares[wanted] = share
        rows.append(f"| {truth:.3f} | " + " | ".join(cells) + " |")
    rows += ["", _bar(f"recall at 0.80: {shares[0.8]:.4f}", f"at least {RECALL_AT_080}", shares[0.8] >= RECALL_AT_080)]
    worst = max(share for wanted, share in shares.items() if wanted <= 0.5)
    rows.append(_bar(f"false joins, up to 0.50: {worst:.4f}", f"at most {FALSE_JOINS}", worst <= FALSE_JOINS))
    return "\n".join(rows)


def edits(questions: Sequence[str]) -> str:
    """Which share of edited questions is joined to the question, with the estimated index; and different ones that are joined."""
    rows = ["| edit | joined | joined if figures may differ | true Jaccard, median |", "|---|---|---|---|"]
    for name, edit in EDITS.items():
        dice = random.Random(name)
        pairs = [(question, normalised(edit(dice, question))) for question in questions]
        strict, loose = (np.mean(_joined(ClusterIndex(likeness=Likeness(same_figures=same)), pairs)) for same in (True, False))
        truth = np.median([jaccard(*each) for each in pairs])
        rows.append(f"| {name} | {strict:.3f} | {loose:.3f} | {truth:.3f} |")
    different = []
    for same in (True, False):
        index = ClusterIndex(likeness=Likeness(same_figures=same))
        clusters = {index.add(digest_of_normalised(each), signature_of(each)) for each in questions}
        joined = len(questions) - len(clusters)
        different.append(f"{joined} of {len(questions)} different questions are joined{'' if same else ' if figures may differ'}")
    return "\n".join((*rows, "", *different))


def _a_second(work: Callable[[Any], object], items: Sequence[Any], rounds: int = 3) -> float:
    best = float("inf")
    for _ in range(rounds):
        begun = time.process_time()
        for each in items:
            work(each)
        best = min(best, time.process_time() - begun)
    return len(items) / best


def speed(questions: Sequence[str], rows: int) -> str:
    """Rows a second of one core's time, best of three; adding once, into an index that grows to so many rows."""
    dice = random.Random(9)
    vocabulary = sorted({each for question in questions for each in question.split()})
    texts = [" ".join(dice.choices(vocabulary, k=90))[:300].rstrip() for _ in range(rows)]
    keys = [digest_of_normalised(each) for each in texts]
    index = ClusterIndex()
    begun = time.process_time()
    for key, text in zip(keys, texts, strict=True):
        index.add(key, signature_of(text))
    added = rows / (time.process_time() - begun)
    twice = ClusterIndex()
    begun = time.process_time()
    for key, text in zip(keys, texts, strict=True):
        signature = signature_of(text)
        twice.find(signature)
        twice.add(key, signature)
    found_and_added = rows / (time.process_time() - begun)
    few = texts[:5000]
    signatures = [signature_of(each) for each in few]
    protected = Protected()
    protected.add("held out", [(each,) for each in questions])
    long = [(" ".join(dice.choices(vocabulary, k=90))[:300], " ".join(dice.choices(vocabulary, k=200))[:724]) for _ in range(2000)]
    measured = {
        "normalise a question of 300 bytes": _a_second(normalised, few),
        "signature": _a_second(signature_of, few),
        "find, signature made": _a_second(index.find, signatures),
        "signature and add, which looks first": added,
        "signature, find, then add": found_and_added,
        f"decontaminate rows of 1 KB, {len(protected)} questions protected": _a_second(protected.touches, long),
        "the same, the question's signature made": _a_second(
            lambda each: protected.touches(each[0], signature=each[1]),
            [(each, signature_of(normalised(each[0]))) for each in long],
        ),
    }
    lines = [
        "| what | rows/s | µs |",
        "|---|---|---|",
        *(f"| {what} | {rate:,.0f} | {1e6 / rate:.0f} |" for what, rate in measured.items()),
    ]
    lines += ["", _bar(f"signature and add: {added:,.0f} rows/s", f"at least {ROWS_A_SECOND:,}", added >= ROWS_A_SECOND)]
    decontaminated = list(measured.values())[-2]
    lines.append(
        _bar(f"decontamination: {decontaminated:,.0f} rows/s", f"at least {ROWS_A_SECOND:,}", decontaminated >= ROWS_A_SECOND)
    )
    return "\n".join(lines)


def memory(rows: int) -> str:
    """The most that a process of its own has resident while it fills an index with clusters of one row: the most they can be."""
    done = subprocess.run([sys.executable, "-m", __spec__.name, "--fill", str(rows)], check=True, capture_output=True, text=True)
    megabytes, seconds, size = (float(each) for each in done.stdout.split())
    held = (
        f"{rows:,} clusters: {megabytes:.0f} MB resident at most, {seconds / rows * 1e6:.0f} µs of CPU an add without its "
        f"signature, {size / 1e6:.0f} MB as bytes"
    )
    return held if rows < 1_000_000 else _bar(held, f"at most {MEGABYTES:,} MB", megabytes <= MEGABYTES)


def fill(rows: int) -> None:
    """Fill an index; print the megabytes resident at most, the CPU seconds and its size as bytes."""
    dice, index = np.random.default_rng(1), ClusterIndex()
    seconds = 0.0
    for first in range(0, rows, 10_000):
        block = dice.bytes(10_000 * SIGNATURE_BYTES)
        begun = time.process_time()
        for number in range(min(10_000, rows - first)):
            signature = block[number * SIGNATURE_BYTES : (number + 1) * SIGNATURE_BYTES]
            index.add(signature[:16], signature)
        seconds += time.process_time() - begun
    megabytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000
    print(megabytes, seconds, len(index.to_bytes()))


def contamination(training: Sequence[dict[str, str]], measuring: Sequence[dict[str, str]]) -> str:
    """Which training rows touch the questions of an evaluation, by kind."""
    protected = Protected()
    protected.add("evaluation", [(each["question"],) for each in measuring])
    touched = [(place, protected.touches((each["question"], each["answer"]))) for place, each in enumerate(training)]
    found = [f"row {place}: {each.kind}, {each.shared_runs} runs" for place, each in touched if each is not None]
    return "\n".join((f"{len(found)} of {len(training)} rows touch the {len(measuring)} questions of the evaluation", *found))


def _bar(what: str, bar: str, met: bool) -> str:
    return f"{what}; {bar}: {'met' if met else 'NOT met'}"


def _lines(path: Path) -> list[dict[str, str]]:
    return [orjson.loads(line) for line in path.read_bytes().splitlines()]


def _demo() -> list[dict[str, str]]:
    return [
        orjson.loads(line) for line in files("ruminate.command").joinpath("demo/gsm8k_shortest_220.jsonl").read_bytes().splitlines()
    ]


@app.command(help=__doc__)
def main(
    pairs: Annotated[int, typer.Option(min=100, help="Of each likeness.")] = 2000,
    rows: Annotated[int, typer.Option(min=1000, help="Added when speed is measured.")] = 50_000,
    clusters: Annotated[int, typer.Option(min=1000, help="Held when memory is measured.")] = 1_000_000,
    questions: Annotated[Path | None, typer.Option(help="JSON Lines of `question` and `answer`, instead of the demo's.")] = None,
    evaluation: Annotated[Path | None, typer.Option(help="JSON Lines of `question`, to decontaminate against.")] = None,
    fill_with: Annotated[int | None, typer.Option("--fill", hidden=True)] = None,
) -> None:
    """Measure and print tables."""
    if fill_with is not None:
        fill(fill_with)
        return
    about = f"{report.machine()}, rensa {version('rensa')}, numpy {version('numpy')}"
    training = _lines(questions) if questions else _demo()
    asked = list(dict.fromkeys(normalised(each["question"]) for each in training))
    parts: Iterable[tuple[str, Callable[[], str]]] = (
        ("pairs of known likeness", lambda: likenesses(pairs)),
        ("edited questions", lambda: edits(asked)),
        ("speed", lambda: speed(asked, rows)),
        ("memory", lambda: memory(clusters)),
    )
    for name, measure in parts:
        print(f"\n{name}\n\n{measure()}", flush=True)
    if evaluation:
        print(f"\ncontamination\n\n{contamination(training, _lines(evaluation))}")
    print(f"\n{about}; {report.load()}.")


if __name__ == "__main__":
    app()
