"""An interaction, or a text, without secrets and personal data.

Looked at is what people and models wrote, decoded: never JSON with its escapes. A clean interaction costs one look at all of
its texts joined. In a dirty one, the recognisers that may find something go over each text, and over what comes of it, until
there is nothing more to find: so doing it twice changes nothing.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple, TypeVar

from pydantic import JsonValue, TypeAdapter

from ruminate.collector.privacy.placeholders import PLACEHOLDER, Numbering
from ruminate.collector.privacy.policy import SECRETS, PrivacyPolicy, PrivacySettings
from ruminate.collector.privacy.scan import FindNames, Scanner
from ruminate.collector.privacy.text import Finding, Look, begins_word, ends_word
from ruminate.schemas.interaction import ImageReference, InteractionCompleted, Message, ToolCall, ToolDefinition
from ruminate.schemas.payload import Part

P = TypeVar("P", bound=Part)

_NAME_CHARACTERS: Final = 200
"""The most that a tag or an image's address may have."""
_LEAST_LARGE: Final = 10**8
"""From here on, a number in a tool's arguments is long enough to be somebody's."""
_MOST_CLEAN: Final = 256
_TOOLS: Final[TypeAdapter[tuple[ToolDefinition, ...]]] = TypeAdapter(tuple[ToolDefinition, ...])
_KNOWN_CHARACTERS: Final = 8
_KNOWN_VALUES: Final = 256
"""So many values are looked for in all texts: each costs one more look at everything."""


@dataclass(frozen=True, slots=True)
class Redacted:
    """What is left of an interaction, and how many values were replaced, by kind."""

    payload: InteractionCompleted
    counts: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class RedactedText:
    """What is left of a text, and how many values were replaced, by kind."""

    text: str
    counts: Mapping[str, int]


class _Written(NamedTuple):
    """Something that was written: the text, and the key of the JSON object under which it stands."""

    text: str
    key: str = ""
    most: int | None = None
    """How many characters fit; a text that outgrows them becomes its first placeholder."""


class Redactor:
    """Redacts as one policy says."""

    def __init__(self, policy: PrivacyPolicy, find_names: FindNames | None = None) -> None:
        self._scanner = Scanner(policy, find_names)
        self._exact = SECRETS | frozenset(policy.patterns)
        self._clean: dict[bytes, list[_Written]] = {}
        """What was offered and nothing was found in, by its digest: agents offer the same in every turn, and it is long."""

    def interaction(self, payload: InteractionCompleted) -> Redacted:
        """The interaction with placeholders; the very same where there is nothing to replace."""
        digest = hashlib.blake2b(_TOOLS.dump_json(payload.tools), digest_size=16).digest() if payload.tools else b""
        clean = self._clean.get(digest)
        offered = list(_offered(payload)) if clean is None else clean
        texts, counts = self._redact([*offered, *_written(payload)], clean=0 if clean is None else len(clean))
        if offered and clean is None and texts[: len(offered)] == [each.text for each in offered]:
            if len(self._clean) >= _MOST_CLEAN:
                self._clean.clear()
            self._clean[digest] = offered
        return Redacted(_rewritten(payload, iter(texts)), counts) if counts else Redacted(payload, counts)

    def text(self, text: str) -> RedactedText:
        """One text alone, such as a comment; its placeholders say nothing of any other text's."""
        texts, counts = self._redact([_Written(text)])
        return RedactedText(texts[0], counts)

    def _redact(self, written: Sequence[_Written], *, clean: int = 0) -> tuple[list[str], Counter[str]]:
        """In the first `clean` texts is nothing but what shows in others."""
        texts = [each.text for each in written]
        counts: Counter[str] = Counter()
        numbering: Numbering | None = None
        pending: Sequence[int] = range(clean, len(texts))
        while pending:
            recognisers = self._scanner.recognisers_for("\n".join([texts[place] for place in pending]))
            if not recognisers:
                break
            found = {
                place: findings
                for place in pending
                if (findings := _whole(texts[place], self._scanner.find(Look.at(texts[place], written[place].key), recognisers)))
            }
            if numbering is None:
                numbering = Numbering(texts, exact=self._exact)
            known = _known(texts, found, numbering)
            _find_known(texts, found, known)
            for place, findings in found.items():
                texts[place] = _replaced(texts[place], findings, numbering, written[place].most)
                counts.update(finding.kind for finding in findings)
            pending = list(found)
        return texts, counts


