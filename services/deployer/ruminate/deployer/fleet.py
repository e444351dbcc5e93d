"""The nodes, as the deployer touches them: look at what each holds, and do one action on one of them.

A node that does not answer is away and says why; a node that answers with an error has refused, and its words are kept.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

import structlog

from ruminate.deployer import metrics
from ruminate.deployer.decide import (
    Act,
    Action,
    AskProbe,
    CreateModel,
    DeleteModel,
    Held,
    Outcome,
    PointAlias,
    SitExam,
    UploadBlob,
    View,
    judge_answer,
)
from ruminate.deployer.examine import Exam, examine
from ruminate.deployer.settings import DeployerSettings
from ruminate.schemas.model import Probe, ServedExam
from ruminate.shared.ollama import ListedModel, NodeRefused, NodeUnavailable, OllamaClient, ShownModel

log = structlog.get_logger()

_FROM_BLOB = re.compile(r"^FROM \S*sha256[-:]([0-9a-f]{64})\s*$", re.MULTILINE)
_NO_ROOM = "no space left on device"


class _Shown(ShownModel):
    modelfile: str = ""


class Node(OllamaClient):
    """One node, which remembers what it was shown: a name's digest decides all of it."""

    def __init__(self, url: str, *, timeout_seconds: float) -> None:
        super().__init__(url, timeout_seconds=timeout_seconds)
        self._shown: dict[str, Held] = {}
        self._shown_by = ""

    async def view(self, gguf_sha256: str | None = None) -> View:
        """What the node holds, and whether it has the blob that is asked for. Raises NodeUnavailable, NodeRefused."""
        version = await self.version()
        if version != self._shown_by:  # another engine finds other capabilities in the same model
            self._shown, self._shown_by = {}, version
        held = {listed.name: await self._held(listed) for listed in await self.tags()}
        self._shown = {model.digest: model for model in held.values() if model.digest in self._shown}
        return View(engine_version=version, held=held, has_blob=gguf_sha256 is not None and await self.has_blob(gguf_sha256))

    async def _held(self, listed: ListedModel) -> Held:
        if (known := self._shown.get(listed.digest)) is not None:
            return known
        try:
            shown = await self._ask(_Shown, "POST", "/api/show", {"model": listed.name})
        except NodeRefused as refused:
            # A damaged model of somebody else's must not stop ours; of ours, the missing capabilities will be told.
            log.warning("model_not_shown", url=self.url, model=listed.name, status=refused.status, error=refused.error)
            return Held(digest=listed.digest, contents="", weights_sha256=None, template="", capabilities=frozenset())
        weights = _FROM_BLOB.search(shown.modelfile)
        # A node lists parameters in any order.
        contents = [weights and weights[1], shown.template, shown.system, sorted(shown.parameters.splitlines())]
        self._shown[listed.digest] = held = Held(
            digest=listed.digest,
            contents=hashlib.sha256(json.dumps(contents).encode()).hexdigest(),
            weights_sha256=weights and weights[1],
            template=shown.template,
            capabilities=shown.capabilities,
        )
        return held


