"""What a node answers to before any model is asked: names, durations, options, capabilities, and whether to think.

Every rule and every text is Ollama's, so that a client cannot tell the difference. Pure.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

Think = bool | Literal["low", "medium", "high", "max"]
THINK_WORDS = ("high", "medium", "low", "max")


class Refused(Exception):
    """The request cannot be answered; `status` and `error` are what the client gets."""

    def __init__(self, status: int, error: str) -> None:
        super().__init__(error)
        self.status = status
        self.error = error


@dataclass(frozen=True, slots=True)
class ModelName:
    """A name in four parts, as a registry would spell it."""

    host: str
    namespace: str
    model: str
    tag: str

    @property
    def full(self) -> str:
        """Every part: `registry.ollama.ai/library/qwen3:8b`."""
        return f"{self.host}/{self.namespace}/{self.model}:{self.tag}"

    @property
    def short(self) -> str:
        """Without the parts that go without saying: `qwen3:8b`.

        >>> parse_name("qwen3").short, parse_name("me/qwen3:8b").short
        ('qwen3:latest', 'me/qwen3:8b')
        """
        if self.host.lower() != DEFAULT_HOST:
            return self.full
        if self.namespace.lower() != DEFAULT_NAMESPACE:
            return f"{self.namespace}/{self.model}:{self.tag}"
        return f"{self.model}:{self.tag}"

    @property
    def parts(self) -> tuple[str, str, str, str]:
        """The folders of its manifest."""
        return self.host, self.namespace, self.model, self.tag


DEFAULT_HOST, DEFAULT_NAMESPACE, DEFAULT_TAG = "registry.ollama.ai", "library", "latest"
_PART = r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,79}"
_NAME = re.compile(
    rf"(?:(?:(?P<host>[A-Za-z0-9_][A-Za-z0-9_.:-]{{0,349}})/)?(?P<namespace>[A-Za-z0-9_][A-Za-z0-9_-]{{0,79}})/)?"
    rf"(?P<model>{_PART})(?::(?P<tag>{_PART}))?"
)


def parse_name(text: str) -> ModelName:
    """The name that `text` stands for; Refused where it stands for none."""
    found = _NAME.fullmatch(text)
    if not text:
        raise Refused(400, "model is required")
    if not found:
        raise Refused(400, "invalid model name")
    return ModelName(
        found["host"] or DEFAULT_HOST, found["namespace"] or DEFAULT_NAMESPACE, found["model"], found["tag"] or DEFAULT_TAG
    )


_UNITS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_QUANTITY = re.compile(r"(\d+(?:\.\d*)?|\.\d+)(ns|us|µs|ms|s|m|h)")


def seconds_of(duration: float | str) -> float:
    """Seconds of a `keep_alive`: a number of them, or Go's notation; below zero means for ever.

    >>> seconds_of("1h30m"), seconds_of(5), seconds_of("-1s")
    (5400.0, 5.0, inf)
    """
    if isinstance(duration, str):
        digits = duration.lstrip("+-")
        pairs = _QUANTITY.findall(digits)
        if digits != "0" and (not pairs or "".join(number + unit for number, unit in pairs) != digits):
            raise ValueError(f"time: invalid duration {json.dumps(duration)}")
        sign = -1.0 if duration.startswith("-") else 1.0
        duration = sign * sum(float(number) * _UNITS[unit] for number, unit in pairs)
    return math.inf if duration < 0 else float(duration)


def check_think(value: object) -> Think:
    """A `think` that means something; ValueError with Ollama's words otherwise."""
    words = ", ".join(f'"{word}"' for word in THINK_WORDS)
    if isinstance(value, bool):
        return value
    if not isinstance(value, str):
        raise ValueError(f"think must be a boolean or string ({words}, true, or false)")  # noqa: TRY004 - pydantic wants it
    for word in THINK_WORDS:
        if value == word:
            return word  # type: ignore[return-value]
    raise ValueError(f"invalid think value: {json.dumps(value)} (must be {words}, true, or false)")


