"""The panel over real HTTP: further answers to a question become evidence; without them, everything goes on as before."""

from __future__ import annotations

import asyncio
import hashlib
import signal
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import date
from itertools import count
from pathlib import Path
from typing import Any, TypedDict, Unpack

import pytest

from ruminate.assessor.asking.panel import Panel, PanelPlan
from ruminate.assessor.finding.findings import find
from ruminate.assessor.judging.decide import assess
from ruminate.assessor.judging.knowledge import Agreement, Knowledge
from ruminate.assessor.policy import Policy
from ruminate.embedded.broker import embedded_broker
from ruminate.schemas.assessment import ReasoningAssessed
from ruminate.schemas.envelope import derive_event_id
from ruminate.schemas.evidence import EvidenceRecorded
from ruminate.schemas.flow import EVIDENCE_RECORDED, INTERACTION_RECORDED, LESSON_NOTED, REASONING_ASSESSED
from ruminate.schemas.interaction import InteractionRecorded, ToolCall
from ruminate.shared.kafka import KafkaBus
from ruminate.shared.memory import MemoryBroker, MemoryBus
from ruminate.shared.ollama import OllamaClient
from ruminate.shared.settings import ServiceSettings
from ruminate.shared.topics import ensure_topics
from tests.contract.ollama_contract import HELLO, ONE_THREAD
from tests.integration.asking_world import MODEL, Node, World, counted, played, until
from tests.integration.test_assessor_service import publish, running
from tests.plugins.node import RunningNode, TinyModels
from tests.solutions import interaction

QUESTION = "Ann has 3 apples and buys 4 more apples. How many apples does Ann have now?"


def named(name: str, *, answer: str = "7", question: str = QUESTION, **changed: Any) -> InteractionRecorded:
    recorded_id = derive_event_id(tenant="default", cause_source="/agents/t", cause_id=name, topic=INTERACTION_RECORDED.name)
    changed = {"interaction_id": name, "conversation_id": f"c-{name}", "recorded_id": recorded_id, "source": "/agents/t"} | changed
    thinking = f"Ann has 3 apples and buys 4, so she has 3 + 4 = {answer} apples. {name} says so."
    return interaction(question, thinking, answer).model_copy(update=changed)


def says(*answers: str) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """The answers in turn, the last one again and again, each with thinking of its own."""
    told: Iterator[int] = count()

    def say(_: dict[str, Any]) -> dict[str, Any]:
        turn = next(told)
        content = answers[min(turn, len(answers) - 1)]
        return {"message": {"role": "assistant", "content": content, "thinking": f"Way {turn}."}, "done_reason": "stop"}

    return say


class Changes(TypedDict, total=False):
    """Of the panel's plan."""

    calls_a_day: int
    timeout_seconds: float
    waiting: int


def plan(url: str, **changed: Unpack[Changes]) -> PanelPlan:
    made = PanelPlan(url=url, model=MODEL, doubt=(0.0, 1.0), timeout_seconds=5.0, after_seconds=0.0)
    return replace(made, **changed)


def asked(node: Node, *interactions: InteractionRecorded, **changed: Unpack[Changes]) -> World:
    """The world after a panel on that node was offered these."""

    async def scenario(world: World) -> None:
        async with node.open() as url, world.running(panel=plan(url, **changed)) as bus:
            for each in interactions:
                await world.record(bus, each)

    return played(scenario)


def passed_over(reason: str) -> float:
    return counted("panel_passed_over", reason=reason)


def overall(assessed: ReasoningAssessed) -> float:
    assert assessed.verdict.overall.value is not None
    return assessed.verdict.overall.value


def test_answers_that_agree_are_evidence_that_judges_again_and_teaches_nothing() -> None:
    node = Node(says("7", "The answer is 7.", "\\boxed{7}", "8"))

    async def scenario(world: World) -> None:
        async with node.open() as url, world.running(panel=plan(url)) as bus:
            await world.record(bus, named("i-1"))
            await until(lambda: len(world.judged()) == 2)

    world = played(scenario)
    (said,) = world.evidence("agreement")
    assert (said.said_by, said.model, said.agreeing, said.disagreeing) == ("panel", MODEL, 3, 0)
    first, second = world.judged()
    assert overall(second) > overall(first)
    assert not world.broker.records(LESSON_NOTED.name)


