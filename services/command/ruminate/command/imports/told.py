"""What a record of somebody's file tells, and how it becomes an interaction. Pure.

A format reads a record into what it found: answers that were `Told`, what is `Refused` and why, and what is `PassedOver`
because it is no answer of a model. The options of the import then say whose it is and what learns from it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final, Literal, TypeAlias

import orjson

from ruminate.collector.chat import Json, Turn, Untellable, conversation_of, read_message
from ruminate.schemas.interaction import Outcome, ToolDefinition
from ruminate.shared.tools_offered import UnreadableTools, read_tools

Mode = Literal["every", "last"]

NO_ANSWER: Final = "no_answer"
NO_QUESTION: Final = "no_question"
NO_TARGET: Final = "no_target"
UNKNOWN_SHAPE: Final = "unknown_shape"
UNREADABLE_TOOLS: Final = "unreadable_tools"

UNDATED: Final = datetime.fromtimestamp(0, UTC)
"""The time of what names none: always the same, so that a second import is a repeat of the first."""

_SHOWN_NAME: Final = 60
_NAME: Final = 200
_OWN_ID: Final = 150  # leaves room for what is put behind it
_TAGS: Final = 20


@dataclass(frozen=True, slots=True)
class Told:
    """One answer, and what was asked before it. `models` are the names that the record gives it, the one asked for first."""

    key: str
    turns: Sequence[Turn]
    answer: Turn
    models: Sequence[str] = ()
    conversation: str | None = None
    continues: str | None = None
    occurred_at: datetime | None = None
    usage: Json = field(default_factory=dict)
    outcome: Outcome = "unknown"
    tags: Sequence[str] = ()
    tools: Sequence[ToolDefinition] = ()
    facts: Json = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Refused:
    """What should have been an answer and cannot be told: a constant word, and an explanation without contents."""

    reason: str
    says: str


@dataclass(frozen=True, slots=True)
class PassedOver:
    """What is no answer of a model, and was never meant to be one."""

    what: str


Found: TypeAlias = Told | Refused | PassedOver


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """Whose the answers are, what learns from them, and whether it may.

    `targets` says for a model's name in the file which target learns; `learns` holds names that need no saying; `target` is
    for everything else.
    """

    tenant: str = "default"
    agent: str = "import"
    target: str | None = None
    targets: Mapping[str, str] = field(default_factory=dict)
    learns: Collection[str] = ()
    training_allowed: bool = False
    mode: Mode = "every"
    occurred_at: datetime = UNDATED


def interaction_of(told: Told, options: Options) -> Json:
    """The JSON object of an `InteractionCompleted`. Raises Untellable where nothing is to learn from it."""
    if not told.turns:
        raise Untellable(NO_QUESTION, "the record holds an answer and nothing that was asked")
    if not is_answer(told.answer):
        raise Untellable(NO_ANSWER, "the record holds neither the text of an answer nor a tool call")
    thinking = told.answer.get("thinking")
    facts = dict(told.facts)
    if told.models:
        facts["model"] = told.models[0]
    return {
        "tenant": options.tenant,
        "interaction_id": told.key,
        "conversation_id": told.conversation or conversation_of(options.tenant, options.agent, told.turns),
        "continues_interaction": told.continues,
        "agent": options.agent,
        "target_model": _target(told, options),
        "occurred_at": (told.occurred_at or options.occurred_at).isoformat(),
        "messages": told.turns,
        "tools": [tool.model_dump(mode="json") for tool in told.tools],
        "response": {
            "content": told.answer["content"],
            "thinking": thinking,
            "tool_calls": told.answer.get("tool_calls", []),
        },
        "thinking": {"mode_used": "direct" if thinking is None else "thinking", "reason": "as the imported record tells it"},
        "usage": told.usage,
        "tags": [tag for tag in told.tags if 0 < len(tag) <= _NAME and tag.isprintable()][:_TAGS],
        "context": {"other": facts},
        "outcome": told.outcome,
        "training_allowed": options.training_allowed,
    }


def _target(told: Told, options: Options) -> str:
    for model in told.models:
        if model in options.targets:
            return options.targets[model]
    for model in told.models:
        if model.removesuffix(":latest") in options.learns:
            return model
    if options.target is not None:
        return options.target
    if told.models:
        named = told.models[0][:_SHOWN_NAME]
        raise Untellable(NO_TARGET, f"the record names the model {named!r}; say --model {named}=TARGET, or --target TARGET")
    raise Untellable(NO_TARGET, "the record names no model; say --target TARGET")


def is_answer(turn: Turn) -> bool:
    """Whether a model said something. Thinking alone was cut off before it came to an answer."""
    return bool(turn["content"].strip() or turn.get("tool_calls"))


@dataclass(slots=True)
class Conversation:
    """The turns of a record that holds several, as they are read. `untaught` are those that the file says not to learn from."""

    turns: list[Turn] = field(default_factory=list)
    untaught: set[int] = field(default_factory=set)

    def add(self, message: Any, *, role: str | None = None, untaught: bool = False) -> None:
        """Read one more message. Raises Untellable."""
        for turn in read_message(message, role=role):
            if untaught:
                self.untaught.add(len(self.turns))
            self.turns.append(turn)

    def answers(self, mode: Mode) -> list[int]:
        """Where the model answered somebody: an assistant's turn right after one of the user or of a tool."""
        found = [
            index
            for index, turn in enumerate(self.turns)
            if index and turn["role"] == "assistant" and is_answer(turn) and self.turns[index - 1]["role"] in ("user", "tool")
        ]
        taught = [index for index in found if index not in self.untaught]
        return taught[-1:] if mode == "last" else taught