def resolve_thinking(asked: Think | None, *, capable: bool, name: str) -> bool | None:
    """Whether this answer begins with thinking; None on a model that knows nothing of it.

    Unset means on where the model can. Levels mean on: how long a Qwen3 thinks is not the node's to say.
    """
    if capable:
        return asked is None or bool(asked)
    if asked:
        raise Refused(400, f'"{name}" does not support thinking')
    return None


def require(capabilities: Iterable[str], *wanted: str, name: ModelName) -> None:
    """Refuse what the model cannot do."""
    missing = [capability for capability in wanted if capability not in capabilities]
    if missing:
        raise Refused(400, f"{name.full} does not support {' '.join(missing)}")


_ACTION = re.compile(r"\{\{-?\s*(.*?)\s*-?\}\}", re.DOTALL)
_LITERAL = re.compile(r'"(?:\\.|[^"\\])*"|`[^`]*`|/\*.*?\*/', re.DOTALL)
_THINKING = re.compile(
    r"\}\}\s*(?P<open>[^\s{}][^{}]*?)\s*\{\{-?\s*(?:\$\w*)?\.Thinking\s*-?\}\}\s*(?P<close>[^\s{}][^{}]*?)\s*\{\{", re.DOTALL
)


def go_template_capabilities(template: str) -> tuple[str, ...]:
    """What Ollama reads out of a Go template: tools and insertion by name, thinking by the tags around `.Thinking`.

    >>> go_template_capabilities("{{ range .Messages }}{{ .Content }}{{ end }}{{ .Tools }}")
    ('tools',)
    """
    actions = " ".join(_LITERAL.sub("", action) for action in _ACTION.findall(template))
    names = {name.lower() for name in re.findall(r"\.(\w+)", actions)}
    found = [capability for capability, field in (("tools", "tools"), ("insert", "suffix")) if field in names]
    if re.search(r"\brange\b[^|]*\.Messages\b", actions) and _THINKING.search(template):
        found.append("thinking")
    return tuple(found)


def check_go_template(template: str) -> None:
    """Refuse what can be seen to be no Go template, without running it."""
    depth = 0
    rest = _ACTION.sub("", template)
    if "{{" in rest:
        raise Refused(400, "template error: template: :1: unclosed action")
    for action in _ACTION.findall(template):
        word = action.split(maxsplit=1)[0] if action else ""
        depth += (word in {"if", "range", "with", "block", "define"}) - (word == "end")
        if depth < 0:
            raise Refused(400, "template error: template: :1: unexpected {{end}}")
    if depth:
        raise Refused(400, "template error: template: :1: unexpected EOF")


def jinja_capabilities(template: str) -> tuple[str, ...]:
    """What the chat template inside a GGUF can do."""
    found = (("tools", "tools" in template), ("thinking", "<think>" in template))
    return tuple(capability for capability, there in found if there)


def template_capabilities(*, go: str, jinja: str) -> tuple[str, ...]:
    """What a model can by its templates: the Go template's word counts, unless the one inside the GGUF can more."""
    by_go, by_jinja = go_template_capabilities(go), jinja_capabilities(jinja)
    return by_go if go and len(by_go) >= len(by_jinja) else by_jinja


_INTEGERS = frozenset(
    {"num_ctx", "num_batch", "num_gpu", "main_gpu", "num_thread", "num_keep", "seed", "num_predict", "top_k", "repeat_last_n"}
)
_FLOATS = frozenset({"top_p", "min_p", "typical_p", "temperature", "repeat_penalty", "presence_penalty", "frequency_penalty"})
DEFAULT_OPTIONS: Mapping[str, Any] = {
    "num_keep": 4, "num_predict": -1, "seed": -1, "temperature": 0.8, "top_k": 40, "top_p": 0.9, "min_p": 0.0, "typical_p": 1.0,
    "repeat_last_n": 64, "repeat_penalty": 1.0, "presence_penalty": 0.0, "frequency_penalty": 0.0, "stop": [],
}  # fmt: skip
"""Those of Ollama from 0.30; before, `repeat_penalty` was 1.1."""


