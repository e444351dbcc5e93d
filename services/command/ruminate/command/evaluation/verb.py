"""`ruminate eval VERSION… --set FILE`: ask versions the same questions on a node, and print them side by side with intervals."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import zip_longest
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from ruminate.command.evaluation.compare import Line, as_json, change, figure, in_words, side_by_side
from ruminate.command.evaluation.find import NotFound, Subject, find
from ruminate.command.terminal import DEFAULT_STATE, AsJson, Kafka, State, complaints, console, line, refuse, write_json
from ruminate.command.terminal import run as run_verb
from ruminate.grading.checking.limits import Limits
from ruminate.grading.grade import Grader
from ruminate.proof.asking import DIRECT, GREEDY, THINKING, Sampling, graded_by
from ruminate.proof.exam import BadExam, Question, read_questions, some_of
from ruminate.proof.on_node import AskingOfNode, sit_on_node
from ruminate.proof.spoken import Answered
from ruminate.shared.ollama import OllamaClient, OllamaError

_CODE: Final = Limits(seconds=10.0, memory_bytes=512 << 20)


def evaluate(
    versions: Annotated[
        list[str],
        typer.Argument(
            metavar="VERSION...",
            help="Versions as they are registered (v3), `base`, or names that the node lists (qwen3:8b). The others are compared "
            "with the first.",
        ),
    ],
    sets: Annotated[
        list[str],
        typer.Option(
            "--set",
            metavar="[NAME=]FILE",
            help='A file of questions, one a line: {"question": "43+38?", "reference": "81"}, or with a "prompt" '
            'of several messages, a "check" with "kind" (reference, exact, json_schema, python_tests) and "content", "thinking": '
            '"on", "off" or "both". May be given again.',
        ),
    ],
    node: Annotated[
        str | None, typer.Option("--node", metavar="URL", help="The node that is asked; else the first that serves the version.")
    ] = None,
    target: Annotated[str | None, typer.Option("--target", help="Whose versions, where there are several targets.")] = None,
    tenant: Annotated[str | None, typer.Option("--tenant", help="Whose versions, where there are several tenants.")] = None,
    questions: Annotated[
        int, typer.Option("--questions", min=1, help="Most questions of each set and mode; always the same ones.")
    ] = 256,
    answer_tokens: Annotated[
        int, typer.Option("--answer-tokens", min=1, help="Tokens an answer may have, thinking included.")
    ] = 4096,
    at_once: Annotated[int, typer.Option("--at-once", min=1, max=256, help="Questions that wait at the node together.")] = 4,
    greedy: Annotated[
        bool, typer.Option("--greedy", help="The likeliest token always; else drawn as Qwen3's makers advise.")
    ] = False,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Of what is drawn.")] = 0,
    run_code: Annotated[
        bool, typer.Option("--run-code", help="Run answers to find out whether their tests hold, confined, on this machine.")
    ] = False,
    timeout_seconds: Annotated[
        float, typer.Option("--timeout-seconds", min=1.0, help="How long the node may take to answer.")
    ] = 600.0,
    state: State = DEFAULT_STATE,
    kafka: Kafka = None,
    as_json: AsJson = False,
) -> None:
    """Ask versions your own questions, side by side: answers right, thinking well-formed, mode obeyed, tokens; with intervals.

    `ruminate eval base v3 --set mine.jsonl`      is v3 better at my questions than what it began with?

    `ruminate eval qwen3:8b qwen3:14b --node http://gpu1:11434 --set mine.jsonl`      any models of a node

    An interval is one of 95 %; a star marks a change that is no accident. So that no version serves which is worse at them, have
    every version asked:  RUMINATE_PROOF_SETS='{"mine": "/path/mine.jsonl"}'
    """
    asked = some_of(_read(sets), questions)
    asking = AskingOfNode(
        answer_tokens=answer_tokens,
        seed=seed,
        side_by_side=at_once,
        timeout_seconds=timeout_seconds,
        drawn=(lambda thinks: GREEDY) if greedy else _as_advised,
    )
    if len(set(versions)) < len(versions):
        refuse("a version is named twice; name each once")

    async def work() -> None:
        where, subjects = await find(versions, node=node, target=target, tenant=tenant, state=state, kafka=kafka)
        answers: list[Sequence[Answered]] = []
        async with OllamaClient(where) as client:
            engine = await client.version()
            for subject in subjects:
                with _bar(subject) as told, Grader(_CODE if run_code else None) as grader:
                    answers.append(await sit_on_node(client, subject.model, asked, graded_by(grader), asking, on_progress=told))
        found = side_by_side(asked, answers)
        if as_json:
            write_json(_in_json(where, engine, subjects, asking, greedy, asked, answers, found))
        else:
            _show(subjects, found)
            _say_how(where, engine, asking, asked, answers)

    run_verb(work(), mistakes=(NotFound,), failures=(OllamaError,))


def _as_advised(thinks: bool) -> Sampling:
    return THINKING if thinks else DIRECT


def _read(sets: Sequence[str]) -> list[Question]:
    """The questions of all sets, each under its name: the file's, where none is given."""
    found: dict[str, list[Question]] = {}
    for given in sets:
        name, _, file = given.rpartition("=")
        path = Path(file)
        name = name or path.stem
        if name in found:
            refuse(f"two sets are named {name!r}; name one of them otherwise: --set OTHER={file}")
        try:
            with path.open(encoding="utf-8") as lines:
                found[name] = read_questions(lines, name=name, where=str(path))
        except (OSError, UnicodeDecodeError) as error:
            refuse(f"--set {given}: {error}")
        except BadExam as error:
            refuse(str(error))
        if not found[name]:
            refuse(f"{path} has no question in it")
    return [question for questions in found.values() for question in questions]


