"""From facts to a tree: what came of an interaction, and what made a version. Pure; no contents unless they are asked for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

from ruminate.accumulator.chain import digest_of
from ruminate.accumulator.dataset import Manifest, PairOrigin, QuestionOrigin, Rehearsed, Was
from ruminate.command.datasets.erased import interactions_by_request
from ruminate.command.datasets.files import CHECKS, DATA_FILES, PAIRS
from ruminate.command.why.facts import (
    Chain,
    Heard,
    Interaction,
    LinePlace,
    Omitted,
    OneLine,
    RowPlace,
    Version,
    line_places,
    omission_of,
    places,
    row_of,
)
from ruminate.schemas.assessment import ReasoningAssessed
from ruminate.schemas.batch import TrainingBatchSealed
from ruminate.schemas.evidence import EvidenceRecorded
from ruminate.schemas.flow import INTERACTION_COMPLETED, INTERACTION_RECORDED, REASONING_ASSESSED
from ruminate.schemas.interaction import InteractionCompleted
from ruminate.shared.bus import Position

_SHOWN = 10


@dataclass(frozen=True, slots=True)
class Node:
    """One step of a lineage: a sentence for people, facts for programs. `gone`: the log or the store no longer has it."""

    kind: str
    says: str
    facts: Mapping[str, Any] = field(default_factory=dict)
    children: Sequence[Node] = ()
    gone: bool = False

    def as_json(self) -> dict[str, Any]:
        """For programs."""
        return {
            "kind": self.kind,
            "says": self.says,
            "gone": self.gone,
            "facts": dict(self.facts),
            "children": [child.as_json() for child in self.children],
        }

    def lines(self) -> Iterator[tuple[str, bool]]:
        """For people, indented; and whether a line says that something is gone."""
        first, *rest = self.says.splitlines() or [""]
        yield first, self.gone
        yield from ((("│  " if self.children else "   ") + text, self.gone) for text in rest)
        for place, child in enumerate(self.children, start=1):
            last = place == len(self.children)
            for number, (text, gone) in enumerate(child.lines()):
                lead = ("└─ " if last else "├─ ") if number == 0 else ("   " if last else "│  ")
                yield lead + text, gone


def interaction_tree(interaction: Interaction, *, contents: bool = False) -> Node:
    """Forward: completed, recorded, each revision of its assessment, the batches that hold it, and the versions they taught."""
    known = interaction.known
    named = f", {known.interaction_id} of {known.conversation_id}" if known else ""
    return Node(
        "interaction",
        f"interaction {interaction.recorded_id}{named}",
        {
            "recorded_id": str(interaction.recorded_id),
            **(
                {
                    "interaction_id": known.interaction_id,
                    "conversation_id": known.conversation_id,
                    "tenant": known.tenant,
                    "target_model": known.target_model,
                    "agent": known.agent,
                    "answering_version": known.answering_version,
                }
                if known
                else {}
            ),
        },
        [
            *_completed(interaction),
            *_recorded(interaction),
            *_erased(interaction),
            *(_contents(known) if contents and known else ()),
            *_assessments(interaction, contents=contents),
            *_unheard(interaction),
            *_rehearsed(interaction, None),
            *_erased_rows(interaction),
            *_not_known(interaction.chain),
        ],
    )


def _completed(interaction: Interaction) -> Iterator[Node]:
    completed, known = interaction.completed, interaction.known
    if completed is not None:
        by = f" by {completed.payload.answering_version}" if completed.payload.answering_version else ""
        yield _heard("completed", f"completed {_time(completed.payload.occurred_at)}{by}, told by {completed.source}", completed)
    else:
        kept = INTERACTION_COMPLETED.retention
        days = f", which keeps {kept.days} days" if kept else ""
        when = f"; it was completed {_time(known.occurred_at)}" if known else ""
        yield Node("completed", f"completed: no longer in {INTERACTION_COMPLETED.name}{days}{when}", gone=True)


def _recorded(interaction: Interaction) -> Iterator[Node]:
    recorded = interaction.recorded
    if recorded is not None:
        changed = f", changed: {', '.join(recorded.payload.normalised)}" if recorded.payload.normalised else ""
        consent = "may be trained on" if recorded.payload.training_allowed else "may not be trained on"
        yield _heard(
            "recorded",
            f"recorded {_time(recorded.at)}, {consent}{changed}",
            recorded,
            training_allowed=recorded.payload.training_allowed,
            normalised=list(recorded.payload.normalised),
        )
    elif interaction.completed is not None and not interaction.assessed and not interaction.rows:
        says = "not recorded: the collector has not read it yet, or it is a dead letter (ruminate dlq list)"
        yield Node("recorded", says, gone=not _asked_to_forget(interaction))
    else:
        yield Node("recorded", f"recorded: no longer in {INTERACTION_RECORDED.name}{_why_gone(interaction)}", gone=True)


def _erased(interaction: Interaction) -> Iterator[Node]:
    for request in interaction.erasures:
        said = request.payload
        asked = "erasure" if said.what == "everything" else "no more training on what is there"
        says = f"{asked} of this {said.scope} asked for {_time(said.requested_at)} by {said.requested_by}"
        yield _heard("erasure_requested", says, request, scope=said.scope)
    for tombstone in interaction.tombstones:
        place = _place(tombstone.position)
        yield Node("erased", f"erased: a tombstone at {place}", {"event_id": tombstone.event_id, "place": place}, gone=True)


_WAS: Final[Mapping[Was, str]] = {
    "train": "a row to train on",
    "holdout": "a row that was held out, measured on and never trained",
    "replay": "a rehearsed row",
    "aside": "a record that gave pairs or questions without a row",
}


def _erased_rows(interaction: Interaction) -> Iterator[Node]:
    """The lines that it had in datasets until they were erased, and who had learned them by then."""
    chain = interaction.chain
    for batch, erased in interaction.erased:
        facts = {
            "batch_id": batch.batch_id,
            "number": batch.number,
            "was": erased.was,
            "offset": erased.offset,
            "erasure_id": erased.erasure_id,
            "salted_sha256": erased.salted_sha256,
        }
        says = (
            f"was in {batch.batch_id}, {_WAS[erased.was]}: erased from its dataset for {erased.erasure_id}; a salted hash is left"
        )
        yield Node("erased_row", says, facts, _learned(chain, batch, erased.erasure_id) if chain else (), gone=True)


def _learned(chain: Chain, batch: TrainingBatchSealed, erasure_id: str) -> list[Node]:
    """Who was trained on a batch before this erasure, and who went on from there."""
    trained = chain.trained.get(batch.batch_id)
    if trained is None:
        return [_taught(chain, batch)]
    version = trained.payload.version
    of_batch = [mark for mark in chain.marks if mark.batch_id == batch.batch_id and erasure_id in mark.erasure_ids]
    if not any(mark.version == version for mark in of_batch):
        return [Node("not_learned", f"{version} was trained on what was left of it", {"version": version})]
    heirs = sorted({mark.version for mark in of_batch} - {version})
    after = f", and so have {', '.join(heirs)}, which went on from it" if heirs else ""
    says = f"{version} had been trained on it by then and has learned from it{after}: {_standing(chain, version)}"
    return [Node("learned", says, {"version": version, "heirs": heirs})]


def _marks(chain: Chain, version: str, manifest: Manifest | None) -> Iterator[Node]:
    """What a version has learned that was erased since."""
    for mark in chain.marks_of(version):
        count, requests = mark.erased_interactions, ", ".join(mark.erasure_ids)
        what = f"{count} interaction{'s' * (count != 1)} that {'have' if count != 1 else 'has'} been erased since, for {requests}"
        if mark.inherited_from is not None:
            says = f"has learned by {mark.inherited_from} from {what}"
        else:
            were = Counter(erased.was for erased in manifest.erased if erased.erasure_id in mark.erasure_ids) if manifest else {}
            says = f"has learned from {what}{_in_detail({f'lines of {was}': lines for was, lines in were.items()})}"
        says += f": trained before revision {mark.revision} of {mark.batch_id}"
        yield Node("marked", says, mark._asdict(), gone=True)


def _asked_to_forget(interaction: Interaction) -> bool:
    return any(request.payload.what == "everything" for request in interaction.erasures)


def _why_gone(interaction: Interaction) -> str:
    if interaction.tombstones or _asked_to_forget(interaction):
        return ", for it was erased"
    return " (erased, or the log begins later)"


def _contents(known: InteractionCompleted) -> Iterator[Node]:
    said = known.model_dump(mode="json", include={"messages", "response", "reference_answer"})
    texts = [Node("message", f"{message.role}: {message.content}") for message in known.messages]
    if known.response.thinking:
        texts.append(Node("thinking", f"thinking: {known.response.thinking}"))
    texts.append(Node("answer", f"answer: {known.response.content}"))
    yield Node("contents", "contents", said, texts)


def _assessments(interaction: Interaction, *, contents: bool) -> Iterator[Node]:
    for heard in interaction.assessed:
        assessed, verdict = heard.payload, heard.payload.verdict
        overall = "not known" if verdict.overall.value is None else f"{verdict.overall.value:.3f}"
        says = (
            f"assessed {_time(heard.at)}, revision {assessed.revision}: {verdict.decision}, overall {overall}, evidence "
            f"{verdict.evidence_ratio:.0%}, scorer {assessed.scorer_version}, policy {assessed.policy_version}, combiner "
            f"{verdict.combiner}"
        )
        yield _heard(
            "assessed",
            says,
            heard,
            revision=assessed.revision,
            decision=verdict.decision,
            overall=verdict.overall.value,
            evidence_ratio=verdict.evidence_ratio,
            scorer_version=assessed.scorer_version,
            policy_version=assessed.policy_version,
            combiner=verdict.combiner,
            reasons=[reason if contents else _word(reason) for reason in verdict.reasons],
            children=[
                *(Node("reason", f"because: {reason if contents else _word(reason)}") for reason in verdict.reasons),
                *(_evidence(each, contents=contents) for each in assessed.evidence),
                _fate(interaction, heard),
                *_gave(interaction, digest_of(heard.event_id).hex()),
            ],
        )
    if not interaction.assessed and not interaction.rows and not interaction.omitted and interaction.recorded is not None:
        yield Node("assessed", "not assessed: the assessor has not read it yet, or it is a dead letter (ruminate dlq list)")


def _word(reason: str) -> str:
    """The constant word of a reason; what follows may speak of what was said."""
    return reason.partition(":")[0]


def _evidence(evidence: EvidenceRecorded, *, contents: bool) -> Node:
    said = {
        "thumb": evidence.thumb,
        "score": evidence.score,
        "outcome": evidence.outcome,
        "agreeing": evidence.agreeing,
        "disagreeing": evidence.disagreeing,
        "model": evidence.model,
    }
    texts = {"correction": evidence.correction, "comment": evidence.comment, "thinking": evidence.thinking}
    shown = [f"{name} {value}" for name, value in said.items() if value is not None]
    hidden = {"correction": "a correction", "comment": "a comment", "thinking": "written thinking"}
    shown += [f"{name}: {value}" if contents else hidden[name] for name, value in texts.items() if value is not None]
    facts: dict[str, Any] = {"kind": evidence.kind, "said_by": evidence.said_by, "said_at": evidence.said_at.isoformat()}
    facts |= {name: value for name, value in said.items() if value is not None}
    facts |= {name: value if contents else True for name, value in texts.items() if value is not None}
    what = f": {', '.join(shown)}" if shown else ""
    return Node("evidence", f"{evidence.kind} by {evidence.said_by} {_time(evidence.said_at)}{what}", facts)


def _fate(interaction: Interaction, heard: Heard[ReasoningAssessed]) -> Node:
    """What a batch made of this record."""
    chain = interaction.chain
    if (place := row_of(interaction, heard)) is not None:
        return _row(place, interaction)
    if (left := omission_of(interaction, heard)) is not None:
        return _left(left)
    offset, batches = heard.position.offset, chain.batches if chain else ()
    batch = next((batch for batch in batches if batch.after_offset < offset <= batch.to_offset), None)
    if batch is None:
        says = "in no batch yet: it lies after the last cut of its chain and waits"
        if interaction.rows:
            says += f"; the next batch leaves it out as sealed_before, for {interaction.rows[0].name} is of the same interaction"
        return Node("waiting", says)
    if chain is not None and batch.batch_id in chain.unreadable:
        return Node("not_known", f"in the interval of {batch.batch_id}, whose manifest cannot be read", gone=True)
    says = f"in the interval of {batch.batch_id} and in no account: its reader gave it up as a dead letter (ruminate dlq list)"
    return Node("unaccounted", says, {"batch_id": batch.batch_id})


def _left(left: Omitted) -> Node:
    detail = {} if left.detail is None else {"detail": left.detail}
    return Node(
        "left_out",
        f"left out of {left.batch.batch_id}: {left.reason}{f' ({left.detail})' if left.detail else ''}",
        {"batch_id": left.batch.batch_id, "number": left.batch.number, "reason": left.reason, "offset": left.offset} | detail,
    )


def _row(place: RowPlace, interaction: Interaction) -> Node:
    row, batch, chain = place.row, place.batch, interaction.chain
    facts = {
        "row": place.name,
        "batch_id": batch.batch_id,
        "number": batch.number,
        "split": place.split,
        "line": place.line,
        "sha256": row.sha256,
        "origin": row.origin,
        "reasoning": row.reasoning,
        "generated_thinking": row.generated_thinking,
        "domain": row.domain,
        "difficulty": row.difficulty,
        "event_id": row.event_id,
        "place": f"{REASONING_ASSESSED.name} {row.partition}:{row.offset}",
    }
    kind = "reasoning" if row.reasoning else "direct"
    if row.generated_thinking:
        kind += ", its thinking written afterwards"
    if place.split == "holdout":
        says = f"held out in {batch.batch_id}: line {place.line} of holdout.jsonl, {kind}; measured on, never trained"
        return Node("row", says, facts)
    says = f"in {batch.batch_id}: line {place.line} of train.jsonl, {kind}, {row.origin}, sha256 {row.sha256[:12]}"
    return Node("row", says, facts, [*([_taught(chain, batch)] if chain else ()), *_rehearsed(interaction, place)])


def _rehearsed(interaction: Interaction, fresh: RowPlace | None) -> Iterator[Node]:
    """The later batches that train this row once more; without one, of rows whose fresh place is not known."""
    # An interaction is fresh in one batch of a chain at most.
    known = {place.batch.batch_id: place for place in interaction.rows if place.split == "train"}
    for place in interaction.rehearsed:
        origin = place.origin
        if isinstance(origin, Rehearsed) and known.get(origin.named) == fresh:
            says = f"rehearsed in {_where(place)}{'' if fresh else f', fresh as {origin.named}:{origin.line + 1}'}"
            version, became = _became(interaction.chain, place.batch)
            yield Node("rehearsed", f"{says}; {became}", _of_line(place) | {"version": version})


def _gave(interaction: Interaction, event: str) -> Iterator[Node]:
    """The pairs and questions that come from a record, by the digest of its event."""
    for place in interaction.given:
        mine = [number for number, named in enumerate(place.records) if digest_of(named.event_id).hex() == event]
        if not mine:
            continue
        origin = place.origin
        version, became = _became(interaction.chain, place.batch)
        if isinstance(origin, PairOrigin):
            part = "chosen" if origin.chosen is not None and mine[0] == 0 else "rejected"
            says = f"gave a pair, {_where(place)}, its answer {part}: {PAIRS[origin.kind]}; {became}"
        elif place.file == "verifiable-holdout":
            version, says = None, f"gave a question, {_where(place)}, {_checked(origin)}; measured on, never practised"
        else:
            says = f"gave a question, {_where(place)}, {_checked(origin)}; {became}"
        yield Node("gave", says, _of_line(place) | {"version": version})


def _where(place: LinePlace) -> str:
    return f"{place.batch.batch_id}: line {place.line} of {DATA_FILES[place.file].path}"


def _became(chain: Chain | None, batch: TrainingBatchSealed) -> tuple[str | None, str]:
    """In a few words, what was trained on a batch: a row's own place tells the rest, however often it is rehearsed."""
    if chain is None:
        return None, "what was trained on it is not known"
    if (trained := chain.trained.get(batch.batch_id)) is not None:
        version = trained.payload.version
        return version, f"{version}: {_standing(chain, version)}"
    return None, "training failed" if batch.batch_id in chain.failed else "no version was trained on it yet"


