"""From facts to a tree, and what may be typed after `why`."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar
from uuid import UUID

import orjson
import pytest

from ruminate.accumulator.making.anchors import read_anchors
from ruminate.accumulator.making.make import Sets
from ruminate.command.why.backward import batch_node, version_tree
from ruminate.command.why.became import taught
from ruminate.command.why.facts import (
    Chain,
    Heard,
    Interaction,
    Omitted,
    OneLine,
    Version,
    asks_to_forget,
    chain_of,
    line_places,
)
from ruminate.command.why.forward import interaction_tree, line_tree
from ruminate.command.why.subject import LineAsked, Subject
from ruminate.command.why.tree import Node
from ruminate.schemas.erasure import ErasureRequested
from ruminate.schemas.flow import (
    ADAPTER_TRAINED,
    INTERACTION_RECORDED,
    MODEL_REGISTERED,
    MODEL_ROLLED_BACK,
    TRAINING_BATCH_SEALED,
    TRAINING_FAILED,
)
from ruminate.schemas.payload import Payload
from ruminate.schemas.topic import Topic
from ruminate.shared.record import Position
from tests.unit.making import Maker, assessed

P = TypeVar("P", bound=Payload)
AT = datetime(2026, 11, 1, tzinfo=UTC)
EXAMPLES = Path(__file__).parents[2] / "schemas" / "examples"


def heard(topic: Topic[P], place: int, **changed: Any) -> Heard[P]:
    """The example of a topic, as the event at this place."""
    (path, *_) = sorted((EXAMPLES / topic.name / "valid").glob("*.json"))
    payload = topic.carries.model_validate_json(orjson.dumps(orjson.loads(path.read_bytes())["value"]))
    ours = {"tenant": "default", "target_model": "qwen3:8b"} | changed
    return Heard(Position(topic.name, 0, place), f"e-{place}", "/ours", AT, payload.model_copy(update=ours))


def trained(number: int, parent: str | None = None, *, place: int | None = None, **changed: Any) -> Heard[Any]:
    named = {"batch_id": f"b-{number}", "version": f"v{number}", "number": number, "parent_version": parent}
    return heard(ADAPTER_TRAINED, number if place is None else place, **named | changed)


def registered(number: int, **changed: Any) -> Heard[Any]:
    named = {"batch_id": f"b-{number}", "version": f"v{number}", "number": number, "model_name": f"m:v{number}"}
    return heard(MODEL_REGISTERED, number, **named | changed)


def rolled_back(number: int) -> Heard[Any]:
    return heard(MODEL_ROLLED_BACK, number, version=f"v{number}", serving_version="v1", stage="live", reason="worse")


def chain(*, training: Any = (), registrations: Any = (), back: Any = ()) -> Chain:
    return chain_of("default", "qwen3:8b", batches=(), trained=training, failed=(), registered=registrations, rolled_back=back)


def texts(node: Node) -> list[str]:
    return [text for text, _ in node.lines()]


def test_the_first_result_of_a_batch_and_the_first_registration_of_a_version_count() -> None:
    facts = chain(
        training=[trained(1), trained(1, place=7, version="v9"), trained(2, "v1")],
        registrations=[registered(1), registered(1, model_name="other")],
    )
    assert facts.versions() == ["v1", "v2"]
    assert facts.registered["v1"].payload.model_name == "m:v1"
    assert facts.serving == "v1"


def test_what_is_of_another_tenant_or_target_is_not_of_this_chain() -> None:
    facts = chain(training=[trained(1, tenant="other"), trained(2, target_model="qwen3:4b")])
    assert facts.versions() == []


def test_what_serves_is_the_highest_version_that_was_not_rolled_back() -> None:
    everything = {"training": [trained(1), trained(2, "v1"), trained(3, "v1")], "registrations": [registered(1), registered(2)]}
    assert chain(**everything).serving == "v2"
    facts = chain(**everything, back=[rolled_back(2)])
    assert facts.serving == "v1"
    assert (facts.heirs("v1"), facts.ancestors("v3")) == (["v2", "v3"], ["v1"])
    said = "\n".join(texts(version_tree(Version(name="v2", chain=facts))))
    assert "rolled back 2026" in said
    assert "at live: worse; then served v1" in said


def test_parents_that_go_round_in_circles_end() -> None:
    facts = chain(training=[trained(1, "v2"), trained(2, "v1")])
    assert facts.ancestors("v1") == ["v2"]
    assert version_tree(Version(name="v1", chain=facts)).kind == "version"


def test_of_an_interaction_of_which_nothing_is_left_everything_is_said_to_be_gone() -> None:
    node = interaction_tree(Interaction(recorded_id=UUID(int=7)))
    assert [child.kind for child in node.children] == ["completed", "recorded"]
    assert all(child.gone for child in node.children)


def test_contents_are_told_only_when_asked_for_and_stay_indented() -> None:
    recorded = heard(INTERACTION_RECORDED, 1)
    response = recorded.payload.response.model_copy(update={"content": "first line\nsecond line"})
    recorded = heard(INTERACTION_RECORDED, 1, response=response)
    interaction = Interaction(recorded_id=recorded.payload.recorded_id, recorded=recorded)
    assert "first line" not in "\n".join(texts(interaction_tree(interaction)))
    assert "first line" not in str(interaction_tree(interaction).as_json())
    shown = texts(interaction_tree(interaction, contents=True))
    (place,) = [number for number, text in enumerate(shown) if "answer: first line" in text]
    assert shown[place + 1].endswith("   second line")
    assert shown[place + 1].startswith(("│  ", "   "))


@pytest.mark.parametrize(
    ("scope", "subject", "target", "meant"),
    [
        ("interaction", str(UUID(int=7)), "*", True),
        ("agent", "the agent", "qwen3:8b", True),
        ("agent", "the agent", "qwen3:4b", False),
        ("agent", "another", "*", False),
        ("tenant", "default", "*", True),
        ("conversation", "another", "*", False),
    ],
)
def test_an_erasure_is_of_an_interaction_by_any_of_its_names(scope: Any, subject: str, target: str, meant: bool) -> None:
    interaction = heard(INTERACTION_RECORDED, 1, agent="the agent").payload
    request = ErasureRequested(target_model=target, scope=scope, subject=subject, requested_by="ada", requested_at=AT)
    assert asks_to_forget(request, interaction, UUID(int=7)) is meant


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("qwen3_8b-000004:17", LineAsked("qwen3_8b-000004", "train", 17)),
        ("4:holdout:2", LineAsked("4", "holdout", 2)),
        ("4:train:2", LineAsked("4", "train", 2)),
        ("4:replay:2", LineAsked("4", "replay", 2)),
        ("qwen3_8b-000004:verifiable-holdout:2", LineAsked("qwen3_8b-000004", "verifiable-holdout", 2)),
        ("4:0", None),
        ("v4", None),
    ],
)
def test_a_line_is_named_by_its_batch_file_and_number(text: str, line: LineAsked | None) -> None:
    assert Subject(text).line == line


def test_with_a_source_a_text_is_an_interaction_id_and_nothing_else() -> None:
    for text in ("4:17", "deadbeef", str(UUID(int=1))):
        subject = Subject(text, "/agents/a")
        assert (subject.line, subject.sha256, subject.uuid) == (None, None, None)
    assert (Subject("DEADBEEF").sha256, Subject("deadbee").sha256) == ("deadbeef", None)
    assert Subject(str(UUID(int=1))).uuid == UUID(int=1)


def test_what_a_contaminated_record_would_have_given_away_is_said() -> None:
    batch = heard(TRAINING_BATCH_SEALED, 1, batch_id="b-1").payload
    left = Omitted(batch, 5, "0" * 32, UUID(int=7), "contaminated", "examination/exact")
    node = interaction_tree(Interaction(recorded_id=UUID(int=7), omitted=(left,)))
    assert any("left out of b-1: contaminated (examination/exact)" in text for text in texts(node))


def test_an_anchor_has_no_interaction_and_says_of_which_file_it_is(tmp_path: Path) -> None:
    row = {
        "prompt": [{"role": "user", "content": "Would you kindly sing for us?"}],
        "completion": [{"role": "assistant", "content": "Gladly.", "reasoning_content": "They ask politely."}],
        "chat_template_kwargs": {"enable_thinking": True},
    }
    (tmp_path / "anchors.jsonl").write_bytes(orjson.dumps(row))
    sets = Sets(anchors=read_anchors({"manners": tmp_path / "anchors.jsonl"}))
    made = Maker(tmp_path, sets=sets, anchor_ratio=0.2).batch(*(assessed(number) for number in range(8)))
    batch = heard(TRAINING_BATCH_SEALED, 1, batch_id="b-1").payload
    (place,) = line_places(batch, made.manifest)
    node = line_tree(OneLine(places=(place, place), chain=chain(training=[trained(1)])))
    assert node.says == "b-1: line 1 of replay.jsonl, an anchor, row 1 of manners, reasoning"
    assert [child.kind for child in node.children] == ["place", "trained"]
    (counted,) = [child for child in batch_node(chain(), batch, made.manifest).children if child.kind == "rehearsed"]
    assert counted.says == "rehearsed: 0 rows of earlier batches, 1 anchors (manners 1)"


def test_of_a_batch_that_was_tried_again_the_last_attempt_counts() -> None:
    failure = heard(TRAINING_FAILED, 1, batch_id="b-1", reason="crashed")
    later = heard(TRAINING_FAILED, 2, batch_id="b-1", reason="no_room", attempt=2)
    batch = heard(TRAINING_BATCH_SEALED, 1, batch_id="b-1", number=1).payload

    def becomes(*, training: Any = (), failures: Any = ()) -> Node:
        facts = chain_of("default", "qwen3:8b", batches=(batch,), trained=training, failed=failures, registered=(), rolled_back=())
        return taught(facts, batch)

    assert becomes(failures=(failure, later, failure)).facts["reason"] == "no_room"
    made = becomes(failures=(failure, later), training=(trained(1, attempt=3),))
    assert ", at attempt 3 " in made.says
