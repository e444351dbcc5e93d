"""What a replay says: `replay.json` for programs, `report.md` for whoever weighs one policy against another."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final, Literal, get_args

from ruminate.accumulator.making.manifest import POLICY_VERSION
from ruminate.accumulator.rebuilding.replay import Difference
from ruminate.assessor.judging.decide import SCORER_VERSION
from ruminate.command.datasets.policy import ReplayPolicy

Kind = Literal["gained", "lost", "changed"]
KINDS: Final[tuple[Kind, ...]] = get_args(Kind)

_EXAMPLES: Final = 10
_SAYS: Final[Mapping[Kind, str]] = {
    "gained": "in the replay alone; by why the chain has no row",
    "lost": "in the chain alone; by why the replay has no row",
    "changed": "in both, and not alike; by what differs",
}


@dataclass(frozen=True)
class ReplayedBatch:
    """A replayed batch. Times are those of its first and last interaction."""

    number: int
    reason: str
    rows: int
    reasoning_rows: int
    holdout_rows: int
    left_out: dict[str, int]
    first_occurred_at: str
    last_occurred_at: str
    dataset_sha256: str


@dataclass(frozen=True)
class ChainSize:
    """What the chain of the log has taught so far."""

    batches: int
    rows: int
    holdout_rows: int


@dataclass(frozen=True)
class ReplayedChain:
    """One tenant and target under the policy, beside its chain in the log."""

    tenant: str
    target: str
    interactions: int
    holdout_ratio: float
    rejected_for: dict[str, int]
    batches: list[ReplayedBatch]
    waiting: dict[str, int]
    waiting_explanation: str
    chain: ChainSize
    same_rows: int
    differing_rows: dict[str, dict[str, int]]


def summary_of(policy: ReplayPolicy, chains: Sequence[ReplayedChain], conflicts: Sequence[str]) -> dict[str, Any]:
    """Everything but the rows, as JSON values."""
    return {
        "name": policy.name,
        "policy": policy.values,
        "scorer_version": SCORER_VERSION,
        "assessor_policy_version": policy.assessment.version,
        "policy_version": POLICY_VERSION,
        "conflicting_event_ids": list(conflicts),
        "chains": [asdict(chain) for chain in chains],
    }


def report_of(
    policy: ReplayPolicy, chains: Sequence[ReplayedChain], differences: Sequence[Sequence[Difference]], conflicts: Sequence[str]
) -> str:
    """The same for people, as Markdown."""
    return "\n".join(_report(policy, chains, differences, conflicts)) + "\n"


def _report(
    policy: ReplayPolicy, chains: Sequence[ReplayedChain], differences: Sequence[Sequence[Difference]], conflicts: Sequence[str]
) -> Iterator[str]:
    yield f"# Replay {policy.name}"
    yield ""
    yield (
        f"Every recorded interaction, judged by scorer {SCORER_VERSION} under {policy.assessment.version}, in the order of "
        "(occurred_at, event id). Nothing of this trains, and no chain has moved."
    )
    yield ""
    yield "| value | replay | default |"
    yield "|---|---|---|"
    yield from _changed_values(policy)
    if conflicts:
        yield ""
        yield (
            f"{len(conflicts)} event ids stand on records with different bytes, a fault of whoever wrote them; of each the "
            "earliest by (occurred_at, SHA-256) was taken. `replay.json` lists them."
        )
    for chain, of_chain in zip(chains, differences, strict=True):
        yield from _chain(chain, of_chain)


def _changed_values(policy: ReplayPolicy) -> Iterator[str]:
    defaults = ReplayPolicy(type(policy.assessment)(), type(policy.batch).written_down({})).values
    changed = False
    for section, values in policy.values.items():
        for name, value in values.items():
            if value != defaults[section][name]:
                changed = True
                yield f"| {section}.{name} | {value} | {defaults[section][name]} |"
    if not changed:
        yield "| all | as the default | |"


def _chain(chain: ReplayedChain, differences: Sequence[Difference]) -> Iterator[str]:
    rows, held_out = sum(batch.rows for batch in chain.batches), sum(batch.holdout_rows for batch in chain.batches)
    yield ""
    yield f"## {chain.target} of {chain.tenant}"
    yield ""
    here, there = _size(len(chain.batches), rows, held_out), _size(chain.chain.batches, chain.chain.rows, chain.chain.holdout_rows)
    yield (
        f"{chain.interactions} interactions. The chain has {there}; the replay {here}, holding out {chain.holdout_ratio:.1%} of "
        "what no batch of the chain holds."
    )
    yield ""
    yield "| batch | rows | reasoning | held out | left out | sealed by | first | last | dataset |"
    yield "|---|---|---|---|---|---|---|---|---|"
    for batch in chain.batches:
        yield (
            f"| {batch.number} | {batch.rows} | {batch.reasoning_rows / batch.rows:.0%} | {batch.holdout_rows} "
            f"| {_counts(batch.left_out)} | {batch.reason} | {batch.first_occurred_at} | {batch.last_occurred_at} "
            f"| {batch.dataset_sha256[:12]} |"
        )
    yield ""
    yield f"After the last batch: {chain.waiting_explanation or 'nothing.'} {_counts(chain.waiting)}".rstrip()
    yield ""
    yield f"Rejected by the assessor for: {_counts(chain.rejected_for) or 'nothing'}."
    yield ""
    yield f"{chain.same_rows} rows are the same in both."
    for kind in KINDS:
        of_kind = [difference for difference in differences if difference.kind == kind]
        if of_kind:
            yield ""
            yield f"### {len(of_kind)} rows {kind}: {_SAYS[kind]}"
            yield ""
            yield f"{_counts(chain.differing_rows[kind])}."
            yield ""
            yield from (
                f"- {each.recorded_id}: {each.why}, batch {each.chain_batch or '-'} of the chain, {each.replay_batch or '-'} here"
                for each in of_kind[:_EXAMPLES]
            )
            if len(of_kind) > _EXAMPLES:
                yield f"- and {len(of_kind) - _EXAMPLES} more: `differences.jsonl` has all of them"


def _size(batches: int, rows: int, held_out: int) -> str:
    return f"{batches} batch{'es' * (batches != 1)} with {rows} rows to train on and {held_out} held out"


def _counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in counts.items())
