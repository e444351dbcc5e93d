"""What the gateway decides: which version answers a name, which node answers, and what is told of an answer.

Pure: no clock, no ids, no I/O.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Literal, TypeVar, cast, get_args
from urllib.parse import unquote

import orjson
from pydantic import TypeAdapter, ValidationError

from ruminate.gateway.answer import Answer
from ruminate.gateway.question import Question
from ruminate.schemas.interaction import Complexity, ContextFacts, Effort, InteractionCompleted, Outcome, Thinking
from ruminate.schemas.model import ModelRegistered, ModelRolledBack
from ruminate.schemas.payload import Name, Text

BASE = "base"
"""What `NAME@…` and `x-ruminate-version` call the model that nothing was taught."""


class Refused(Exception):
    """This request is answered here with an error; `status` and the message go to the client."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.message = message


def canonical(name: str) -> str:
    """One spelling of a model's name, by Ollama's rules: its own registry and library go unsaid, no tag means `:latest`."""
    name = name.removeprefix("registry.ollama.ai/").removeprefix("library/")
    return name if ":" in name.rpartition("/")[2] else f"{name}:latest"


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """Where a name leads: the target that learns, the version that answers, and what the nodes call it."""

    target: str
    version: str
    upstream: str
    registered_on: frozenset[str] = frozenset()


class Catalogue:
    """The versions of every target, folded from what was registered and rolled back, in whatever order that is read.

    The first record of a version is the accepted one. A tenant is answered by what it taught, and by nobody else's.
    """

    def __init__(self) -> None:
        self._registered: dict[tuple[str, str], dict[str, ModelRegistered]] = {}
        self._rolled_back: dict[tuple[str, str], dict[str, ModelRolledBack]] = {}
        self._by_name: dict[str, dict[str, tuple[str, ModelRegistered | None]]] = {}

    def take(self, event: ModelRegistered | ModelRolledBack) -> bool:
        """Fold one event in; whether it changed anything."""
        key = (event.tenant, canonical(event.target_model))
        if isinstance(event, ModelRolledBack):
            return _first(self._rolled_back.setdefault(key, {}), event.version, event)
        if not _first(self._registered.setdefault(key, {}), event.version, event):
            return False
        self._by_name.setdefault(canonical(event.alias), {})[event.tenant] = (key[1], None)
        self._by_name.setdefault(canonical(event.model_name), {})[event.tenant] = (key[1], event)
        return True

    def events(self) -> list[ModelRegistered | ModelRolledBack]:
        """Every accepted event: folding them into an empty catalogue gives this one."""
        folds: tuple[Mapping[tuple[str, str], Mapping[str, ModelRegistered | ModelRolledBack]], ...]
        folds = (self._registered, self._rolled_back)
        return [event for fold in folds for versions in fold.values() for event in versions.values()]

    def promoted(self, tenant: str, target: str) -> ModelRegistered | None:
        """The version that serves: the highest that is registered or, where that was rolled back, what took its place."""
        registered = self._registered.get((tenant, target), {})
        rolled_back = self._rolled_back.get((tenant, target), {})
        serving = max(registered.values(), key=lambda version: version.number, default=None)
        passed = set()
        while serving is not None and serving.version in rolled_back:
            passed.add(serving.version)
            successor = rolled_back[serving.version].serving_version
            serving = None if successor is None or successor in passed else registered.get(successor)
        return serving

    def resolve(self, tenant: str, asked: str) -> Route:
        """Where the name that was asked for leads. Raises Refused for a version that this tenant does not have.

        `NAME` is the promoted version, `NAME@base` the original, `NAME@v2` (or `NAME@` and a version's full name) that one.
        """
        stem, _, selector = asked.rpartition("@")
        name = stem or asked
        target = canonical(name)
        if (owners := self._by_name.get(target)) and (tenant, target) not in self._registered:
            if tenant not in owners:
                raise Refused(404, f"model '{asked}' not found: it was taught by another tenant")
            target, version = owners[tenant]
            if version is not None and not stem:
                return _to(target, version)
            name = target  # an alias: its original is the target
        if stem and selector == BASE:
            return Route(target=target, version=BASE, upstream=name)
        if not stem:
            promoted = self.promoted(tenant, target)
            return _to(target, promoted) if promoted else Route(target=target, version=BASE, upstream=name)
        for version in self._registered.get((tenant, target), {}).values():
            if selector in (version.version, f"v{version.number}"):
                return _to(target, version)
        known = [f"v{version.number}" for version in self._registered.get((tenant, target), {}).values()]
        raise Refused(404, f"model '{asked}' not found: {name} has the versions {', '.join([BASE, *known])}")


