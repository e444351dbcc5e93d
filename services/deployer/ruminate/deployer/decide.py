"""What has to happen next on which node, so that a trained version serves on every node, or on none.

    gather (what each node holds)  ->  decide (here, pure)  ->  apply (actions on nodes)  ->  gather …

Words. A *plan* is what one trained version wants. A *view* is what one node says it holds. An *outcome* is what an action
of this run came to. Nothing else is remembered: a run that was killed starts again from views alone, repeats what it
cannot know was done, and ends in the same place, because every action may be repeated.

    all nodes finish a step before any begins the next:  upload where missing, create  ->  probe  ->  exam  ->  alias  ->  register
    the first failure turns the run around:  alias back to what serves, version removed  ->  roll back

Names. Ollama knows `[namespace/]model[:tag]`. Everything of ours is a tag that ends in `ruminate` or `ruminate-<version>`, in
a namespace of its own for every tenant but the default one; different targets never share a name:

    default, qwen3:8b   ->  qwen3:8b-ruminate-v3         alias qwen3:8b-ruminate
    default, tiny       ->  tiny:ruminate-v3             alias tiny:ruminate
    acme,    qwen3:8b   ->  acme/qwen3:8b-ruminate-v3    alias acme/qwen3:8b-ruminate
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from ruminate.schemas.model import ModelRegistered, ModelRolledBack, Probe, ServedExam
from ruminate.schemas.payload import FiniteJson
from ruminate.schemas.training import AdapterTrained, GgufFile

Encoding = Literal["f32", "f16", "bf16", "q8_0"]
Mode = Literal["thinking", "direct"]
Stage = Literal["upload", "create", "probe", "alias"]

_NAME_PART = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,79}")
_NAME_CHARACTERS = 128  # with a node's name before it, it still is a name in an event
_NAMESPACE = re.compile(r"[a-z0-9_][a-z0-9_-]{0,59}")
_THINK_TAG = re.compile(r"</?think>")


class InvalidName(ValueError):
    """No name that Ollama takes can be made of this target and version."""


def version_name(target: str, version: str, *, tenant: str = "default") -> str:
    """The name that a version has on every node. Raises InvalidName."""
    return _own_name(target, f"ruminate-{version}", tenant)


def alias_name(target: str, *, tenant: str = "default") -> str:
    """The name that points at the version which serves. Raises InvalidName."""
    return _own_name(target, "ruminate", tenant)


def listed_name(name: str) -> str:
    """The name as a node lists it: without a tag it means `:latest`."""
    return name if ":" in name.rpartition("/")[2] else f"{name}:latest"


def _own_name(target: str, ending: str, tenant: str) -> str:
    path, _, model = target.rpartition("/")
    model, _, tag = model.partition(":")
    tag = f"{tag}-{ending}" if tag else ending
    folders = path.split("/") if path else []
    if tenant != "default":
        # A namespace is one level, so folders of the target fold into the model's part, told apart by a hash.
        model = "-".join([*folders, model, _short_hash(path)]) if folders else model
        folders = [_namespace(tenant)]
    name = "/".join([*folders, f"{model}:{tag}"])
    if len(folders) > 2 or len(name) > _NAME_CHARACTERS or not all(_NAME_PART.fullmatch(part) for part in (*folders, model, tag)):
        raise InvalidName(
            f"target {target!r} with {ending!r} gives no name that Ollama takes: [namespace/]model[:tag], each part 1 to 80 of "
            f"A-Z a-z 0-9 _ . - and not beginning with . or -, {_NAME_CHARACTERS} together; rename the target or shorten its tag"
        )
    return name


def _namespace(tenant: str) -> str:
    # "library" is where Ollama looks for names without a namespace: it would be the default tenant's.
    if _NAMESPACE.fullmatch(tenant) and tenant != "library":
        return tenant
    return f"{re.sub('[^a-z0-9_-]', '-', tenant.lower())[:40].lstrip('-') or 't'}-{_short_hash(tenant)}"


def _short_hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def choose_weights(files: Iterable[GgufFile], preference: Sequence[Encoding]) -> GgufFile | None:
    """The merged model in the encoding that is preferred most, or None when there is none of them."""
    models = {file.encoding: file for file in files if file.holds == "model"}
    return next((models[encoding] for encoding in preference if encoding in models), None)


Verdict = Literal["deploy", "not_accepted", "registered", "rolled_back", "superseded"]


def judge(
    trained: AdapterTrained, *, accepted: bool, registered: Sequence[ModelRegistered], rolled_back: Sequence[ModelRolledBack]
) -> Verdict:
    """What the log says of this version so far; both sequences are of its tenant and target alone, to the end of the log.

    `accepted` says that this is the first result of its batch in the log: every other is ignored by everyone.
    """
    if not accepted:
        return "not_accepted"
    if any(record.version == trained.version for record in rolled_back):
        return "rolled_back"
    if any(record.version == trained.version for record in registered):
        return "registered"
    serves = serving(registered, rolled_back)
    return "superseded" if serves is not None and serves.number >= trained.number else "deploy"


def serving(registered: Sequence[ModelRegistered], rolled_back: Sequence[ModelRolledBack]) -> ModelRegistered | None:
    """The version that serves: the highest that was registered and not rolled back. None means the base."""
    good = _good_versions(registered, rolled_back)
    return good[0] if good else None


def to_retire(
    registered: Sequence[ModelRegistered], rolled_back: Sequence[ModelRolledBack], *, newest: str, keep_previous: int
) -> tuple[str, ...]:
    """Names that we made and need no longer once `newest` serves: all but it and `keep_previous` good versions before it."""
    previous = [record.model_name for record in _good_versions(registered, rolled_back) if record.version != newest]
    kept = set(previous[:keep_previous])
    made = {record.model_name for record in registered if record.version != newest}
    return tuple(sorted(made - kept))


def _good_versions(registered: Sequence[ModelRegistered], rolled_back: Sequence[ModelRolledBack]) -> list[ModelRegistered]:
    bad = {record.version for record in rolled_back}
    first: dict[str, ModelRegistered] = {}
    for record in registered:
        first.setdefault(record.version, record)
    return sorted((record for record in first.values() if record.version not in bad), key=lambda r: r.number, reverse=True)


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """What a node makes the version of. Equal recipes give equal digests on nodes of one engine version."""

    gguf_sha256: str
    template: str
    system: str
    parameters: Mapping[str, FiniteJson]


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What one trained version wants of every node. `base` is the target's own name: read, never written."""

    model: str
    alias: str
    base: str
    serving_model: str | None
    recipe: Recipe
    required_capabilities: frozenset[str]
    nodes: tuple[str, ...]
    minimum_nodes_ratio: float = 1.0
    examined: bool = False
    """Whether there is an exam to ask again."""


