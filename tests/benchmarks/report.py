"""The figures as tables, with what they were measured on, and the bars: met or not."""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Final

from infra.real.kafka import VERSION as KAFKA_VERSION
from tests.benchmarks.backlog import Worked
from tests.benchmarks.latency import Latency
from tests.benchmarks.race import Alone, Result

_ROOT: Final = Path(__file__).parents[2]
_PAGE: Final = _ROOT / "docs" / "experiments.md"

COLLECTOR_EVENTS_A_SECOND: Final = 20_000
SHARE_OF_DECIDE: Final = 0.9
P50_MILLISECONDS: Final = 20
P99_MILLISECONDS: Final = 100
BACKLOG_MEGABYTES: Final = 250

Rounds = Mapping[str, Mapping[str, Sequence[Result]]]
"""By job, then by contestant: one result a round."""


def measured_on() -> str:
    """The machine, the code and the versions, in one paragraph."""
    pins = Path(__file__).with_name("quixstreams.txt").read_text()
    quixstreams = next(line.split()[0].replace("==", " ") for line in pins.splitlines() if line.startswith("quixstreams=="))
    libraries = ", ".join(f"{name} {version(name)}" for name in ("aiokafka", "faust-streaming", "pydantic"))
    return f"{machine()}, Apache Kafka {KAFKA_VERSION}, {libraries}, {quixstreams}; {load()}."


def machine() -> str:
    """The day, the code, the machine and Python."""
    models = [line.partition(":")[2].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line]
    memory_gigabytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    commit = _git("rev-parse", "--short=10", "HEAD") + (" with changes" if _git("status", "--porcelain") else "")
    return (
        f"{datetime.now(UTC):%Y-%m-%d}, commit {commit}, {len(models)} cores of {models[0]}, {memory_gigabytes:.0f} GB, "
        f"Python {platform.python_version()}"
    )


def load() -> str:
    """What else the machine did."""
    return f"load average {os.getloadavg()[0]:.1f} when written"


def races(rounds: Rounds, alone: Mapping[str, Sequence[Alone]]) -> str:
    """Who does how much at what cost, and the bars on it.

    What a contestant had of a core tells a disturbed run: each of them works as fast as it can.
    """
    rows = [
        "| job | on | events/s (least–most) | CPU µs a message | beyond `decide` | cores used | peak MB |",
        "|---|---|---|---|---|---|---|",
    ]
    for job, contestants in rounds.items():
        decide, step = _decide_us(alone, job), median(each.step_us for each in alone[job])
        for contestant, results in contestants.items():
            speeds = [result.events_per_second for result in results]
            cpu_us, cores = _cpu_us(results), median(each.events_per_second * each.cpu_us / 1e6 for each in results)
            rows.append(
                f"| {job} | {contestant} | {median(speeds):,.0f} ({min(speeds):,.0f}–{max(speeds):,.0f}) | {cpu_us:.1f} "
                f"| {cpu_us - decide:.1f} | {cores:.2f} | {max(result.peak_megabytes for result in results):.0f} |"
            )
        rows.append(f"| {job} | *no bus: `decide` alone; with JSON, ids and headers* | | {decide:.1f}; {step:.1f} | | | |")
    return "\n".join((*rows, "", *_race_bars(rounds, alone)))


def latencies(found: Mapping[int, Mapping[str, Latency]]) -> str:
    """Published to assessed, by events a second, then by contestant. The bars are on the first."""
    rows = [
        "| events/s | published → assessed | p50 ms | p99 ms | most | messages | machine busy |",
        "|---|---|---|---|---|---|---|",
    ]
    rows += [
        f"| {a_second:,} | {who} | {took.p50:.1f} | {took.p99:.1f} | {took.most:.0f} | {took.messages:,} | {took.busy:.0%} |"
        for a_second, contestants in found.items()
        for who, took in contestants.items()
    ]
    ours = next(iter(found.values()))["ruminate"]
    bars = (
        _bar(f"p50 ≤ {P50_MILLISECONDS} ms", ours.p50 <= P50_MILLISECONDS, f"{ours.p50:.1f}"),
        _bar(f"p99 ≤ {P99_MILLISECONDS} ms", ours.p99 <= P99_MILLISECONDS, f"{ours.p99:.1f}"),
    )
    return "\n".join((*rows, "", *bars))