def _to(target: str, version: ModelRegistered) -> Route:
    return Route(
        target=target,
        version=version.version,
        upstream=version.model_name,
        registered_on=frozenset(node.node for node in version.nodes),
    )


_V = TypeVar("_V")


def _first(versions: dict[str, _V], version: str, event: _V) -> bool:
    return version not in versions and versions.setdefault(version, event) is event


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeView:
    """A node as it stands now. `models` in canonical names."""

    name: str
    url: str
    healthy: bool
    in_flight: int
    models: frozenset[str]


ATTEMPTS_PER_NODE = 2
"""An idle connection may die in the moment in which it is used: a node is asked twice before it is given up."""


def choose_node(nodes: Collection[NodeView], route: Route | None, strikes: Mapping[str, int]) -> NodeView | None:
    """The healthy node that holds the model, has failed this request least, and has the fewest requests in flight.

    Where no node lists the name, a version goes to a node on which it was registered, and any other name to whichever
    node is free: its own error is the best answer. None where nobody can be asked.
    """
    able = [node for node in nodes if node.healthy and strikes.get(node.name, 0) < ATTEMPTS_PER_NODE]
    if route is not None:
        wanted = canonical(route.upstream)
        holders = [node for node in able if wanted in node.models]
        if not holders:
            holders = able if route.version == BASE else [node for node in able if node.name in route.registered_on]
        able = holders
    return min(able, key=lambda node: (strikes.get(node.name, 0), node.in_flight, node.name), default=None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """Who asks, and what the headers say of the question."""

    tenant: Name
    agent: Name
    conversation_id: Name | None
    tags: tuple[Name, ...]
    domain: Name | None
    complexity: Complexity | None
    context: ContextFacts
    reference_answer: Text | None
    outcome: Outcome
    training_refused: bool


_NAME: TypeAdapter[str] = TypeAdapter(Name)
_TEXT: TypeAdapter[str] = TypeAdapter(Text)


def read_caller(headers: Mapping[str, str]) -> Caller:
    """The `x-ruminate-*` headers. Raises Refused (400) that names the header and what is allowed."""
    reference = headers.get("x-ruminate-reference")
    return Caller(
        tenant=_name(headers, "x-ruminate-tenant") or "default",
        agent=_name(headers, "x-ruminate-agent") or _product(headers.get("user-agent", "")),
        conversation_id=_name(headers, "x-ruminate-conversation"),
        tags=tuple(
            _checked(_NAME, tag.strip(), "x-ruminate-tags", "names with commas between them")
            for tag in headers.get("x-ruminate-tags", "").split(",")
            if tag.strip()
        ),
        domain=_name(headers, "x-ruminate-domain"),
        complexity=cast("Complexity | None", _one_of(headers, "x-ruminate-complexity", get_args(Complexity))),
        context=_context(headers.get("x-ruminate-context")),
        reference_answer=None
        if reference is None
        else _checked(_TEXT, unquote(reference, errors="surrogateescape"), "x-ruminate-reference", "URL-encoded UTF-8"),
        outcome=cast("Outcome | None", _one_of(headers, "x-ruminate-outcome", get_args(Outcome))) or "unknown",
        training_refused=_one_of(headers, "x-ruminate-training", ("refuse",)) is not None,
    )


def _name(headers: Mapping[str, str], header: str) -> str | None:
    value = headers.get(header)
    return None if not value else _checked(_NAME, value, header, "one line of at most 200 characters")


def _product(user_agent: str) -> str:
    product = user_agent.partition("/")[0].partition(" ")[0][:200]
    return product if product.isprintable() and product else "unknown"


def _one_of(headers: Mapping[str, str], header: str, allowed: tuple[str, ...]) -> str | None:
    value = headers.get(header)
    if value and value not in allowed:
        raise Refused(400, f"header {header} is {value[:40]!r}; allowed is {', '.join(allowed)}")
    return value or None


def _context(value: str | None) -> ContextFacts:
    if value is None:
        return ContextFacts()
    known = ContextFacts.model_fields.keys() - {"other"}
    try:
        facts = orjson.loads(value)
        more = {name: fact for name, fact in facts.items() if name not in known and name != "other"}
        return ContextFacts(**{**facts, "other": {**more, **facts.get("other", {})}})
    except (orjson.JSONDecodeError, AttributeError, TypeError, ValidationError):
        raise Refused(400, 'header x-ruminate-context is not an object of facts such as {"codebase_lines": 12000}') from None


def _checked(adapter: TypeAdapter[str], value: str, header: str, allowed: str) -> str:
    try:
        return adapter.validate_python(value)
    except ValidationError:
        raise Refused(400, f"header {header} cannot be read; allowed is {allowed}") from None


def training_allowed(caller: Caller, question: Question, training_tenants: Collection[str]) -> bool:
    """Consent: the tenant's policy grants it, this request does not refuse, and the messages are the whole question."""
    return caller.tenant in training_tenants and not caller.training_refused and not question.shaped_by


def interaction_of(
    *,
    interaction_id: str,
    caller: Caller,
    question: Question,
    answer: Answer,
    route: Route,
    node: str,
    conversation_id: str,
    continues_interaction: str | None,
    occurred_at: datetime,
    first_token_seconds: float | None,
    training_tenants: Collection[str],
) -> InteractionCompleted:
    """All that is told of one answered question. Raises pydantic.ValidationError where the node's answer is none."""
    response = answer.response()
    facts = {"prompt_shaped_by": list(question.shaped_by)} if question.shaped_by else {}
    return InteractionCompleted(
        tenant=caller.tenant,
        interaction_id=interaction_id,
        conversation_id=conversation_id,
        continues_interaction=continues_interaction,
        agent=caller.agent,
        target_model=route.target,
        answering_version=route.version,
        node=node,
        occurred_at=occurred_at,
        messages=question.messages,
        tools=question.tools,
        response=response,
        thinking=_thinking(question, "thinking" if response.thinking else "direct"),
        usage=answer.usage(first_token_seconds=first_token_seconds),
        tags=caller.tags,
        domain=caller.domain,
        complexity=caller.complexity,
        context=caller.context.model_copy(update={"other": {**caller.context.other, **facts}}),
        reference_answer=caller.reference_answer,
        answer_check=question.answer_check,
        outcome=caller.outcome,
        training_allowed=training_allowed(caller, question, training_tenants),
    )


def _thinking(question: Question, used: Literal["thinking", "direct"]) -> Thinking:
    effort: Effort | None = question.effort_asked if used == "thinking" else None
    if question.mode_asked is None:
        reason = "nothing was asked for: the model's own default"
    elif question.mode_asked == used:
        reason = "asked for"
    else:
        reason = f"{question.mode_asked} was asked for, and the model answered {used}"
    return Thinking(
        mode_asked=question.mode_asked, mode_used=used, effort_asked=question.effort_asked, effort_used=effort, reason=reason
    )
