"""What has learned from what was erased since: `why`, `status` and `erase show` say it, from topics and store alone."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from ruminate.accumulator.erasure.reviser import Datasets, Reviser
from ruminate.accumulator.making.dataset import load_manifest
from ruminate.accumulator.records.register import Register
from ruminate.command.datasets.look import NotFound
from ruminate.command.erase.account import reach_of
from ruminate.command.status import _print_version, _versions
from ruminate.schemas.erasure import ErasureRequested
from ruminate.schemas.flow import ADAPTER_TRAINED, DATASET_REVISED, ERASURE_REQUESTED, INTERACTION_RECORDED, REASONING_ASSESSED
from tests.integration.recorded_log import chain_of
from tests.integration.test_why import World, a_row, find, living, text


async def erase(world: World, *recorded_ids: UUID) -> None:
    """Somebody asks for each, and the accumulator takes all of them out of the datasets."""
    for number, recorded_id in enumerate(recorded_ids, start=1):
        request = ErasureRequested(
            scope="interaction", subject=str(recorded_id), requested_by="ada", requested_at=datetime(2027, 1, 1, tzinfo=UTC)
        )
        await world.tell(ERASURE_REQUESTED, request, f"erasure-{number}")
    register = Register(world.bus)
    await register.read()
    chain = await chain_of(world.bus)
    datasets = Datasets(chain.partition, chain.tenant, chain.target)
    for batch in world.batches:
        datasets.seal(batch.number, batch.dataset)
    assert await Reviser(world.bus, world.store, register, clock=lambda: datetime.now(UTC)).work(datasets)


def forget_the_log(world: World) -> None:
    """Nothing is left of any interaction but what the manifests say."""
    for place in [place for place in world.broker._partitions if place[0] in (INTERACTION_RECORDED.name, REASONING_ASSESSED.name)]:
        world.broker._partitions[place].clear()


def test_a_version_that_learned_from_what_was_erased_says_so_and_so_do_those_that_went_on_from_it(tmp_path: Path) -> None:
    async def work(world: World) -> None:
        one, two = world.batches
        await world.train(one)
        await world.train(two, parent="v1")
        await world.register(one)
        row = await a_row(world)
        assert not find(await world.why("v1"), "marked")
        await erase(world, row.recorded_id)
        first, second = await world.why("v1"), await world.why("v2")
        (mark,) = find(first, "marked")
        assert (mark.facts["erasure_ids"], mark.facts["inherited_from"]) == (("erasure-1",), None)
        assert mark.says == (
            "has learned from 1 interaction that has been erased since, for erasure-1 (lines of train 1): trained before "
            "revision 1 of qwen3_8b-000001"
        )
        (erased,) = find(first, "erased")
        assert erased.facts == {"revision": 1, "erased": {"erasure-1": 1}}
        inherited = [each for each in find(second, "marked") if each.facts["inherited_from"]]
        assert [each.facts["inherited_from"] for each in inherited] == ["v1"]
        assert "has learned by v1 from 1 interaction that has been erased since, for erasure-1" in text(second)
        assert first.facts["marked"] and second.facts["marked"]

    living(tmp_path, work)


def test_a_version_that_was_trained_on_what_was_left_has_no_mark(tmp_path: Path) -> None:
    async def work(world: World) -> None:
        row = await a_row(world)
        await erase(world, row.recorded_id)
        left = (await chain_of(world.bus)).batches[0]
        await world.train(left)
        await world.register(left)
        said = await world.why("v1")
        assert not find(said, "marked")
        assert not said.facts["marked"]
        said = await world.why(str(row.recorded_id))
        assert [node.says for node in find(said, "not_learned")] == ["v1 was trained on what was left of it"]
        (version,) = await _versions(world.bus)
        assert version["marks"] == []

    living(tmp_path, work)


@pytest.mark.parametrize("with_log", [True, False])
def test_an_erased_row_is_found_by_the_id_of_its_interaction_though_only_a_salted_hash_is_left(
    tmp_path: Path, with_log: bool
) -> None:
    async def work(world: World) -> None:
        one, two = world.batches
        await world.train(one)
        await world.train(two, parent="v1")
        row = await a_row(world)
        await erase(world, row.recorded_id)
        if not with_log:
            forget_the_log(world)
        said = await world.why(str(row.recorded_id))
        assert not find(said, "row")
        was = {(each.facts["batch_id"], each.facts["was"]) for each in find(said, "erased_row")}
        assert ("qwen3_8b-000001", "train") in was
        (place,) = [each for each in find(said, "erased_row") if each.facts["was"] == "train"]
        assert (place.facts["erasure_id"], place.facts["offset"]) == ("erasure-1", row.offset)
        (learned,) = [each for each in place.children if each.kind == "learned"]
        assert learned.facts == {"version": "v1", "heirs": ["v2"]}
        with pytest.raises(NotFound):
            await world.why(str(UUID(int=4)))

    living(tmp_path, work)


def test_what_was_held_out_is_erased_as_that(tmp_path: Path) -> None:
    async def work(world: World) -> None:
        row = await a_row(world, "holdout")
        await erase(world, row.recorded_id)
        said = text(await world.why(str(row.recorded_id)))
        assert "was in qwen3_8b-000001, a row that was held out, measured on and never trained: erased from its dataset" in said

    living(tmp_path, work)


def test_the_status_shows_a_mark_at_what_serves(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    async def work(world: World) -> None:
        one, two = world.batches
        await world.train(one)
        await world.train(two, parent="v1")
        await world.register(one)
        await world.register(two)
        row = await a_row(world)
        await erase(world, row.recorded_id)
        versions = {each["version"]: each for each in await _versions(world.bus)}
        assert [mark["inherited_from"] for mark in versions["v1"]["marks"]] == [None]
        assert "v1" in {mark["inherited_from"] for mark in versions["v2"]["marks"]}
        _print_version(versions["v1"])
        said = " ".join(capsys.readouterr().out.split())
        assert "it has learned from what was erased since, for 1 request. Type: ruminate why v1 --target qwen3:8b" in said

    living(tmp_path, work)


def test_an_erasure_shows_the_datasets_that_it_revised_and_the_versions_that_had_learned(tmp_path: Path) -> None:
    async def work(world: World) -> None:
        one, _ = world.batches
        await world.train(one)
        row, other = await a_row(world), await a_row(world, "holdout")
        await erase(world, row.recorded_id, other.recorded_id)
        revised: Any = [each.payload async for each in world.bus.read(DATASET_REVISED)]
        trained: Any = [each.payload async for each in world.bus.read(ADAPTER_TRAINED)]
        reach = reach_of("erasure-1", revised, trained)
        assert {step.revised.batch_id for step in reach.revised} >= {"qwen3_8b-000001"}
        assert [(chain, mark.version) for chain, mark in reach.marked] == [(("default", "qwen3:8b"), "v1")]
        manifest = await load_manifest(world.store, (await chain_of(world.bus)).batches[0].dataset)
        assert reach.revised[0].erased_interactions == len({each.salted_sha256 for each in manifest.erased}) == 2
        assert reach_of("erasure-9", revised, trained).as_json() == {"datasets": [], "versions": []}

    living(tmp_path, work)
