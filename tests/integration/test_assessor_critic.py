"""The critic over real HTTP: its word becomes evidence and judges again; without it, everything goes on as before."""

from __future__ import annotations

import asyncio
import hashlib
import json
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any, TypedDict, Unpack
from uuid import UUID

import pytest
from prometheus_client import REGISTRY
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from ruminate.assessor.asking.critic import Critic, CriticPlan
from ruminate.assessor.asking.rubric import PARTS
from ruminate.assessor.evidence.casebook import Casebook, CasebookWindow
from ruminate.assessor.handle import Scorer, assess_one
from ruminate.assessor.judging.decide import untaught
from ruminate.assessor.policy import Policy
from ruminate.assessor.reassess import reassess
from ruminate.embedded.broker import embedded_broker
from ruminate.schemas.assessment import ReasoningAssessed
from ruminate.schemas.envelope import derive_event_id
from ruminate.schemas.evidence import EvidenceRecorded
from ruminate.schemas.flow import EVIDENCE_RECORDED, INTERACTION_RECORDED, LESSON_NOTED, REASONING_ASSESSED
from ruminate.schemas.interaction import AnswerCheck, InteractionRecorded
from ruminate.shared.kafka import KafkaBus
from ruminate.shared.memory import MemoryBroker, MemoryBus
from ruminate.shared.ollama import OllamaClient
from ruminate.shared.operations import serve_http
from ruminate.shared.settings import ServiceSettings
from ruminate.shared.topics import ensure_topics
from tests.integration.test_assessor_service import publish, running
from tests.plugins.node import RunningNode, TinyModels
from tests.solutions import interaction

POLICY = Policy()
MODEL = "judge:1b"
QUESTION = "Ann has 3 apples and buys 4 more apples. How many apples does Ann have now?"


def named(name: str, *, answer: str = "7", **changed: Any) -> InteractionRecorded:
    recorded_id = derive_event_id(tenant="default", cause_source="/agents/t", cause_id=name, topic=INTERACTION_RECORDED.name)
    changed = {"interaction_id": name, "conversation_id": f"c-{name}", "recorded_id": recorded_id, "source": "/agents/t"} | changed
    thinking = f"Ann has 3 apples and buys 4, so she has 3 + 4 = {answer} apples."
    return interaction(QUESTION, thinking, answer).model_copy(update=changed)


def scores(points: int, body: dict[str, Any]) -> str:
    return json.dumps(dict.fromkeys(body["format"]["required"], points))


def kind_of(body: dict[str, Any]) -> str:
    return "pair" if body["format"]["required"] == ["better"] else "scores"


@dataclass
class Node:
    """A node of Ollama's API whose model says what the test wants."""

    says: Callable[[dict[str, Any]], str] = lambda body: scores(2, body)
    status: int = 200
    delay_seconds: float = 0.0
    asked: list[dict[str, Any]] = field(default_factory=list)

    async def chat(self, request: Request) -> Response:
        body = await request.json()
        self.asked.append(body)
        await asyncio.sleep(self.delay_seconds)
        if self.status != 200:
            return JSONResponse({"error": "no"}, self.status)
        return JSONResponse({"message": {"role": "assistant", "content": self.says(body)}, "done": True, "done_reason": "stop"})

    @asynccontextmanager
    async def open(self) -> AsyncIterator[str]:
        app = Starlette(routes=[Route("/api/chat", self.chat, methods=["POST"])])
        async with serve_http(app, host="127.0.0.1", port=0, name="judge", grace_seconds=1) as port:
            yield f"http://127.0.0.1:{port}"


class Changes(TypedDict, total=False):
    """Of the critic's plan."""

    calls_a_day: int
    seconds_a_day: float
    timeout_seconds: float
    waiting: int
    known_share: float


