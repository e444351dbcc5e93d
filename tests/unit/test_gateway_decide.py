"""The gateway's decisions: names, nodes, callers, conversations."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from itertools import permutations

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ruminate.gateway.answer import Answer
from ruminate.gateway.conversation import Answers, Turn, chain, conversation_id
from ruminate.gateway.decide import (
    Catalogue,
    NodeView,
    Refused,
    Route,
    canonical,
    choose_node,
    interaction_of,
    read_caller,
    training_allowed,
)
from ruminate.gateway.question import Dialect, Question, Unrepresentable, read_object, read_question
from ruminate.schemas.interaction import InteractionCompleted, Message, ToolDefinition
from ruminate.schemas.model import ModelRegistered, ModelRolledBack, NodeDigest
from ruminate.schemas.payload import ArtifactReference

NOW = datetime(2026, 1, 1, tzinfo=UTC)
FILE = ArtifactReference(uri="file:///x", sha256="0" * 64, size_bytes=1)
PNG = b"\x89PNG and so on"
PNG_BASE64 = "iVBORyBhbmQgc28gb24="


def registered(number: int, *, tenant: str = "default", target: str = "qwen3:8b", on: str = "a") -> ModelRegistered:
    return ModelRegistered(
        tenant=tenant,
        target_model=target,
        version=f"{tenant}-{number}",
        number=number,
        model_name=f"{target}-{tenant}-{number}",
        alias=f"{target}-{tenant}-live",
        base_model="Qwen/Qwen3-8B",
        batch_id="b",
        dataset=FILE,
        adapter=FILE,
        weights=FILE,
        stages=(),
        settings={},
        metrics={},
        nodes=(NodeDigest(node=on, url="http://a", digest="0" * 64, engine_version="0.30.0"),),
        probes=(),
        capabilities=(),
        registered_at=NOW,
    )


def rolled_back(number: int, *, serving: int | None, tenant: str = "default") -> ModelRolledBack:
    return ModelRolledBack(
        tenant=tenant,
        target_model="qwen3:8b",
        version=f"{tenant}-{number}",
        serving_version=None if serving is None else f"{tenant}-{serving}",
        stage="live",
        reason="worse",
        rolled_back_at=NOW,
    )


def catalogue(*events: ModelRegistered | ModelRolledBack) -> Catalogue:
    made = Catalogue()
    for event in events:
        made.take(event)
    return made


@pytest.mark.parametrize(
    ("name", "full"),
    [
        ("qwen3", "qwen3:latest"),
        ("qwen3:8b", "qwen3:8b"),
        ("library/qwen3", "qwen3:latest"),
        ("registry.ollama.ai/library/qwen3:8b", "qwen3:8b"),
        ("host:5000/me/model", "host:5000/me/model:latest"),
    ],
)
def test_a_name_has_one_spelling(name: str, full: str) -> None:
    assert canonical(name) == full


def test_a_name_without_versions_goes_to_the_nodes_as_it_was_written() -> None:
    assert Catalogue().resolve("default", "qwen3") == Route(target="qwen3:latest", version="base", upstream="qwen3")


def test_the_highest_registration_answers_and_base_and_numbers_stay_reachable() -> None:
    known = catalogue(registered(1), registered(3), registered(2))
    assert known.resolve("default", "qwen3:8b").version == "default-3"
    assert known.resolve("default", "qwen3:8b").upstream == "qwen3:8b-default-3"
    assert known.resolve("default", "qwen3:8b@base") == Route(target="qwen3:8b", version="base", upstream="qwen3:8b")
    assert known.resolve("default", "qwen3:8b@v2").version == "default-2"
    assert known.resolve("default", "qwen3:8b@default-1").version == "default-1"
    with pytest.raises(Refused, match="base, v1, v3, v2") as refused:
        known.resolve("default", "qwen3:8b@v9")
    assert refused.value.status == 404


def test_the_alias_and_a_versions_own_name_belong_to_the_target() -> None:
    known = catalogue(registered(1), registered(2))
    assert known.resolve("default", "qwen3:8b-default-live").version == "default-2"
    own = known.resolve("default", "qwen3:8b-default-1")
    assert (own.target, own.version, own.upstream) == ("qwen3:8b", "default-1", "qwen3:8b-default-1")
    assert known.resolve("default", "qwen3:8b-default-live@base").upstream == "qwen3:8b"


def test_a_tenant_is_never_answered_by_what_another_taught() -> None:
    known = catalogue(registered(1, tenant="acme"))
    assert known.resolve("acme", "qwen3:8b").version == "acme-1"
    assert known.resolve("default", "qwen3:8b").version == "base"
    for name in ("qwen3:8b-acme-1", "qwen3:8b-acme-live"):
        with pytest.raises(Refused, match="another tenant"):
            known.resolve("default", name)


def test_the_first_record_of_a_version_is_the_accepted_one() -> None:
    known = catalogue(registered(1, on="first"), registered(1, on="second"))
    assert known.resolve("default", "qwen3:8b").registered_on == {"first"}


def test_what_serves_does_not_depend_on_the_order_in_which_the_topics_are_read() -> None:
    events: list[ModelRegistered | ModelRolledBack] = [registered(number) for number in (1, 2, 3)]
    events += [rolled_back(3, serving=1), rolled_back(1, serving=None)]
    assert {catalogue(*order).resolve("default", "qwen3:8b").version for order in permutations(events)} == {"base"}


def test_a_rollback_names_what_serves_in_its_place() -> None:
    known = catalogue(registered(1), registered(2), registered(3), rolled_back(3, serving=1))
    assert known.resolve("default", "qwen3:8b").version == "default-1"


def test_rollbacks_that_point_at_each_other_end_at_the_base() -> None:
    known = catalogue(registered(1), registered(2), rolled_back(2, serving=1), rolled_back(1, serving=2))
    assert known.resolve("default", "qwen3:8b").version == "base"


def test_a_catalogue_is_rebuilt_from_its_own_events() -> None:
    known = catalogue(registered(1), registered(2), rolled_back(2, serving=1))
    assert catalogue(*known.events()).events() == known.events()


def node(name: str, *models: str, healthy: bool = True, in_flight: int = 0) -> NodeView:
    return NodeView(name=name, url="http://" + name, healthy=healthy, in_flight=in_flight, models=frozenset(models))


BASE_ROUTE = Route(target="m:latest", version="base", upstream="m")
VERSION_ROUTE = Route(target="m:latest", version="v1", upstream="m-v1", registered_on=frozenset({"b"}))


def name_of(chosen: NodeView | None) -> str | None:
    return chosen.name if chosen else None


def test_the_node_with_the_fewest_requests_that_holds_the_model_answers() -> None:
    nodes = [
        node("a", "m:latest", in_flight=2),
        node("b", "m:latest", in_flight=1),
        node("c"),
        node("d", "m:latest", healthy=False),
    ]
    assert name_of(choose_node(nodes, BASE_ROUTE, {})) == "b"


def test_a_node_that_failed_this_request_comes_last_and_after_two_failures_not_at_all() -> None:
    nodes = [node("a", "m:latest"), node("b", "m:latest", in_flight=9)]
    assert name_of(choose_node(nodes, BASE_ROUTE, {"a": 1})) == "b"
    assert name_of(choose_node(nodes, BASE_ROUTE, {"a": 1, "b": 2})) == "a"
    assert choose_node(nodes, BASE_ROUTE, {"a": 2, "b": 2}) is None


def test_a_name_that_no_node_lists_goes_to_any_node_but_a_version_only_to_where_it_was_registered() -> None:
    nodes = [node("a"), node("b", in_flight=3)]
    assert name_of(choose_node(nodes, BASE_ROUTE, {})) == "a"
    assert name_of(choose_node(nodes, VERSION_ROUTE, {})) == "b"
    assert choose_node([node("a")], VERSION_ROUTE, {}) is None


def test_headers_say_who_asks_and_what_is_known() -> None:
    caller = read_caller(
        {
            "user-agent": "ollama-python/0.6 (x86)",
            "x-ruminate-tenant": "acme",
            "x-ruminate-tags": "debug, api ,",
            "x-ruminate-complexity": "expert",
            "x-ruminate-context": '{"codebase_lines": 12000, "build": "make", "other": {"os": "linux"}}',
            "x-ruminate-reference": "Gr%C3%BC%C3%9Fe%0A",
            "x-ruminate-outcome": "succeeded",
        }
    )
    assert (caller.tenant, caller.agent, caller.tags, caller.complexity) == ("acme", "ollama-python", ("debug", "api"), "expert")
    assert (caller.reference_answer, caller.outcome) == ("Grüße\n", "succeeded")
    assert caller.context.codebase_lines == 12000
    assert caller.context.other == {"build": "make", "os": "linux"}


@pytest.mark.parametrize(
    "headers",
    [
        {"x-ruminate-complexity": "hard"},
        {"x-ruminate-outcome": "good"},
        {"x-ruminate-training": "allow"},
        {"x-ruminate-context": "[1]"},
        {"x-ruminate-context": '{"codebase_lines": "many"}'},
        {"x-ruminate-reference": "%FF"},
        {"x-ruminate-tenant": "x" * 201},
        {"x-ruminate-tags": "ok," + "x" * 201},
    ],
)
def test_a_header_that_cannot_be_read_is_refused_by_its_name(headers: dict[str, str]) -> None:
    with pytest.raises(Refused, match=next(iter(headers))) as refused:
        read_caller(headers)
    assert refused.value.status == 400


@given(st.text(max_size=300))
def test_any_user_agent_gives_an_agent(user_agent: str) -> None:
    assert read_caller({"user-agent": user_agent}).agent


ASKED = Question(messages=(Message(role="user", content="why?"),), mode_asked="thinking", effort_asked="low")


def test_training_needs_the_tenants_policy_and_no_refusal_and_the_whole_prompt() -> None:
    acme, refusing = (
        read_caller({"x-ruminate-tenant": "acme"}),
        read_caller({"x-ruminate-tenant": "acme", "x-ruminate-training": "refuse"}),
    )
    raw = Question(messages=ASKED.messages, mode_asked=None, effort_asked=None, shaped_by=("raw",))
    assert training_allowed(acme, ASKED, {"acme"})
    assert not training_allowed(acme, ASKED, ())
    assert not training_allowed(read_caller({}), ASKED, {"acme"})
    assert not training_allowed(refusing, ASKED, {"acme"})
    assert not training_allowed(acme, raw, {"acme"})


def told(question: Question, answer: Answer) -> InteractionCompleted:
    return interaction_of(
        interaction_id="i",
        caller=read_caller({}),
        question=question,
        answer=answer,
        route=BASE_ROUTE,
        node="a",
        conversation_id="c",
        continues_interaction=None,
        occurred_at=NOW,
        first_token_seconds=0.5,
        training_tenants=(),
    )


def test_an_interaction_tells_the_mode_that_was_asked_for_and_the_one_that_was_used() -> None:
    answer = Answer("chat")
    answer.add(
        {
            "message": {"content": "because", "thinking": "hm"},
            "done": True,
            "done_reason": "stop",
            "eval_count": 7,
            "eval_duration": 2e9,
        }
    )
    interaction = told(ASKED, answer)
    assert (interaction.response.content, interaction.response.thinking) == ("because", "hm")
    assert (interaction.thinking.mode_used, interaction.thinking.effort_used, interaction.thinking.reason) == (
        "thinking",
        "low",
        "asked for",
    )
    assert (interaction.usage.response_tokens, interaction.usage.response_seconds, interaction.usage.first_token_seconds) == (
        7,
        2.0,
        0.5,
    )
    assert not interaction.training_allowed
    silent = Answer("chat", content=["because"])
    assert told(ASKED, silent).thinking.mode_used == "direct"
    assert "answered direct" in told(ASKED, silent).thinking.reason
    assert told(ASKED, silent).thinking.effort_used is None


@pytest.mark.parametrize(
    ("fields", "mode", "effort"),
    [
        ({}, None, None),
        ({"think": True}, "thinking", None),
        ({"think": False}, "direct", None),
        ({"think": "high"}, "thinking", "high"),
        ({"reasoning_effort": "none"}, "direct", None),
        ({"reasoning_effort": "low"}, "thinking", "low"),
        ({"reasoning": {"effort": "medium"}}, "thinking", "medium"),
    ],
)
def test_the_mode_asked_for_is_read_from_each_dialect(fields: dict[str, object], mode: str | None, effort: str | None) -> None:
    question = read_question("chat", {"messages": [{"role": "user", "content": "x"}], **fields})
    assert question is not None
    assert (question.mode_asked, question.effort_asked) == (mode, effort)


def test_messages_of_both_dialects_read_the_same() -> None:
    ollama = read_question(
        "chat",
        {
            "messages": [
                {"role": "user", "content": "look", "images": [PNG_BASE64]},
                {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "add", "arguments": {"a": 1}}}]},
                {"role": "tool", "content": "2", "tool_name": "add"},
            ]
        },
    )
    openai = read_question(
        "openai",
        {
            "messages": [
                {
                    "role": "user",
                    "content": [
                        {"type": "text", "text": "look"},
                        {"type": "image_url", "image_url": {"url": "data:image/png;base64," + PNG_BASE64}},
                    ],
                },
                {
                    "role": "assistant",
                    "content": None,
                    "tool_calls": [{"type": "function", "function": {"name": "add", "arguments": '{"a": 1}'}}],
                },
                {"role": "tool", "content": "2", "name": "add"},
            ]
        },
    )
    assert ollama == openai
    assert ollama is not None
    image = ollama.messages[0].images[0]
    assert (image.media_type, image.size_bytes) == ("image/png", len(PNG))


def test_the_tools_of_both_dialects_read_the_same_and_go_with_the_interaction() -> None:
    asked = {"messages": [{"role": "user", "content": "Rain?"}]}
    weather = {"name": "weather", "description": "Tells it.", "parameters": {"type": "object", "properties": {}}}
    dialects: tuple[Dialect, ...] = ("chat", "openai")
    for dialect in dialects:
        question = read_question(dialect, {**asked, "tools": [{"type": "function", "function": weather}]})
        assert question is not None
        assert question.tools == (ToolDefinition.model_validate(weather),)
        assert told(question, Answer(dialect, content=["x"])).tools == question.tools
        assert question.shaped_by == ()


def test_tools_that_cannot_be_told_leave_an_answer_from_which_nothing_is_learned() -> None:
    question = read_question("openai", {"messages": [{"role": "user", "content": "Rain?"}], "tools": [{"type": "web_search"}]})
    assert question is not None
    found = told(question, Answer("openai", content=["x"]))
    assert (found.tools, found.training_allowed, found.context.other["prompt_shaped_by"]) == ((), False, ["tools"])


def test_a_request_without_a_question_loads_a_model_and_is_no_interaction() -> None:
    assert read_question("chat", {"model": "m"}) is None
    assert read_question("generate", {"model": "m", "keep_alive": 0}) is None


def test_a_generate_request_that_shapes_its_prompt_says_so() -> None:
    question = read_question("generate", {"prompt": "p", "system": "s", "raw": True, "suffix": "", "context": [1]})
    assert question is not None
    assert [message.role for message in question.messages] == ["system", "user"]
    assert question.shaped_by == ("raw", "context")


def test_what_no_interaction_can_hold_is_said_without_contents() -> None:
    for message in ({"role": "ghost", "content": "secret"}, {"role": "user", "images": ["secret!"]}):
        with pytest.raises(Unrepresentable) as refused:
            read_question("chat", {"messages": [message]})
        assert "secret" not in str(refused.value)


@pytest.mark.parametrize("body", [b"", b"[1]", b"{", b'{"a": NaN}', b'{"a": 1e999}', b"\xff", b'"text"'])
def test_a_body_that_is_no_json_object_has_no_name(body: bytes) -> None:
    assert read_object(body) is None


def test_a_lone_surrogate_is_read_as_a_replacement_character() -> None:
    assert read_object(rb'{"a": "x\ud800y", "b": "\ud83d\ude00"}') == {"a": "x\ufffdy", "b": "😀"}


def user(text: str) -> Message:
    return Message(role="user", content=text)


def said(text: str) -> Message:
    return Message(role="assistant", content=text)


def links(*messages: Message) -> list[bytes]:
    return chain("default", "agent", messages)


def test_every_turn_of_a_conversation_has_the_same_name_on_every_replica() -> None:
    first = (user("a"),)
    later = (Message(role="system", content="It is noon."), user("a"), said(" b\n"), user("c"))
    assert conversation_id(first, links(*first)) == conversation_id(later, links(*later))
    assert conversation_id(first, links(*first)) != conversation_id((user("z"),), links(user("z")))
    assert conversation_id(first, links(*first)) != conversation_id(first, chain("default", "other", first))


def test_a_request_continues_the_latest_answer_that_it_contains() -> None:
    answers = Answers(10)
    answers.remember(links(user("a"), said("b"))[-1], Turn("c", "1"))
    answers.remember(links(user("a"), said("b"), user("c"), said("d"))[-1], Turn("c", "2"))

    def continued(*messages: Message) -> str | None:
        turn = answers.continued_by(messages, links(*messages))
        return turn.interaction_id if turn else None

    assert continued(user("a"), said("b"), user("other")) == "1"
    assert continued(user("a"), said("b"), user("c"), said("d"), user("e")) == "2"
    assert continued(user("a")) is None
    assert continued(user("a"), said("changed"), user("c")) is None


def test_the_oldest_answers_make_room() -> None:
    answers = Answers(2)
    for number in range(3):
        answers.remember(links(user(str(number)), said("x"))[-1], Turn("c", str(number)))
    kept = [answers.continued_by(m, links(*m)) is not None for n in range(3) for m in [(user(str(n)), said("x"), user("y"))]]
    assert kept == [False, True, True]


def test_an_interaction_survives_its_way_through_json() -> None:
    interaction = told(ASKED, Answer("chat", content=["x"]))
    assert InteractionCompleted.model_validate_json(orjson.dumps(orjson.loads(interaction.model_dump_json()))) == interaction


SCHEMA: dict[str, object] = {"type": "object", "required": ["name"]}


@pytest.mark.parametrize(
    ("dialect", "fields"),
    [
        ("chat", {"format": SCHEMA}),
        ("openai", {"response_format": {"type": "json_schema", "json_schema": {"name": "person", "schema": SCHEMA}}}),
    ],
)
def test_the_form_that_was_asked_for_becomes_the_check_of_the_answer(dialect: Dialect, fields: dict[str, object]) -> None:
    body = {"messages": [{"role": "user", "content": "Who?"}], **fields}
    question = read_question(dialect, body)
    assert question is not None
    check = told(question, Answer(dialect, content=["{}"])).answer_check
    assert check is not None
    assert check.kind == "json_schema"
    assert json.loads(check.content) == SCHEMA
    generated = read_question("generate", {"prompt": "Who?", "format": SCHEMA})
    assert generated is not None
    assert generated.answer_check == check


@pytest.mark.parametrize(
    ("dialect", "fields"),
    [
        ("chat", {}),
        ("chat", {"format": "json"}),
        ("chat", {"format": ""}),
        ("chat", {"response_format": {"type": "json_schema", "json_schema": {"schema": SCHEMA}}}),
        ("chat", {"format": {"description": "x" * 70_000}}),
        ("openai", {"format": SCHEMA}),
        ("openai", {"response_format": {"type": "json_object"}}),
        ("openai", {"response_format": {"type": "json_schema", "json_schema": "person"}}),
        ("openai", {"response_format": "json"}),
    ],
)
def test_what_is_no_small_schema_is_no_check(dialect: Dialect, fields: dict[str, object]) -> None:
    question = read_question(dialect, {"messages": [{"role": "user", "content": "Who?"}], **fields})
    assert question is not None
    assert question.answer_check is None
