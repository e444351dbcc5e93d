"""A trained version becomes the one that serves, or is taken back whole; either is told once.

The log decides what is still to do: a version that is registered or rolled back there is never deployed again.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

import structlog

from ruminate.deployer import metrics
from ruminate.deployer.decide import (
    Act,
    DeleteModel,
    Fail,
    Failure,
    InvalidName,
    Outcome,
    Plan,
    Recipe,
    Register,
    RollBack,
    UploadBlob,
    Verdict,
    Wait,
    alias_name,
    choose_weights,
    clear,
    decide,
    judge,
    listed_name,
    restore,
    serving,
    to_retire,
    version_name,
)
from ruminate.deployer.examine import Exam, read_exam
from ruminate.deployer.fleet import Fleet
from ruminate.deployer.settings import DeployerSettings
from ruminate.schemas.flow import ADAPTER_TRAINED, MODEL_REGISTERED, MODEL_ROLLED_BACK
from ruminate.schemas.model import ModelRegistered, ModelRolledBack, NodeDigest
from ruminate.schemas.payload import ArtifactReference
from ruminate.schemas.topic import Topic
from ruminate.schemas.training import AdapterTrained, GgufFile
from ruminate.shared.bus import Bus, Delivery, Unavailable, Unprocessable
from ruminate.shared.ollama import QWEN3_TEMPLATE, parameters_for
from ruminate.shared.store import ArtifactDamaged, ArtifactMissing, Store, hash_file

log = structlog.get_logger()

T = TypeVar("T", ModelRegistered, ModelRolledBack)


@dataclass(frozen=True)
class Deployer:
    """What a deployment needs of the world."""

    bus: Bus
    fleet: Fleet
    store: Store
    settings: DeployerSettings


@dataclass(frozen=True)
class History:
    """What the log says of one tenant's target, to its end, in its order."""

    registered: tuple[ModelRegistered, ...]
    rolled_back: tuple[ModelRolledBack, ...]

    @property
    def serving(self) -> ModelRegistered | None:
        """The version that serves; None means the base."""
        return serving(self.registered, self.rolled_back)


async def deploy_one(delivery: Delivery[AdapterTrained], deployer: Deployer) -> None:
    """Bring every node to one trained version, or back, and tell which of the two."""
    trained = delivery.payload
    with structlog.contextvars.bound_contextvars(tenant=trained.tenant, target=trained.target_model, version=trained.version):
        history = History(  # ask
            registered=await _of_target(deployer.bus, MODEL_REGISTERED, trained),
            rolled_back=await _of_target(deployer.bus, MODEL_ROLLED_BACK, trained),
        )
        accepted = await _is_accepted(deployer.bus, delivery)
        verdict = judge(trained, accepted=accepted, registered=history.registered, rolled_back=history.rolled_back)
        match verdict:
            case "deploy":
                began = time.monotonic()
                verdict = await _deploy(delivery, deployer, history)
                metrics.DEPLOYMENT_SECONDS.observe(time.monotonic() - began)
            case "registered":
                await _restore_alias(deployer, trained, history)
            case "superseded":
                now_serves = history.serving.version if history.serving else "the base"
                _tell_rolled_back(delivery, history, RollBack(Failure("upload", f"{now_serves} is newer and serves", {}), ()))
            case "rolled_back" | "not_accepted":
                pass
        metrics.DEPLOYMENTS.labels(verdict).inc()
        log.info("trained_version_settled", outcome=verdict, number=trained.number)