def test_the_question_is_asked_as_it_was_with_other_seeds_and_the_models_own_temperature() -> None:
    node = Node(says("7", "8", "9", "10"))
    asked(node, named("i-1"))
    assert [body["options"]["seed"] for body in node.asked] == [0, 1, 2, 3]
    for body in node.asked:
        assert body["messages"] == [{"role": "user", "content": QUESTION}]
        assert (body["model"], body["think"]) == (MODEL, True)
        assert "temperature" not in body["options"]
        assert "format" not in body
    direct = Node(says("7"))
    asked(direct, named("i-2", thinking=interaction(QUESTION, None, "7").thinking))
    assert {body["think"] for body in direct.asked} == {False}


def test_it_ends_where_the_last_answer_cannot_alter_which_side_has_more() -> None:
    node = Node(says("7"))
    (said,) = asked(node, named("i-1")).evidence("agreement")
    assert (said.agreeing, len(node.asked)) == (3, 3)


def test_the_same_text_again_is_no_second_opinion() -> None:
    greedy = Node(lambda _: {"message": {"role": "assistant", "content": "8", "thinking": "Always so."}, "done_reason": "stop"})
    (said,) = asked(greedy, named("i-1")).evidence("agreement")
    assert (said.agreeing, said.disagreeing, len(greedy.asked)) == (0, 1, 2)
    own = named("i-2")
    copy = {"message": {"role": "assistant", "content": "7", "thinking": own.response.thinking}, "done_reason": "stop"}
    assert not asked(Node(lambda _: copy), own).evidence("agreement")


@pytest.mark.parametrize(
    "unasked",
    [
        named("reference", reference_answer="7"),
        named("tools").model_copy(
            update={"response": named("tools").response.model_copy(update={"tool_calls": (ToolCall(name="add"),)})}
        ),
        named("long", question="word " * 3_000),
        named("formless", answer="It depends on very many things that nobody has told me so far. " * 4),
        named("known", outcome="failed"),
    ],
    ids=lambda each: each.interaction_id,
)
def test_what_is_known_or_cannot_be_asked_or_compared_costs_nothing(unasked: InteractionRecorded) -> None:
    node = Node(says("7"))
    assert not asked(node, unasked).evidence("agreement")
    assert not node.asked


def test_answers_without_a_form_end_it_early() -> None:
    before, node = passed_over("nothing_to_compare"), Node(says("It depends on very many things that nobody told me so far. " * 5))
    assert not asked(node, named("i-1")).evidence("agreement")
    assert (len(node.asked), passed_over("nothing_to_compare")) == (2, before + 1)


@pytest.mark.parametrize("ended", [{"done_reason": "length"}, {}], ids=["at its limit", "broken off"])
def test_an_answer_that_was_cut_off_does_not_count(ended: dict[str, str]) -> None:
    cut = Node(lambda _: {"message": {"role": "assistant", "content": "8"}} | ended)
    assert not asked(cut, named("i-1")).evidence("agreement")


@pytest.mark.parametrize(
    ("node", "changed", "reason"),
    [
        (Node(says("7"), status=503), {}, "node_away"),
        (Node(says("7"), status=400), {}, "node_refused"),
        (Node(says("7"), delay_seconds=2.0), {"timeout_seconds": 0.2}, "too_slow"),
        (Node(lambda _: {"nonsense": True}), {}, "node_away"),
        (Node(lambda _: ""), {}, "nothing_to_compare"),
    ],
)
def test_without_its_answers_everything_goes_on(node: Node, changed: Changes, reason: str) -> None:
    before = passed_over(reason)
    world = asked(node, named("i-1"), **changed)
    assert len(world.judged()) == 1
    assert not world.evidence("agreement")
    assert passed_over(reason) == before + 1