@dataclass
class Fleet:
    """All nodes of the settings, by name; open while the context is."""

    settings: DeployerSettings
    nodes: Mapping[str, Node] = field(init=False)
    _open: AsyncExitStack = field(init=False, default_factory=AsyncExitStack)

    def __post_init__(self) -> None:
        seconds = self.settings.node_timeout_seconds
        self.nodes = {name: Node(str(url), timeout_seconds=seconds) for name, url in self.settings.nodes.items()}

    async def __aenter__(self) -> Self:
        for node in self.nodes.values():
            await self._open.enter_async_context(node)
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self._open.aclose()

    async def look(self, away: dict[str, str], *, gguf_sha256: str | None = None) -> dict[str, View]:
        """What every node holds that is not away; a node that does not answer is added to `away`, with the reason."""
        views: dict[str, View] = {}

        async def look_at(name: str) -> None:
            try:
                views[name] = await self.nodes[name].view(gguf_sha256)
            except NodeUnavailable as error:
                away[name] = error.reason
            except NodeRefused as refused:
                away[name] = f"{refused.status} {refused.error}"

        async with asyncio.TaskGroup() as group:
            for name in self.nodes.keys() - away.keys():
                group.create_task(look_at(name))
        return {name: views[name] for name in self.nodes if name in views}

    async def apply(
        self, act: Act, away: dict[str, str], *, weights: Path | None = None, exam: Exam | None = None
    ) -> list[Outcome]:
        """Do the actions; stop on a node at its first refusal, or when it goes away (then it is added to `away`)."""
        outcomes: list[Outcome] = []

        async def work_on(name: str, actions: Sequence[Action]) -> None:
            try:
                for action in actions:
                    outcomes.append(await self._do(name, action, weights, exam))
                    if outcomes[-1].refusal is not None:
                        return
            except NodeUnavailable as error:
                away[name] = error.reason

        async with asyncio.TaskGroup() as group:
            for name, actions in act.actions.items():
                group.create_task(work_on(name, actions))
        return outcomes

    async def _do(self, name: str, action: Action, weights: Path | None, exam: Exam | None) -> Outcome:
        node, kind, told = self.nodes[name], type(action).__name__, _describe(action)
        try:
            with metrics.NODE_ACTION_SECONDS.labels(name, kind).time():
                found = await self._perform(name, node, action, weights, exam)
        except NodeRefused as refused:
            if _NO_ROOM in refused.error:
                raise NodeUnavailable(node.url, f"{refused.error}; free some of its disk") from refused
            metrics.NODE_REFUSALS.labels(name, kind).inc()
            log.warning("action_refused", node=name, action=kind, **told, status=refused.status, error=refused.error)
            return Outcome(node=name, action=action, refusal=f"{refused.status} {refused.error}")
        log.info("action_done", node=name, action=kind, **told, passed=_passed(found))
        return Outcome(
            node=name,
            action=action,
            probe=found if isinstance(found, Probe) else None,
            served=found if isinstance(found, ServedExam) else None,
        )

    async def _perform(
        self, name: str, node: Node, action: Action, weights: Path | None, exam: Exam | None
    ) -> Probe | ServedExam | None:
        seconds = self.settings.transfer_timeout_seconds
        match action:
            case UploadBlob(sha256):
                if weights is None:
                    raise ValueError(f"the file with SHA-256 {sha256} is not at hand; give its path with every act that uploads")
                await node.push_blob(weights, sha256, timeout_seconds=seconds)
            case CreateModel(model, recipe):
                await node.create(
                    model,
                    files={"model.gguf": recipe.gguf_sha256},
                    template=recipe.template,
                    system=recipe.system,
                    parameters=recipe.parameters,
                    timeout_seconds=seconds,
                )
            case AskProbe():
                return await self._probe(name, node, action)
            case SitExam(model):
                if exam is None:
                    raise ValueError(f"the exam of {model} is not at hand; give it with every act that asks it")
                return await examine(exam, node, name, model, timeout_seconds=self.settings.probe_timeout_seconds)
            case PointAlias(source, alias):
                await node.copy(source, alias)
            case DeleteModel(model):
                try:
                    await node.delete(model)
                except NodeRefused as refused:
                    if refused.status != 404:
                        raise
        return None

    async def _probe(self, name: str, node: Node, probe: AskProbe) -> Probe:
        seconds = self.settings.probe_timeout_seconds
        note = ""
        if probe.after is not None:
            try:
                # Only if ours is not in memory does the order of loading tell anything.
                await node.generate(probe.model, "", keep_alive=0, timeout_seconds=seconds)
                await node.generate(probe.after, "", timeout_seconds=seconds)
            except NodeRefused as refused:
                # A parent that does not load cannot mix with ours, and must not keep a better version from serving.
                note = f"{probe.after} did not load: {refused.error}; "
        answer = await node.chat(
            probe.model,
            [{"role": "user", "content": self.settings.probe_question}],
            think=probe.mode == "thinking",
            options={"temperature": 0, "seed": 0, "num_predict": self.settings.probe_tokens},
            timeout_seconds=seconds,
        )
        passed, detail = judge_answer(
            probe.mode, thinking=answer.message.thinking, content=answer.message.content, ended_by=answer.done_reason
        )
        return Probe(
            node=name, mode=probe.mode, parent_loaded=probe.after is not None and not note, passed=passed, detail=note + detail
        )


def _passed(found: Probe | ServedExam | None) -> bool | None:
    match found:
        case Probe(passed=passed):
            return passed
        case ServedExam(kept=kept):
            return kept
        case None:
            return None


def _describe(action: Action) -> dict[str, str]:
    match action:
        case UploadBlob(sha256):
            return {"sha256": sha256}
        case CreateModel(model) | SitExam(model) | DeleteModel(model):
            return {"model": model}
        case AskProbe(model, mode, after):
            return {"model": model, "mode": mode, "after": after or ""}
        case PointAlias(source, alias):
            return {"model": source, "alias": alias}