class World:
    """The assessor with a critic, on one broker."""

    def __init__(self) -> None:
        self.broker = MemoryBroker()
        self.critic: Critic

    @asynccontextmanager
    async def running(
        self, url: str, *, today: Callable[[], date] = date.today, **changed: Unpack[Changes]
    ) -> AsyncIterator[MemoryBus]:
        scorer = Scorer(POLICY, POLICY.version, lambda *_: untaught(POLICY))
        plan = replace(CriticPlan(url=url, model=MODEL, doubt=(0.0, 1.0), timeout_seconds=5.0), **changed)
        async with AsyncExitStack() as resources:
            bus = await resources.enter_async_context(MemoryBus(self.broker, reader="assessor"))
            judging = await resources.enter_async_context(MemoryBus(self.broker, reader="assessor-evidence"))
            casebook = await resources.enter_async_context(Casebook(judging, CasebookWindow(120_000, 1 << 20, 1_200)))
            critic = Critic(bus, plan, today=today)
            self.critic = await resources.enter_async_context(critic)
            again = partial(reassess, casebook=casebook, scorer=scorer)
            tasks = [
                asyncio.create_task(bus.serve(INTERACTION_RECORDED, partial(assess_one, scorer=scorer, critic=critic))),
                asyncio.create_task(judging.serve(EVIDENCE_RECORDED, again, on_assigned=casebook.open, on_revoked=casebook.forget)),
            ]
            try:
                yield bus
            finally:
                async with asyncio.timeout(20):
                    await asyncio.gather(bus.stop(), judging.stop())
                    await asyncio.gather(*tasks)

    async def record(self, bus: MemoryBus, *interactions: InteractionRecorded) -> None:
        before = len(self.broker.records(REASONING_ASSESSED.name))
        for each in interactions:
            envelope = bus.begin(INTERACTION_RECORDED, each, event_id=str(each.recorded_id), source="/ruminate/collector")
            await bus.publish(INTERACTION_RECORDED, each, envelope)
        await until(lambda: len(self.broker.records(REASONING_ASSESSED.name)) >= before + len(interactions))
        async with asyncio.timeout(20):
            await self.critic.settled()

    def evidence(self) -> list[EvidenceRecorded]:
        return [EvidenceRecorded.model_validate_json(each.value or b"") for each in self.broker.records(EVIDENCE_RECORDED.name)]

    def judged(self) -> list[ReasoningAssessed]:
        return [ReasoningAssessed.model_validate_json(each.value or b"") for each in self.broker.records(REASONING_ASSESSED.name)]


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.01)


def played(scenario: Callable[[World], Awaitable[None]]) -> World:
    world = World()

    async def play() -> None:
        await scenario(world)

    asyncio.run(play())
    return world


def passed_over(reason: str) -> float:
    return REGISTRY.get_sample_value("ruminate_critic_passed_over_total", {"reason": reason}) or 0.0


def compared(said: str) -> float:
    return REGISTRY.get_sample_value("ruminate_critic_compared_total", {"model": MODEL, "said": said}) or 0.0


def test_its_word_is_evidence_that_judges_again_and_teaches_nothing() -> None:
    node = Node()

    async def scenario(world: World) -> None:
        async with node.open() as url, world.running(url) as bus:
            await world.record(bus, named("i-1"))
            await until(lambda: len(world.judged()) == 2)

    world = played(scenario)
    (said,) = world.evidence()
    assert (said.kind, said.said_by, said.model, said.judged) == ("judged", "critic", MODEL, dict.fromkeys(PARTS, 0.2))
    first, second = world.judged()
    assert second.evidence == (said,)
    assert first.verdict.overall.value is not None
    assert second.verdict.overall.value is not None
    assert second.verdict.overall.value < first.verdict.overall.value
    assert f"{MODEL} gives it 0.20" in second.verdict.overall.evidence
    assert first.verdict.answer_quality == second.verdict.answer_quality
    assert not world.broker.records(LESSON_NOTED.name)
    (body,) = node.asked
    assert (body["model"], body["think"], body["stream"]) == (MODEL, False, False)
    assert body["options"]["temperature"] == 0
    assert body["format"]["additionalProperties"] is False


def test_each_question_has_a_mark_of_its_own() -> None:
    node = Node()

    async def scenario(world: World) -> None:
        async with node.open() as url, world.running(url) as bus:
            await world.record(bus, named("i-1"), named("i-2", answer="8"))

    played(scenario)
    marks = {body["messages"][1]["content"].split(" ")[0] for body in node.asked if kind_of(body) == "scores"}
    assert len(marks) == 2
    assert all(len(mark) == 24 for mark in marks)