def backlogs(found: Iterable[Worked]) -> str:
    """Memory while a backlog is worked off."""
    rows = ["| backlog | messages | seconds | events/s | MB at 10 %, 50 %, 100 % | peak MB |", "|---|---|---|---|---|---|"]
    bars = []
    for worked in found:
        at = ", ".join(f"{megabytes:.0f}" for megabytes in worked.megabytes)
        rows.append(
            f"| {worked.service} | {worked.messages:,} | {worked.seconds:.0f} | {worked.messages / worked.seconds:,.0f} "
            f"| {at} | {worked.peak_megabytes:.0f} |"
        )
        met = worked.peak_megabytes <= BACKLOG_MEGABYTES
        bars.append(_bar(f"{worked.service} ≤ {BACKLOG_MEGABYTES} MB", met, f"{worked.peak_megabytes:.0f}"))
    return "\n".join((*rows, "", *bars))


def keep(part: str, text: str) -> None:
    """Put the text between the part's markers in docs/experiments.md."""
    begin, end = f"<!-- benchmark {part} -->\n", f"<!-- end of benchmark {part} -->"
    page = _PAGE.read_text()
    before, found, rest = page.partition(begin)
    if not found or end not in rest:
        raise RuntimeError(f"{_PAGE} has no place for {part}: it needs the lines {begin.strip()} and {end}")
    _PAGE.write_text(f"{before}{begin}\n{text}\n\n{end}{rest.partition(end)[2]}")


def _race_bars(rounds: Rounds, alone: Mapping[str, Sequence[Alone]]) -> Iterable[str]:
    for job, contestants in rounds.items():
        speeds = {who: median(result.events_per_second for result in results) for who, results in contestants.items()}
        ours = speeds["ruminate"]
        if job == "pipe" and "quixstreams" in speeds:
            yield _bar("pipe: events/s ≥ quixstreams", ours >= speeds["quixstreams"], f"{ours / speeds['quixstreams']:.2f} times")
        if job == "collector":
            yield _bar(f"collector ≥ {COLLECTOR_EVENTS_A_SECOND:,}/s", ours >= COLLECTOR_EVENTS_A_SECOND, f"{ours:,.0f}")
        if job in ("assessor", "accumulator"):
            share = ours * _decide_us(alone, job) / 1e6
            step = ours * median(each.step_us for each in alone[job]) / 1e6
            yield _bar(
                f"{job} ≥ {SHARE_OF_DECIDE:.0%} of what `decide` alone allows",
                share >= SHARE_OF_DECIDE,
                f"{share:.0%}; {step:.0%} of what decoding, deciding and encoding allow",
            )
        if "quixstreams" in contestants:
            us, them = (_cpu_us(contestants[who]) - _decide_us(alone, job) for who in ("ruminate", "quixstreams"))
            yield _bar(f"{job}: CPU beyond `decide` ≤ quixstreams'", us <= them, f"{us:.1f} and {them:.1f} µs")
        if "faust" in speeds:
            yield _bar(f"{job}: ahead of Faust", ours > speeds["faust"], f"{ours / speeds['faust']:.1f} times")


def _decide_us(alone: Mapping[str, Sequence[Alone]], job: str) -> float:
    return median(each.decide_us for each in alone[job])


def _cpu_us(results: Sequence[Result]) -> float:
    return median(result.cpu_us for result in results)


def _bar(bar: str, met: bool, figure: str) -> str:
    return f"- {bar}: **{'met' if met else 'not met'}** ({figure})"


def _git(*arguments: str) -> str:
    return subprocess.run(("git", "-C", str(_ROOT), *arguments), capture_output=True, text=True, check=True).stdout.strip()