@dataclass(frozen=True, kw_only=True)
class Held:
    """One name on a node.

    `digest` is of the manifest: equal for names of one node that hold the same, not across nodes, because Ollama writes the
    path of its own folder into it. `contents` is a hash of what the node shows of the name (weights, template, system,
    parameters), equal across nodes. `weights_sha256` is of the GGUF as the node stores it, None where it does not say.
    """

    digest: str
    contents: str
    weights_sha256: str | None
    template: str
    capabilities: frozenset[str]


@dataclass(frozen=True, kw_only=True)
class View:
    """What one node says it holds, by name as it lists them; `has_blob` is about the plan's GGUF."""

    engine_version: str
    held: Mapping[str, Held]
    has_blob: bool


@dataclass(frozen=True)
class UploadBlob:
    """Send the GGUF; the node checks its hash."""

    sha256: str


@dataclass(frozen=True)
class CreateModel:
    """Make the name of the recipe, or make it anew."""

    name: str
    recipe: Recipe


@dataclass(frozen=True)
class AskProbe:
    """Ask the model a question in one mode; `after` names a model that is loaded before it."""

    model: str
    mode: Mode
    after: str | None = None


@dataclass(frozen=True)
class SitExam:
    """Ask the model once more what it was asked when it was proven."""

    model: str


