"""`ruminate demo`: the loop, live, stage by stage.

start -> ask (before) -> teach -> judge -> batch -> train -> deploy -> ask (after)
"""

from __future__ import annotations

import asyncio
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import aclosing, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import orjson
from aiokafka import AIOKafkaProducer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from ruminate.command.base import asked_of_small_base, small_base
from ruminate.command.connection import open_bus, read_addresses, settings_for
from ruminate.command.demo.examiner import Examiner, count_right
from ruminate.command.demo.lesson import (
    GARBAGE,
    examination,
    fact_exchanges,
    interaction,
    problem_exchanges,
    sums,
    unseen_problems,
    wrong_answers,
)
from ruminate.command.demo.screen import compare, counted, counter, introduce, say_plainly, say_what_was_kept, where_things_are
from ruminate.command.events import publish
from ruminate.command.plan import Wishes
from ruminate.command.supervisor import SupervisorError, running_supervisor
from ruminate.command.up import bring_up
from ruminate.schemas.assessment import Verdict
from ruminate.schemas.flow import (
    ADAPTER_TRAINED,
    FLOW,
    INTERACTION_COMPLETED,
    MODEL_REGISTERED,
    MODEL_ROLLED_BACK,
    REASONING_ASSESSED,
    TRAINING_BATCH_SEALED,
    TRAINING_FAILED,
    TRAINING_PROGRESSED,
)
from ruminate.schemas.interaction import InteractionCompleted
from ruminate.schemas.model import ModelRolledBack
from ruminate.schemas.topic import Topic
from ruminate.schemas.training import AdapterTrained, TrainingFailed
from ruminate.shared.bus import Bus, Delivery
from ruminate.shared.connection import aiokafka_options
from ruminate.shared.kafka import KafkaBus
from ruminate.shared.letters import Box, read_letters
from ruminate.shared.settings import ServiceSettings
from ruminate.shared.topics import open_admin

TARGET = "qwen3-tiny"
SOURCE = "/agents/demo-agent"
LONGEST_STAGE_SECONDS = 600.0

# What a laptop needs to learn in a minute: a small batch, many steps, a rate that would harm a real model.
SMALL_SETTINGS = {
    # Of 560 rows about 500 are left to train on; which ones are held out depends on the order in which they are judged. A few that
    # are missing, refused or not yet judged by a machine that has other work, do not stop the batch, and it teaches as well.
    "RUMINATE_SEAL_AT_ROWS": "470",
    "RUMINATE_SEAL_AFTER_SECONDS": "10",
    "RUMINATE_SEAL_AFTER_MIN_ROWS": "450",
    "RUMINATE_HOLDOUT_RATIO": "0.08",
    # As many sums as new rows are seen, each of them once: what a model this small has learned, it forgets as fast as it learns.
    "RUMINATE_ANCHOR_RATIO": "0.82",
    "RUMINATE_REHEARSAL_EPOCHS": "1",
    # Of what is practised here it would not get one right: all of it are facts that it has to be told, and problems beyond it.
    "RUMINATE_TRAINING_STAGES": '["thinking_fusion"]',
    "RUMINATE_PROOF_ANSWER_TOKENS": "64",
    "RUMINATE_PROOF_BATCH_ROWS": "64",
    "RUMINATE_PROOF_QUESTIONS": "256",
    # Each fact is told in nine wordings; which eight would be kept depends on their order in the log.
    "RUMINATE_CLUSTER_MOST_ROWS": "16",
    "RUMINATE_LEARNING_RATE": "1.25e-3",
    "RUMINATE_WARMUP_RATIO": "0.1",
    "RUMINATE_TRAINING_EPOCHS": "4.5",
    # A second thread gains little here, and on a machine that has other work it waits for the first more than it helps.
    "RUMINATE_TRAINING_THREADS": "1",
    "RUMINATE_BATCH_ROWS": "16",
    "RUMINATE_MICRO_BATCH_ROWS": "16",
    "RUMINATE_MAX_ROW_TOKENS": "512",
    "RUMINATE_MERGED_DTYPE": "float32",
    "RUMINATE_EQUALITY_PROBES": "16",
    "RUMINATE_CHECKPOINT_STEPS": "120",
    "RUMINATE_NODE_STATUS_SECONDS": "1",
    # Asked what it was never taught, a model this small babbles, and may babble tags.
    "RUMINATE_PROBE_QUESTION": "What is the capital of Zarvex?",
}


class DemoFailed(SupervisorError):
    """The loop did not close; says at which stage and why."""


