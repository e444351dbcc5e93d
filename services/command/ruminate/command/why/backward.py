"""Backward: from a version or a batch to the dataset that taught it, its rows, and the parents it went on from. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from ruminate.accumulator.making.manifest import Manifest
from ruminate.command.datasets.erased import interactions_by_request
from ruminate.command.why.became import heirs, marked, served, standing, taught
from ruminate.command.why.facts import Chain, RowPlace, Version, line_places, places
from ruminate.command.why.tree import Node
from ruminate.command.why.words import event_node, in_detail, line_facts, origin_said, time_said
from ruminate.schemas.batch import TrainingBatchSealed


def version_tree(version: Version, *, rows: bool = False) -> Node:
    """Backward: where it serves, the batch and the dataset that taught it, its parents and theirs, and who went on from it."""
    chain, name = version.chain, version.name
    trained, registered = chain.version(name), chain.registered.get(name)
    batch_id = trained.payload.batch_id if trained else registered.payload.batch_id if registered else None
    batch = chain.batch(batch_id) if batch_id else None
    children: list[Node] = []
    if trained is not None:
        said = trained.payload
        took = f"{said.duration_seconds:.0f} s on {said.base_model}"
        on = f"trained {time_said(said.trained_at)} in {took}, stages {', '.join(said.stages)}"
        children.append(
            event_node(
                "trained",
                on,
                trained,
                base_model=said.base_model,
                stages=list(said.stages),
                adapter_sha256=said.adapter.sha256,
                dataset_sha256=said.dataset.sha256,
                settings=said.settings,
                metrics=said.metrics,
            )
        )
    else:
        children.append(Node("trained", "its training is not in the log", gone=True))
    children += marked(chain, name, version.manifest)
    children += served(chain, name)
    if batch is not None:
        children.append(batch_node(chain, batch, version.manifest, artifact=version.artifact, rows=rows))
    elif batch_id:
        children.append(Node("batch", f"batch {batch_id} is not in the chain that the log has", {"batch_id": batch_id}, gone=True))
    children += _parents(chain, name)
    children += heirs(chain, name)
    return Node(
        "version",
        f"version {name} of {chain.target} (tenant {chain.tenant}): {standing(chain, name)}",
        {
            "version": name,
            "target_model": chain.target,
            "tenant": chain.tenant,
            "batch_id": batch_id,
            "parent_version": chain.parent(name),
            "serves": chain.serving == name,
            "marked": bool(chain.marks_of(name)),
        },
        children,
    )


def batch_tree(version: Version, batch: TrainingBatchSealed, *, rows: bool = False) -> Node:
    """A batch: its dataset, and the version that was trained on it."""
    node = batch_node(version.chain, batch, version.manifest, artifact=version.artifact, rows=rows)
    return Node(node.kind, node.says, node.facts, [*node.children, taught(version.chain, batch)], node.gone)


def batch_node(
    chain: Chain, batch: TrainingBatchSealed, manifest: Manifest | None, *, artifact: str = "", rows: bool = False
) -> Node:
    """A batch and what its dataset holds; with `rows`, every line and the interaction that it is of."""
    says = (
        f"batch {batch.batch_id}, number {batch.number}, sealed {time_said(batch.sealed_at)} by {batch.reason}: {batch.rows} rows "
        f"({batch.reasoning_rows} reasoning, {batch.direct_rows} direct), {batch.holdout_rows} held out, "
        f"{batch.replay_rows} rehearsed, {batch.preference_pairs} pairs, {batch.verifiable_questions} questions for practice"
    )
    children = []
    if manifest is None:
        children.append(
            Node("dataset", f"its manifest is not to be had: {chain.unreadable.get(batch.batch_id, artifact)}", gone=True)
        )
    else:
        details = Counter((left.reason, left.detail) for left in manifest.left_out if left.detail is not None)
        left = ", ".join(
            f"{reason} {count}{in_detail({detail: number for (why, detail), number in details.items() if why == reason})}"
            for reason, count in manifest.left_out_counts.items()
        )
        scorers = ", ".join(manifest.scorer_versions)
        says_dataset = f"dataset {batch.dataset.sha256[:12]} is {artifact or 'not looked at'} in the store"
        children.append(
            Node("dataset", says_dataset, {"uri": batch.dataset.uri, "sha256": batch.dataset.sha256}, gone=artifact == "missing")
        )
        if manifest.revision:
            left_it = interactions_by_request(manifest)
            says_erased = f"revision {manifest.revision} of it: interactions erased from it, by request{in_detail(left_it)}"
            children.append(Node("erased", says_erased, {"revision": manifest.revision, "erased": left_it}))
        rules = f"rules {manifest.policy_version}, scorer {scorers}, policy {', '.join(manifest.assessor_policy_versions)}"
        children.append(Node("rules", rules, {"policy": manifest.policy, "seed": manifest.seed}))
        children.append(Node("left_out", f"left out: {left or 'nothing'}", dict(manifest.left_out_counts)))
        children.append(_all_rehearsed(manifest))
        if rows:
            listed = [_listed(place) for place in places(batch, manifest.rows)]
            children.append(Node("rows", "rows, each to be asked for:  ruminate why RECORDED_ID", {}, listed))
            lines = [
                Node("line", f"{place.file}:{place.line}  {origin_said(place)}", line_facts(place))
                for place in line_places(batch, manifest)
            ]
            if lines:
                children.append(
                    Node("lines", f"beside the rows, each to be asked for:  ruminate why {batch.batch_id}:FILE:LINE", {}, lines)
                )
    facts = {
        "batch_id": batch.batch_id,
        "number": batch.number,
        "previous_batch_id": batch.previous_batch_id,
        "rows": batch.rows,
        "reasoning_rows": batch.reasoning_rows,
        "direct_rows": batch.direct_rows,
        "holdout_rows": batch.holdout_rows,
        "replay_rows": batch.replay_rows,
        "generated_rows": batch.generated_rows,
        "replay_generated_rows": batch.replay_generated_rows,
        "preference_pairs": batch.preference_pairs,
        "verifiable_questions": batch.verifiable_questions,
        "interval": [batch.after_offset + 1, batch.to_offset],
        "partition": batch.assessed_partition,
    }
    return Node("batch", says, facts, children)


def _all_rehearsed(manifest: Manifest) -> Node:
    """The rows of earlier batches and the anchors that were trained with a batch, counted."""
    counts = Counter((each.origin, each.named) for each in manifest.rehearsed)
    replayed = {named: count for (origin, named), count in counts.items() if origin == "replay"}
    anchors = {named: count for (origin, named), count in counts.items() if origin == "anchor"}
    says = f"rehearsed: {sum(replayed.values())} rows of earlier batches{in_detail(replayed)}, {sum(anchors.values())} anchors"
    return Node("rehearsed", f"{says}{in_detail(anchors)}", {"replay": replayed, "anchors": anchors})


def _listed(place: RowPlace) -> Node:
    row = place.row
    facts = {"row": place.name, "recorded_id": str(row.recorded_id), "event_id": row.event_id, "sha256": row.sha256}
    says = f"{place.split}:{place.line}  {row.recorded_id}  {'reasoning' if row.reasoning else 'direct'}  {row.sha256[:12]}"
    return Node("row", says, facts)


def _parents(chain: Chain, version: str) -> Iterator[Node]:
    """Parent over parent, and how many rows taught them together."""
    ancestors = chain.ancestors(version)
    rows = 0
    for name in ancestors:
        trained = chain.version(name)
        batch = chain.batch(trained.payload.batch_id) if trained else None
        if batch is None:
            yield Node("parent", f"parent {name}: its training or its batch is not in the log", {"version": name}, gone=True)
            continue
        rows += batch.rows
        says = f"parent {name}: batch {batch.batch_id}, {batch.rows} rows{_and_rehearsed(batch)}; {standing(chain, name)}"
        yield Node("parent", says, {"version": name, "batch_id": batch.batch_id, "rows": batch.rows})
    if not ancestors:
        yield Node("parent", "no parent: it begins at the base")
    elif len(ancestors) > 1:
        yield Node("inherited", f"{rows} rows taught its {len(ancestors)} parents", {"rows": rows})


def _and_rehearsed(batch: TrainingBatchSealed) -> str:
    return f" and {batch.replay_rows} rehearsed" if batch.replay_rows else ""
