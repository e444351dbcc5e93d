"""What is to be done with a sealed batch: nothing, a refusal, a wait, or a job.

Only the first record in the log that extends a target's chain is its batch; only the first result of an attempt at a batch counts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Final, Literal

from pydantic import JsonValue

from ruminate.grading.checking.limits import Limits
from ruminate.schemas.batch import DatasetRevised, TrainingBatchSealed, as_it_is
from ruminate.schemas.directing import Directions, Standing, standing, taken_together
from ruminate.schemas.model import ModelRegistered, ModelRolledBack
from ruminate.schemas.payload import ArtifactReference, Sha256
from ruminate.schemas.training import AdapterTrained, TrainingDirected, TrainingFailed
from ruminate.trainer.plan import BackendWish, Checkpointing, Dtype, Encoding, Hyperparameters, JobPlan, Proof, Recovery, StageRules

Approval = Literal["auto", "manual"]
EVERY_TARGET: Final = "*"

Why = Literal["parent", "base", "retry", "approval", "paused", "turn"]
"""What a batch waits for: the version before it is on its way; the hub; a batch before it; an operator; or that other jobs end."""


@dataclass(frozen=True)
class Skip:
    """Nothing is to be told: the log has the answer already, or this record is no batch."""

    reason: Literal["has_result", "repeated"]


@dataclass(frozen=True)
class Wait:
    """Not yet, and why not."""

    what: str
    why: Why = "parent"


@dataclass(frozen=True)
class Refuse:
    """The batch gives no version, and why: the words of `training-failed-v1`."""

    reason: str
    explanation: str
    evidence: dict[str, JsonValue] = field(default_factory=dict)


@dataclass(frozen=True)
class Policy:
    """What the operator chose."""

    bases: dict[str, str]
    hyperparameters: Hyperparameters
    checkpoint_steps: int
    merged_dtype: Dtype
    encodings: tuple[Encoding, ...]
    adapter_encoding: Encoding
    equality_probes: int
    retrain_every_versions: int = 0
    """Versions, one on the other, after which the next is trained anew from the base; 0: never."""
    stages: StageRules = field(default_factory=StageRules)
    proof: Proof = field(default_factory=Proof)
    recovery: Recovery = field(default_factory=Recovery)
    code: Limits | None = None
    backend: BackendWish = "auto"
    gradient_checkpointing: Checkpointing = "auto"
    export_context_tokens: int | None = None
    approval: Mapping[str, Approval] = field(default_factory=dict)

    def wants_approval(self, target: str) -> bool:
        """Whether an operator has to approve of each batch of this target."""
        return self.approval.get(target, self.approval.get(EVERY_TARGET, "auto")) == "manual"


@dataclass(frozen=True)
class History:
    """What the log says about one tenant and target, each in the order of the log; batches with their offsets."""

    sealed: tuple[tuple[int, TrainingBatchSealed], ...]
    trained: tuple[AdapterTrained, ...] = ()
    failed: tuple[TrainingFailed, ...] = ()
    registered: tuple[ModelRegistered, ...] = ()
    rolled_back: tuple[ModelRolledBack, ...] = ()
    revised: tuple[DatasetRevised, ...] = ()
    directed: tuple[TrainingDirected, ...] = ()

    @cached_property
    def directions(self) -> Directions:
        """What operators have said."""
        return taken_together(self.directed)

    def standing(self, batch: TrainingBatchSealed) -> Standing:
        """Which attempt of the batch is due, or which result it has."""
        return standing(batch.batch_id, batch.number, trained=self.trained, failed=self.failed, directions=self.directions)

    @property
    def retried(self) -> tuple[TrainingBatchSealed, ...]:
        """The batches of the chain that are to be tried again, in its order."""
        if not self.directions.retried:
            return ()
        return tuple(batch for _, batch in chain(self.sealed) if self.standing(batch).is_retried)

    @property
    def undecided(self) -> AdapterTrained | None:
        """The newest version that is trained and neither serves nor was rolled back."""
        decided = {record.version for record in self.registered} | {record.version for record in self.rolled_back}
        open_ones = [record for record in self.trained if record.version not in decided]
        return max(open_ones, key=lambda record: record.number, default=None)

    @property
    def settled(self) -> frozenset[str]:
        """Ids of the batches that have their result, and are not to be tried again."""
        results = (*(result.batch_id for result in self.trained), *(result.batch_id for result in self.failed))
        return frozenset(results) - {batch.batch_id for batch in self.retried}


def decide(batch: TrainingBatchSealed, offset: int, history: History, policy: Policy) -> Skip | Refuse | Wait | JobPlan:
    """Answer the batch that stands at `offset`, which `history.sealed` reaches at least up to."""
    if batch.batch_id in history.settled:
        return Skip("has_result")
    accepted = chain(history.sealed)
    first = next((at for at, link in accepted if link.batch_id == batch.batch_id), None)
    if first is None:
        return _not_in_chain(batch, tuple(link for _, link in accepted))
    if first != offset:
        # The same batch, written twice: a refusal here would pass for the batch's own result.
        return Skip("repeated")
    if (refusal := _cancelled(batch, history)) is not None or (refusal := _unusable(batch, policy)) is not None:
        return refusal
    if (wait := _not_yet(batch, history, policy)) is not None:
        return wait
    parent = parent_of(batch.number, history.registered, history.rolled_back)
    anew = parent is not None and is_due(parent.version, history.trained, policy.retrain_every_versions)
    return JobPlan(
        tenant=batch.tenant,
        batch_id=batch.batch_id,
        target_model=batch.target_model,
        number=batch.number,
        version=f"v{batch.number}",
        parent_version=parent.version if parent else None,
        parent_adapter=parent.adapter if parent else None,
        from_base=parent is None or anew,
        earlier_datasets=_earlier(batch, accepted, history) if anew else (),
        base_model=policy.bases[batch.target_model],
        base_sha256=_pinned_base(history, parent),
        dataset=batch.dataset,
        rows=batch.rows,
        stages=policy.stages,
        hyperparameters=policy.hyperparameters,
        proof=policy.proof,
        recovery=policy.recovery,
        code=policy.code,
        checkpoint_steps=policy.checkpoint_steps,
        merged_dtype=policy.merged_dtype,
        encodings=policy.encodings,
        adapter_encoding=policy.adapter_encoding,
        equality_probes=policy.equality_probes,
        backend=policy.backend,
        gradient_checkpointing=policy.gradient_checkpointing,
        export_context_tokens=policy.export_context_tokens,
    )


def is_due(parent: str, trained: Sequence[AdapterTrained], every: int) -> bool:
    """Whether so many versions stand one on the other, down from this one, that the next is trained anew.

    What each of them forgot a little of, within what is allowed, adds up; and an adapter that goes on and on uses up its room.
    """
    first: dict[str, AdapterTrained] = {}
    for record in trained:
        first.setdefault(record.version, record)
    length, version = 0, first.get(parent)
    while version is not None and length < every:
        length += 1
        # Earlier releases always went on from the parent, and did not say so.
        before = version.continued_from or (version.parent_version if version.base_sha256 is None else None)
        version = first.get(before) if before is not None else None
    return 0 < every <= length


def _earlier(
    batch: TrainingBatchSealed, accepted: Sequence[tuple[int, TrainingBatchSealed]], history: History
) -> tuple[ArtifactReference, ...]:
    """The datasets of the batches before this one that have rows, as they are by now."""
    links = [as_it_is(link, history.revised) for _, link in accepted if link.number < batch.number]
    return tuple(link.dataset for link in links if link.rows)


def _pinned_base(history: History, parent: ModelRegistered | None) -> Sha256 | None:
    """The digest of the base that the parent stands on."""
    if parent is None:
        return None
    return next((record.base_sha256 for record in history.trained if record.version == parent.version), None)


def _cancelled(batch: TrainingBatchSealed, history: History) -> Refuse | None:
    attempt = history.standing(batch).attempt
    word = history.directions.cancelled.get((batch.batch_id, attempt))
    if word is None:
        return None
    return Refuse(
        "cancelled",
        f"{word.directed_by} cancelled {_named(batch, attempt)}{f': {word.reason}' if word.reason else ''}. "
        f"To train it after all:  ruminate train retry {batch.batch_id}",
        {"directed_by": word.directed_by, "directed_at": word.directed_at.isoformat()},
    )


def _not_yet(batch: TrainingBatchSealed, history: History, policy: Policy) -> Wait | None:
    directions, target = history.directions, batch.target_model
    if directions.paused is not None:
        word = directions.paused
        why = f": {word.reason}" if word.reason else ""
        return Wait(f"{target} was paused by {word.directed_by}{why}. Type:  ruminate resume {target}", "paused")
    # A retry is an operator's word for the batch, too.
    if policy.wants_approval(target) and batch.batch_id not in directions.approved and not history.standing(batch).is_retried:
        return Wait(
            f"{batch.batch_id} of {target} waits for approval (RUMINATE_APPROVAL). Type:  ruminate train approve {batch.batch_id}",
            "approval",
        )
    earlier = next((each for each in history.retried if each.number < batch.number), None)
    if earlier is not None:
        # Trained before it, this batch would end its retry: what a later one was trained behind is not tried again.
        return Wait(f"{earlier.batch_id} of {target} is tried again first", "retry")
    if history.undecided is not None:
        # Trained now, it would not continue from that version, and would lose what that one has learned.
        return Wait(f"{history.undecided.version} of {target} is trained and neither registered nor rolled back yet")
    return None


def _named(batch: TrainingBatchSealed, attempt: int) -> str:
    return batch.batch_id if attempt == 1 else f"attempt {attempt} of {batch.batch_id}"


def _unusable(batch: TrainingBatchSealed, policy: Policy) -> Refuse | None:
    if batch.rows == 0:
        explanation = (
            f"batch {batch.batch_id} has no rows to train on: its interval gave none, or they were erased. Nothing is to be done."
        )
        return Refuse("no_rows", explanation)
    if batch.target_model not in policy.bases:
        return Refuse(
            "base_missing",
            f"no base is known for target {batch.target_model}; known are {', '.join(sorted(policy.bases)) or 'none'}. "
            "Name a hub model or a local folder for it in RUMINATE_BASES.",
            {"target_model": batch.target_model},
        )
    return None


def chain(sealed: tuple[tuple[int, TrainingBatchSealed], ...]) -> tuple[tuple[int, TrainingBatchSealed], ...]:
    """The accepted batches: each is the first in the log that follows on the one before it."""
    accepted: list[tuple[int, TrainingBatchSealed]] = []
    for offset, batch in sealed:
        last = accepted[-1][1] if accepted else None
        if _extends(batch, last):
            accepted.append((offset, batch))
    return tuple(accepted)


def _extends(batch: TrainingBatchSealed, last: TrainingBatchSealed | None) -> bool:
    number, batch_id, to_offset = (last.number, last.batch_id, last.to_offset) if last else (0, None, -1)
    return (
        batch.number == number + 1
        and batch.previous_batch_id == batch_id
        and batch.after_offset == to_offset < batch.to_offset
        and (last is None or batch.assessed_partition == last.assessed_partition)
    )


def _not_in_chain(batch: TrainingBatchSealed, accepted: tuple[TrainingBatchSealed, ...]) -> Refuse:
    holder = next((link for link in accepted if link.number == batch.number), None)
    last = accepted[-1] if accepted else None
    why = (
        f"batch {batch.number} of {batch.target_model} is {holder.batch_id}, which stands before it in the log"
        if holder
        else f"the chain of {batch.target_model} ends with {f'batch {last.number}, {last.batch_id}' if last else 'no batch yet'}"
    )
    return Refuse(
        "not_in_chain",
        f"batch {batch.batch_id} (number {batch.number}) does not extend the chain: {why}. "
        "Nothing is to be done; its rows are in the chain.",
        {
            "number": batch.number,
            "previous_batch_id": batch.previous_batch_id,
            "after_offset": batch.after_offset,
            "accepted_batch_id": holder.batch_id if holder else None,
            "chain_ends_with_number": last.number if last else 0,
            "chain_ends_at_offset": last.to_offset if last else -1,
        },
    )


def parent_of(
    number: int, registered: Sequence[ModelRegistered], rolled_back: Sequence[ModelRolledBack] = ()
) -> ModelRegistered | None:
    """The newest version before `number` that serves; the first registration of a version is the one that counts."""
    fallen = {record.version for record in rolled_back}
    first: dict[str, ModelRegistered] = {}
    for record in registered:
        if record.version not in fallen:
            first.setdefault(record.version, record)
    return max((record for record in first.values() if record.number < number), key=lambda record: record.number, default=None)