@contextmanager
def _bar(subject: Subject) -> Iterator[Callable[[int, int], None]]:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=complaints, transient=True, disable=not complaints.is_terminal) as bars:
        task = bars.add_task(subject.name, total=None)
        yield lambda done, of: bars.update(task, completed=done, total=of)


def _show(subjects: Sequence[Subject], found: Sequence[Line]) -> None:
    """A table a group: a row a measure, a column a version, and behind it how far it is from the first."""
    first = subjects[0].name
    groups = list(dict.fromkeys(each.group for each in found))
    for group in groups:
        ours = [each for each in found if each.group == group]
        table = Table(title=f"{group}: {max(each.questions for each in ours)} questions", title_justify="left", title_style="bold")
        table.add_column("")
        for subject in subjects:
            table.add_column(subject.name, justify="right")
            if subject.name != first:
                table.add_column(f"beside {first}", justify="right")
        for each in ours:
            cells = []
            for subject, cell in zip_longest(subjects, each.cells):
                cells.append(figure(each, cell))
                if subject.name != first:
                    cells.append(change(each, cell))
            table.add_row(in_words(each.measure), *cells)
        console.print(table)


def _say_how(
    where: str, engine: str, asking: AskingOfNode, asked: Sequence[Question], answers: Sequence[Sequence[Answered]]
) -> None:
    cut = sum(answer.cut for of_version in answers for answer in of_version)
    line(console, f"asked at {where} (engine {engine}); intervals of 95 %, * no accident")
    if cut:
        whole = len(asked) * len(answers)
        told = f"{cut} of {whole} answers came to no end in {asking.answer_tokens} tokens and count as wrong"
        line(console, f"{told}; allow more by --answer-tokens", style="yellow")
    undecided = sum(
        question.check is not None and any(of_version[number].right is None for of_version in answers)
        for number, question in enumerate(asked)
    )
    if undecided:
        told = f"{undecided} questions could not be decided, and are left out of what is right"
        line(console, f"{told}; checks of the kind python_tests want --run-code", style="yellow")


def _in_json(
    where: str,
    engine: str,
    subjects: Sequence[Subject],
    asking: AskingOfNode,
    greedy: bool,
    asked: Sequence[Question],
    answers: Sequence[Sequence[Answered]],
    found: Sequence[Line],
) -> dict[str, Any]:
    return {
        "node": where,
        "engine_version": engine,
        "versions": [{"name": subject.name, "model": subject.model} for subject in subjects],
        "answer_tokens": asking.answer_tokens,
        "greedy": greedy,
        "seed": asking.seed,
        "measures": as_json([subject.name for subject in subjects], found),
        "answers": [
            {
                "set": question.set,
                "key": question.key,
                "thinks": question.thinks,
                "versions": [of_version[number].model_dump(mode="json") for of_version in answers],
            }
            for number, question in enumerate(asked)
        ],
    }