def merge_options(*layers: Mapping[str, Any]) -> dict[str, Any]:
    """Defaults under each layer in turn, the later winning; Refused where one has the wrong type."""
    merged = dict(DEFAULT_OPTIONS)
    for layer in layers:
        for name, value in layer.items():
            if value is not None:
                merged[name] = _checked(name, value)
    return merged


def _checked(name: str, value: Any) -> Any:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if name in _INTEGERS:
        if not number:
            raise Refused(500, f'option "{name}" must be of type integer')
        return int(value)
    if name in _FLOATS:
        if not number:
            raise Refused(500, f'option "{name}" must be of type float32')
        return float(value)
    if name == "stop":
        # A model's own parameters may hold a single word.
        words = [value] if isinstance(value, str) else value
        if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
            raise Refused(500, 'option "stop" must be of an array of strings')
        return words
    return value


def unknown_options(options: Iterable[str]) -> list[str]:
    """Names that mean nothing here, for a warning."""
    return sorted(set(options) - _INTEGERS - _FLOATS - {"stop", "use_mmap"})


_OPEN_ENDED_WINDOWS = 10
"""So many windows long an answer may get that nothing else ends."""


def sampling_of(options: Mapping[str, Any], *, context_tokens: int) -> dict[str, Any]:
    """llama.cpp's words for Ollama's options."""
    wanted, most = options["num_predict"], _OPEN_ENDED_WINDOWS * context_tokens
    exact = options["temperature"] <= 0 or options["seed"] >= 0
    return {
        "n_predict": min(wanted, most) if wanted > 0 else most,
        "n_keep": options["num_keep"],
        "seed": options["seed"] if options["seed"] >= 0 else 0xFFFFFFFF,
        # A prefix that is taken from the cache was computed in batches of other sizes, whose sums differ in the last bits:
        # enough to turn a close choice. What must come out the same is computed from the start.
        "cache_prompt": not exact,
        **{name: options[name] for name in (
            "temperature", "top_k", "top_p", "min_p", "typical_p", "repeat_last_n", "repeat_penalty", "presence_penalty",
            "frequency_penalty", "stop",
        )},
    }  # fmt: skip


def schema_of(format_: object) -> dict[str, Any] | None:
    """The JSON schema that an answer must keep to, None for none."""
    if format_ is None or format_ == "":
        return None
    if format_ == "json":
        return {"type": "object"}
    if isinstance(format_, dict):
        return format_
    raw = json.dumps(format_, separators=(",", ":"), ensure_ascii=False)
    raise Refused(500, f'invalid format: {json.dumps(raw)}; expected "json" or a valid JSON Schema object')


@dataclass(frozen=True, slots=True)
class Cut:
    """Which tokens of a prompt that is too long stay: the first `keep`, then those from `resume` on."""

    keep: int
    resume: int


def cut_prompt(tokens: int, *, context_tokens: int, keep: int) -> Cut | None:
    """How to cut a prompt that does not fit; None where it fits. Half of what need not be kept is left to the answer."""
    if tokens < context_tokens:
        return None
    keep = min(tokens if keep < 0 else keep, context_tokens - 1)
    limit = context_tokens - max((context_tokens - keep) // 2, 1)
    return Cut(keep, tokens - (limit - keep))


_SIZES = ((10**9, "B", 1), (10**6, "M", 2), (10**3, "K", 0))


def human_number(count: int) -> str:
    """A parameter count as people say it.

    >>> [human_number(n) for n in (999, 140_096, 596_049_920, 8_190_735_360)]
    ['999', '140K', '596.05M', '8.2B']
    """
    for unit, letter, digits in _SIZES:
        if count >= unit:
            whole = 0 if count % unit == 0 else digits
            return f"{count / unit:.{whole}f}{letter}"
    return str(count)


def parameter_lines(parameters: Mapping[str, Any]) -> str:
    """Parameters as `/api/show` lists them, a line a value."""
    lines: list[str] = []
    for name, value in sorted(parameters.items()):
        lines += [f"{name:<30} {_go(item)}" for item in (value if isinstance(value, list) else [value])]
    return "\n".join(lines)


def _go(value: Any) -> str:
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return json.dumps(value, ensure_ascii=False)
