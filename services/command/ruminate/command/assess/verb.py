"""`ruminate assess FILE`: parses what it was given, shows progress, prints the report."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Final

import orjson
import typer
from pydantic import ValidationError
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn
from rich.table import Table

from ruminate.assessor.judging.combiner import UNTAUGHT, Snapshot
from ruminate.assessor.judging.decide import SCORER_VERSION
from ruminate.assessor.learning.teacher import Teacher
from ruminate.assessor.policy import Policy
from ruminate.command.assess.page import page_of
from ruminate.command.assess.report import Distribution, Example, Report
from ruminate.command.assess.work import Told, assess_file, survey
from ruminate.command.datasets.policy import PolicyError, read_policy
from ruminate.command.terminal import complaints, console, fail, line, refuse, write_json
from ruminate.grading.checking.checker import Checker
from ruminate.grading.checking.mathematician import Mathematician

_BLOCKS: Final = " ▁▂▃▄▅▆▇█"
_REFUSED_SHOWN: Final = 5


class Form(StrEnum):
    """How the report is written."""

    TEXT = "text"
    JSON = "json"
    HTML = "html"


def assess(
    file: Annotated[
        Path, typer.Argument(metavar="FILE.jsonl", exists=True, dir_okay=False, readable=True, help="One interaction a line.")
    ],
    policy: Annotated[
        Path | None,
        typer.Option("--policy", metavar="FILE.toml", dir_okay=False, help="Weights and thresholds; else the defaults."),
    ] = None,
    snapshot: Annotated[
        Path | None,
        typer.Option("--snapshot", metavar="FILE.json", dir_okay=False, help="What a combiner has learned, as --learn wrote it."),
    ] = None,
    learn: Annotated[
        Path | None,
        typer.Option(
            "--learn",
            metavar="FILE.json",
            dir_okay=False,
            help="Learn from lines whose worth is known, and write what was learned.",
        ),
    ] = None,
    agreement: Annotated[
        bool, typer.Option("--agreement/--no-agreement", help="Whether other answers to the same question count as evidence.")
    ] = True,
    form: Annotated[Form, typer.Option("--format", help="How the report is written.")] = Form.TEXT,
    out: Annotated[Path | None, typer.Option("--out", metavar="FILE", dir_okay=False, help="Write the report there.")] = None,
    verdicts: Annotated[
        Path | None,
        typer.Option("--verdicts", metavar="FILE.jsonl", dir_okay=False, help="Write every verdict there, a line each."),
    ] = None,
    most: Annotated[int, typer.Option("--most", min=0, max=1000, help="How many of the most and the least trusted are shown.")] = 5,
) -> None:
    """Judge the interactions of a file, without any broker, and report what the verdicts come to.

    A line is an event of interaction-completed-v1, interaction-recorded-v1 or reasoning-assessed-v1, a row of a dataset,
    a chat log ({"messages": [...]}) or {"question": ..., "answer": ..., "thinking": ..., "reference": ...}. Where lines say
    whether their answer is right ("right": true), the report says how far the overall score can be trusted.
    """
    if snapshot is not None and learn is not None:
        refuse("--snapshot uses what was learned, --learn learns: give one of them")
    rules = _policy(policy)
    known = _snapshot(snapshot)
    teacher = Teacher(rules.weights) if learn is not None else None
    try:
        report = _assess(file, rules, known, teacher, agreement=agreement, verdicts=verdicts, most=most)
        if learn is not None and teacher is not None:
            taught = teacher.snapshot()
            report.combiner = f"learning, to {taught.version}"
            learn.write_bytes(orjson.dumps(taught.model_dump(mode="json"), option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE))
            line(complaints, f"{taught.lessons} lessons learned, written to {learn}")
        _write(report, form, out)
    except OSError as error:
        fail(str(error))


def _assess(
    file: Path,
    policy: Policy,
    snapshot: Snapshot | None,
    teacher: Teacher | None,
    *,
    agreement: bool,
    verdicts: Path | None,
    most: int,
) -> Report:
    with _progress(file.stat().st_size) as (first, second), Mathematician() as equal, Checker(policy.code_limits) as checks:
        surveyed = survey(file, policy, told=first)
        report = Report(
            file=file.name,
            policy_version=policy.version,
            scorer_version=SCORER_VERSION,
            combiner=(snapshot or UNTAUGHT).version,
            most=most,
            refused=surveyed.refused,
            refused_count=surveyed.refused_count,
        )
        with _verdicts(verdicts) as keep:
            known: dict[str, Any] = {"snapshot": snapshot, "teacher": teacher, "agreement": agreement}
            for each in assess_file(file, policy, surveyed, **known, equal=equal, checks=checks, told=second):
                report.add(each)
                keep(each.taken.line, each.verdict.model_dump(mode="json"))
    return report


def _policy(file: Path | None) -> Policy:
    if file is None:
        return Policy()
    try:
        return read_policy(file).assessment
    except (PolicyError, OSError) as error:
        refuse(str(error))


def _snapshot(file: Path | None) -> Snapshot | None:
    if file is None:
        return None
    try:
        return Snapshot.model_validate_json(file.read_bytes())
    except OSError as error:
        refuse(str(error))
    except ValidationError as error:
        refuse(f"{file} is no snapshot of a combiner ({error.error_count()} faults); --learn writes one")


@contextmanager
def _verdicts(file: Path | None) -> Iterator[Any]:
    if file is None:
        yield lambda *_: None
        return
    with file.open("wb") as out:
        yield lambda number, verdict: out.write(orjson.dumps({"line": number, **verdict}, option=orjson.OPT_APPEND_NEWLINE))


@contextmanager
def _progress(size: int) -> Iterator[tuple[Told, Told]]:
    """Two bars on a terminal; nothing elsewhere, for a report follows."""
    columns = (TextColumn("{task.description}"), BarColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=complaints, transient=True, disable=not complaints.is_terminal) as progress:
        tasks = [progress.add_task(what, total=size) for what in ("reading", "judging")]
        yield (lambda count: progress.advance(tasks[0], count)), (lambda count: progress.advance(tasks[1], count))


def _write(report: Report, form: Form, out: Path | None) -> None:
    if form is Form.JSON:
        if out is None:
            write_json(report.as_json())
        else:
            out.write_bytes(orjson.dumps(report.as_json(), option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE))
    elif form is Form.HTML:
        if out is None:
            typer.echo(page_of(report), nl=False)
        else:
            out.write_text(page_of(report), encoding="utf-8")
    elif out is None:
        show(report, console)
    else:
        with out.open("w", encoding="utf-8") as text:
            show(report, Console(file=text, markup=False, emoji=False, highlight=False, width=132))
    if out is not None:
        line(complaints, f"the report is in {out}")


def show(report: Report, to: Console) -> None:
    """The report as text."""
    kept = report.decisions["keep"]
    line(to, f"{report.file}: {report.lines} interactions assessed, {kept} to learn from, {report.refused_count} lines refused")
    line(to, f"policy {report.policy_version}, scorer {report.scorer_version}, combiner {report.combiner}")
    if report.with_agreement:
        line(to, f"{report.with_agreement} have other answers to the same question beside them")
    scores = Table("part", "0 … 1", "mean", "known", "abstained", box=None, header_style="")
    for name, each in [*report.parts.items(), ("evidence_ratio", report.evidence)]:
        mean = "" if each.mean is None else f"{each.mean:.2f}"
        scores.add_row(name.replace("_", " "), _bars(each), mean, str(each.known), str(each.abstained))
    to.print()
    to.print(scores)
    for title, counts in (("rejected, and why", report.reasons.most_common()),):
        if counts:
            line(to, f"\n{title}")
            for name, count in counts:
                line(to, f"  {count:>8}  {count / report.lines:>6.1%}  {name}")
    _show_trust(report, to)
    for title, examples in (("most trusted", report.most_trusted()), ("least trusted", report.least_trusted())):
        if examples:
            line(to, f"\n{title}")
            for example in examples:
                line(to, _example(example))
    if report.refused:
        line(to, "\nlines refused")
        for number, why in report.refused[:_REFUSED_SHOWN]:
            line(to, f"  line {number}: {why}")
        if report.refused_count > _REFUSED_SHOWN:
            line(to, f"  and {report.refused_count - _REFUSED_SHOWN} more (--format json lists them)")


def _show_trust(report: Report, to: Console) -> None:
    trust = report.trust()
    if trust is None:
        return
    line(to, f"\nhow far the overall score can be trusted: {trust.lines} lines say, {trust.right} of them are right")
    if trust.auc is not None:
        line(to, f"  area under the ROC curve                   {trust.auc:.3f}")
    if trust.same_question_ranked is not None:
        pairs = f"(of {trust.same_question_pairs} pairs)"
        line(to, f"  pairs of the same question ranked rightly  {trust.same_question_ranked:.3f}  {pairs}")
    line(to, f"  Brier score                                {trust.brier:.3f}")
    line(to, f"  expected calibration error                 {trust.calibration_error:.3f}")


def _bars(each: Distribution) -> str:
    most = max(each.bins) or 1
    return "".join(_BLOCKS[-(-count * (len(_BLOCKS) - 1) // most)] for count in each.bins)


def _example(example: Example) -> str:
    right = "" if example.right is None else f", {'right' if example.right else 'wrong'}"
    return f"  line {example.line}: {example.overall:.2f}, {example.decision}{right}: {'; '.join(example.why) or 'nothing to say'}"