def test_a_spent_budget_keeps_what_was_paid_for_and_the_next_day_has_one_of_its_own() -> None:
    before, days, node = passed_over("over_budget"), [date(2026, 1, 1)], Node(says("7", "8"))

    async def scenario(world: World) -> None:
        async with node.open() as url, world.running(panel=plan(url, calls_a_day=2), today=lambda: days[-1]) as bus:
            await world.record(bus, named("i-1"))
            await world.record(bus, named("i-2", question="Ben has 1 pear and buys 2 pears. How many pears does Ben have?"))
            await world.record(bus, named("i-3", tenant="acme"))
            assert len(node.asked) == 4
            days.append(date(2026, 1, 2))
            await world.record(bus, named("i-4", question="Cem has 2 figs and buys 2 figs. How many figs does Cem have?"))

    world = played(scenario)
    said = {each.recorded_id: (each.agreeing or 0) + (each.disagreeing or 0) for each in world.evidence("agreement")}
    assert said == {named(name).recorded_id: 2 for name in ("i-1", "i-3", "i-4")}
    assert passed_over("over_budget") == before + 4


def test_what_was_said_to_a_question_serves_its_other_answers_and_a_redelivery_under_the_same_id() -> None:
    node = Node(says("7"))
    world = asked(node, named("i-1"), named("i-1"), named("i-2", answer="8"))
    assert len(node.asked) == 3
    ids = [dict(record.headers)["ce_id"] for record in world.broker.records(EVIDENCE_RECORDED.name)]
    assert (len(ids), len(set(ids))) == (3, 2)
    said = {each.recorded_id: (each.agreeing, each.disagreeing) for each in world.evidence("agreement")}
    assert said == {named("i-1").recorded_id: (3, 0), named("i-2").recorded_id: (0, 3)}


def test_asked_and_logged_answers_are_carried_side_by_side() -> None:
    node = Node(says("7"))

    def last(world: World, name: str) -> dict[str | None, int | None]:
        found = [each for each in world.judged() if each.interaction.interaction_id == name]
        return {each.model: each.agreeing for each in max(found, key=lambda each: each.revision).evidence}

    async def scenario(world: World) -> None:
        async with node.open() as url, world.running(panel=plan(url), compares=True) as bus:
            await world.record(bus, named("i-1"), named("i-2"))
            await until(lambda: all(last(world, name).keys() == {None, MODEL} for name in ("i-1", "i-2")))

    world = played(scenario)
    assert last(world, "i-1")[None] == last(world, "i-2")[None] == 1


async def reconsidered(node: Node, again: Knowledge) -> list[EvidenceRecorded]:
    """What a panel says of an interaction that is judged again, in the light of that, while it waits for its turn."""
    it, broker = named("i-1"), MemoryBroker()
    found, verdict = find(it, most_characters=10_000), assess(it, Policy())
    async with node.open() as url, MemoryBus(broker, reader="assessor") as bus, Panel(bus, plan(url)) as panel:
        panel.offer(it, found, verdict, Knowledge())
        panel.reconsider(it, verdict, again)
        async with asyncio.timeout(20):
            await panel.settled()
    return [EvidenceRecorded.model_validate_json(each.value or b"") for each in broker.records(EVIDENCE_RECORDED.name)]


def test_other_answers_in_the_log_come_first_and_only_those_that_are_wanting_are_asked_for() -> None:
    node = Node(says("7", "8"))
    (said,) = asyncio.run(reconsidered(node, Knowledge(agreement=Agreement(1, 1))))
    assert (said.agreeing, said.disagreeing, len(node.asked)) == (1, 1, 2)


@pytest.mark.parametrize("again", [Knowledge(agreement=Agreement(3, 1)), Knowledge(outcome="failed")])
def test_whom_the_log_has_settled_meanwhile_is_not_asked(again: Knowledge) -> None:
    before, node = passed_over("no_longer_in_doubt"), Node(says("7"))
    assert not asyncio.run(reconsidered(node, again))
    assert not node.asked
    assert passed_over("no_longer_in_doubt") == before + 1