async def _deploy(delivery: Delivery[AdapterTrained], deployer: Deployer, history: History) -> Verdict:
    trained, settings = delivery.payload, deployer.settings
    weights = choose_weights(trained.gguf, settings.encodings)
    if weights is None:
        has = ", ".join(f"{file.holds} {file.encoding}" for file in trained.gguf) or "none"
        reason = f"no model file in {', '.join(settings.encodings)} (RUMINATE_ENCODINGS); there are: {has}"
        _tell_rolled_back(delivery, history, RollBack(Failure("upload", reason, {}), ()))
        return "rolled_back"
    exam = await read_exam(trained, weights.encoding, deployer.store, settings)
    plan = _plan(trained, weights, settings, history, examined=exam is not None)
    end = await bring(plan, weights.file, deployer, exam)
    if isinstance(end, RollBack):
        _tell_rolled_back(delivery, history, end)
        return "rolled_back"
    await _retire(deployer, trained, history)
    delivery.tell(MODEL_REGISTERED, _registration(trained, weights.file, plan, end, deployer.fleet))
    log.info("model_registered", model=plan.model, alias=plan.alias, nodes=list(end.digests))
    return "registered"


async def bring(plan: Plan, weights: ArtifactReference, deployer: Deployer, exam: Exam | None = None) -> Register | RollBack:
    """Gather, decide and apply until every node is in order, or as it was.

    Raises Unavailable when too few nodes answer or the store lacks the file: what was done by then is done again.
    """
    fleet = deployer.fleet
    away: dict[str, str] = {}
    outcomes: list[Outcome] = []
    failure: Failure | None = None
    while True:
        views = await fleet.look(away, gguf_sha256=plan.recipe.gguf_sha256)
        step = decide(plan, views, outcomes, failure)
        match step:
            case Wait(missing):
                raise Unavailable("; ".join(f"node {name} ({fleet.nodes[name].url}) is away: {away[name]}" for name in missing))
            case Fail(failure):
                log.warning("deployment_failed", stage=failure.stage, reason=failure.reason)
            case Act(actions):
                sends = any(isinstance(action, UploadBlob) for todo in actions.values() for action in todo)
                try:
                    async with _file_at_hand(deployer, weights if sends else None) as path:
                        outcomes += await fleet.apply(step, away, weights=path, exam=exam)
                except ArtifactDamaged as error:
                    failure = Failure("upload", str(error), {"uri": weights.uri})
            case Register() | RollBack():
                return step


@asynccontextmanager
async def _file_at_hand(deployer: Deployer, weights: ArtifactReference | None) -> AsyncIterator[Path | None]:
    """The file on this machine with every byte checked: where the store has it, or a copy for as long as the context is open."""
    if weights is None:
        yield None
        return
    copy: Path | None = None
    try:
        path = await deployer.store.local_path(weights)
        if path is None:
            copy = path = deployer.settings.state_dir / "deployer" / "weights.gguf"
            await deployer.store.fetch(weights, to=copy)
        elif (found := (await asyncio.to_thread(hash_file, path))[0]) != weights.sha256:
            raise ArtifactDamaged(f"{weights.uri} has the SHA-256 {found}, not {weights.sha256}; restore it from another copy")
        yield path
    except (ArtifactMissing, FileNotFoundError) as error:
        # Not the version's fault, and hours of training are worth a wait: the store may not be mounted yet.
        raise Unavailable(f"{weights.uri} is not in the store ({error}); mount the store or restore the file") from error
    finally:
        if copy is not None:
            copy.unlink(missing_ok=True)


def _plan(trained: AdapterTrained, weights: GgufFile, settings: DeployerSettings, history: History, *, examined: bool) -> Plan:
    target = settings.target(trained.target_model)
    try:
        return Plan(
            model=version_name(trained.target_model, trained.version, tenant=trained.tenant),
            alias=alias_name(trained.target_model, tenant=trained.tenant),
            base=listed_name(trained.target_model),
            serving_model=history.serving.model_name if history.serving else None,
            recipe=Recipe(
                gguf_sha256=weights.file.sha256,
                template=QWEN3_TEMPLATE,
                system=target.system,
                parameters={**parameters_for(weights.file.size_bytes), **target.parameters},
            ),
            required_capabilities=target.required_capabilities,
            nodes=tuple(settings.nodes),
            minimum_nodes_ratio=settings.minimum_nodes_ratio,
            examined=examined,
        )
    except InvalidName as error:
        raise Unprocessable("invalid_name", str(error)) from error