def _checked(origin: object) -> str:
    return f"checked by {CHECKS[origin.kind]}" if isinstance(origin, QuestionOrigin) else "checked"


def _of_line(place: LinePlace) -> dict[str, Any]:
    facts: dict[str, Any] = {
        "line_name": place.name,
        "batch_id": place.batch.batch_id,
        "number": place.batch.number,
        "file": DATA_FILES[place.file].path,
        "line": place.line,
        "sha256": place.origin.sha256,
        "recorded_ids": [str(named.recorded_id) for named in place.records],
    }
    if isinstance(place.origin, Rehearsed):
        return facts | {"origin": place.origin.origin, "fresh_in": place.origin.named, "fresh_line": place.origin.line + 1}
    return facts | {"kind": getattr(place.origin, "kind", None)}


def line_tree(found: OneLine, *, contents: bool = False) -> Node:
    """A line that is no fresh row: what it is, the interactions that it comes from, and the version that it taught."""
    place, *others = found.places
    shown = [
        Node(
            "place",
            f"the same bytes are line {other.line} of {DATA_FILES[other.file].path} of {other.batch.batch_id}",
            _of_line(other),
        )
        for other in others[:_SHOWN]
    ]
    if len(others) > _SHOWN:
        shown.append(Node("place", f"and {len(others) - _SHOWN} more lines have the same bytes"))
    children = [
        *shown,
        *(interaction_tree(interaction, contents=contents) for interaction in found.interactions),
        *([] if place.file == "verifiable-holdout" else [_taught(found.chain, place.batch)]),
    ]
    return Node("line", f"{_where(place)}, {_what(place)}", _of_line(place), children)