def test_who_finds_the_queue_full_is_passed_over_and_nobody_waits() -> None:
    node, before = Node(says("7"), delay_seconds=1.0), passed_over("queue_full")

    async def scenario(world: World) -> None:
        async with node.open() as url, world.running(panel=plan(url, waiting=1)) as bus:
            for number in range(6):
                each = named(f"i-{number}", question=f"Ann has {number} apples and buys 4 apples. How many has she?")
                envelope = bus.begin(INTERACTION_RECORDED, each, event_id=str(each.recorded_id), source="/ruminate/collector")
                await bus.publish(INTERACTION_RECORDED, each, envelope)
            async with asyncio.timeout(0.9):
                while len(world.judged()) < 6:
                    await asyncio.sleep(0.01)

    played(scenario)
    assert passed_over("queue_full") >= before + 3


def test_a_real_engine_whose_model_never_comes_to_an_end_says_nothing(embedded_node: RunningNode, tiny_models: TinyModels) -> None:
    before = passed_over("nothing_to_compare") + passed_over("too_slow")

    async def scenario(world: World) -> None:
        digest = hashlib.sha256(tiny_models.babble.read_bytes()).hexdigest()
        async with OllamaClient(embedded_node.url) as client:
            await client.push_blob(tiny_models.babble, digest)
            await client.create(MODEL, files={"model.gguf": digest})
        async with world.running(panel=plan(embedded_node.url, timeout_seconds=60.0)) as bus:
            direct = named("i-1", thinking=interaction(QUESTION, None, "7").thinking)
            await world.record(bus, direct)

    assert not played(scenario).evidence("agreement")
    assert passed_over("nothing_to_compare") + passed_over("too_slow") == before + 1


@pytest.mark.real
@pytest.mark.parametrize("fixture", ["older_ollama", "newer_ollama"])
def test_ollama_itself_answers_again(fixture: str, request: pytest.FixtureRequest, tiny_models: TinyModels) -> None:
    url: str = request.getfixturevalue(fixture).url
    it, before = named("i-1", question=HELLO[0]["content"], answer="Blue"), passed_over("nothing_to_compare")

    async def scenario(world: World) -> None:
        digest = hashlib.sha256(tiny_models.talk.read_bytes()).hexdigest()
        async with OllamaClient(url) as client:
            await client.push_blob(tiny_models.talk, digest)
            await client.create(MODEL, files={"model.gguf": digest}, parameters=ONE_THREAD)
        async with world.running(panel=plan(url, timeout_seconds=60.0)) as bus:
            await world.record(bus, it)

    # What the tiny model says has no form; but it was asked and it said so, with thinking, and in the end.
    played(scenario)
    assert passed_over("nothing_to_compare") == before + 1
    assert counted("panel_answers", model=MODEL, said="nothing to compare") >= 2


def test_the_service_asks_whom_its_settings_name(tmp_path: Path) -> None:
    node = Node(says("7"))

    async def scenario(bootstrap: str) -> None:
        settings = ServiceSettings(kafka_bootstrap=bootstrap, kafka_profile="embedded", state_dir=tmp_path)
        await ensure_topics(settings)
        async with node.open() as url, KafkaBus(settings, reader="tests") as bus:
            told = {
                "RUMINATE_PANEL_URL": url,
                "RUMINATE_PANEL_MODEL": MODEL,
                "RUMINATE_PANEL_DOUBT_FROM": "0",
                "RUMINATE_PANEL_DOUBT_TO": "1",
                "RUMINATE_PANEL_AFTER_SECONDS": "0",
            }
            with running(settings, **told) as process:
                await publish(bus, named("i-1"))
                found: list[ReasoningAssessed] = []
                async with asyncio.timeout(60):
                    while not any(said.said_by == "panel" for each in found for said in each.evidence):
                        await asyncio.sleep(0.1)
                        found = [delivery.payload async for delivery in bus.read(REASONING_ASSESSED)]
                process.send_signal(signal.SIGTERM)
                assert await asyncio.to_thread(process.wait, 30) == 0

    with embedded_broker() as broker:
        asyncio.run(scenario(broker.bootstrap))
