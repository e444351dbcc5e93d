"""The writer over real HTTP: verified thinking is carried with the verdict and moves nothing; everything else is passed over."""

from __future__ import annotations

import asyncio
import hashlib
import json
import signal
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import pytest

from ruminate.assessor.asking.writer import WriterPlan
from ruminate.embedded.broker import embedded_broker
from ruminate.schemas.assessment import ReasoningAssessed
from ruminate.schemas.envelope import derive_event_id
from ruminate.schemas.evidence import EvidenceRecorded
from ruminate.schemas.flow import EVIDENCE_RECORDED, INTERACTION_RECORDED, LESSON_NOTED, REASONING_ASSESSED
from ruminate.schemas.interaction import AnswerCheck, InteractionRecorded
from ruminate.shared.kafka import KafkaBus
from ruminate.shared.ollama import OllamaClient
from ruminate.shared.settings import ServiceSettings
from ruminate.shared.topics import ensure_topics
from tests.integration.asking_world import MODEL, Node, World, counted, played, until
from tests.integration.test_assessor_service import publish, running
from tests.plugins.node import RunningNode, TinyModels
from tests.solutions import interaction

QUESTION = "Mira has 14 books. She buys twice as many new ones, and gives 5 away. How many books does she have?"
SOUND = (
    "Mira buys 14 * 2 = 28 new books.\nTogether she has 14 + 28 = 42 books.\nAfter giving some of them away, 42 - 5 = 37 are left."
)


def named(name: str, *, reference: str | None = "37", **changed: Any) -> InteractionRecorded:
    recorded_id = derive_event_id(tenant="default", cause_source="/agents/t", cause_id=name, topic=INTERACTION_RECORDED.name)
    about = {"interaction_id": name, "conversation_id": f"c-{name}", "recorded_id": recorded_id, "source": "/agents/t"}
    return interaction(QUESTION, None, "37", reference).model_copy(update=about | {"training_allowed": True} | changed)


def kind_of(body: dict[str, Any]) -> str:
    return str(body["format"]["required"][0])


def writes(
    thinking: str = SOUND, *, concludes: str = "37", done_reason: str = "stop"
) -> Callable[[dict[str, Any]], dict[str, Any]]:
    def say(body: dict[str, Any]) -> dict[str, Any]:
        said = json.dumps({"thinking": thinking} if kind_of(body) == "thinking" else {"answer": concludes})
        return {"message": {"role": "assistant", "content": said}, "done_reason": done_reason}

    return say


def plan(url: str, **changed: Any) -> WriterPlan:
    return WriterPlan(url=url, model=MODEL, **{"timeout_seconds": 5.0} | changed)


def written(node: Node, *interactions: InteractionRecorded, **changed: Any) -> World:
    """The world after a writer on that node was offered these."""

    async def scenario(world: World) -> None:
        async with node.open() as url, world.running(writer=plan(url, **changed)) as bus:
            for each in interactions:
                await world.record(bus, each)
            told = len(world.evidence("thinking"))
            await until(lambda: len(world.judged()) == len(interactions) + told)

    return played(scenario)


def passed_over(reason: str) -> float:
    return counted("writer_passed_over", reason=reason)


def refused(fault: str) -> float:
    return counted("writer_refused", model=MODEL, fault=fault)


def thumb(about: InteractionRecorded, way: Any = "up") -> EvidenceRecorded:
    return EvidenceRecorded(
        tenant="default", recorded_id=about.recorded_id, conversation_id=about.conversation_id, kind="feedback",
        said_by="anna", said_at=about.occurred_at, thumb=way,
    )  # fmt: skip


def test_verified_thinking_is_carried_by_a_revision_whose_verdict_is_the_same() -> None:
    node = Node(writes())
    world = written(node, named("i-1"))
    (said,) = world.evidence("thinking")
    assert (said.said_by, said.model, said.thinking) == ("writer", MODEL, SOUND)
    first, second = sorted(world.judged(), key=lambda each: each.revision)
    assert second.evidence == (said,)
    assert second.verdict == first.verdict
    assert second.interaction == first.interaction
    assert len(world.broker.records(LESSON_NOTED.name)) == 1  # that the reference says it is right
    write, conclude = node.asked
    assert (kind_of(write), kind_of(conclude)) == ("thinking", "answer")
    assert "begin answer\n37\n" in write["messages"][1]["content"]
    assert "begin answer" not in conclude["messages"][1]["content"]
    assert (write["think"], write["options"]["temperature"]) == (False, 0)