@dataclass(frozen=True)
class PointAlias:
    """Make the alias name what `source` names."""

    source: str
    alias: str


@dataclass(frozen=True)
class DeleteModel:
    """Remove a name that we made; what is not there counts as removed."""

    name: str


Action: TypeAlias = UploadBlob | CreateModel | AskProbe | SitExam | PointAlias | DeleteModel


Actions: TypeAlias = Mapping[str, tuple[Action, ...]]
"""What is to be done, by node."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What an action of this run came to: `refusal` is the node's own words, `probe` what a probe found, `served` an exam."""

    node: str
    action: Action
    refusal: str | None = None
    probe: Probe | None = None
    served: ServedExam | None = None


@dataclass(frozen=True)
class Failure:
    """Why the version cannot serve, kept through the way back."""

    stage: Stage
    reason: str
    evidence: Mapping[str, FiniteJson]


@dataclass(frozen=True)
class Wait:
    """Too few nodes answer."""

    away: tuple[str, ...]


@dataclass(frozen=True)
class Act:
    """Do this now: nodes at the same time, the actions of a node in order, up to the first that it refuses."""

    actions: Actions


@dataclass(frozen=True)
class Fail:
    """Turn around, and remember why."""

    failure: Failure


@dataclass(frozen=True)
class Register:
    """Every node is in order: tell it. `engine_versions` and `digests` by node."""

    engine_versions: Mapping[str, str]
    digests: Mapping[str, str]
    capabilities: frozenset[str]
    probes: tuple[Probe, ...]
    served: tuple[ServedExam, ...] = ()


@dataclass(frozen=True)
class RollBack:
    """Nothing of the version is left but what nodes refused to remove: tell it."""

    failure: Failure
    removed: tuple[str, ...]


Step: TypeAlias = Wait | Act | Fail | Register | RollBack


def decide(plan: Plan, views: Mapping[str, View], outcomes: Sequence[Outcome], failure: Failure | None) -> Step:
    """The next step of a run. `views` lacks the nodes that do not answer."""
    if len(views) < max(1, math.ceil(plan.minimum_nodes_ratio * len(plan.nodes))):
        return Wait(tuple(node for node in plan.nodes if node not in views))
    if failure is not None:
        return _turn_back(plan, views, outcomes, failure)
    if (found := _find_failure(plan, views, outcomes)) is not None:
        return Fail(found)
    for step in (_prepare, _probe, _examine, _promote):
        if actions := step(plan, views, outcomes):
            return Act(actions)
    ours = [view.held[plan.model] for view in views.values()]
    return Register(
        engine_versions={node: view.engine_version for node, view in views.items()},
        digests={node: view.held[plan.model].digest for node, view in views.items()},
        capabilities=frozenset.intersection(*(held.capabilities for held in ours)),
        probes=tuple(outcome.probe for outcome in outcomes if outcome.probe is not None),
        served=tuple(outcome.served for outcome in outcomes if outcome.served is not None),
    )


def restore(model: str, alias: str, views: Mapping[str, View]) -> dict[str, tuple[Action, ...]]:
    """For a version that is registered already: its alias, wherever the version is held and the alias names something else."""
    return {
        node: (PointAlias(model, alias),)
        for node, view in views.items()
        if model in view.held and not _points_at(model, alias, view)
    }


def clear(names: Iterable[str], views: Mapping[str, View]) -> dict[str, tuple[Action, ...]]:
    """Remove each of the names wherever it is held."""
    wanted = tuple(names)
    found = {node: tuple(DeleteModel(name) for name in wanted if name in view.held) for node, view in views.items()}
    return {node: actions for node, actions in found.items() if actions}


def _done(outcomes: Sequence[Outcome], node: str, action: Action) -> bool:
    return any(outcome.node == node and outcome.action == action for outcome in outcomes)


def _creation(plan: Plan) -> CreateModel:
    return CreateModel(plan.model, plan.recipe)