class Privacy:
    """Redacts as the policy of each tenant says."""

    def __init__(self, settings: PrivacySettings, find_names: FindNames | None = None) -> None:
        self._default = Redactor(settings.default, find_names)
        self._tenants = {tenant: Redactor(settings.policy_of(tenant), find_names) for tenant in settings.tenants}

    def of(self, tenant: str) -> Redactor:
        """What redacts for this tenant."""
        return self._tenants.get(tenant, self._default)

    def redact(self, payload: InteractionCompleted) -> Redacted:
        """The interaction with placeholders, as its tenant's policy wants it."""
        return self.of(payload.tenant).interaction(payload)

    def redact_text(self, text: str, *, tenant: str = "default") -> RedactedText:
        """A text of that tenant with placeholders: a comment, a correction."""
        return self.of(tenant).text(text)


# --- values -----------------------------------------------------------------------------------------------------------


def _whole(text: str, findings: list[Finding]) -> list[Finding]:
    """Without those that lie in a placeholder; those that reach into one take it whole."""
    if not findings or "[" not in text:
        return findings
    placeholders = [found.span() for found in PLACEHOLDER.finditer(text)]
    if not placeholders:
        return findings
    kept: list[Finding] = []
    at = 0
    for finding in findings:
        start, end = max(finding.start, kept[-1].end if kept else 0), finding.end
        while at < len(placeholders) and placeholders[at][1] <= start:
            at += 1
        inside, other = False, at
        while other < len(placeholders) and placeholders[other][0] < end:
            first, last = placeholders[other]
            inside = inside or (first <= start and end <= last)
            start, end = min(start, first), max(end, last)
            other += 1
        if not inside and start < end:
            kept.append(Finding(start, end, finding.kind))
    return kept


def _known(texts: Sequence[str], found: Mapping[int, list[Finding]], numbering: Numbering) -> dict[str, str]:
    """Values that were found, with their kinds, in order; each has its number from here on."""
    known: dict[str, str] = {}
    for place, findings in found.items():
        for finding in findings:
            value = texts[place][finding.start : finding.end]
            numbering.placeholder(finding.kind, value)
            if len(value) >= _KNOWN_CHARACTERS and len(known) < _KNOWN_VALUES and not PLACEHOLDER.search(value):
                known.setdefault(value, finding.kind)
    return known


def _find_known(texts: Sequence[str], found: dict[int, list[Finding]], known: Mapping[str, str]) -> None:
    """A value that shows what it is in one place goes in all: `the password is …` there, the bare word here."""
    if not known:
        return
    for place, text in enumerate(texts):
        more: list[Finding] = []
        for value, kind in known.items():
            at = text.find(value)
            while at >= 0:
                end = at + len(value)
                if begins_word(text, at) and ends_word(text, end):
                    more.append(Finding(at, end, kind))
                at = text.find(value, end)
        if more:
            findings = found.get(place, [])
            spare = _beside(findings, sorted(more, key=lambda finding: (finding.start, -finding.end)))
            found[place] = sorted([*findings, *spare])


def _beside(findings: Sequence[Finding], more: Sequence[Finding]) -> Iterator[Finding]:
    """Those of `more` that overlap neither `findings` nor an earlier one of their own. Both are in order."""
    at = read = 0
    for finding in more:
        while at < len(findings) and findings[at].end <= finding.start:
            at += 1
        free = at == len(findings) or findings[at].start >= finding.end
        if free and finding.start >= read:
            read = finding.end
            yield finding


def _replaced(text: str, findings: Sequence[Finding], numbering: Numbering, most: int | None) -> str:
    pieces: list[str] = []
    read = 0
    for start, end, kind in findings:
        pieces += (text[read:start], numbering.placeholder(kind, text[start:end]))
        read = end
    replaced = "".join((*pieces, text[read:]))
    return replaced if most is None or len(replaced) <= most else pieces[1]


# --- what is written in an interaction, and where it goes back ----------------------------------------------------------
#
# Both go the same way: what was offered, which is the same in every turn; messages, then what answered them in the order in
# which the next turn will hold it, then the rest.


def _offered(payload: InteractionCompleted) -> Iterator[_Written]:
    for tool in payload.tools:
        if tool.description is not None:
            yield _Written(tool.description)
        yield from _of_json(tool.parameters, "")


