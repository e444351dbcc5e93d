"""What a version was asked when it was proven is asked once more where it is served, and a version that lost it there goes back."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from ruminate.proof.exam import Question, held_out_questions, read_asked, read_questions
from ruminate.proof.judge import Policy
from ruminate.proof.record import ExamRecord, record
from ruminate.proof.spoken import Answered
from ruminate.schemas.model import ModelRegistered, ModelRolledBack
from ruminate.shared.store import open_store
from tests.integration.deployer_world import BLUE, Proven, actions, make_world, put_base, settle
from tests.plugins.node import running_node

RIGHT = Answered(right=True, well_formed=True, obedient=True, thinking_tokens=3, answer_tokens=8, cut=False)


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    with running_node(tmp_path_factory.mktemp("a")) as a, running_node(tmp_path_factory.mktemp("b")) as b:
        yield {"a": a.url, "b": b.url}


def row(number: int) -> str:
    """A row that is held out, with thinking; what somebody pasted ends a line for some, and does not in JSON."""
    answer = {"role": "assistant", "content": BLUE, "reasoning_content": "well so yes."}
    return json.dumps(
        {
            "prompt": [{"role": "user", "content": f"Which\u2028colour\x85has door {number}?"}],
            "completion": [answer],
            "chat_template_kwargs": {"enable_thinking": True},
        },
        ensure_ascii=False,
    )


def proven(colours: int, *, held_out: int = 0) -> Proven:
    """An exam of so many colours, each in both modes, all answered rightly when it was proven."""
    lines = [
        json.dumps({"question": f"Which colour is number {number}?", "check": {"kind": "exact", "content": BLUE}})
        for number in range(colours)
    ]
    rows = tuple(row(number) for number in range(held_out))
    questions = [
        *read_questions(lines, name="colours", where="colours.jsonl"),
        *held_out_questions(read_asked(rows, where="holdout.jsonl"), []),
    ]
    return Proven(sat(questions), rows)


def sat(questions: list[Question]) -> ExamRecord:
    answers = [RIGHT if each.check else RIGHT.model_copy(update={"right": None}) for each in questions]
    answers = [
        each if question.thinks else each.model_copy(update={"thinking_tokens": 0})
        for question, each in zip(questions, answers, strict=True)
    ]
    return record(questions, answers, answer_tokens=32, seed=0, samples=False, policy=Policy())


def test_a_version_that_is_served_as_it_was_trained_is_registered_with_what_was_found(
    tmp_path: Path, nodes: dict[str, str]
) -> None:
    async def scenario() -> None:
        world = make_world(tmp_path, nodes, target="served:1m", served_questions=16)
        await put_base(world)
        with capture_logs() as logs:
            (registered,) = await settle(world, await world.trained(1, proven=proven(20, held_out=8)))
        assert isinstance(registered, ModelRegistered)
        asked = [node for node in nodes if "SitExam" in actions(logs, node)]
        assert asked == ["a"], "one node of each engine version"
        (served,) = registered.served
        assert (served.node, served.kept, served.gone, served.encoding) == ("a", True, 0, "f32")
        assert served.questions == 16 + 16 + 8
        found = {(each["measure"], each["group"]): each for each in served.findings}
        assert found["right", "colours, thinking"]["after"] == 1.0
        assert found["well_formed", "hold-out, thinking"]["after"] == 1.0
        assert found["obedient", "colours, direct"]["after"] == 1.0

    asyncio.run(scenario())


def test_a_version_that_answers_otherwise_where_it_is_served_is_rolled_back_and_leaves_nothing(
    tmp_path: Path, nodes: dict[str, str]
) -> None:
    async def scenario() -> None:
        world = make_world(tmp_path, nodes, target="otherwise:1m", served_questions=16)
        await put_base(world)
        before = {node: await world.held(node) for node in nodes}
        # It thinks where it shall, so every probe passes; what it answers with thinking is another thing than it was.
        differs = await world.trained(2, {"</think>": ("Adapted",)}, proven=proven(16))
        (rolled_back,) = await settle(world, differs)
        assert isinstance(rolled_back, ModelRolledBack)
        assert (rolled_back.stage, rolled_back.serving_version) == ("probe", None)
        assert "right (colours, thinking): 100.0% before, 0.0% after" in rolled_back.reason
        assert "direct" not in rolled_back.reason
        assert {node: await world.held(node) for node in nodes} == before

    asyncio.run(scenario())


def test_questions_that_an_erasure_took_out_of_the_dataset_are_asked_no_more(tmp_path: Path, nodes: dict[str, str]) -> None:
    async def scenario() -> None:
        world = make_world(tmp_path, nodes, target="erased:1m", served_questions=16)
        await put_base(world)
        event = await world.trained(1, proven=proven(4, held_out=8))
        await open_store(world.settings.store_uri).remove_tree(event.dataset)
        (registered,) = await settle(world, event)
        assert isinstance(registered, ModelRegistered)
        (served,) = registered.served
        assert (served.questions, served.gone) == (8, 8)

    asyncio.run(scenario())


@pytest.mark.parametrize("most", [0, 16])
def test_without_an_exam_or_without_a_wish_for_one_nothing_is_asked(tmp_path: Path, nodes: dict[str, str], most: int) -> None:
    async def scenario() -> None:
        world = make_world(tmp_path, nodes, target=f"unasked{most}:1m", served_questions=most)
        await put_base(world)
        (registered,) = await settle(world, await world.trained(1, proven=None if most else proven(4)))
        assert isinstance(registered, ModelRegistered)
        assert registered.served == ()

    asyncio.run(scenario())
