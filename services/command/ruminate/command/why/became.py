"""What became of a batch: the version that was trained on it, where that serves, who went on from it, what of it was erased. Pure.

Both directions end or begin here: an interaction's row leads to the version that it taught, and a version is where `why` starts.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from ruminate.accumulator.making.manifest import Manifest
from ruminate.command.why.facts import Chain
from ruminate.command.why.tree import Node
from ruminate.command.why.words import event_node, in_detail, time_said
from ruminate.schemas.batch import TrainingBatchSealed


def taught(chain: Chain, batch: TrainingBatchSealed) -> Node:
    """The version that was trained on a batch, and what became of it."""
    trained, failed = chain.trained.get(batch.batch_id), chain.failed.get(batch.batch_id)
    if trained is None:
        if failed is None:
            return Node("not_trained", "no version was trained on it yet")
        says = f"training failed {time_said(failed.payload.failed_at)}: {failed.payload.reason}"
        return event_node("training_failed", says, failed, reason=failed.payload.reason, explanation=failed.payload.explanation)
    version = trained.payload.version
    after = f", at attempt {trained.payload.attempt}" if trained.payload.attempt > 1 else ""
    return event_node(
        "trained",
        f"trained into {version} of {chain.target} {time_said(trained.payload.trained_at)}{after}",
        trained,
        version=version,
        parent_version=trained.payload.parent_version,
        adapter_sha256=trained.payload.adapter.sha256,
        children=[*served(chain, version), *heirs(chain, version)],
    )


def served(chain: Chain, version: str) -> Iterator[Node]:
    """Since when and where a version serves, or how it was rolled back."""
    registered = chain.registered.get(version)
    if registered is not None:
        model = registered.payload
        now = "serves" if chain.serving == version else "served"
        nodes = [
            Node(
                "node",
                f"node {node.node}: digest {node.digest[:12]}{_still(chain, node.node, model.model_name)}",
                {"node": node.node, "url": node.url, "digest": node.digest},
            )
            for node in model.nodes
        ]
        says = f"{now} as {model.alias} ({model.model_name}) since {time_said(model.registered_at)}"
        if chain.serving != version and version not in chain.rolled_back:
            says += f"; {chain.serving or 'the base'} serves now"
        yield event_node(
            "registered",
            says,
            registered,
            alias=model.alias,
            model_name=model.model_name,
            serves=chain.serving == version,
            children=nodes,
        )
    for each in chain.rolled_back.get(version, ()):
        said = each.payload
        then = said.serving_version or "the base"
        says = f"rolled back {time_said(said.rolled_back_at)} at {said.stage}: {said.reason}; then served {then}"
        yield event_node("rolled_back", says, each, stage=said.stage, reason=said.reason, serving_version=said.serving_version)
    if registered is None and version not in chain.rolled_back:
        yield Node("not_registered", f"neither registered nor rolled back yet; {chain.serving or 'the base'} serves")


def _still(chain: Chain, name: str, model_name: str) -> str:
    seen = next((node for node in chain.nodes if node.node == name), None)
    if seen is None:
        return ""
    return f", {'there' if chain.holding(seen, model_name) else 'no longer there'} when last seen {time_said(seen.at)}"


def heirs(chain: Chain, version: str) -> Iterator[Node]:
    """The versions that went on from this one."""
    for heir in chain.heirs(version):
        parent = chain.parent(heir)
        yield Node(
            "heir",
            f"{heir} went on from {parent}: {standing(chain, heir)}",
            {"version": heir, "parent_version": parent, "serves": chain.serving == heir},
        )


def standing(chain: Chain, version: str) -> str:
    """In a word, how far a version came."""
    if version in chain.rolled_back:
        return "rolled back"
    if version in chain.registered:
        return "serves" if chain.serving == version else "served"
    return "trained, not registered yet"


def in_short(chain: Chain | None, batch: TrainingBatchSealed) -> tuple[str | None, str]:
    """In a few words, what was trained on a batch: a row's own place tells the rest, however often it is rehearsed."""
    if chain is None:
        return None, "what was trained on it is not known"
    if (trained := chain.trained.get(batch.batch_id)) is not None:
        version = trained.payload.version
        return version, f"{version}: {standing(chain, version)}"
    return None, "training failed" if batch.batch_id in chain.failed else "no version was trained on it yet"


def learned(chain: Chain, batch: TrainingBatchSealed, erasure_id: str) -> list[Node]:
    """Who was trained on a batch before this erasure, and who went on from there."""
    trained = chain.trained.get(batch.batch_id)
    if trained is None:
        return [taught(chain, batch)]
    version = trained.payload.version
    of_batch = [mark for mark in chain.marks if mark.batch_id == batch.batch_id and erasure_id in mark.erasure_ids]
    if not any(mark.version == version for mark in of_batch):
        return [Node("not_learned", f"{version} was trained on what was left of it", {"version": version})]
    heirs = sorted({mark.version for mark in of_batch} - {version})
    after = f", and so have {', '.join(heirs)}, which went on from it" if heirs else ""
    says = f"{version} had been trained on it by then and has learned from it{after}: {standing(chain, version)}"
    return [Node("learned", says, {"version": version, "heirs": heirs})]


def marked(chain: Chain, version: str, manifest: Manifest | None) -> Iterator[Node]:
    """What a version has learned that was erased since."""
    for mark in chain.marks_of(version):
        count, requests = mark.erased_interactions, ", ".join(mark.erasure_ids)
        what = f"{count} interaction{'s' * (count != 1)} that {'have' if count != 1 else 'has'} been erased since, for {requests}"
        if mark.inherited_from is not None:
            says = f"has learned by {mark.inherited_from} from {what}"
        else:
            were = Counter(erased.was for erased in manifest.erased if erased.erasure_id in mark.erasure_ids) if manifest else {}
            says = f"has learned from {what}{in_detail({f'lines of {was}': lines for was, lines in were.items()})}"
        says += f": trained before revision {mark.revision} of {mark.batch_id}"
        yield Node("marked", says, mark._asdict(), gone=True)