def _prepare(plan: Plan, views: Mapping[str, View], outcomes: Sequence[Outcome]) -> Actions:
    # A name that is there already may be a killed run's, of another template or system: only making it anew is sure.
    creation, upload = _creation(plan), UploadBlob(plan.recipe.gguf_sha256)
    return {
        node: (creation,) if view.has_blob else (upload, creation)
        for node, view in views.items()
        if not _done(outcomes, node, creation)
    }


def _probe(plan: Plan, views: Mapping[str, View], outcomes: Sequence[Outcome]) -> Actions:
    def missing(node: str, view: View) -> tuple[Action, ...]:
        # Names that share weights share a runner with the template of whichever loaded first: only asking after it shows.
        parents = (name for name in (plan.serving_model, plan.base) if name is not None and name in view.held)
        parent = next(parents, None)
        afters = (None,) if parent is None else (None, parent)
        modes: tuple[Mode, ...] = ("thinking", "direct")
        wanted = [AskProbe(plan.model, mode, after) for after in afters for mode in modes]
        return tuple(probe for probe in wanted if not _done(outcomes, node, probe))

    return {node: todo for node, view in views.items() if (todo := missing(node, view))}


def _examine(plan: Plan, views: Mapping[str, View], outcomes: Sequence[Outcome]) -> Actions:
    # Engines answer differently, nodes of one engine do not: one node of each is asked.
    if not plan.examined:
        return {}
    exam = SitExam(plan.model)
    asked = {views[outcome.node].engine_version for outcome in outcomes if outcome.action == exam and outcome.node in views}
    first: dict[str, str] = {}
    for node, view in views.items():
        first.setdefault(view.engine_version, node)
    return {node: (exam,) for version, node in first.items() if version not in asked}


def _promote(plan: Plan, views: Mapping[str, View], outcomes: Sequence[Outcome]) -> Actions:
    del outcomes
    pointing = PointAlias(plan.model, plan.alias)
    return {node: (pointing,) for node, view in views.items() if not _points_at(plan.model, plan.alias, view)}


def _points_at(model: str, alias: str, view: View) -> bool:
    pointing, ours = view.held.get(alias), view.held.get(model)
    return pointing is not None and ours is not None and pointing.digest == ours.digest


_STAGE_OF: Mapping[type, Stage] = {
    UploadBlob: "upload",
    CreateModel: "create",
    AskProbe: "probe",
    SitExam: "probe",
    PointAlias: "alias",
}


def _find_failure(plan: Plan, views: Mapping[str, View], outcomes: Sequence[Outcome]) -> Failure | None:
    for outcome in outcomes:
        if outcome.refusal is not None:
            stage = _STAGE_OF[type(outcome.action)]
            return Failure(stage, f"{outcome.node} refused: {outcome.refusal}", {"node": outcome.node, "refusal": outcome.refusal})
    if failed := [o.probe for o in outcomes if o.probe is not None and not o.probe.passed]:
        told = "; ".join(f"{probe.node}, {probe.mode}{_WITH_PARENT[probe.parent_loaded]}: {probe.detail}" for probe in failed)
        return Failure("probe", told, {"probes": [probe.model_dump(mode="json") for probe in failed]})
    for served in (outcome.served for outcome in outcomes if outcome.served is not None):
        if not served.kept:
            reason = f"{served.node} does not serve what was trained: {served.because}"
            return Failure("probe", reason, {"exam": served.model_dump(mode="json")})
    for node, view in views.items():
        if (found := _find_fault_of_node(plan, node, view, outcomes)) is not None:
            return found
    created = {node: view for node, view in views.items() if _done(outcomes, node, _creation(plan))}
    return _find_unequal_contents(plan, created)


_WITH_PARENT = {False: "", True: " with the parent loaded"}