def _written(payload: InteractionCompleted) -> Iterator[_Written]:
    for message in payload.messages:
        yield from _of_turn(message.thinking, message.content, message.tool_calls)
        for image in message.images:
            if image.uri is not None:
                yield _Written(image.uri, most=_NAME_CHARACTERS)
    answer = payload.response
    yield from _of_turn(answer.thinking, answer.content, answer.tool_calls)
    if payload.reference_answer is not None:
        yield _Written(payload.reference_answer)
    if payload.answer_check is not None:
        yield _Written(payload.answer_check.content)
    yield _Written(payload.thinking.reason)
    if payload.context.other:
        yield from _of_json(payload.context.other, "")
    for tag in payload.tags:
        yield _Written(tag, most=_NAME_CHARACTERS)


def _of_turn(thinking: str | None, content: str, tool_calls: Sequence[ToolCall]) -> Iterator[_Written]:
    if thinking is not None:
        yield _Written(thinking)
    yield _Written(content)
    for call in tool_calls:
        yield from _of_json(call.arguments, "")


def _of_json(value: JsonValue, key: str) -> Iterator[_Written]:
    if isinstance(value, str):
        yield _Written(value, key)
    elif isinstance(value, dict):
        for name, item in value.items():
            yield _Written(name)
            yield from _of_json(item, name)
    elif isinstance(value, list):
        for item in value:
            yield from _of_json(item, key)
    elif _is_large(value):
        yield _Written(str(value), key)


def _is_large(value: JsonValue) -> bool:
    return isinstance(value, int) and _LEAST_LARGE <= value < 10**20


def _rewritten(payload: InteractionCompleted, texts: Iterator[str]) -> InteractionCompleted:
    tools = tuple(_tool(tool, texts) for tool in payload.tools)
    messages = tuple(_message(message, texts) for message in payload.messages)
    answer = payload.response
    response = _with(answer, _turn(answer.thinking, answer.tool_calls, texts))
    reference = None if payload.reference_answer is None else next(texts)
    check = payload.answer_check
    if check is not None:
        check = _with(check, {"content": next(texts)})
    thinking = _with(payload.thinking, {"reason": next(texts)})
    context = payload.context
    if context.other:
        context = context.model_copy(update={"other": _json(context.other, texts)})
    return payload.model_copy(
        update={
            "messages": messages,
            "tools": tools,
            "response": response,
            "reference_answer": reference,
            "answer_check": check,
            "thinking": thinking,
            "context": context,
            "tags": tuple(next(texts) for _ in payload.tags),
        }
    )


def _message(message: Message, texts: Iterator[str]) -> Message:
    update = _turn(message.thinking, message.tool_calls, texts)
    if message.images:
        update["images"] = tuple(_image(image, texts) for image in message.images)
    return _with(message, update)


def _with(part: P, update: Mapping[str, object]) -> P:
    """The part with what is new in it; the very same where nothing is."""
    if all(getattr(part, name) == value for name, value in update.items()):
        return part
    return part.model_copy(update=update)


def _tool(tool: ToolDefinition, texts: Iterator[str]) -> ToolDefinition:
    update: dict[str, object] = {} if tool.description is None else {"description": next(texts)}
    update["parameters"] = _json(tool.parameters, texts)
    return _with(tool, update)


def _turn(thinking: str | None, tool_calls: Sequence[ToolCall], texts: Iterator[str]) -> dict[str, object]:
    update: dict[str, object] = {} if thinking is None else {"thinking": next(texts)}
    update["content"] = next(texts)
    if tool_calls:
        update["tool_calls"] = tuple(call.model_copy(update={"arguments": _json(call.arguments, texts)}) for call in tool_calls)
    return update


def _image(image: ImageReference, texts: Iterator[str]) -> ImageReference:
    return image if image.uri is None else image.model_copy(update={"uri": next(texts)})


def _json(value: JsonValue, texts: Iterator[str]) -> JsonValue:
    if isinstance(value, str):
        return next(texts)
    if isinstance(value, dict):
        rewritten: dict[str, JsonValue] = {}
        for item in value.values():
            name = _free(next(texts), rewritten)
            rewritten[name] = _json(item, texts)
        return rewritten
    if isinstance(value, list):
        return [_json(item, texts) for item in value]
    if _is_large(value):
        text = next(texts)
        return value if text == str(value) else text
    return value


def _free(name: str, taken: Mapping[str, JsonValue]) -> str:
    """Two keys that were two spellings of one value stay two."""
    number = 2
    free = name
    while free in taken:
        free = f"{name} ({number})"
        number += 1
    return free
