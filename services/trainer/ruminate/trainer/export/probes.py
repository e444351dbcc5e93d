"""What llama.cpp and transformers are asked: a small fixed set, one long prompt, and prompts of the batch.

The fixed set holds what a batch may lack and an export may break: tools, the answer of one, several turns, text in other
scripts and letters that are put together from parts, white space. Nobody's answers to it are looked at.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from itertools import islice
from typing import Final

from pydantic import JsonValue

from ruminate.proof.messages import Message
from ruminate.trainer.rows import Renderer, Row, prompt_tokens

MODES: Final = (True, False)
LONG_TOKENS: Final = 3072
"""So long is the long prompt, unless the context is shorter, or the batch has a longer one."""

_LINE_TOKENS: Final = 48
"""More than a line of it has, even one token a character."""

_WEATHER: Final = json.dumps(
    [
        {
            "type": "function",
            "function": {
                "name": "weather",
                "description": "The weather of a day, somewhere.",
                "parameters": {
                    "type": "object",
                    "properties": {"place": {"type": "string"}, "day": {"type": "string", "description": "2026-11-27"}},
                    "required": ["place"],
                },
            },
        }
    ]
)
_CALL: Final[dict[str, JsonValue]] = {"type": "function", "function": {"name": "weather", "arguments": {"place": "Zürich"}}}

# Letters from parts: é and ü become one under NFC, x̂ and q̃ have no such one; 각 as three Jamo; marks in two orders.
_PARTS: Final = "Cafe\u0301, Zu\u0308rich, x\u0302 + q\u0303, \u1100\u1161\u11a8, a\u0323\u0307 and a\u0307\u0323: which is which?"
_SCRIPTS: Final = "汉字と仮名、한국어, العربية, עברית, हिन्दी, ไทย, Ελληνικά, Ўзбекча — 👩‍👩‍👧‍👦 🇨🇭 ½ № ﬁ ™ 𝒙² ≠ x₂; translate!"
_SPACES: Final = "def f(x):\n\treturn  x ** 2\n\n\n  # 1234567 89,012.5  \r\n\u00a0\u3000done\n   \n"


def fixed_probes() -> list[Row]:
    """The same for every batch, each with thinking on and off."""
    return in_both_modes(
        [
            _probe([{"role": "user", "content": "What will the weather be in Zürich tomorrow?"}], tools=_WEATHER),
            _probe(
                [
                    {"role": "system", "content": "Be brief."},
                    {"role": "user", "content": "And in Zürich?"},
                    {"role": "assistant", "content": "", "tool_calls": [_CALL]},
                    {"role": "tool", "content": '{"celsius": -3.5, "sky": "snow ❄"}'},
                ],
                tools=_WEATHER,
            ),
            _probe(
                [
                    {"role": "user", "content": "How much is 17 * 23?"},
                    {"role": "assistant", "content": "17 * 23 = 391."},
                    {"role": "user", "content": "And a third of it? /think"},
                ]
            ),
            _probe([{"role": "user", "content": _PARTS}]),
            _probe([{"role": "user", "content": _SCRIPTS}]),
            _probe([{"role": "user", "content": _SPACES}]),
        ]
    )


def batch_probes(rows: Sequence[Row], count: int) -> list[Row]:
    """Up to `count` probes: the distinct prompts of `rows`, each with thinking on and off, in their order."""
    distinct: dict[tuple[Message, ...], Row] = {}
    for row in rows:
        distinct.setdefault(row.prompt, row)
    wanted = max(0, count)
    return in_both_modes(islice(distinct.values(), wanted))[:wanted]


def long_probe(tokenizer: Renderer, most_tokens: int) -> Row:
    """A prompt of nearly `most_tokens` tokens, every line of it different, so that a position that is off by one shows."""
    lines = 0
    while more := (most_tokens - len(prompt_tokens(_counted(lines), tokenizer))) // _LINE_TOKENS:
        lines += more
    return _counted(lines)


def choose_probes(rows: Sequence[Row], count: int, tokenizer: Renderer, context_tokens: int) -> list[Row]:
    """`count` probes: the fixed ones, the batch's, and the long one; none of them longer than `context_tokens`.

    The fixed ones are asked even where `count` is smaller than their number.
    """
    fixed = fixed_probes()
    probes = [*fixed, *batch_probes(rows, count - len(fixed) - 1)]
    lengths = [len(prompt_tokens(probe, tokenizer)) for probe in probes]
    fitting = [probe for probe, length in zip(probes, lengths, strict=True) if length <= context_tokens]
    return [*fitting, long_probe(tokenizer, min(context_tokens, max(LONG_TOKENS, max(lengths) + _LINE_TOKENS)))]


def in_both_modes(rows: Iterable[Row]) -> list[Row]:
    """Each row with thinking on and off."""
    return [
        row.model_copy(update={"chat_template_kwargs": row.chat_template_kwargs.model_copy(update={"enable_thinking": thinking})})
        for row in rows
        for thinking in MODES
    ]


def _counted(lines: int) -> Row:
    text = "\n".join(f"Line {number}: {number * number % 997} apples, {number * 7919 % 1009} pears." for number in range(lines))
    return _probe([{"role": "user", "content": f"{text}\nWhich line has the most pears?"}])


def _probe(prompt: list[dict[str, JsonValue]], tools: str | None = None) -> Row:
    row = {
        "prompt": prompt,
        "completion": [{"role": "assistant", "content": "…"}],
        "chat_template_kwargs": {"enable_thinking": False},
        "tools": tools,
    }
    return Row.model_validate_json(json.dumps(row))