def _find_fault_of_node(plan: Plan, node: str, view: View, outcomes: Sequence[Outcome]) -> Failure | None:
    created = _done(outcomes, node, _creation(plan))
    ours = view.held.get(plan.model) if created else None
    weights = {plan.recipe.gguf_sha256, *([ours.weights_sha256] if ours else [])}
    foreign = [
        name for name, held in view.held.items()
        if name not in (plan.model, plan.alias) and held.weights_sha256 in weights and held.template != plan.recipe.template
    ]  # fmt: skip
    if foreign:
        reason = f"{node} holds {', '.join(foreign)} over the same GGUF with another template: one would answer in the other's"
        return Failure("create", reason, {"node": node, "names": list(foreign)})
    if not created:
        return None
    if ours is None:
        return Failure("create", f"{node} created {plan.model} and does not list it", {"node": node})
    if lacks := sorted(plan.required_capabilities - ours.capabilities):
        has = sorted(ours.capabilities)
        reason = f"{plan.model} on {node} lacks {', '.join(lacks)}; it has {', '.join(has) or 'none'}"
        return Failure("create", reason, {"node": node, "lacks": list(lacks), "has": list(has)})
    if _done(outcomes, node, PointAlias(plan.model, plan.alias)) and not _points_at(plan.model, plan.alias, view):
        return Failure("alias", f"{node} copied {plan.model} to {plan.alias}, which names something else", {"node": node})
    return None


def _find_unequal_contents(plan: Plan, views: Mapping[str, View]) -> Failure | None:
    # Engines of other versions may store the same recipe differently, so only like is compared with like.
    first: dict[str, tuple[str, str]] = {}
    for node, view in views.items():
        contents = view.held[plan.model].contents
        other, expected = first.setdefault(view.engine_version, (node, contents))
        if contents != expected:
            found: dict[str, FiniteJson] = {other: expected, node: contents}
            return Failure("create", f"{plan.model} is not the same on {other} and {node}", {"contents": found})
    return None


def _turn_back(plan: Plan, views: Mapping[str, View], outcomes: Sequence[Outcome], failure: Failure) -> Step:
    def still_to_do(node: str, view: View) -> tuple[Action, ...]:
        wanted: list[Action] = []
        if _points_at(plan.model, plan.alias, view):
            back = plan.serving_model if plan.serving_model in view.held else None
            wanted.append(DeleteModel(plan.alias) if back is None else PointAlias(back, plan.alias))
        if plan.model in view.held:
            wanted.append(DeleteModel(plan.model))
        # What a node has refused to undo it is not asked again: the refusal is told instead.
        return tuple(action for action in wanted if not _done(outcomes, node, action))

    if actions := {node: todo for node, view in views.items() if (todo := still_to_do(node, view))}:
        return Act(actions)
    deleted = [(outcome, outcome.action.name) for outcome in outcomes if isinstance(outcome.action, DeleteModel)]
    pointed = [(outcome, outcome.action.alias) for outcome in outcomes if isinstance(outcome.action, PointAlias)]
    removed = tuple(f"{outcome.node} {name}" for outcome, name in deleted if outcome.refusal is None)
    left: dict[str, FiniteJson] = {f"{o.node} {name}": o.refusal for o, name in deleted + pointed if o.refusal is not None}
    evidence = {**failure.evidence, "left": left} if left else failure.evidence
    return RollBack(Failure(failure.stage, failure.reason, evidence), removed)


def judge_answer(mode: Mode, *, thinking: str, content: str, ended_by: str) -> tuple[bool, str]:
    """Whether an answer obeyed its mode, and its measures for people: lengths, never contents.

    Thinking passes by having thought where thinking belongs: an answer that ran out of tokens while thinking did so, too.
    Direct passes by an answer without any thinking.
    """
    tags = len(_THINK_TAG.findall(content))
    measures = f"{len(thinking)} characters of thinking, {len(content)} of answer, ended by {ended_by or 'nothing'}"
    if tags:
        return False, f"{tags} think tags in the answer; {measures}"
    if mode == "thinking":
        return (True, measures) if thinking.strip() else (False, f"did not think; {measures}")
    if thinking:
        return False, f"thought although told not to; {measures}"
    return (True, measures) if content.strip() else (False, f"no answer; {measures}")