async def _restore_alias(deployer: Deployer, trained: AdapterTrained, history: History) -> None:
    """After a crash between registering and now, or a hand on a node: the serving version's alias points at it again."""
    serves = history.serving
    if serves is None or serves.version != trained.version:
        return
    away: dict[str, str] = {}
    views = await deployer.fleet.look(away)
    outcomes = await deployer.fleet.apply(Act(restore(serves.model_name, serves.alias, views)), away)
    log.info("alias_ensured", alias=serves.alias, moved=[o.node for o in outcomes if o.refusal is None], away=away)


async def _retire(deployer: Deployer, trained: AdapterTrained, history: History) -> None:
    """Remove what is older than the versions we keep. What does not go now goes after the next version: never a reason to fail."""
    old = to_retire(
        history.registered, history.rolled_back, newest=trained.version, keep_previous=deployer.settings.keep_previous_versions
    )
    away: dict[str, str] = {}
    views = await deployer.fleet.look(away)
    outcomes = await deployer.fleet.apply(Act(clear(old, views)), away)
    removed = [f"{o.node} {o.action.name}" for o in outcomes if isinstance(o.action, DeleteModel) and o.refusal is None]
    log.info("old_versions_removed", removed=removed, away=away)


def _tell_rolled_back(delivery: Delivery[AdapterTrained], history: History, end: RollBack) -> None:
    trained, serves = delivery.payload, history.serving
    delivery.tell(
        MODEL_ROLLED_BACK,
        ModelRolledBack(
            tenant=trained.tenant,
            target_model=trained.target_model,
            version=trained.version,
            serving_version=serves.version if serves else None,
            stage=end.failure.stage,
            reason=end.failure.reason,
            evidence=dict(end.failure.evidence),
            removed=end.removed,
            rolled_back_at=datetime.now(UTC),
        ),
    )
    log.warning("model_rolled_back", stage=end.failure.stage, reason=end.failure.reason, removed=list(end.removed))


def _registration(trained: AdapterTrained, weights: ArtifactReference, plan: Plan, end: Register, fleet: Fleet) -> ModelRegistered:
    return ModelRegistered(
        tenant=trained.tenant,
        target_model=trained.target_model,
        version=trained.version,
        number=trained.number,
        model_name=plan.model,
        alias=plan.alias,
        parent_version=trained.parent_version,
        base_model=trained.base_model,
        batch_id=trained.batch_id,
        dataset=trained.dataset,
        adapter=trained.adapter,
        weights=weights,
        stages=trained.stages,
        settings={
            "training": trained.settings,
            "system": plan.recipe.system,
            "parameters": dict(plan.recipe.parameters),
            "template_sha256": hashlib.sha256(plan.recipe.template.encode()).hexdigest(),
        },
        metrics=trained.metrics,
        nodes=tuple(
            NodeDigest(node=name, url=fleet.nodes[name].url, digest=digest, engine_version=end.engine_versions[name])
            for name, digest in end.digests.items()
        ),
        probes=end.probes,
        served=end.served,
        capabilities=tuple(sorted(end.capabilities)),
        registered_at=datetime.now(UTC),
    )


async def _of_target(bus: Bus, topic: Topic[T], trained: AdapterTrained) -> tuple[T, ...]:
    """Every event of the topic about the same tenant and target, in the order of the log."""
    same = bus.read(topic, partitions={bus.partition_of(topic, ADAPTER_TRAINED.order_of(trained))})
    mine = (trained.tenant, trained.target_model)
    return tuple([told.payload async for told in same if (told.payload.tenant, told.payload.target_model) == mine])


async def _is_accepted(bus: Bus, delivery: Delivery[AdapterTrained]) -> bool:
    """Whether this is the first result of its batch in the log, or a repetition of it."""
    mine = delivery.payload
    results = [
        told.envelope
        async for told in bus.read(ADAPTER_TRAINED, partitions={delivery.position.partition})
        if (told.payload.tenant, told.payload.target_model, told.payload.batch_id)
        == (mine.tenant, mine.target_model, mine.batch_id)
    ]
    return not results or (results[0].source, results[0].id) == (delivery.envelope.source, delivery.envelope.id)