def test_later_evidence_keeps_the_thinking_and_asks_for_no_other() -> None:
    node, it = Node(writes()), named("i-1")

    async def scenario(world: World) -> None:
        async with node.open() as url, world.running(writer=plan(url)) as bus:
            await world.record(bus, it)
            await until(lambda: len(world.judged()) == 2)
            await world.say(bus, thumb(it))

    world = played(scenario)
    last = max(world.judged(), key=lambda each: each.revision)
    assert [each.kind for each in last.evidence] == ["thinking", "feedback"]
    assert len(node.asked) == 2


def test_who_says_later_that_the_answer_was_right_has_its_thinking_written() -> None:
    node, it = Node(writes()), named("i-1", reference=None)

    async def scenario(world: World) -> None:
        async with node.open() as url, world.running(writer=plan(url)) as bus:
            await world.record(bus, it)
            assert not node.asked
            await world.say(bus, thumb(it))
            await until(lambda: world.evidence("thinking"))

    assert played(scenario).evidence("thinking")[0].recorded_id == it.recorded_id


@pytest.mark.parametrize(
    ("fault", "thinking"),
    [
        ("wrong_arithmetic", SOUND.replace("14 * 2 = 28", "14 * 3 = 28")),
        ("does_not_follow", f"{SOUND}\nSo Mira has 42 books."),
        ("unfounded", SOUND.replace("14 * 2 = 28", "56 / 2 = 28")),
        ("known_beforehand", f"We have to come to 37 books somehow.\n{SOUND}"),
        ("speaks_of_the_answer", f"The given answer can be reached.\n{SOUND}"),
        ("copied_question", f"{QUESTION} {QUESTION.removesuffix('?')}, and 14 * 2 + 14 - 5 = 37."),
        ("loop", f"{SOUND}\n{SOUND}"),
        ("too_short", "14 + 28 - 5 = 37."),
        ("markup", f"{SOUND}</think>"),
    ],
)
def test_thinking_that_fails_the_proofreader_is_not_told_and_nobody_is_asked_where_it_leads(fault: str, thinking: str) -> None:
    node, before = Node(writes(thinking)), (refused(fault), passed_over("refused"))
    world = written(node, named("i-1"))
    assert not world.evidence("thinking")
    assert len(world.judged()) == len(node.asked) == 1
    assert (refused(fault), passed_over("refused")) == (before[0] + 1, before[1] + 1)


def test_thinking_from_which_a_reader_does_not_come_to_the_answer_is_not_told() -> None:
    before = refused("another_answer")
    for reference in ("37", None):
        node = Node(writes(concludes="42"))
        assert not written(node, named("i-1", reference=reference, outcome="succeeded")).evidence("thinking")
        assert len(node.asked) == 2
    assert refused("another_answer") == before + 2


def test_where_an_answer_came_with_a_check_the_readers_answer_has_to_pass_it() -> None:
    checked = named("i-1", reference=None, answer_check=AnswerCheck(kind="exact", content="37"))
    assert written(Node(writes(concludes="37")), checked).evidence("thinking")
    assert not written(Node(writes(concludes="The answer is 37.")), checked).evidence("thinking")


def test_what_was_cut_off_is_refused_and_an_empty_text_is_none() -> None:
    before = refused("truncated"), passed_over("nothing_written")
    cut = Node(lambda _: {"message": {"role": "assistant", "content": f'{{"thinking": "{SOUND}'}, "done_reason": "length"})
    assert not written(cut, named("i-1")).evidence("thinking")
    assert not written(Node(writes("")), named("i-1")).evidence("thinking")
    assert (refused("truncated"), passed_over("nothing_written")) == (before[0] + 1, before[1] + 1)


def test_what_was_refused_is_not_paid_for_again() -> None:
    node, it = Node(writes(f"{SOUND}\nSo Mira has 42 books.")), named("i-1")

    async def scenario(world: World) -> None:
        async with node.open() as url, world.running(writer=plan(url)) as bus:
            await world.record(bus, it)
            await world.record(bus, it)
            await world.say(bus, thumb(it))

    assert not played(scenario).evidence("thinking")
    assert len(node.asked) == 1