@pytest.mark.parametrize("believes", ["the answer", "the place"])
def test_of_two_answers_it_prefers_one_only_if_it_does_in_both_orders(believes: str) -> None:
    def says(body: dict[str, Any]) -> str:
        if kind_of(body) == "scores":
            return scores(5, body)
        text = body["messages"][1]["content"]
        first = text[text.index("begin first answer\n") + 19 :]
        better = "first" if believes == "the place" or first.startswith("7") else "second"
        return json.dumps({"better": better})

    node = Node(says)
    one, other = named("i-1", answer="7"), named("i-2", answer="8")

    async def scenario(world: World) -> None:
        async with node.open() as url, world.running(url) as bus:
            await world.record(bus, one)
            await world.record(bus, other)

    world = played(scenario)
    assert [kind_of(body) for body in node.asked] == ["scores", "scores", "pair", "pair"]
    preferences = {said.recorded_id: said.preferred for said in world.evidence() if said.preferred is not None}
    assert preferences == ({one.recorded_id: True, other.recorded_id: False} if believes == "the answer" else {})


def test_what_was_said_of_the_same_texts_is_remembered_and_said_under_the_same_id() -> None:
    node = Node()

    async def scenario(world: World) -> None:
        async with node.open() as url, world.running(url) as bus:
            await world.record(bus, named("i-1"))
            await world.record(bus, named("i-1"))
            await world.record(bus, named("i-2"))

    world = played(scenario)
    assert len(node.asked) == 1
    assert len(world.evidence()) == 3
    ids = [dict(record.headers)["ce_id"] for record in world.broker.records(EVIDENCE_RECORDED.name)]
    assert len(set(ids)) == 2


@pytest.mark.parametrize(
    ("node", "changed", "reason"),
    [
        (Node(lambda _: "10 out of 10!"), {}, "garbage"),
        (Node(lambda body: scores(99, body)), {}, "garbage"),
        (Node(lambda _: '{"better": "first"}'), {}, "garbage"),
        (Node(status=503), {}, "node_away"),
        (Node(status=404), {}, "node_refused"),
        (Node(delay_seconds=2.0), {"timeout_seconds": 0.2}, "too_slow"),
    ],
)
def test_without_its_word_everything_goes_on(node: Node, changed: Changes, reason: str) -> None:
    before = passed_over(reason)

    async def scenario(world: World) -> None:
        async with node.open() as url, world.running(url, **changed) as bus:
            await world.record(bus, named("i-1"))

    world = played(scenario)
    assert len(world.judged()) == 1
    assert not world.evidence()
    assert passed_over(reason) == before + 1


def test_a_node_that_is_not_there_costs_no_budget() -> None:
    before = passed_over("node_away")
    node = Node()

    async def scenario(world: World) -> None:
        async with world.running("http://127.0.0.1:9", calls_a_day=1) as bus:
            await world.record(bus, named("i-1"), named("i-2", answer="8"))
        assert passed_over("node_away") == before + 2
        async with node.open() as url, world.running(url, calls_a_day=1) as bus:
            await world.record(bus, named("i-3", answer="9"))

    assert len(played(scenario).evidence()) == 1


def test_the_budget_is_the_tenants_and_the_days() -> None:
    node, before, days = Node(), passed_over("over_budget"), [date(2026, 1, 1)]

    async def scenario(world: World) -> None:
        async with node.open() as url, world.running(url, calls_a_day=1, today=lambda: days[-1]) as bus:
            await world.record(bus, named("i-1"))
            await world.record(bus, named("i-2", answer="8"))
            await world.record(bus, named("i-3", answer="9", tenant="acme"))
            days.append(date(2026, 1, 2))
            await world.record(bus, named("i-4", answer="10"))

    world = played(scenario)
    assert passed_over("over_budget") >= before + 1
    judged = {said.recorded_id for said in world.evidence() if said.judged}
    assert judged == {named(name).recorded_id for name in ("i-1", "i-3", "i-4")}


def test_seconds_are_a_budget_too() -> None:
    node = Node(delay_seconds=0.1)

    async def scenario(world: World) -> None:
        async with node.open() as url, world.running(url, seconds_a_day=0.05) as bus:
            await world.record(bus, named("i-1"), named("i-2", answer="8"))

    assert len(played(scenario).evidence()) == 1