def _what(place: LinePlace) -> str:
    origin = place.origin
    match origin:
        case Rehearsed(origin="replay"):
            return f"rehearsed, fresh as {origin.named}:{origin.line + 1}, {'reasoning' if origin.reasoning else 'direct'}"
        case Rehearsed():
            return f"an anchor, row {origin.line + 1} of {origin.named}, {'reasoning' if origin.reasoning else 'direct'}"
        case PairOrigin():
            return f"a pair: {PAIRS[origin.kind]}"
        case _:
            held_out = place.file == "verifiable-holdout"
            return f"a question {'to measure on, never practised' if held_out else 'for practice'}, {_checked(origin)}"


def _unheard(interaction: Interaction) -> Iterator[Node]:
    """What batches account for although the log no longer has the record."""
    heard = {each.event_id for each in interaction.assessed}
    for place in interaction.rows:
        if place.row.event_id not in heard:
            says = f"assessed: event {place.row.event_id} is no longer in {REASONING_ASSESSED.name}{_why_gone(interaction)}"
            yield Node(
                "assessed",
                says,
                {"event_id": place.row.event_id},
                [_row(place, interaction), *_gave(interaction, digest_of(place.row.event_id).hex())],
                gone=True,
            )
    told = {(left.batch.batch_id, left.offset) for each in interaction.assessed if (left := omission_of(interaction, each))}
    events = {digest_of(event_id).hex() for event_id in heard}
    for left in interaction.omitted:
        if (left.batch.batch_id, left.offset) in told:
            continue
        if left.event in events:
            yield Node(
                "repeated", f"a record at offset {left.offset} repeated one of these", {"offset": left.offset}, [_left(left)]
            )
        else:
            says = f"assessed: the record at offset {left.offset} is no longer in {REASONING_ASSESSED.name}{_why_gone(interaction)}"
            yield Node("assessed", says, {"offset": left.offset}, [_left(left), *_gave(interaction, left.event)], gone=True)


