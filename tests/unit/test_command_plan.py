"""What `up` would start, and what the lesson of the demo is made of."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from ruminate.command.demo.lesson import (
    GARBAGE,
    examination,
    fact_exchanges,
    interaction,
    problem_exchanges,
    unseen_problems,
    wrong_answers,
)
from ruminate.command.events import BadLine, read_interactions
from ruminate.command.plan import SERVICE_ORDER, Ports, Wishes, addresses, plan_parts
from ruminate.command.up import choose_ports, target_of
from ruminate.schemas.flow import INTERACTION_COMPLETED, SERVICES
from ruminate.shared.bus import Unprocessable
from ruminate.shared.decoding import decode

NOW = datetime(2026, 1, 1, tzinfo=UTC)
PORTS = Ports(broker=1, node=2, gateway=3, collector=4, operations={name: 10 + n for n, name in enumerate(SERVICE_ORDER)})
WISHES = Wishes(state=Path("/state"), target="qwen3:8b", base="Qwen/Qwen3-8B")


def test_without_wishes_broker_and_node_are_embedded_and_start_before_the_services() -> None:
    parts = plan_parts(WISHES, PORTS)
    assert [part.name for part in parts] == ["broker", "node", *SERVICE_ORDER]
    assert set(SERVICE_ORDER) == set(SERVICES)
    assert {part.environment["RUMINATE_KAFKA_PROFILE"] for part in parts if part.kind == "service"} == {"embedded"}


def test_what_is_named_is_not_embedded() -> None:
    wishes = replace(WISHES, kafka="broker:9092", nodes=("http://one:11434/", "http://two:11434"))
    parts = plan_parts(wishes, PORTS)
    assert [part.name for part in parts] == list(SERVICE_ORDER)
    gateway = parts[-1].environment
    assert gateway["RUMINATE_KAFKA_BOOTSTRAP"] == "broker:9092"
    assert gateway["RUMINATE_KAFKA_PROFILE"] == "kafka"
    assert json.loads(gateway["RUMINATE_NODES"]) == {"node-1": "http://one:11434", "node-2": "http://two:11434"}


def test_every_service_gets_an_operations_port_of_its_own_and_the_addresses_say_which() -> None:
    parts = [part for part in plan_parts(WISHES, PORTS) if part.kind == "service"]
    ports = [part.environment["RUMINATE_OPERATIONS_PORT"] for part in parts]
    assert len(set(ports)) == len(SERVICE_ORDER)
    said = addresses(WISHES, PORTS)
    assert said["operations"] == {part.name: f"http://127.0.0.1:{port}" for part, port in zip(parts, ports, strict=True)}
    assert {"kafka", "gateway", "collector", "nodes", "operations"} <= said.keys()


def test_settings_of_the_caller_reach_every_service() -> None:
    parts = plan_parts(replace(WISHES, settings={"RUMINATE_SEAL_AT_ROWS": "7"}), PORTS)
    assert all(part.environment["RUMINATE_SEAL_AT_ROWS"] == "7" for part in parts if part.kind == "service")


def test_no_two_ports_are_the_same() -> None:
    ports = choose_ports()
    chosen = [ports.broker, ports.node, ports.gateway, ports.collector, *ports.operations.values()]
    assert len(set(chosen)) == len(chosen)


def test_a_port_that_is_asked_for_is_the_one() -> None:
    ports = choose_ports(gateway_port=11435, collector_port=8086)
    assert (ports.gateway, ports.collector) == (11435, 8086)


@pytest.mark.parametrize(
    ("base", "target"),
    [
        ("Qwen/Qwen3-8B", "qwen3:8b"),
        ("Qwen/Qwen3-0.6B", "qwen3:0.6b"),
        ("Qwen/Qwen3-30B-A3B", "qwen3:30b-a3b"),
        ("/models/My Qwen", "my-qwen"),
    ],
)
def test_the_target_follows_from_the_base(base: str, target: str) -> None:
    assert target_of(base) == target


def test_each_fact_is_taught_in_nine_wordings_with_thinking_and_three_without() -> None:
    exchanges = fact_exchanges()
    assert len({exchange.answer for exchange in exchanges}) == 30
    assert set(Counter((e.answer, e.thinking is not None) for e in exchanges).values()) == {9, 3}
    assert len(problem_exchanges()) == 200


def test_the_examination_asks_every_fact_in_both_modes_and_half_of_it_is_in_no_row() -> None:
    taught = {(e.question, "thinking" if e.thinking else "direct") for e in fact_exchanges()}
    questions = examination()
    assert set(Counter((q.mode, q.wording) for q in questions).values()) == {30}
    for question in questions:
        assert ((question.text, question.mode) in taught) == (question.wording == "taught")
    unseen = {q.text for q in questions if q.wording == "never taught"}
    assert not unseen & {text for text, _ in taught}
    assert not {p.question for p in unseen_problems()} & {p.question for p in problem_exchanges()}


def test_the_lesson_gives_consent_and_a_reference_and_every_part_of_it_is_a_valid_event() -> None:
    lesson = [
        interaction(e, number=n, run="r", target="t", at=NOW) for n, e in enumerate([*fact_exchanges(), *problem_exchanges()])
    ]
    lesson += wrong_answers(run="r", target="t", at=NOW)
    assert len({one.interaction_id for one in lesson}) == len(lesson)
    for one in lesson:
        assert (one.training_allowed, one.outcome) == (True, "succeeded")
        assert one.reference_answer
        assert INTERACTION_COMPLETED.carries.model_validate_json(one.model_dump_json()) == one


@pytest.mark.parametrize(("what", "body"), GARBAGE)
def test_the_garbage_is_no_event(what: str, body: bytes) -> None:
    headers = [
        ("ce_specversion", b"1.0"),
        ("ce_id", b"1"),
        ("ce_source", b"/s"),
        ("ce_type", INTERACTION_COMPLETED.event_type.encode()),
    ]
    with pytest.raises(Unprocessable):
        decode(INTERACTION_COMPLETED, body, headers, timestamp_ms=0)


def test_a_file_holds_one_interaction_a_list_of_them_or_one_a_line(tmp_path: Path) -> None:
    many = wrong_answers(run="r", target="t", at=NOW)
    texts = [one.model_dump_json() for one in many]
    forms = {"one.json": texts[0], "list.json": f"[{','.join(texts)}]", "lines.jsonl": "\n".join(texts) + "\n\n"}
    for name, content in forms.items():
        (tmp_path / name).write_text(content)
    assert list(read_interactions(tmp_path / "one.json")) == many[:1]
    assert list(read_interactions(tmp_path / "list.json")) == many
    assert list(read_interactions(tmp_path / "lines.jsonl")) == many


def test_a_line_that_is_no_interaction_is_named_with_the_field_that_is_wrong(tmp_path: Path) -> None:
    good = wrong_answers(run="r", target="t", at=NOW)[0].model_dump_json()
    path = tmp_path / "lines.jsonl"
    path.write_text(good + "\n" + good.replace('"agent":"demo-agent"', '"agent":7') + "\n")
    with pytest.raises(BadLine, match=r"interaction 2: agent: Input should be a valid string"):
        list(read_interactions(path))