def test_while_it_thinks_others_are_judged_and_who_finds_the_queue_full_is_passed_over() -> None:
    node, before = Node(delay_seconds=1.0), passed_over("queue_full")

    async def scenario(world: World) -> None:
        async with node.open() as url, world.running(url, waiting=1) as bus:
            for number in range(6):
                each = named(f"i-{number}", answer=str(number))
                envelope = bus.begin(INTERACTION_RECORDED, each, event_id=str(each.recorded_id), source="/ruminate/collector")
                await bus.publish(INTERACTION_RECORDED, each, envelope)
            async with asyncio.timeout(0.9):
                while len(world.judged()) < 6:
                    await asyncio.sleep(0.01)

    world = played(scenario)
    assert passed_over("queue_full") >= before + 3
    assert len(world.judged()) >= 6


def test_what_turned_out_otherwise_is_counted() -> None:
    before = compared("opposite"), compared("same")
    node = Node(lambda body: scores(1, body))

    async def scenario(world: World) -> None:
        async with node.open() as url, world.running(url, known_share=1.0) as bus:
            await world.record(bus, named("right", reference_answer="7"), named("wrong", answer="8", reference_answer="7"))
            await until(lambda: len(world.judged()) >= 4)

    world = played(scenario)
    assert (compared("opposite"), compared("same")) == (before[0] + 1, before[1] + 1)
    decided = [each for each in world.judged() if each.interaction.interaction_id == "right"]
    assert all(each.verdict.overall.value is not None and each.verdict.overall.value > 0.9 for each in decided)


def test_a_real_engine_whose_model_never_comes_to_an_end_is_cut_off(embedded_node: RunningNode, tiny_models: TinyModels) -> None:
    before = passed_over("garbage")

    async def scenario(world: World) -> None:
        digest = hashlib.sha256(tiny_models.babble.read_bytes()).hexdigest()
        async with OllamaClient(embedded_node.url) as client:
            await client.push_blob(tiny_models.babble, digest)
            await client.create(MODEL, files={"model.gguf": digest})
        async with world.running(embedded_node.url, timeout_seconds=60.0) as bus:
            await world.record(bus, named("i-1"))

    assert not played(scenario).evidence()
    assert passed_over("garbage") == before + 1


def heard(found: list[ReasoningAssessed]) -> set[UUID]:
    """Whom the critic's word judged again."""
    return {each.recorded_id for each in found for said in each.evidence if said.kind == "judged" and said.model == MODEL}


def test_the_service_asks_whom_its_settings_name_and_checks_what_its_policy_allows(tmp_path: Path) -> None:
    node = Node()
    tested = named("tested", answer="```python\ndef double(n): return 2 * n\n```").model_copy(
        update={"answer_check": AnswerCheck(kind="python_tests", content="assert double(2) == 4")}
    )
    formed = named("formed", answer='{"name": "Ann"}').model_copy(
        update={"answer_check": AnswerCheck(kind="json_schema", content='{"required": ["age"]}')}
    )

    async def scenario(bootstrap: str) -> None:
        settings = ServiceSettings(kafka_bootstrap=bootstrap, kafka_profile="embedded", state_dir=tmp_path)
        await ensure_topics(settings)
        async with node.open() as url, KafkaBus(settings, reader="tests") as bus:
            told = {
                "RUMINATE_CRITIC_URL": url,
                "RUMINATE_CRITIC_MODEL": MODEL,
                "RUMINATE_CRITIC_DOUBT_FROM": "0",
                "RUMINATE_CRITIC_DOUBT_TO": "1",
                "RUMINATE_CRITIC_KNOWN_SHARE": "0",
                "RUMINATE_ASSESSMENT__RUN_CODE": "true",
            }
            with running(settings, **told) as process:
                await publish(bus, named("i-1"), tested, formed)
                found: list[ReasoningAssessed] = []
                async with asyncio.timeout(60):
                    while len({each.recorded_id for each in found}) < 3 or not heard(found):
                        await asyncio.sleep(0.1)
                        found = [delivery.payload async for delivery in bus.read(REASONING_ASSESSED)]
                process.send_signal(signal.SIGTERM)
                assert await asyncio.to_thread(process.wait, 30) == 0
        assert heard(found) == {named("i-1").recorded_id}
        quality = {each.interaction.interaction_id: each.verdict.answer_quality for each in found}
        assert quality["formed"].value == 0.0
        assert quality["tested"].evidence[0] in (
            "right by the tests: 1 of 1 hold",
            "the check does not decide: tests that could not be run here",  # where there are no namespaces
        )

    with embedded_broker() as broker:
        asyncio.run(scenario(broker.bootstrap))