def _taught(chain: Chain, batch: TrainingBatchSealed) -> Node:
    """The version that was trained on a batch, and what became of it."""
    trained, failed = chain.trained.get(batch.batch_id), chain.failed.get(batch.batch_id)
    if trained is None:
        if failed is None:
            return Node("not_trained", "no version was trained on it yet")
        says = f"training failed {_time(failed.payload.failed_at)}: {failed.payload.reason}"
        return _heard("training_failed", says, failed, reason=failed.payload.reason, explanation=failed.payload.explanation)
    version = trained.payload.version
    return _heard(
        "trained",
        f"trained into {version} of {chain.target} {_time(trained.payload.trained_at)}",
        trained,
        version=version,
        parent_version=trained.payload.parent_version,
        adapter_sha256=trained.payload.adapter.sha256,
        children=[*_served(chain, version), *_heirs(chain, version)],
    )


def _served(chain: Chain, version: str) -> Iterator[Node]:
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
        says = f"{now} as {model.alias} ({model.model_name}) since {_time(model.registered_at)}"
        if chain.serving != version and version not in chain.rolled_back:
            says += f"; {chain.serving or 'the base'} serves now"
        yield _heard(
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
        says = f"rolled back {_time(said.rolled_back_at)} at {said.stage}: {said.reason}; then served {then}"
        yield _heard("rolled_back", says, each, stage=said.stage, reason=said.reason, serving_version=said.serving_version)
    if registered is None and version not in chain.rolled_back:
        yield Node("not_registered", f"neither registered nor rolled back yet; {chain.serving or 'the base'} serves")


def _still(chain: Chain, name: str, model_name: str) -> str:
    seen = next((node for node in chain.nodes if node.node == name), None)
    if seen is None:
        return ""
    return f", {'there' if chain.holding(seen, model_name) else 'no longer there'} when last seen {_time(seen.at)}"


def _heirs(chain: Chain, version: str) -> Iterator[Node]:
    for heir in chain.heirs(version):
        parent = chain.parent(heir)
        yield Node(
            "heir",
            f"{heir} went on from {parent}: {_standing(chain, heir)}",
            {"version": heir, "parent_version": parent, "serves": chain.serving == heir},
        )


def _standing(chain: Chain, version: str) -> str:
    if version in chain.rolled_back:
        return "rolled back"
    if version in chain.registered:
        return "serves" if chain.serving == version else "served"
    return "trained, not registered yet"


def _not_known(chain: Chain | None) -> Iterator[Node]:
    for batch_id, why in (chain.unreadable if chain else {}).items():
        yield Node("not_known", f"what {batch_id} holds is not known: {why}", {"batch_id": batch_id}, gone=True)


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
        on = f"trained {_time(said.trained_at)} in {took}, stages {', '.join(said.stages)}"
        children.append(
            _heard(
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
    children += _marks(chain, name, version.manifest)
    children += _served(chain, name)
    if batch is not None:
        children.append(batch_node(chain, batch, version.manifest, artifact=version.artifact, rows=rows))
    elif batch_id:
        children.append(Node("batch", f"batch {batch_id} is not in the chain that the log has", {"batch_id": batch_id}, gone=True))
    children += _parents(chain, name)
    children += _heirs(chain, name)
    return Node(
        "version",
        f"version {name} of {chain.target} (tenant {chain.tenant}): {_standing(chain, name)}",
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
    return Node(node.kind, node.says, node.facts, [*node.children, _taught(version.chain, batch)], node.gone)


def batch_node(
    chain: Chain, batch: TrainingBatchSealed, manifest: Manifest | None, *, artifact: str = "", rows: bool = False
) -> Node:
    """A batch and what its dataset holds; with `rows`, every line and the interaction that it is of."""
    says = (
        f"batch {batch.batch_id}, number {batch.number}, sealed {_time(batch.sealed_at)} by {batch.reason}: {batch.rows} rows "
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
            f"{reason} {count}{_in_detail({detail: number for (why, detail), number in details.items() if why == reason})}"
            for reason, count in manifest.left_out_counts.items()
        )
        scorers = ", ".join(manifest.scorer_versions)
        says_dataset = f"dataset {batch.dataset.sha256[:12]} is {artifact or 'not looked at'} in the store"
        children.append(
            Node("dataset", says_dataset, {"uri": batch.dataset.uri, "sha256": batch.dataset.sha256}, gone=artifact == "missing")
        )
        if manifest.revision:
            left_it = interactions_by_request(manifest)
            says_erased = f"revision {manifest.revision} of it: interactions erased from it, by request{_in_detail(left_it)}"
            children.append(Node("erased", says_erased, {"revision": manifest.revision, "erased": left_it}))
        rules = f"rules {manifest.policy_version}, scorer {scorers}, policy {', '.join(manifest.assessor_policy_versions)}"
        children.append(Node("rules", rules, {"policy": manifest.policy, "seed": manifest.seed}))
        children.append(Node("left_out", f"left out: {left or 'nothing'}", dict(manifest.left_out_counts)))
        children.append(_all_rehearsed(manifest))
        if rows:
            listed = [_listed(place) for place in places(batch, manifest.rows)]
            children.append(Node("rows", "rows, each to be asked for:  ruminate why RECORDED_ID", {}, listed))
            lines = [
                Node("line", f"{place.file}:{place.line}  {_what(place)}", _of_line(place))
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
    says = f"rehearsed: {sum(replayed.values())} rows of earlier batches{_in_detail(replayed)}, {sum(anchors.values())} anchors"
    return Node("rehearsed", f"{says}{_in_detail(anchors)}", {"replay": replayed, "anchors": anchors})


def _in_detail(counts: Mapping[str, int]) -> str:
    listed = ", ".join(f"{name} {count}" for name, count in sorted(counts.items()))
    return f" ({listed})" if listed else ""


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
        says = f"parent {name}: batch {batch.batch_id}, {batch.rows} rows{_and_rehearsed(batch)}; {_standing(chain, name)}"
        yield Node("parent", says, {"version": name, "batch_id": batch.batch_id, "rows": batch.rows})
    if not ancestors:
        yield Node("parent", "no parent: it begins at the base")
    elif len(ancestors) > 1:
        yield Node("inherited", f"{rows} rows taught its {len(ancestors)} parents", {"rows": rows})


def _and_rehearsed(batch: TrainingBatchSealed) -> str:
    return f" and {batch.replay_rows} rehearsed" if batch.replay_rows else ""


def _heard(kind: str, says: str, heard: Heard[Any], *, children: Sequence[Node] = (), **facts: Any) -> Node:
    place = _place(heard.position)
    where = {"event_id": heard.event_id, "source": heard.source, "place": place, "at": heard.at.isoformat()}
    return Node(kind, f"{says}  [{place}]", where | facts, children)


def _place(position: Position) -> str:
    return f"{position.topic} {position.partition}:{position.offset}"


def _time(moment: datetime) -> str:
    return f"{moment.astimezone(UTC):%Y-%m-%d %H:%M:%S}Z"
