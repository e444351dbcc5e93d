"""`ruminate why` from topics and store: both ways along a lineage, and what is said where something is gone."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar
from uuid import UUID

import orjson
import pytest

from ruminate.accumulator.making.dataset import load_manifest
from ruminate.assessor.judging.decide import judge
from ruminate.command.datasets.look import NotFound
from ruminate.command.why.gather import gather
from ruminate.command.why.subject import Subject
from ruminate.command.why.tree import Node
from ruminate.command.why.verb import tree_of
from ruminate.schemas.batch import TrainingBatchSealed
from ruminate.schemas.envelope import derive_event_id
from ruminate.schemas.erasure import ErasureRequested
from ruminate.schemas.evidence import EvidenceRecorded
from ruminate.schemas.flow import (
    ADAPTER_TRAINED,
    ERASURE_REQUESTED,
    INTERACTION_COMPLETED,
    INTERACTION_RECORDED,
    MODEL_REGISTERED,
    MODEL_ROLLED_BACK,
    REASONING_ASSESSED,
)
from ruminate.schemas.interaction import InteractionCompleted, InteractionRecorded
from ruminate.schemas.model import ModelRegistered, ModelRolledBack
from ruminate.schemas.payload import Payload
from ruminate.schemas.topic import Topic
from ruminate.schemas.training import AdapterTrained
from ruminate.shared.memory import MemoryBroker, MemoryBus
from ruminate.shared.store import FileStore
from tests.integration.recorded_log import LENIENT, START, TARGET, Pieces, assess, chain_of, interaction, record, seal

P = TypeVar("P", bound=Payload)
EXAMPLES = Path(__file__).parents[2] / "schemas" / "examples"


def example(topic: Topic[P]) -> P:
    """The first valid example of a topic."""
    (path, *_) = sorted((EXAMPLES / topic.name / "valid").glob("*.json"))
    said = orjson.loads(path.read_bytes())
    return topic.carries.model_validate_json(orjson.dumps(said["value"]))


def its_recorded_id(number: int, *, tenant: str = "default") -> Any:
    """The name that the collector gives `i-<number>` of /tester."""
    return derive_event_id(tenant=tenant, cause_source="/tester", cause_id=f"i-{number}", topic=INTERACTION_RECORDED.name)


def told(number: int, **changed: Any) -> InteractionRecorded:
    """Interaction `number` under the name that it would really have."""
    return interaction(number, recorded_id=its_recorded_id(number), **changed)


@dataclass
class World:
    """A log with one chain of two batches, and a store."""

    broker: MemoryBroker
    bus: MemoryBus
    store: FileStore
    pieces: Pieces
    batches: tuple[TrainingBatchSealed, ...] = ()

    async def why(self, text: str, source: str | None = None, *, rows: bool = False, contents: bool = False, **named: Any) -> Node:
        return tree_of(await gather(self.bus, self.store, Subject(text, source), **named), rows=rows, contents=contents)

    async def tell(self, topic: Topic[P], payload: P, event_id: str | None = None, source: str | None = None) -> str:
        envelope = self.bus.begin(topic, payload, event_id=event_id, source=source)
        await self.bus.publish(topic, payload, envelope)
        return envelope.id

    async def train(self, batch: TrainingBatchSealed, *, parent: str | None = None) -> str:
        version = f"v{batch.number}"
        trained = example(ADAPTER_TRAINED).model_copy(
            update={
                **{
                    "tenant": batch.tenant,
                    "target_model": batch.target_model,
                    "job_id": batch.batch_id,
                    "batch_id": batch.batch_id,
                },
                **{"version": version, "number": batch.number, "parent_version": parent, "dataset": batch.dataset},
            }
        )
        await self.tell(ADAPTER_TRAINED, trained)
        return version

    async def register(self, batch: TrainingBatchSealed) -> None:
        registered: ModelRegistered = example(MODEL_REGISTERED).model_copy(
            update={
                **{
                    "tenant": batch.tenant,
                    "target_model": batch.target_model,
                    "version": f"v{batch.number}",
                    "number": batch.number,
                },
                **{"batch_id": batch.batch_id, "model_name": f"ruminate/qwen3-8b:v{batch.number}", "dataset": batch.dataset},
            }
        )
        await self.tell(MODEL_REGISTERED, registered)


def living(folder: Path, work: Callable[[World], Coroutine[Any, Any, None]], **given: Any) -> None:
    """Let `work` look at a chain of two batches, of interactions of which some do not think and some are not allowed."""

    async def scenario() -> None:
        async with world(folder, **given) as made:
            await work(made)

    asyncio.run(scenario())


@asynccontextmanager
async def world(
    folder: Path, *, evidence: Mapping[UUID, Sequence[EvidenceRecorded]] = MappingProxyType({}), referenced: bool = False
) -> AsyncIterator[World]:
    """`evidence` is by recorded id; where they are `referenced`, each interaction has its reference answer."""
    broker = MemoryBroker()
    async with MemoryBus(broker, reader="test") as bus:
        made = World(broker, bus, FileStore(folder), Pieces(folder))
        interactions = [
            told(n, thinks=n % 5 != 0, training_allowed=n % 7 != 3, reference_answer=str(n + 1) if referenced else None)
            for n in range(28)
        ]
        for each in interactions[:20]:
            completed = InteractionCompleted.model_validate(each.model_dump(exclude={"source", "recorded_id", "normalised"}))
            await made.tell(INTERACTION_COMPLETED, completed, each.interaction_id, "/tester")
        await record(bus, *interactions)
        await assess(bus, *interactions, evidence=evidence)
        await seal(bus, made.store, 2)
        made.batches = (await chain_of(bus)).batches
        yield made


def kinds(node: Node) -> list[str]:
    return [node.kind, *(kind for child in node.children for kind in kinds(child))]


def find(node: Node, kind: str) -> list[Node]:
    return ([node] if node.kind == kind else []) + [each for child in node.children for each in find(child, kind)]


def text(node: Node) -> str:
    return "\n".join(line for line, _ in node.lines())


async def a_row(world: World, split: str = "train") -> Any:
    manifest = await load_manifest(world.store, world.batches[0].dataset)
    return next(row for row in manifest.rows if row.split == split)


def test_a_row_is_found_by_its_place_its_hash_its_events_and_its_interaction_and_the_answer_is_the_same(tmp_path: Path) -> None:
    async def work(world: World) -> None:
        row = await a_row(world)
        number = next(n for n in range(28) if its_recorded_id(n) == row.recorded_id)
        answers = [
            await world.why("qwen3_8b-000001:1"),
            await world.why("1:train:1"),
            await world.why(row.sha256[:12]),
            await world.why(row.event_id),
            await world.why(str(row.recorded_id)),
            await world.why(f"i-{number}"),
            await world.why(f"i-{number}", "/tester"),
            await world.why(f"i-{number}", "/tester", tenant="default", target=TARGET),
        ]
        assert [each.as_json() for each in answers] == [answers[0].as_json()] * len(answers)
        assert kinds(answers[0])[:3] == ["interaction", "completed", "recorded"]
        assert not any(gone for _, gone in answers[0].lines())
        (place,) = find(answers[0], "row")
        assert (place.facts["row"], place.facts["sha256"]) == ("qwen3_8b-000001:1", row.sha256)

    living(tmp_path, work)


def test_from_an_interaction_to_the_versions_that_were_trained_on_it_and_went_on_from_those(tmp_path: Path) -> None:
    async def work(world: World) -> None:
        one, two = world.batches
        first = await world.train(one)
        await world.train(one.model_copy(update={"number": 9}))  # second result of the batch: everyone ignores it
        await world.register(one)
        await world.train(two, parent=first)
        await world.register(two)
        said = await world.why("1:1")
        (trained,), (registered,), (heir,) = find(said, "trained"), find(said, "registered"), find(said, "heir")
        assert (trained.facts["version"], registered.facts["serves"]) == ("v1", False)
        assert heir.says == "v2 went on from v1: serves"
        back = example(MODEL_ROLLED_BACK).model_copy(
            update={"target_model": TARGET, "version": "v2", "serving_version": "v1", "stage": "canary", "tenant": "default"}
        )
        assert isinstance(back, ModelRolledBack)
        await world.tell(MODEL_ROLLED_BACK, back)
        said = await world.why("1:1")
        assert find(said, "registered")[0].facts["serves"]
        assert find(said, "heir")[0].says == "v2 went on from v1: rolled back"
        held_out = await world.why("1:holdout:1")
        assert "measured on, never trained" in text(held_out)
        assert not find(held_out, "trained")

    living(tmp_path, work)


def test_from_a_version_to_its_batch_rows_and_parents_and_back_to_an_interaction(tmp_path: Path) -> None:
    async def work(world: World) -> None:
        one, two = world.batches
        await world.train(one)
        await world.register(one)
        await world.train(two, parent="v1")
        for name in ("v2", f"{two.batch_id}"):
            assert "neither registered nor rolled back yet; v1 serves" in text(await world.why(name))
        await world.register(two)
        said = await world.why("ruminate/qwen3-8b:v2", rows=True)
        assert said.says == "version v2 of qwen3:8b (tenant default): serves"
        assert [each.facts["version"] for each in find(said, "parent")] == ["v1"]
        rows = find(said, "row")
        assert len(rows) == two.rows + two.holdout_rows
        again = await world.why(rows[0].facts["recorded_id"])
        assert find(again, "row")[0].facts["row"] == rows[0].facts["row"]
        assert not find(await world.why("v2"), "row")
        trained = find(said, "trained")[0]
        assert (await world.why(trained.facts["event_id"])).as_json() == (await world.why("v2")).as_json()
        assert isinstance(example(ADAPTER_TRAINED), AdapterTrained)

    living(tmp_path, work)


def test_each_revision_is_told_with_its_evidence_and_what_became_of_it(tmp_path: Path) -> None:
    async def work(world: World) -> None:
        row = await a_row(world)
        number = next(n for n in range(28) if its_recorded_id(n) == row.recorded_id)
        evidence = EvidenceRecorded(
            recorded_id=row.recorded_id,
            conversation_id=f"c-{number}",
            kind="feedback",
            said_by="ada",
            said_at=START + timedelta(days=1),
            thumb="down",
            comment="a secret remark",
        )
        written = evidence.model_copy(
            update={
                "kind": "thinking",
                "said_by": "writer",
                "thumb": None,
                "comment": None,
                "thinking": "hidden steps",
                "model": "w",
            }
        )
        again = judge(told(number), LENIENT, policy_version=LENIENT.version).model_copy(
            update={"revision": 1, "evidence": (evidence, written)}
        )
        await world.tell(REASONING_ASSESSED, again, "second-look")
        said = await world.why("second-look")
        revisions = find(said, "assessed")
        assert [each.facts["revision"] for each in revisions] == [0, 1]
        assert find(revisions[0], "row")
        assert find(revisions[1], "evidence")[0].says == "feedback by ada 2026-11-02 00:00:00Z: thumb down, a comment"
        assert find(revisions[1], "evidence")[1].says == "thinking by writer 2026-11-02 00:00:00Z: model w, written thinking"
        assert find(revisions[1], "waiting")
        whole = text(said)
        assert "a secret remark" not in whole
        assert "hidden steps" not in whole
        assert "What is" not in whole
        shown = text(await world.why("second-look", contents=True))
        assert "comment: a secret remark" in shown
        assert "thinking: hidden steps" in shown
        assert f"user: What is {number} plus 1?" in shown

    living(tmp_path, work)


def test_what_was_left_out_says_why(tmp_path: Path) -> None:
    async def work(world: World) -> None:
        said = await world.why("i-3")
        assert find(said, "left_out")[0].says == "left out of qwen3_8b-000001: not_allowed"
        assert find(said, "recorded")[0].facts["training_allowed"] is False

    living(tmp_path, work)


def test_what_the_log_no_longer_holds_is_said(tmp_path: Path) -> None:
    async def work(world: World) -> None:
        row = await a_row(world)
        erased = ErasureRequested(
            scope="interaction", subject=str(row.recorded_id), requested_by="ada", requested_at=START + timedelta(days=2)
        )
        await world.tell(ERASURE_REQUESTED, erased)
        for topic, event_id in ((INTERACTION_RECORDED.name, str(row.recorded_id)), (REASONING_ASSESSED.name, row.event_id)):
            (stored,) = [each for each in world.broker.records(topic) if each.key == event_id.encode()]
            erase(world.broker, topic, stored.partition, stored.offset)
            world.broker.append(topic, None, key=event_id.encode(), partition=stored.partition)
        for subject in (str(row.recorded_id), row.event_id, row.sha256):
            said = await world.why(subject)
            whole = text(said)
            assert "erasure of this interaction asked for 2026-11-03 00:00:00Z by ada" in whole
            assert whole.count("a tombstone at") == 2
            assert f"event {row.event_id} is no longer in reasoning-assessed-v1, for it was erased" in whole
            assert find(said, "row")[0].facts["sha256"] == row.sha256
        late = await world.why("i-25")
        assert "no longer in interaction-completed-v1, which keeps 7 days; it was completed 2026-11-01" in text(late)

    living(tmp_path, work)


def erase(broker: MemoryBroker, topic: str, partition: int, offset: int) -> None:
    """Take a record out as compaction does; this broker knows nothing of it."""
    from dataclasses import replace

    records = broker._partitions[topic, partition]
    records[offset] = replace(records[offset], value=None, key=b"gone")


def test_a_manifest_that_is_gone_is_said_and_not_passed_over(tmp_path: Path) -> None:
    async def work(world: World) -> None:
        row = await a_row(world)
        world.pieces.blob_of(world.batches[0], "manifest.json").unlink()
        said = text(await world.why(str(row.recorded_id)))
        assert "in the interval of qwen3_8b-000001, whose manifest cannot be read" in said
        assert "what qwen3_8b-000001 holds is not known" in said
        await world.train(world.batches[0])
        assert "its manifest is not to be had" in text(await world.why("v1"))

    living(tmp_path, work)


@pytest.mark.parametrize(
    ("subject", "source", "says"),
    [
        ("nobody", None, "no such batch, version, interaction or event. SUBJECT is a row"),
        ("nobody", "/agents/x", "of /agents/x"),
        ("1:999", None, "and none of number 999"),
        ("00000000-0000-0000-0000-0000000000ff", None, "no such batch"),
    ],
)
def test_what_is_nothing_is_refused_and_says_what_may_be_asked(tmp_path: Path, subject: str, source: str | None, says: str) -> None:
    async def work(world: World) -> None:
        with pytest.raises(NotFound, match=says):
            await world.why(subject, source)

    living(tmp_path, work)


def test_an_id_of_two_sources_asks_for_the_source(tmp_path: Path) -> None:
    async def work(world: World) -> None:
        other = derive_event_id(tenant="default", cause_source="/other", cause_id="i-1", topic=INTERACTION_RECORDED.name)
        await record(world.bus, interaction(1, recorded_id=other, source="/other"))
        with pytest.raises(NotFound, match=r"'i-1' is 2 interactions: .* Name the recorded id, or --source"):
            await world.why("i-1")
        said = await world.why("i-1", "/other")
        assert said.facts["recorded_id"] == str(other)
        assert "not assessed" in text(said)

    living(tmp_path, work)


def test_a_rehearsed_row_leads_to_where_it_was_fresh_and_a_fresh_one_to_where_it_was_rehearsed(tmp_path: Path) -> None:
    async def work(world: World) -> None:
        one, two = world.batches
        await world.train(one)
        await world.train(two, parent="v1")
        manifest = await load_manifest(world.store, two.dataset)
        each = manifest.rehearsed[1]
        asked = await world.why("2:replay:2")
        assert asked.says == (
            f"qwen3_8b-000002: line 2 of replay.jsonl, rehearsed, fresh as qwen3_8b-000001:{each.line + 1}, "
            f"{'reasoning' if each.reasoning else 'direct'}"
        )
        assert asked.facts["recorded_ids"] == [str(each.recorded_id)]
        (fresh,) = find(asked, "row")
        assert fresh.facts["row"] == f"qwen3_8b-000001:{each.line + 1}"
        (again,) = find(fresh, "rehearsed")
        assert again.says == "rehearsed in qwen3_8b-000002: line 2 of replay.jsonl; v2: trained, not registered yet"
        # The bytes are those of the fresh row, and that is what they stand for.
        by_hash = await world.why(each.sha256)
        assert by_hash.as_json() == (await world.why(f"1:{each.line + 1}")).as_json()
        world.pieces.blob_of(one, "manifest.json").unlink()
        (alone,) = find(await world.why(str(each.recorded_id)), "rehearsed")
        assert f"line 2 of replay.jsonl, fresh as qwen3_8b-000001:{each.line + 1}" in alone.says

    living(tmp_path, work)


def test_from_a_version_its_rehearsed_rows_are_counted_and_listed(tmp_path: Path) -> None:
    async def work(world: World) -> None:
        one, two = world.batches
        await world.train(one)
        await world.train(two, parent="v1")
        said = await world.why("v2", rows=True)
        (rehearsed,) = find(said, "rehearsed")
        assert (
            rehearsed.says == f"rehearsed: {two.replay_rows} rows of earlier batches (qwen3_8b-000001 {two.replay_rows}), 0 anchors"
        )
        assert two.replay_rows > 0
        assert f"{two.replay_rows} rehearsed, 0 pairs" in find(said, "batch")[0].says
        listed = find(said, "line")
        assert len(listed) == two.replay_rows
        assert (await world.why(listed[0].facts["line_name"])).facts == listed[0].facts

    living(tmp_path, work)


def corrected(number: int) -> dict[UUID, Sequence[EvidenceRecorded]]:
    """Somebody says what interaction `number` should have answered."""
    said = EvidenceRecorded(
        recorded_id=its_recorded_id(number),
        conversation_id=f"c-{number}",
        kind="feedback",
        said_by="ada",
        said_at=START,
        correction="Something else.",
    )
    return {its_recorded_id(number): (said,)}


def test_an_interaction_says_which_pairs_and_questions_it_gave_and_they_lead_back_to_it(tmp_path: Path) -> None:
    async def work(world: World) -> None:
        one, _ = world.batches
        await world.train(one)
        manifest = await load_manifest(world.store, one.dataset)
        (pair,) = manifest.pairs
        whole = await world.why(str(its_recorded_id(4)))
        says = sorted(node.says for node in find(whole, "gave"))
        place = next(
            number
            for number, each in enumerate(each for each in manifest.questions if each.split == "train")
            if each.offset == pair.rejected
        )
        assert says == [
            "gave a pair, qwen3_8b-000001: line 1 of preferences.jsonl, its answer rejected: a correction, and what it corrects; "
            "v1: trained, not registered yet",
            f"gave a question, qwen3_8b-000001: line {place + 1} of verifiable.jsonl, checked by a reference answer; "
            "v1: trained, not registered yet",
        ]
        for subject in ("1:preferences:1", pair.sha256):
            asked = await world.why(subject)
            assert asked.says == "qwen3_8b-000001: line 1 of preferences.jsonl, a pair: a correction, and what it corrects"
            assert [node.facts["recorded_id"] for node in find(asked, "interaction")] == [str(its_recorded_id(4))]
            assert "Something else." not in text(asked)
        held_out = await world.why("1:verifiable-holdout:1")
        assert "a question to measure on, never practised, checked by a reference answer" in held_out.says
        assert "measured on, never practised" in find(held_out, "gave")[0].says
        assert not find(held_out, "trained")
        with pytest.raises(NotFound, match=r"has 1 lines in preferences\.jsonl, and none of number 2"):
            await world.why("1:preferences:2")

    living(tmp_path, work, evidence=corrected(4), referenced=True)


def files_in(folder: Path) -> list[Path]:
    """Everything below a folder."""
    return sorted(folder.rglob("*"))


def test_nothing_is_written(tmp_path: Path) -> None:
    async def work(world: World) -> None:
        before = {topic: len(world.broker.records(topic)) for topic in (INTERACTION_RECORDED.name, REASONING_ASSESSED.name)}
        files = files_in(tmp_path)
        await world.why("i-1")
        await world.why("1:1")
        assert before == {topic: len(world.broker.records(topic)) for topic in before}
        assert files == files_in(tmp_path)

    living(tmp_path, work)
