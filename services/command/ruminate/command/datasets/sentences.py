"""What a manifest and its report say, in the words in which a screen and a card say it. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any, Final, NamedTuple

from ruminate.accumulator.curation.predictor import LEAST_OF_EACH
from ruminate.accumulator.making.report import Checked

_SIGNS: Final = 3
"""So many signs that speak for thinking are named, and so many that speak against it."""


class Stratum(NamedTuple):
    """What became of the rows of one stratum that stood ready."""

    name: str
    train: int
    holdout: int
    left_out: int
    reasons: str


def strata_of(strata: Mapping[str, Mapping[str, int]]) -> list[Stratum]:
    """The strata of a manifest, the largest first."""
    found = []
    for name, fates in strata.items():
        reasons = {reason: count for reason, count in fates.items() if reason not in ("train", "holdout")}
        found.append(
            Stratum(name, fates.get("train", 0), fates.get("holdout", 0), sum(reasons.values()), counted(reasons, nothing=""))
        )
    return sorted(found, key=lambda each: (-(each.train + each.holdout + each.left_out), each.name))


def predictor_says(predictor: Mapping[str, tuple[int, int]]) -> str:
    """In a sentence or two, what the chain has learned of which questions call for thinking."""
    if "seen" not in predictor:
        return "no prediction of which questions call for thinking was kept"
    needless, needed = predictor["seen"]
    seen = f"of {needless + needed} questions of this chain, {needed} needed thinking"
    if min(needless, needed) < LEAST_OF_EACH:
        return f"{seen}; it predicts nothing before it has seen {LEAST_OF_EACH} that did and {LEAST_OF_EACH} that did not"
    weights = {
        sign: math.log((with_it + 1) / (needed + 2) * ((needless + 2) / (without + 1)))
        for sign, (without, with_it) in predictor.items()
        if sign != "seen"
    }
    ranked = sorted(weights, key=lambda sign: (-weights[sign], sign))
    speak_for = [sign for sign in ranked[:_SIGNS] if weights[sign] > 0]
    against = [sign for sign in reversed(ranked[-_SIGNS:]) if weights[sign] < 0]
    said = [
        f"{what} {', '.join(signs)}" for what, signs in (("most for it speaks", speak_for), ("most against it", against)) if signs
    ]
    return "; ".join([seen, *said])


def counted(counts: Mapping[str, Any], *, nothing: str = "none") -> str:
    """Names and their counts, or their counts by another name."""
    return ", ".join(f"{name} {_value(value)}" for name, value in counts.items()) or nothing


def _value(value: Any) -> str:
    return f"({counted(value)})" if isinstance(value, Mapping) else str(value)


def left_out_says(counts: Mapping[str, int], details: Mapping[str, Mapping[str, int]]) -> str:
    """Why records have no row, and what contaminated ones would have given away."""
    return (
        ", ".join(
            f"{reason} {count}" + (f" ({counted(details[reason])})" if reason in details else "")
            for reason, count in counts.items()
        )
        or "nothing"
    )


def figures_of(check: Checked) -> str:
    """The figures of a check."""
    return ", ".join(f"{name} {value}" for name, value in check.figures.items())


def shown(described: Mapping[str, Any]) -> Iterator[str]:
    """What `look.described` says of a batch, a line each, but for its strata and its report."""
    counts = described["counts"]
    rehearsed = described["rehearsed"]
    questions = described["questions"]
    chain = f"{described['target_model']}, tenant {described['tenant']}"
    yield f"batch: {described['batch_id']}, number {described['number']} of {chain}"
    yield f"sealed: {described['sealed_at']} by {described['reason']}: {described['explanation']}"
    yield f"previous: {described['previous'] or 'none: the first of its chain'}"
    yield f"interval: offsets {described['after_offset'] + 1} to {described['to_offset']} of partition {described['partition']}"
    yield f"dataset: {described['dataset']['uri']}  sha256 {described['dataset']['sha256']}"
    written = f"{counts.get('generated', 0)} of these with thinking that was written afterwards"
    yield (
        f"rows: {counts['train']} to train on ({counts['reasoning']} reasoning, {written}; {counts['direct']} direct), "
        f"{counts['holdout']} held out"
    )
    yield (
        f"rehearsed: {counts.get('replay', 0)} rows of earlier batches ({counts.get('replay_generated', 0)} of these with thinking "
        f"that was written afterwards): {counted(rehearsed.get('replay', {}))}"
    )
    yield f"anchors: {counts.get('anchors', 0)}: {counted(rehearsed.get('anchor', {}))}"
    yield f"preferences: {counts.get('preferences', 0)} pairs: {counted(described['pairs'])}"
    yield f"practice: {counts.get('verifiable', 0)} questions that can be checked: {counted(questions.get('train', {}))}"
    yield f"practice held out: {counted(questions.get('holdout', {}))}"
    yield f"beside: {described['aside']} records teach without a row"
    if described["revision"]:
        yield (
            f"erased: revision {described['revision']}; interactions that have left it, by request: "
            f"{counted(described['erased'])}; their lines: {counted(described['erased_lines'])}"
        )
    yield f"conversations: {described['conversations']}"
    yield f"indicators: {counted(described['indicators'])}"
    yield f"thinking missing: {counts.get('thinking_missing', 0)} direct rows, though it was called for"
    yield f"predictor: {predictor_says(described['predictor'])}"
    yield (
        f"left out: {left_out_says(described['left_out_counts'], described['left_out_details'])}; "
        f"{described['rejected_interactions']} interactions"
    )
    yield (
        f"rules: {described['policy_version']}, scorer {', '.join(described['scorer_versions']) or 'no rows'}, assessor's policy "
        f"{', '.join(described['assessor_policy_versions']) or 'no rows'}, seed {described['seed']}"
    )
    yield f"policy: {counted(described['policy'])}"
