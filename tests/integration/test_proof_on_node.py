"""An exam that is sat on a node: asked as an agent asks, and looked at as in the training process."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from infra.real.ollama import VERSIONS, ollama_node
from ruminate.grading.grade import Grader
from ruminate.proof.asking import graded_by
from ruminate.proof.exam import Question, read_questions
from ruminate.proof.messages import Message
from ruminate.proof.on_node import AskingOfNode, sit_on_node
from ruminate.proof.spoken import Answered
from ruminate.shared.ollama import NodeRefused, NodeUnavailable, OllamaClient
from ruminate.shared.store import hash_file
from tests.plugins.node import CALL, ENDLESS, TALK, Script, running_node, write_scripted_model
from tests.plugins.real import installed

BLUE = "Blue is the answer."
ADD = json.dumps([{"type": "function", "function": {"name": "add", "parameters": {"type": "object", "properties": {}}}}])


@pytest.fixture(scope="module", params=["embedded", *(pytest.param(each, marks=pytest.mark.real) for each in VERSIONS)])
def url(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A node of each kind."""
    if request.param == "embedded":
        with running_node(tmp_path_factory.mktemp("node")) as node:
            yield node.url
    else:
        with installed(), ollama_node(request.param) as real:
            yield real.url


def sat(url: str, path: Path, script: Script, questions: Sequence[Question], *, tokens: int = 32) -> tuple[Answered, ...]:
    """The exam of a model that says what the script says."""

    async def ask() -> tuple[Answered, ...]:
        model = write_scripted_model(path / "model.gguf", script)
        sha256, _ = hash_file(model)
        name = f"m{sha256[:12]}"
        async with OllamaClient(url) as client:
            await client.push_blob(model, sha256)
            await client.create(name, files={"model.gguf": sha256}, parameters={"num_thread": 1})
            with Grader() as grader:
                return await sit_on_node(client, name, questions, graded_by(grader), AskingOfNode(answer_tokens=tokens))

    return asyncio.run(ask())


def asked(count: int, *, reference: str = BLUE) -> list[Question]:
    lines = [
        json.dumps({"question": f"What is {number}?", "check": {"kind": "exact", "content": reference}}) for number in range(count)
    ]
    return read_questions(lines, name="colours", where="colours.jsonl")


def test_each_question_is_answered_in_its_mode_and_in_its_place(url: str, tmp_path: Path) -> None:
    questions = [*asked(6), *asked(6, reference="Red.")]
    answers = sat(url, tmp_path, TALK, questions)
    assert [each.right for each in answers] == [True] * 12 + [False] * 12
    assert all(each.well_formed and each.obedient and not each.cut for each in answers)
    thinking = [each.thinking_tokens > 0 for each in answers]
    assert thinking == [question.thinks for question in questions]
    assert all(each.answer_tokens > each.thinking_tokens for each in answers)


def test_who_never_thinks_does_not_obey_and_who_comes_to_no_end_is_cut(url: str, tmp_path: Path) -> None:
    thinking, direct = sat(url, tmp_path, {**TALK, "\n": ("Blue",)}, asked(1))
    assert (thinking.right, thinking.well_formed, thinking.obedient) == (True, False, False)
    assert (direct.right, direct.well_formed, direct.obedient) == (True, True, True)
    for answer in sat(url, tmp_path, ENDLESS, asked(1)):
        assert (answer.right, answer.well_formed, answer.cut) == (False, False, True)


def test_thinking_that_never_ends_is_all_thinking(url: str, tmp_path: Path) -> None:
    thinking, _ = sat(url, tmp_path, {**TALK, " yes.": (" well",)}, asked(1))
    assert (thinking.right, thinking.well_formed, thinking.obedient, thinking.cut) == (False, False, True, True)
    assert thinking.thinking_tokens == thinking.answer_tokens == 32


def test_tools_and_earlier_calls_are_given_as_a_node_takes_them_and_a_call_is_an_answer(url: str, tmp_path: Path) -> None:
    call = {"type": "function", "id": "c1", "function": {"name": "add", "arguments": '{"a": 1, "b": 2}'}}
    prompt = (
        Message(role="user", content="Add 1 and 2."),
        Message.model_validate({"role": "assistant", "content": "", "reasoning_content": "well", "tool_calls": [call]}),
        Message.model_validate({"role": "tool", "content": "3", "name": "add"}),
        Message(role="user", content="And once more?"),
    )
    question = Question(set="calls", prompt=prompt, thinks=True, tools=ADD)
    (answer,) = sat(url, tmp_path, CALL, [question])
    assert (answer.right, answer.well_formed, answer.obedient, answer.cut) == (None, True, True, False)


def test_a_question_that_is_refused_is_wrong_and_a_model_that_refuses_all_is_no_exam(url: str, tmp_path: Path) -> None:
    broken = Question(set="odd", prompt=(Message.model_validate({"role": "user", "content": "Hm?", "thinking": 3}),), thinks=True)
    fine = asked(1)
    refused, *others = sat(url, tmp_path, TALK, [broken, *fine])
    assert (refused.right, refused.well_formed, refused.obedient) == (None, False, False)
    assert all(each.right for each in others)
    with pytest.raises(NodeRefused):
        sat(url, tmp_path, TALK, [broken])


def test_a_node_that_is_away_in_the_middle_is_said_to_be_away(tmp_path: Path) -> None:
    """Whoever asks knows what to do about that, and nothing about several failures at once."""

    async def scenario() -> None:
        with running_node(tmp_path / "node") as node:
            model = write_scripted_model(tmp_path / "model.gguf", TALK)
            sha256, _ = hash_file(model)
            with Grader() as grader:
                async with OllamaClient(node.url) as client:
                    await client.push_blob(model, sha256)
                    await client.create("talk", files={"model.gguf": sha256}, parameters={"num_thread": 1})

                    def kill_after_four(done: int, _: int) -> None:
                        if done == 4:
                            node.process.kill()

                    asking = AskingOfNode(answer_tokens=32)
                    with pytest.raises(NodeUnavailable):
                        await sit_on_node(client, "talk", asked(16), graded_by(grader), asking, on_progress=kill_after_four)

    asyncio.run(scenario())
