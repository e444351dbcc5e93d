"""What a job learns from and is measured on: the files of its folder, read, rendered and counted.

    dataset/train.jsonl  replay.jsonl             rows to learn from
    dataset/verifiable.jsonl  preferences.jsonl   questions to practise on, pairs
    dataset/holdout.jsonl  verifiable-holdout.jsonl    never learned from
    exams/NAME.jsonl                              the operator's own questions, the same for every version

Of the rows that are held out, one half is looked at while a stage runs, to end it in time, and the other half says at the end
whether something was learned: what has steered is no proof. Few are all kept for the proof; where there are too few for one,
some of the new rows are set aside for it, and are not learned by this version.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar

from ruminate.proof.confidence import LEAST_OBSERVATIONS
from ruminate.proof.exam import HOLD_OUT, Asked, Question, held_out_questions, read_questions, read_verifiable, some_of
from ruminate.proof.messages import Message
from ruminate.trainer.checkpointing import Lengths
from ruminate.trainer.conversations import SPLITS, Conversations, Split, read_conversations
from ruminate.trainer.course import failed
from ruminate.trainer.outcome import DATASET_FOLDER, EARLIER_FOLDER, EXAMS_FOLDER
from ruminate.trainer.plan import Hyperparameters, JobPlan
from ruminate.trainer.rows import BadDataset, Row, Tokens, question_tokens, read_rows, render
from ruminate.trainer.stages.choose import Contents
from ruminate.trainer.stages.preference import RenderedPair, read_pairs, render_pair

T = TypeVar("T")

LEAST_TO_DIVIDE: Final = 60
"""Rows held out, from which on one half is for looking and one for proving."""
MOST_WATCHED: Final = 128
PROVING: Final = 32
"""Rows that a proof has at least, where the batch has them to give."""
LARGEST_PART_SET_ASIDE: Final = 4
"""One in so many new rows, at most."""


@dataclass(frozen=True)
class Material:
    """All of it, rendered. What is longer than the plan allows is left out, and counted."""

    new: list[Tokens]
    rehearsed: list[Tokens]
    long: list[Tokens]
    """Of both: rows with long thinking."""
    questions: list[Question]
    longest_question: int
    """Tokens."""
    pairs: list[RenderedPair]
    watched: list[Tokens]
    proving: list[Tokens]
    observations: list[str]
    """Of each of `proving`: its conversation, or itself where nobody knows it."""
    exam: list[Question]
    fresh_rows: list[Row]
    set_aside: int
    """New rows that are not learned, because too few are held out to prove something by."""
    left_out: int

    @property
    def lengths(self) -> Lengths:
        """What decides how much a step holds."""
        pairs = (len(pair.prompt_ids) + max(len(pair.chosen_ids), len(pair.rejected_ids)) for pair in self.pairs)
        return Lengths(
            row=max((len(row.input_ids) for row in (*self.new, *self.rehearsed)), default=0),
            question=self.longest_question,
            pair=max(pairs, default=0),
        )

    @property
    def contents(self) -> Contents:
        """Counted, for choosing stages."""
        return Contents(
            rows=len(self.new) + len(self.rehearsed), long_rows=len(self.long), questions=len(self.questions), pairs=len(self.pairs)
        )


def gather(plan: JobPlan, folder: Path, tokenizer: Any) -> Material:
    """Read and render everything. Raises BadDataset and BadExam."""
    most = plan.hyperparameters.max_row_tokens
    dataset = folder / DATASET_FOLDER
    given = read_rows(dataset / "train.jsonl")
    revived = [*read_rows(dataset / "replay.jsonl", may_be_missing=True), *earlier_rows(folder, plan.hyperparameters)]
    revived = list({row.model_dump_json(): row for row in revived}.values())  # what is rehearsed anyway is in an earlier batch, too
    held_out = read_rows(dataset / "holdout.jsonl", may_be_missing=True)
    known = read_conversations(dataset)
    out_of = {
        id(row): conversation
        for rows, split in zip((given, held_out), SPLITS, strict=True)
        for row, conversation in zip(rows, known.of_rows(split, len(rows)), strict=True)
    }
    fresh, aside = set_aside(given, PROVING - len(held_out)) if plan.proof.enforcement == "enforce" else (given, [])
    if plan.proof.enforcement == "enforce":
        _require_enough(len(held_out) + len(aside), plan.proof.policy.least_checked)
    rendered = {id(row): render(row, tokenizer) for row in (*fresh, *revived, *held_out, *aside)}

    def fitting(rows: Sequence[Row]) -> list[Tokens]:
        return [tokens for row in rows if len((tokens := rendered[id(row)]).input_ids) <= most]

    new, rehearsed = fitting(fresh), fitting(revived)
    if not new and not rehearsed:
        raise BadDataset(
            f"none of {len(fresh) + len(revived)} rows fits into {most} tokens; raise RUMINATE_MAX_ROW_TOKENS or look at the batch"
        )
    pairs = [render_pair(pair, tokenizer) for pair in _lines(dataset / "preferences.jsonl", read_pairs)]
    fitting_pairs = [pair for pair in pairs if len(pair.prompt_ids) + max(map(len, pair[1:])) <= most]
    least = plan.stages.cold_start_thinking_tokens
    watched, proving = divide([*held_out, *aside])
    held_back = {_asked(row.prompt) for row in aside}
    all_verifiable = _known(_lines(dataset / "verifiable.jsonl", read_verifiable), known, "train")
    verifiable = [question for question in all_verifiable if _can_be_decided(question, plan)]
    asked = {id(question): len(question_tokens(question, tokenizer)) for question in verifiable}
    questions = [question for question in verifiable if _asked(question.prompt) not in held_back and asked[id(question)] <= most]
    observations = [out_of[id(row)] or f"row {at}" for at, row in enumerate(proving) if len(rendered[id(row)].input_ids) <= most]
    exam = _exam(
        plan,
        folder,
        [row.asked._replace(conversation=out_of[id(row)]) for row in proving],
        watched,
        [
            *_known(_lines(dataset / "verifiable-holdout.jsonl", read_verifiable), known, "holdout"),
            *(each for each in verifiable if _asked(each.prompt) in held_back),
        ],
    )
    if plan.proof.enforcement == "enforce":
        _require_conversations({*observations, *(question.observation for question in exam if question.set == HOLD_OUT)})
    return Material(
        new=new,
        rehearsed=rehearsed,
        long=fitting([row for row in (*fresh, *revived) if _thinking_tokens(row, tokenizer, least) >= least]),
        questions=questions,
        longest_question=max((asked[id(question)] for question in questions), default=0),
        pairs=fitting_pairs,
        watched=fitting(watched),
        proving=fitting(proving),
        observations=observations,
        exam=exam,
        fresh_rows=fresh,
        set_aside=len(aside),
        left_out=len(fresh) + len(revived) - len(new) - len(rehearsed) + len(pairs) - len(fitting_pairs),
    )


def earlier_rows(folder: Path, chosen: Hyperparameters) -> list[Row]:
    """The rows of earlier batches, where the job is to learn them anew: as many from each, always the same ones."""
    datasets = sorted((folder / EARLIER_FOLDER).glob("*"), key=lambda path: int(path.name))
    found: list[Row] = []
    for left, dataset in zip(range(len(datasets), 0, -1), datasets, strict=True):
        rows = read_rows(dataset / "train.jsonl")
        share = (chosen.rehearsal_most_rows - len(found)) // left
        found += sorted(rows, key=lambda row: hashlib.sha256(row.model_dump_json().encode()).digest())[:share]
    return found


def set_aside(rows: Sequence[Row], wanted: int) -> tuple[list[Row], list[Row]]:
    """Rows to learn, and about so many others: by a hash of what is asked, so that a question is on one side in both modes."""
    wanted = min(wanted, len(rows) // LARGEST_PART_SET_ASIDE)
    aside: set[str] = set()
    for count, row in enumerate(sorted(rows, key=lambda row: hashlib.sha256(_asked(row.prompt).encode()).digest())):
        if count >= wanted and _asked(row.prompt) not in aside:
            break
        aside.add(_asked(row.prompt))
    return [row for row in rows if _asked(row.prompt) not in aside], [row for row in rows if _asked(row.prompt) in aside]


def _require_enough(proving: int, least: int) -> None:
    """Say before hours of training rather than after them that nothing could be proven by so few rows."""
    if proving < least:
        raise failed(
            "preparing",
            "too_few_to_prove",
            f"{proving} rows could be held out to prove that something was learned, {least} are needed; seal larger batches "
            "(RUMINATE_SEAL_AFTER_MIN_ROWS), hold out more of them (RUMINATE_HOLDOUT_RATIO), or set RUMINATE_PROOF=report",
            {"rows": proving, "needed": least},
        )


def _require_conversations(observations: Collection[str]) -> None:
    """The same, for rows of a few conversations: each is one observation, however many rows it gave."""
    if len(observations) < LEAST_OBSERVATIONS:
        raise failed(
            "preparing",
            "too_few_to_prove",
            f"what is held out is of {len(observations)} conversations, and of fewer than {LEAST_OBSERVATIONS} nothing can be "
            "proven; seal larger batches (RUMINATE_SEAL_AFTER_MIN_ROWS), hold out more of them (RUMINATE_HOLDOUT_RATIO), or set "
            "RUMINATE_PROOF=report",
            {"conversations": len(observations), "needed": LEAST_OBSERVATIONS},
        )


def _can_be_decided(question: Question, plan: JobPlan) -> bool:
    """Whether its check says anything here: tests do where code is run."""
    return question.check is not None and (question.check.kind != "python_tests" or plan.code is not None)


def divide(held_out: Sequence[Row]) -> tuple[list[Row], list[Row]]:
    """The rows to look at, and those that prove: by a hash of what is asked, so that a question is on one side in both modes."""
    if len(held_out) < LEAST_TO_DIVIDE:
        return [], list(held_out)
    sides: tuple[list[Row], list[Row]] = ([], [])
    for row in held_out:
        sides[hashlib.sha256(_asked(row.prompt).encode()).digest()[0] % 2].append(row)
    return sides[0][:MOST_WATCHED], sides[1]


def _known(questions: Sequence[Question], known: Conversations, split: Split) -> list[Question]:
    """The questions of a file, each with its conversation."""
    conversations = known.of_questions(split, len(questions))
    return [
        question.model_copy(update={"conversation": conversation})
        for question, conversation in zip(questions, conversations, strict=True)
    ]


def _exam(
    plan: JobPlan, folder: Path, proving: Sequence[Asked], watched: Sequence[Row], verifiable: Sequence[Question]
) -> list[Question]:
    seen = {_asked(row.prompt) for row in watched}
    unseen = [question for question in verifiable if _asked(question.prompt) not in seen]
    questions = held_out_questions(proving, unseen)
    for name in sorted(plan.proof.exams):
        path = folder / EXAMS_FOLDER / f"{name}.jsonl"
        with path.open(encoding="utf-8") as lines:
            questions += read_questions(lines, name=name, where=path.name)
    return some_of(questions, plan.proof.questions)


def _asked(prompt: Sequence[Message]) -> str:
    return "\x1e".join(message.content for message in prompt)


def _thinking_tokens(row: Row, tokenizer: Any, least: int) -> int:
    thought = row.completion[0].reasoning_content
    if len(thought.encode()) < least:
        return 0  # a token is a byte at least
    return len(tokenizer(thought, add_special_tokens=False)["input_ids"])


def _lines(path: Path, read: Callable[..., list[T]]) -> list[T]:
    """What a file that older datasets have not holds."""
    try:
        with path.open(encoding="utf-8") as lines:
            return read(lines, where=path.name)
    except FileNotFoundError:
        return []
    except UnicodeDecodeError as error:
        raise BadDataset(f"{path.name} is not UTF-8 ({error.reason} at byte {error.start})") from None