@dataclass
class Report:
    """Everything that the demo measured; what `--report` writes."""

    seconds: dict[str, float] = field(default_factory=dict)
    found: dict[str, Any] = field(default_factory=dict)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Measure the seconds that a stage takes."""
        begun = time.monotonic()
        yield
        self.seconds[name] = round(time.monotonic() - begun, 2)

    def as_json(self) -> bytes:
        """The report as it is written to the file."""
        return orjson.dumps({"seconds": self.seconds, **self.found}, option=orjson.OPT_INDENT_2)


async def run_demo(
    state: Path, *, report: Path | None, keep: bool, console: Console, kafka: str | None = None, nodes: tuple[str, ...] = ()
) -> None:
    """Run the whole demo in `state`; raises SupervisorError when the loop does not close.

    Without `kafka` and `nodes`, on the embedded broker and node.
    """
    introduce(console, state)
    _forget_earlier_run(state)
    measured = Report()
    settings = {**SMALL_SETTINGS, **asked_of_small_base(state)}
    wishes = Wishes(state=state, kafka=kafka, nodes=nodes, target=TARGET, base=str(small_base()), settings=settings)
    if kafka is not None:
        await _demand_no_history(settings_for(kafka=kafka, profile="kafka", state=state))
    begun = time.monotonic()

    def say(text: str) -> None:
        console.print(f"  {text}", style="dim", highlight=False)

    console.rule("1  start", align="left")
    async with bring_up(wishes, say=say) as supervisor:
        measured.seconds["start"] = round(time.monotonic() - begun, 2)
        await supervisor.unless_ended(_close_the_loop(state, measured, console))
        measured.seconds["whole"] = round(time.monotonic() - begun, 2)
        if report is not None:
            report.write_bytes(measured.as_json())
            console.print(f"report: {report}", highlight=False)
        where_things_are(console, state, measured.found, measured.seconds)
        if keep:
            console.print("\nEverything goes on running. Stop with Ctrl-C, or from elsewhere:  ruminate down --state " + str(state))
            await supervisor.until_stopped()


async def _close_the_loop(state: Path, measured: Report, console: Console) -> None:
    addresses = read_addresses(state)
    questions = examination()
    async with open_bus(state, None) as bus, Examiner(addresses.gateway, addresses.target) as examiner:
        console.rule("2  before: the model can calculate, and knows none of the facts", align="left")
        exercises = sums()
        asked = len(questions) + len(exercises)
        with measured.stage("before"), counter(console, "asking through the gateway", asked) as advance:
            before = await examiner.ask(questions, on_reply=advance)
            calculated = await examiner.calculate(exercises, on_reply=advance)
        begun = time.monotonic()
        console.rule("3  teach: finished conversations enter, by HTTP and by the topic", align="left")
        with measured.stage("teach"):
            taught = await _teach(bus, state, measured, console)
        console.rule("4  judge: what is worth learning from", align="left")
        with measured.stage("judge"):
            await _judge(bus, taught, measured, console)
            await _show_dead_letters(bus, measured, console)
        console.rule("5  batch: a dataset is cut from the log", align="left")
        with measured.stage("batch"):
            sealed = (await _first_of(bus, TRAINING_BATCH_SEALED)).payload
        console.print(
            f"  {sealed.batch_id}: {sealed.rows} rows, {sealed.reasoning_ratio:.0%} with thinking; sealed by {sealed.reason}: "
            f"{sealed.explanation}",
            highlight=False,
        )
        console.rule("6  train: LoRA on the CPU", align="left")
        with measured.stage("train"):
            await _train(bus, measured, console)
        console.rule("7  deploy: to the node, proven, registered", align="left")
        with measured.stage("deploy"):
            registered = await _registered(bus)
        model = registered.payload
        measured.seconds["loop"] = round(time.monotonic() - begun, 2)
        measured.found |= {
            "registered_event_id": registered.envelope.id,
            "version": model.version,
            "model_name": model.model_name,
            "nodes": [node.model_dump(mode="json") for node in model.nodes],
            "dataset": sealed.dataset.uri,
            "adapter": model.adapter.uri,
            "weights": model.weights.uri,
        }
        measured.found["served"] = [served.model_dump(mode="json") for served in model.served]
        for served in model.served:
            console.print(
                f"  {served.questions} questions of its exam asked again on {served.node} in {served.seconds:.0f} s: "
                "it serves what was proven",
                highlight=False,
            )
        console.print(
            f"  model-registered-v1 {registered.envelope.id}: {model.version} of {model.target_model} serves as {model.model_name}"
        )
        console.rule("8  after: the same questions", align="left")
        with measured.stage("after"), counter(console, "asking through the gateway", asked) as advance:
            await _until_version_answers(examiner, model.version, questions)
            after = await examiner.ask(questions, on_reply=advance)
            calculates = await examiner.calculate(exercises, on_reply=advance)
        problems = unseen_problems()
        with measured.stage("unseen problems"), counter(console, "asking problems that are in no row", len(problems)) as advance:
            solved = await examiner.solve(problems, on_reply=advance)
        compare(console, before, after)
        say_what_was_kept(console, calculated, calculates, len(exercises))
        say_plainly(console, solved, len(problems))
        measured.found |= {
            "right": {"before": count_right(before), "after": count_right(after), "of": len(questions) // 4},
            "sums": {"before": calculated, "after": calculates, "of": len(exercises)},
            "unseen_problems": {"right": solved, "of": len(problems)},
            "answered_by": after[-1].version,
        }


# --- the stages -----------------------------------------------------------------------------------------------------


async def _teach(bus: Bus, state: Path, measured: Report, console: Console) -> frozenset[str]:
    """Send the lesson, half by HTTP and half by the topic, with garbage among it; return the ids that must be judged.

    The facts first: what they are asked about is in the batch, even where it is cut before the last problems are judged.
    """
    addresses = read_addresses(state)
    run, now = "demo", datetime.now(UTC)
    facts, problems = fact_exchanges(), problem_exchanges()
    lesson = [
        interaction(exchange, number=number, run=run, target=TARGET, at=now) for number, exchange in enumerate([*facts, *problems])
    ]
    lesson += wrong_answers(run=run, target=TARGET, at=now)
    for what, part in (("facts", lesson[: len(facts)]), ("problems and wrong answers", lesson[len(facts) :])):
        by_http, by_topic = part[::2], part[1::2]
        answers = await _post(addresses.collector, by_http)
        console.print(
            f"  {what}, {len(by_http)} by POST {addresses.collector}/v1/interactions: {counted(answers)}", highlight=False
        )
        count = await publish(bus, by_topic, source=SOURCE)
        console.print(f"  {what}, {count} by interaction-completed-v1: acknowledged", highlight=False)
    refused = []
    async with httpx.AsyncClient(base_url=addresses.collector, timeout=30) as client:
        for what, body in GARBAGE:
            answer = await client.post("/v1/interactions", content=body, headers={"content-type": "application/json"})
            refused.append({"what": what, "status": answer.status_code, "error": answer.json()["error"]})
            console.print(f"  garbage, {what}: HTTP {answer.status_code}, {answer.json()['error']}", highlight=False, style="dim")
    settings = settings_for(kafka=addresses.kafka, profile=addresses.kafka_profile, state=state)
    await _produce_raw(settings, [body for _, body in GARBAGE])
    measured.found["refused_by_http"] = refused
    return frozenset(one.interaction_id for one in lesson)


async def _produce_raw(settings: ServiceSettings, bodies: Sequence[bytes]) -> None:
    """What a broken agent does: bytes on the topic, with headers that look right."""
    headers = [
        ("ce_specversion", b"1.0"),
        ("ce_id", uuid4().hex.encode()),
        ("ce_source", SOURCE.encode()),
        ("ce_type", INTERACTION_COMPLETED.event_type.encode()),
    ]
    async with AIOKafkaProducer(**aiokafka_options(settings)) as producer:
        for body in bodies:
            await producer.send_and_wait(INTERACTION_COMPLETED.name, body, headers=headers)


async def _post(collector: str, interactions: Sequence[InteractionCompleted]) -> list[str]:
    body = b"\n".join(one.model_dump_json().encode() for one in interactions)
    headers = {"content-type": "application/x-ndjson", "x-ruminate-source": SOURCE}
    async with httpx.AsyncClient(timeout=60) as client:
        answer = await client.post(f"{collector}/v1/interactions", content=body, headers=headers)
    if answer.status_code != httpx.codes.OK:
        raise DemoFailed(f"the collector answered {answer.status_code}: {answer.text[:500]}")
    return [orjson.loads(line)["status"] for line in answer.text.splitlines()]


async def _judge(bus: Bus, taught: frozenset[str], measured: Report, console: Console) -> None:
    verdicts: dict[str, Verdict] = {}  # the latest of each: evidence judges an interaction again
    with counter(console, "judged", len(taught)) as advance:
        async with asyncio.timeout(LONGEST_STAGE_SECONDS):
            async for delivery in bus.read(REASONING_ASSESSED, follow=True):
                # The examination was captured and is judged, too; without consent it is never trained on.
                name = delivery.payload.interaction.interaction_id
                if name not in taught:
                    continue
                if name not in verdicts:
                    advance()
                verdicts[name] = delivery.payload.verdict
                if len(verdicts) == len(taught):
                    break
    rejected: list[dict[str, Any]] = [
        {"interaction": name, "reasons": list(verdict.reasons)} for name, verdict in verdicts.items() if verdict.decision != "keep"
    ]
    kept = len(verdicts) - len(rejected)
    console.print(f"  {kept} kept, {len(rejected)} rejected:", highlight=False)
    for item in rejected:
        console.print(f"  rejected {item['interaction']}: {'; '.join(item['reasons'])}", highlight=False, style="dim")
    measured.found |= {"kept": kept, "rejected": rejected}


async def _show_dead_letters(bus: KafkaBus, measured: Report, console: Console) -> None:
    letters = (await read_letters(bus, [Box(INTERACTION_COMPLETED, "collector")])).standing()
    for letter in letters:
        place = f"{letter.position.partition}:{letter.position.offset}"
        console.print(f"  dead letter {place}: {letter.reason}, {letter.explanation}", style="dim", highlight=False)
    measured.found["dead_letters"] = [{"reason": letter.reason, "explanation": letter.explanation} for letter in letters]


async def _train(bus: Bus, measured: Report, console: Console) -> None:
    watching = asyncio.create_task(_show_progress(bus, console))
    try:
        ended = (await _first_of(bus, ADAPTER_TRAINED, TRAINING_FAILED)).payload
    finally:
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)
    if isinstance(ended, TrainingFailed):
        raise DemoFailed(f"training failed ({ended.reason}): {ended.explanation}")
    adapter: AdapterTrained = ended
    measured.found["training"] = {"metrics": adapter.metrics, "settings": adapter.settings, "stages": list(adapter.stages)}
    equal = ", ".join(f"{one.encoding} {one.equal}/{one.probes} {one.method}" for one in adapter.equality)
    console.print(
        f"  {adapter.version} trained in {adapter.duration_seconds:.0f} s; llama.cpp answers as transformers does: {equal}",
        highlight=False,
    )


async def _show_progress(bus: Bus, console: Console) -> None:
    columns = (
        TextColumn("  {task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[says]}"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console) as progress:
        task = progress.add_task("preparing", total=None, says="")
        async for delivery in bus.read(TRAINING_PROGRESSED, follow=True):
            step = delivery.payload
            loss = "" if step.loss is None else f"loss {step.loss:.3f}"
            eta = "" if step.eta_seconds is None else f"  {step.eta_seconds:.0f} s to go"
            progress.update(task, description=step.phase, completed=step.step, total=step.steps or None, says=loss + eta)


async def _registered(bus: Bus) -> Delivery[Any]:
    ended = await _first_of(bus, MODEL_REGISTERED, MODEL_ROLLED_BACK)
    if isinstance(ended.payload, ModelRolledBack):
        raise DemoFailed(f"{ended.payload.version} was rolled back at {ended.payload.stage}: {ended.payload.reason}")
    return ended


async def _until_version_answers(examiner: Examiner, version: str, questions: Sequence[Any]) -> None:
    """The gateway reads the registration as everyone does: a moment later."""
    async with asyncio.timeout(LONGEST_STAGE_SECONDS):
        while examiner.version != version:
            await examiner.ask(questions[:1], on_reply=lambda: None)


async def _first_of(bus: Bus, *topics: Topic[Any]) -> Delivery[Any]:
    """The first event on any of the topics. Raises DemoFailed when none comes."""

    async def first(topic: Topic[Any]) -> Delivery[Any]:
        async with aclosing(bus.read(topic, follow=True)) as events:
            return await anext(events)

    waiting = [asyncio.create_task(first(topic)) for topic in topics]
    try:
        done, _ = await asyncio.wait(waiting, timeout=LONGEST_STAGE_SECONDS, return_when=asyncio.FIRST_COMPLETED)
        if not done:
            raise DemoFailed(f"nothing came on {' or '.join(topic.name for topic in topics)} within {LONGEST_STAGE_SECONDS:.0f} s")
        return done.pop().result()
    finally:
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)


async def _demand_no_history(settings: ServiceSettings) -> None:
    """The demo takes the first batch and the first model that it sees for its own."""
    async with open_admin(settings) as admin:
        missing = {topic.name for topic in (await admin.plan(FLOW)).creations}
    there = [topic.name for topic in FLOW if topic.name not in missing]
    if there:
        raise DemoFailed(
            f"the Kafka at {settings.kafka_bootstrap} has topics of a loop already ({', '.join(there[:3])}, …), and the demo needs "
            "one without a history. Name another, or leave --kafka out"
        )


def _forget_earlier_run(state: Path) -> None:
    """The embedded broker starts empty, so what an earlier run left behind has no history any more."""
    pid = running_supervisor(state)
    if pid is not None:
        raise SupervisorError(f"a demo runs in {state} (pid {pid}); type:  ruminate down --state {state}   or take another --state")
    if (state / "supervisor.json").exists():
        for left in state.iterdir():
            if left.name == "base":
                continue
            if left.is_dir():
                shutil.rmtree(left)
            else:
                left.unlink()