def test_a_redelivered_interaction_has_the_same_thinking_under_the_same_id() -> None:
    node = Node(writes())
    world = written(node, named("i-1"), named("i-1"))
    ids = [dict(record.headers)["ce_id"] for record in world.broker.records(EVIDENCE_RECORDED.name)]
    assert (len(ids), len(set(ids)), len(node.asked)) == (2, 1, 2)


@pytest.mark.parametrize(
    ("node", "changed", "reason"),
    [
        (Node(lambda _: "Here you are: 14 * 2."), {}, "garbage"),
        (Node(lambda _: '{"answer": "37"}'), {}, "garbage"),
        (Node(writes(), status=503), {}, "node_away"),
        (Node(writes(), status=404), {}, "node_refused"),
        (Node(writes(), delay_seconds=2.0), {"timeout_seconds": 0.2}, "too_slow"),
        (Node(writes()), {"calls_a_day": 1}, "over_budget"),
        (Node(writes(), delay_seconds=0.1), {"seconds_a_day": 0.05}, "over_budget"),
    ],
)
def test_without_it_everything_goes_on(node: Node, changed: dict[str, Any], reason: str) -> None:
    before = passed_over(reason)
    world = written(node, named("i-1"), **changed)
    assert len(world.judged()) == 1
    assert not world.evidence("thinking")
    assert passed_over(reason) == before + 1


def test_the_budget_is_the_tenants_and_the_days() -> None:
    node, days = Node(writes()), [date(2026, 1, 1)]

    async def scenario(world: World) -> None:
        async with node.open() as url, world.running(writer=plan(url, calls_a_day=2), today=lambda: days[-1]) as bus:
            await world.record(bus, named("i-1"))
            await world.record(bus, named("i-2", reference=None, outcome="succeeded"))
            await world.record(bus, named("i-3", tenant="acme"))
            days.append(date(2026, 1, 2))
            await world.record(bus, named("i-4", reference="37.0"))

    told = {each.recorded_id for each in played(scenario).evidence("thinking")}
    assert told == {named(name).recorded_id for name in ("i-1", "i-3", "i-4")}


def test_a_real_engine_that_writes_nonsense_is_refused(embedded_node: RunningNode, tiny_models: TinyModels) -> None:
    async def scenario(world: World) -> None:
        digest = hashlib.sha256(tiny_models.babble.read_bytes()).hexdigest()
        async with OllamaClient(embedded_node.url) as client:
            await client.push_blob(tiny_models.babble, digest)
            await client.create(MODEL, files={"model.gguf": digest})
        async with world.running(writer=plan(embedded_node.url, timeout_seconds=60.0)) as bus:
            await world.record(bus, named("i-1"))

    reasons = ("garbage", "refused", "too_slow", "nothing_written")
    before = sum(map(passed_over, reasons))
    assert not played(scenario).evidence("thinking")
    assert sum(map(passed_over, reasons)) == before + 1


def test_the_service_asks_whom_its_settings_name(tmp_path: Path) -> None:
    node = Node(writes())

    async def scenario(bootstrap: str) -> None:
        settings = ServiceSettings(kafka_bootstrap=bootstrap, kafka_profile="embedded", state_dir=tmp_path)
        await ensure_topics(settings)
        async with node.open() as url, KafkaBus(settings, reader="tests") as bus:
            with running(settings, RUMINATE_WRITER_URL=url, RUMINATE_WRITER_MODEL=MODEL) as process:
                await publish(bus, named("i-1"))
                found: list[ReasoningAssessed] = []
                async with asyncio.timeout(60):
                    while not any(each.evidence for each in found):
                        await asyncio.sleep(0.1)
                        found = [delivery.payload async for delivery in bus.read(REASONING_ASSESSED)]
                process.send_signal(signal.SIGTERM)
                assert await asyncio.to_thread(process.wait, 30) == 0
        assert [said.thinking for each in found for said in each.evidence] == [SOUND]

    with embedded_broker() as broker:
        asyncio.run(scenario(broker.bootstrap))
