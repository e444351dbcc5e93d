"""The trainer trains the first record that extends a chain, once, and says why it refuses another."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import pytest
from pydantic import ValidationError

from ruminate.schemas.batch import DatasetRevised, TrainingBatchSealed
from ruminate.schemas.model import ModelRegistered, ModelRolledBack
from ruminate.schemas.payload import ArtifactReference
from ruminate.schemas.training import AdapterTrained, TrainingFailed
from ruminate.trainer.decide import History, Policy, Refuse, Skip, Wait, decide
from ruminate.trainer.plan import Hyperparameters, JobPlan

NOW = datetime(2026, 1, 31, tzinfo=UTC)
ARTIFACT = ArtifactReference(uri="file:///store/dataset.json", sha256="0" * 64, size_bytes=1)
POLICY = Policy(
    bases={"tiny": "/bases/tiny"},
    hyperparameters=Hyperparameters(epochs=3.0, batch_rows=16),
    checkpoint_steps=50,
    merged_dtype="float32",
    encodings=("f16",),
    adapter_encoding="f16",
    equality_probes=64,
)


def sealed(
    number: int, *, name: str | None = None, rows: int = 100, target: str = "tiny", after: int | None = None
) -> TrainingBatchSealed:
    """Batch `number`, ten records of the log long."""
    return TrainingBatchSealed(
        batch_id=name or f"{target}-{number}",
        target_model=target,
        number=number,
        previous_batch_id=f"{target}-{number - 1}" if number > 1 else None,
        assessed_partition=0,
        after_offset=10 * (number - 1) - 1 if after is None else after,
        to_offset=10 * number - 1,
        sealed_at=NOW,
        reason="count",
        explanation="enough",
        dataset=ARTIFACT,
        rows=rows,
        reasoning_rows=rows,
        direct_rows=0,
        reasoning_ratio=1.0,
    )


def log_of(*batches: TrainingBatchSealed) -> tuple[tuple[int, TrainingBatchSealed], ...]:
    """These batches at the offsets 0, 1, 2, …"""
    return tuple(enumerate(batches))


def registered(number: int, *, version: str | None = None, adapter: str = "1") -> ModelRegistered:
    """Version `number` serves."""
    return ModelRegistered(
        target_model="tiny",
        version=version or f"v{number}",
        number=number,
        model_name=f"tiny-v{number}",
        alias="tiny-ruminate",
        base_model="/bases/tiny",
        batch_id=f"tiny-{number}",
        dataset=ARTIFACT,
        adapter=ARTIFACT.model_copy(update={"sha256": adapter * 64}),
        weights=ARTIFACT,
        stages=("thinking_fusion",),
        settings={},
        metrics={},
        nodes=(),
        probes=(),
        capabilities=(),
        registered_at=NOW,
    )


def trained(batch: TrainingBatchSealed) -> AdapterTrained:
    """The batch became a version."""
    return AdapterTrained(
        job_id=batch.batch_id,
        batch_id=batch.batch_id,
        target_model=batch.target_model,
        version=f"v{batch.number}",
        number=batch.number,
        base_model="/bases/tiny",
        adapter=ARTIFACT,
        gguf=(),
        dataset=ARTIFACT,
        stages=("thinking_fusion",),
        settings={},
        metrics={},
        duration_seconds=1.0,
        trained_at=NOW,
    )


def rolled_back(number: int) -> ModelRolledBack:
    """Version `number` does not serve."""
    return ModelRolledBack(
        target_model="tiny",
        version=f"v{number}",
        serving_version=None,
        stage="probe",
        reason="it does not think",
        rolled_back_at=NOW,
    )


def failed(batch: TrainingBatchSealed) -> TrainingFailed:
    """The batch has its result."""
    return TrainingFailed(
        job_id=batch.batch_id,
        batch_id=batch.batch_id,
        target_model=batch.target_model,
        phase="training",
        reason="crashed",
        explanation="",
        failed_at=NOW,
    )


def test_the_first_batch_is_trained_from_the_base() -> None:
    batch = sealed(1, rows=100)
    plan = decide(batch, 0, History(sealed=log_of(batch)), POLICY)
    assert isinstance(plan, JobPlan)
    assert (plan.version, plan.parent_version, plan.parent_adapter, plan.base_model) == ("v1", None, None, "/bases/tiny")
    assert (plan.hyperparameters, plan.stages, plan.proof) == (POLICY.hyperparameters, POLICY.stages, POLICY.proof)


def test_a_plan_survives_its_file() -> None:
    plan = decide(sealed(1), 0, History(sealed=log_of(sealed(1))), POLICY)
    assert isinstance(plan, JobPlan)
    assert JobPlan.model_validate_json(plan.model_dump_json()) == plan


def test_a_batch_goes_on_from_the_newest_version_that_serves() -> None:
    batches = [sealed(number) for number in (1, 2, 3, 4)]
    history = History(sealed=log_of(*batches), registered=(registered(1), registered(2, adapter="2"), registered(4, adapter="4")))
    plan = decide(batches[2], 2, history, POLICY)
    assert isinstance(plan, JobPlan)
    assert plan.parent_version == "v2"
    assert plan.parent_adapter is not None
    assert plan.parent_adapter.sha256 == "2" * 64


def test_the_first_registration_of_a_version_is_the_one_that_counts() -> None:
    batches = [sealed(1), sealed(2)]
    history = History(sealed=log_of(*batches), registered=(registered(1, adapter="a"), registered(1, adapter="b")))
    plan = decide(batches[1], 1, history, POLICY)
    assert isinstance(plan, JobPlan)
    assert plan.parent_adapter is not None
    assert plan.parent_adapter.sha256 == "a" * 64


def test_a_batch_with_a_result_is_skipped() -> None:
    batch = sealed(1)
    assert decide(batch, 0, History(sealed=log_of(batch), failed=(failed(batch),)), POLICY) == Skip("has_result")


def test_a_batch_written_twice_is_trained_where_it_stands_first() -> None:
    batch = sealed(1)
    history = History(sealed=log_of(batch, batch))
    assert isinstance(decide(batch, 0, history, POLICY), JobPlan)
    assert decide(batch, 1, history, POLICY) == Skip("repeated")


def test_another_batch_of_the_same_name_is_not_refused_for_that_would_be_the_first_ones_result() -> None:
    rival = sealed(1).model_copy(update={"to_offset": 4})
    assert decide(rival, 1, History(sealed=log_of(sealed(1), rival)), POLICY) == Skip("repeated")


def test_a_second_batch_of_a_number_is_refused_and_the_first_is_named() -> None:
    rival = sealed(1, name="rival")
    refusal = decide(rival, 1, History(sealed=log_of(sealed(1), rival)), POLICY)
    assert isinstance(refusal, Refuse)
    assert refusal.reason == "not_in_chain"
    assert refusal.evidence["accepted_batch_id"] == "tiny-1"
    assert "tiny-1" in refusal.explanation


@pytest.mark.parametrize(
    ("batch", "why"),
    [
        (sealed(3), "a gap in the numbers"),
        (sealed(2, after=12), "a gap in the offsets"),
        (sealed(2).model_copy(update={"previous_batch_id": "another"}), "another predecessor"),
        (sealed(2).model_copy(update={"assessed_partition": 5}), "another partition"),
        (sealed(2).model_copy(update={"to_offset": 9}), "an empty interval"),
    ],
)
def test_a_batch_that_does_not_follow_on_the_last_one_is_refused(batch: TrainingBatchSealed, why: str) -> None:
    refusal = decide(batch, 1, History(sealed=log_of(sealed(1), batch)), POLICY)
    assert isinstance(refusal, Refuse), why
    assert refusal.reason == "not_in_chain"
    assert refusal.evidence["chain_ends_with_number"] == 1


def test_a_failed_batch_does_not_stop_the_chain() -> None:
    batches = [sealed(1), sealed(2)]
    plan = decide(batches[1], 1, History(sealed=log_of(*batches), failed=(failed(batches[0]),)), POLICY)
    assert isinstance(plan, JobPlan)
    assert plan.parent_version is None


def test_a_batch_waits_until_the_version_before_it_serves_or_is_rolled_back() -> None:
    batches = [sealed(1), sealed(2)]
    history = History(sealed=log_of(*batches), trained=(trained(batches[0]),))
    waiting = decide(batches[1], 1, history, POLICY)
    assert isinstance(waiting, Wait)
    assert "v1" in waiting.what
    serves = decide(batches[1], 1, replace(history, registered=(registered(1),)), POLICY)
    assert isinstance(serves, JobPlan)
    assert serves.parent_version == "v1"
    fallen = decide(batches[1], 1, replace(history, rolled_back=(rolled_back(1),)), POLICY)
    assert isinstance(fallen, JobPlan)
    assert fallen.parent_version is None


def test_a_target_without_a_base_is_refused_with_the_setting_to_change() -> None:
    batch = sealed(1, target="qwen3:99b")
    refusal = decide(batch, 0, History(sealed=log_of(batch)), POLICY)
    assert isinstance(refusal, Refuse)
    assert refusal.reason == "base_missing"
    assert "RUMINATE_BASES" in refusal.explanation
    assert "tiny" in refusal.explanation


def test_a_batch_without_rows_is_refused() -> None:
    batch = sealed(1, rows=0)
    refusal = decide(batch, 0, History(sealed=log_of(batch)), POLICY)
    assert isinstance(refusal, Refuse)
    assert refusal.reason == "no_rows"


def test_micro_batches_have_to_fill_a_batch() -> None:
    with pytest.raises(ValidationError, match="multiple"):
        Hyperparameters(batch_rows=16, micro_batch_rows=5)


def chain_of(length: int, *, every: int, from_base: tuple[int, ...] = (1,), base: str | None = "b" * 64) -> JobPlan:
    """What becomes of the batch after so many versions that all serve, those of `from_base` trained from the base."""
    batches = [sealed(number) for number in range(1, length + 2)]
    versions = [
        trained(batch).model_copy(
            update={
                "base_sha256": base,
                "parent_version": f"v{batch.number - 1}" if batch.number > 1 else None,
                "continued_from": None if base is None or batch.number in from_base else f"v{batch.number - 1}",
            }
        )
        for batch in batches[:-1]
    ]
    history = History(
        sealed=log_of(*batches), trained=tuple(versions), registered=tuple(registered(number) for number in range(1, length + 1))
    )
    plan = decide(batches[-1], length, history, replace(POLICY, retrain_every_versions=every))
    assert isinstance(plan, JobPlan)
    return plan


def test_every_so_many_versions_one_is_trained_anew_on_all_that_earlier_batches_taught() -> None:
    assert not chain_of(2, every=3).from_base
    anew = chain_of(3, every=3)
    assert anew.from_base
    assert (anew.parent_version, len(anew.earlier_datasets)) == ("v3", 3)
    assert anew.parent_adapter is not None  # it has to beat its parent, whatever it begins with
    assert not chain_of(4, every=3, from_base=(1, 4)).from_base
    assert chain_of(6, every=3, from_base=(1, 4)).from_base
    assert not chain_of(6, every=0).from_base


def test_versions_of_earlier_releases_count_as_going_on_from_their_parents() -> None:
    assert chain_of(3, every=3, base=None).from_base
    assert not chain_of(3, every=4, base=None).from_base


def test_the_first_version_is_trained_from_the_base_and_rehearses_nothing_earlier() -> None:
    plan = decide(sealed(1), 0, History(sealed=log_of(sealed(1))), replace(POLICY, retrain_every_versions=1))
    assert isinstance(plan, JobPlan)
    assert plan.from_base
    assert plan.earlier_datasets == ()


def test_a_batch_without_rows_and_an_earlier_dataset_that_was_revised_are_as_they_are_by_now() -> None:
    batches = [sealed(1), sealed(2, rows=0), sealed(3)]
    revised = DatasetRevised(
        batch_id="tiny-1",
        target_model="tiny",
        number=1,
        revision=1,
        replaces=ARTIFACT,
        dataset=ARTIFACT.model_copy(update={"sha256": "e" * 64}),
        revised_at=NOW,
        erasure_ids=("e-1",),
        erased_interactions=1,
        rows=99,
        reasoning_rows=99,
        direct_rows=0,
    )
    first = trained(batches[0]).model_copy(update={"base_sha256": "b" * 64})
    history = History(sealed=log_of(*batches), trained=(first,), registered=(registered(1),), revised=(revised,))
    plan = decide(batches[2], 2, history, replace(POLICY, retrain_every_versions=1))
    assert isinstance(plan, JobPlan)
    assert [dataset.sha256 for dataset in plan.earlier_datasets] == ["e" * 64]


def test_a_target_is_pinned_to_the_base_of_its_parent() -> None:
    assert chain_of(1, every=0).base_sha256 == "b" * 64
    assert chain_of(1, every=0, base=None).base_sha256 is None


def test_a_version_that_served_and_was_rolled_back_is_nobodys_parent() -> None:
    batches = [sealed(number) for number in (1, 2, 3)]
    history = History(sealed=log_of(*batches), registered=(registered(1), registered(2)), rolled_back=(rolled_back(2),))
    plan = decide(batches[2], 2, history, POLICY)
    assert isinstance(plan, JobPlan)
    assert plan.parent_version == "v1"
