"""Forward: from an interaction, or a line that comes from some, to what was said of it and what it taught. Pure.

No contents unless they are asked for: what was asked, thought and answered, and the words of those who judged it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ruminate.accumulator.sealing.chain import digest_of
from ruminate.command.datasets.files import DATA_FILES
from ruminate.command.why.became import taught
from ruminate.command.why.facts import Chain, Interaction, OneLine
from ruminate.command.why.fate import asked_to_forget, erased_rows, fate_of, gave, rehearsed, unheard, why_gone
from ruminate.command.why.tree import Node
from ruminate.command.why.words import event_node, line_facts, line_said, origin_said, position_said, time_said
from ruminate.schemas.evidence import EvidenceRecorded
from ruminate.schemas.flow import INTERACTION_COMPLETED, INTERACTION_RECORDED
from ruminate.schemas.interaction import InteractionCompleted


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
            *unheard(interaction),
            *rehearsed(interaction, None),
            *erased_rows(interaction),
            *_not_known(interaction.chain),
        ],
    )


def line_tree(found: OneLine, *, contents: bool = False) -> Node:
    """A line that is no fresh row: what it is, the interactions that it comes from, and the version that it taught."""
    place, *others = found.places
    shown = [
        Node(
            "place",
            f"the same bytes are line {other.line} of {DATA_FILES[other.file].path} of {other.batch.batch_id}",
            line_facts(other),
        )
        for other in others[:_SHOWN]
    ]
    if len(others) > _SHOWN:
        shown.append(Node("place", f"and {len(others) - _SHOWN} more lines have the same bytes"))
    children = [
        *shown,
        *(interaction_tree(interaction, contents=contents) for interaction in found.interactions),
        *([] if place.file == "verifiable-holdout" else [taught(found.chain, place.batch)]),
    ]
    return Node("line", f"{line_said(place)}, {origin_said(place)}", line_facts(place), children)


_SHOWN = 10


def _completed(interaction: Interaction) -> Iterator[Node]:
    completed, known = interaction.completed, interaction.known
    if completed is not None:
        by = f" by {completed.payload.answering_version}" if completed.payload.answering_version else ""
        yield event_node(
            "completed", f"completed {time_said(completed.payload.occurred_at)}{by}, told by {completed.source}", completed
        )
    else:
        kept = INTERACTION_COMPLETED.retention
        days = f", which keeps {kept.days} days" if kept else ""
        when = f"; it was completed {time_said(known.occurred_at)}" if known else ""
        yield Node("completed", f"completed: no longer in {INTERACTION_COMPLETED.name}{days}{when}", gone=True)


def _recorded(interaction: Interaction) -> Iterator[Node]:
    recorded = interaction.recorded
    if recorded is not None:
        changed = f", changed: {', '.join(recorded.payload.normalised)}" if recorded.payload.normalised else ""
        consent = "may be trained on" if recorded.payload.training_allowed else "may not be trained on"
        yield event_node(
            "recorded",
            f"recorded {time_said(recorded.at)}, {consent}{changed}",
            recorded,
            training_allowed=recorded.payload.training_allowed,
            normalised=list(recorded.payload.normalised),
        )
    elif interaction.completed is not None and not interaction.assessed and not interaction.rows:
        says = "not recorded: the collector has not read it yet, or it is a dead letter (ruminate dlq list)"
        yield Node("recorded", says, gone=not asked_to_forget(interaction))
    else:
        yield Node("recorded", f"recorded: no longer in {INTERACTION_RECORDED.name}{why_gone(interaction)}", gone=True)


def _erased(interaction: Interaction) -> Iterator[Node]:
    for request in interaction.erasures:
        said = request.payload
        asked = "erasure" if said.what == "everything" else "no more training on what is there"
        says = f"{asked} of this {said.scope} asked for {time_said(said.requested_at)} by {said.requested_by}"
        yield event_node("erasure_requested", says, request, scope=said.scope)
    for tombstone in interaction.tombstones:
        place = position_said(tombstone.position)
        yield Node("erased", f"erased: a tombstone at {place}", {"event_id": tombstone.event_id, "place": place}, gone=True)


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
            f"assessed {time_said(heard.at)}, revision {assessed.revision}: {verdict.decision}, overall {overall}, evidence "
            f"{verdict.evidence_ratio:.0%}, scorer {assessed.scorer_version}, policy {assessed.policy_version}, combiner "
            f"{verdict.combiner}"
        )
        yield event_node(
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
                fate_of(interaction, heard),
                *gave(interaction, digest_of(heard.event_id).hex()),
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
    return Node("evidence", f"{evidence.kind} by {evidence.said_by} {time_said(evidence.said_at)}{what}", facts)


def _not_known(chain: Chain | None) -> Iterator[Node]:
    for batch_id, why in (chain.unreadable if chain else {}).items():
        yield Node("not_known", f"what {batch_id} holds is not known: {why}", {"batch_id": batch_id}, gone=True)