def told_turns(
    conversation: Conversation, *, own_id: Any, mode: Mode, models: Sequence[str] = (), tools: Sequence[ToolDefinition] = ()
) -> Iterator[Found]:
    """Each answered turn with all before it, chained: each continues the one before."""
    answers = conversation.answers(mode)
    if not answers:
        yield Refused(NO_ANSWER, "no turn of the assistant follows one of the user or of a tool, so nobody was answered")
        return
    key = key_of(own_id, conversation.turns)
    before = None
    for index in answers:
        name = f"{key}.{index}"
        yield Told(
            key=name,
            turns=conversation.turns[:index],
            answer=conversation.turns[index],
            models=models,
            continues=before,
            tools=tools,
        )
        before = name


def key_of(own_id: Any, *content: Any) -> str:
    """A name that the same record always gets: its own id and a piece of a hash of what it holds, or the hash alone.

    Own ids alone would not do: files of different origin number their records alike, and some servers draw theirs from a
    thousand.
    """
    digest = hashlib.sha256(orjson.dumps(content, option=orjson.OPT_SORT_KEYS)).hexdigest()
    own = str(own_id).strip() if isinstance(own_id, (str, int)) and not isinstance(own_id, bool) else ""
    return f"{own}-{digest[:12]}" if own.isprintable() and 0 < len(own) <= _OWN_ID else digest[:32]


def tools_offered(tools: Any) -> tuple[ToolDefinition, ...]:
    """What the model could have called, from a list of definitions or its JSON. Raises Untellable."""
    try:
        return read_tools(tools)
    except UnreadableTools as error:
        raise Untellable(UNREADABLE_TOOLS, str(error)) from None


def time_of(value: Any) -> datetime | None:
    """A time as files give it: ISO 8601, without an offset in UTC, or seconds since 1970. None where it is none of these."""
    try:
        if isinstance(value, str):
            found = datetime.fromisoformat(value.strip())
            return found if found.tzinfo else found.replace(tzinfo=UTC)
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            return datetime.fromtimestamp(value, UTC)
    except (ValueError, OverflowError, OSError):
        pass
    return None


def count_of(value: Any) -> int | None:
    """A number of tokens; CSV writes it as text. None where it is no count."""
    if isinstance(value, str) and value.isdecimal():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < 2**53:
        return None
    return int(value)


def text_or_none(value: Any) -> str | None:
    """A text that says something."""
    return value if isinstance(value, str) and value else None


def named(*values: Any) -> list[str]:
    """Those that are names, each once."""
    return list(dict.fromkeys(value for value in values if isinstance(value, str) and value))
