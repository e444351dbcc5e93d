"""The exam of a version, asked once more where it is served: do weights, engine and template give what was proven?

The questions and what came of them lie beside the adapter (exam.json); those of the batch's hold-out stand in the dataset alone.
One that has left it since, for somebody wanted to be forgotten, is asked no more. No code of answers is run here: where only
that would tell, right or wrong stays open.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import structlog
from pydantic import ValidationError

from ruminate.deployer import metrics
from ruminate.deployer.settings import DeployerSettings
from ruminate.grading.grade import Grader
from ruminate.proof.asking import graded_by
from ruminate.proof.exam import Question, held_out_questions, read_asked, read_verifiable
from ruminate.proof.judge import compare_served, in_words, lost
from ruminate.proof.on_node import AskingOfNode, sit_on_node
from ruminate.proof.record import EXAM_FILE, AskedAgain, ExamRecord, ask_again
from ruminate.schemas.model import ServedExam
from ruminate.schemas.payload import ArtifactReference
from ruminate.schemas.training import AdapterTrained
from ruminate.shared.bus import Unavailable
from ruminate.shared.lines import lines_of
from ruminate.shared.ollama import OllamaClient
from ruminate.shared.store import ArtifactDamaged, ArtifactMissing, NotInFolder, Store

log = structlog.get_logger()

_HELD_OUT: Final = "holdout.jsonl"
_CHECKS: Final = "verifiable-holdout.jsonl"


@dataclass(frozen=True)
class Exam:
    """What is asked again, what came of it when the version was proven, and how it is asked."""

    recorded: ExamRecord
    again: AskedAgain
    encoding: str
    side_by_side: int


async def read_exam(trained: AdapterTrained, encoding: str, store: Store, settings: DeployerSettings) -> Exam | None:
    """The exam that a version has sat, or None: it was not proven, or nothing is to be asked again.

    Raises Unavailable where the store lacks what there should be.
    """
    if settings.served_questions == 0:
        return None
    try:
        content = await _read(store, trained.adapter, EXAM_FILE)
    except ArtifactMissing as error:
        raise Unavailable(f"{trained.adapter.uri} is not in the store ({error}); mount the store or restore the file") from error
    if content is None:
        log.info("no_exam_to_ask_again", why="the version was trained without a proof, or by an earlier release")
        return None
    try:
        recorded = ExamRecord.model_validate_json(content)
    except ValidationError as error:
        where = ".".join(str(part) for part in error.errors(include_input=False)[0]["loc"])
        raise Unavailable(f"{EXAM_FILE} of {trained.version} is of a later release (at {where}); update the deployer") from None
    again = ask_again(recorded, await _held_out(store, trained.dataset), most=settings.served_questions)
    if not again.questions:
        return None
    return Exam(recorded, again, encoding, settings.served_questions_at_once)


async def examine(exam: Exam, client: OllamaClient, node: str, model: str, *, timeout_seconds: float) -> ServedExam:
    """Ask a node. Raises NodeUnavailable, and NodeRefused where it refuses every question."""
    recorded, again = exam.recorded, exam.again
    asking = AskingOfNode(
        answer_tokens=recorded.answer_tokens,
        seed=recorded.seed,
        side_by_side=exam.side_by_side,
        timeout_seconds=timeout_seconds,
        drawn=lambda thinks: recorded.sampling(thinks=thinks),
    )
    began = time.monotonic()
    with Grader() as grader:
        answers = await sit_on_node(client, model, again.questions, graded_by(grader), asking, on_progress=_telling(node, model))
    findings = compare_served(again.questions, again.answered, answers, recorded.policy)
    missing, seconds = lost(findings), time.monotonic() - began
    metrics.EXAM_SECONDS.labels(node).observe(seconds)
    return ServedExam(
        node=node,
        engine_version=await client.version(),
        encoding=exam.encoding,
        questions=len(answers),
        gone=again.gone,
        kept=not missing,
        because=in_words(missing),
        findings=tuple(finding.model_dump(mode="json", exclude_none=True) for finding in findings),
        seconds=round(seconds, 2),
    )


def _telling(node: str, model: str) -> Callable[[int, int], None]:
    """A line in the log for every fourth of the questions."""

    def tell(done: int, of: int) -> None:
        if done * 4 // of > (done - 1) * 4 // of:
            log.info("exam_progressed", node=node, model=model, answered=done, questions=of)

    return tell


async def _held_out(store: Store, dataset: ArtifactReference) -> list[Question]:
    """What the dataset still asks: nothing where an erasure has put another in its place."""
    try:
        rows, checks = await _read(store, dataset, _HELD_OUT), await _read(store, dataset, _CHECKS)
    except ArtifactMissing:
        return []
    return held_out_questions(
        read_asked(lines_of(rows or b""), where=_HELD_OUT), read_verifiable(lines_of(checks or b""), where=_CHECKS)
    )


async def _read(store: Store, tree: ArtifactReference, path: str) -> bytes | None:
    """A file of a folder, or None where the folder has none of that name. Raises ArtifactMissing where there is no folder."""
    try:
        return await store.read_file(tree, path)
    except NotInFolder:
        return None
    except ArtifactDamaged as error:
        raise Unavailable(f"{error}; restore it from another copy") from error
