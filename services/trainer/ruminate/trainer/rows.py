"""Dataset rows: read, checked, and rendered to tokens of which only the answer is trained.

A row whose completion thinks is rendered with thinking on, any other with thinking off, just as it will be asked:

    prompt      <|im_start|>user … <|im_start|>assistant\\n [<think>\\n\\n</think>\\n\\n where thinking is off]
    completion  [<think>\\n…\\n</think>\\n\\n] answer <|im_end|>
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal, Protocol

from pydantic import Field, JsonValue, ValidationError, model_validator

from ruminate.proof.exam import Asked, Question
from ruminate.proof.messages import Message, Tools, definitions
from ruminate.schemas.payload import Part

IGNORED_LABEL = -100
"""What torch's cross entropy passes over."""


class BadDataset(ValueError):
    """These rows cannot be trained on; the message names file, line and what is allowed."""


class Completion(Message):
    """The turn that is learned."""

    role: Literal["assistant"]
    reasoning_content: str = ""
    tool_calls: tuple[dict[str, JsonValue], ...] | None = None


class TemplateSwitches(Part):
    """What the chat template is told."""

    enable_thinking: bool


class Row(Part):
    """One conversation and the answer to learn."""

    prompt: tuple[Message, ...] = Field(min_length=1)
    completion: tuple[Completion, ...] = Field(min_length=1, max_length=1)
    chat_template_kwargs: TemplateSwitches
    tools: str | None = Field(default=None, description="JSON text: the list of definitions that the template is given.")

    @property
    def asked(self) -> Asked:
        """What it asks, in which mode."""
        return Asked(self.prompt, self.tools, self.chat_template_kwargs.enable_thinking)

    @cached_property
    def offered(self) -> list[dict[str, JsonValue]] | None:
        """The tools that the model could have called, as a chat template takes them."""
        return definitions(self.tools)

    @model_validator(mode="after")
    def _says_what_it_switches(self) -> Row:
        answer = self.completion[0]
        thinks, switched_on = bool(answer.reasoning_content.strip()), self.chat_template_kwargs.enable_thinking
        if thinks != switched_on:
            raise ValueError(
                f"enable_thinking is {switched_on}, but the completion {'has' if thinks else 'has no'} reasoning_content"
            )
        if not answer.content.strip() and not answer.tool_calls:
            raise ValueError("the completion has neither content nor tool calls: there is nothing to learn")
        if self.prompt[-1].role not in ("user", "tool"):
            raise ValueError(f"the prompt ends with a {self.prompt[-1].role} message; it must end with user or tool")
        try:
            _ = self.offered
        except ValidationError:
            raise ValueError("tools are no JSON text of a list of objects") from None
        return self


class Renderer(Protocol):
    """The part of a tokenizer that rows need."""

    eos_token_id: int

    def apply_chat_template(
        self,
        conversation: Sequence[dict[str, JsonValue]],
        *,
        tools: Sequence[dict[str, JsonValue]] | None,
        add_generation_prompt: bool,
        enable_thinking: bool,
        return_dict: Literal[False],
    ) -> list[int]:
        """Token ids of a conversation."""
        ...


@dataclass(frozen=True)
class Tokens:
    """A rendered row: `labels` repeats `input_ids` where it is trained and is IGNORED_LABEL elsewhere."""

    input_ids: list[int]
    labels: list[int]


def read_rows(path: Path, *, may_be_missing: bool = False) -> list[Row]:
    """Every row of a JSON Lines file. Raises BadDataset.

    Datasets of the first release have no replay.jsonl, so that it `may_be_missing`.
    """
    try:
        with path.open(encoding="utf-8") as lines:
            return parse_rows(lines, where=path.name)
    except FileNotFoundError:
        if may_be_missing:
            return []
        raise BadDataset(f"the dataset has no {path.name}; seal the batch again") from None
    except UnicodeDecodeError as error:
        raise BadDataset(f"{path.name} is not UTF-8 ({error.reason} at byte {error.start})") from None


def parse_rows(lines: Iterable[str], *, where: str) -> list[Row]:
    """The rows in `lines`, blank lines left out. Raises BadDataset for the first line that is no row; never quotes contents."""
    rows = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            rows.append(Row.model_validate_json(line))
        except ValidationError as error:
            first = error.errors(include_input=False, include_url=False, include_context=False)[0]
            field = ".".join(str(part) for part in first["loc"]) or "the row"
            raise BadDataset(f"{where} line {number}: {field}: {first['msg']}") from None
    return rows


def render(row: Row, tokenizer: Renderer) -> Tokens:
    """Tokens of prompt and completion; the loss is on the completion alone, and ends with its end-of-turn token.

    Raises BadDataset when the template renders the prompt differently once the answer follows: training on that would
    teach a context that is never seen when the model is asked.
    """
    prompt = prompt_tokens(row, tokenizer)
    answer = render_answer(row.prompt, row.completion[0], row.offered, row.chat_template_kwargs.enable_thinking, tokenizer)
    return Tokens(input_ids=prompt + answer, labels=[IGNORED_LABEL] * len(prompt) + answer)


def render_answer(prompt: Sequence[Message], answer: Completion, offered: Tools, thinks: bool, tokenizer: Renderer) -> list[int]:
    """Tokens of an answer behind its prompt, with its end-of-turn token. Raises BadDataset; see `render`."""
    asked = render_prompt(prompt, offered, thinks, tokenizer)
    whole = tokenizer.apply_chat_template(
        [message.model_dump(mode="json", exclude_unset=True) for message in (*prompt, answer)],
        tools=offered,
        add_generation_prompt=False,
        enable_thinking=thinks,
        return_dict=False,
    )
    if whole[: len(asked)] != asked or tokenizer.eos_token_id not in whole[len(asked) :]:
        raise BadDataset(
            "the chat template renders the prompt differently when the answer follows, or does not end the turn; "
            "use the template of the model's family (Qwen3's, for Qwen3)"
        )
    # What the template puts after the end of the turn (a line break) is never generated.
    end = len(whole) - whole[::-1].index(tokenizer.eos_token_id)
    return whole[len(asked) : end]


def prompt_tokens(row: Row, tokenizer: Renderer) -> list[int]:
    """Tokens of the prompt up to the place where the answer begins."""
    return render_prompt(row.prompt, row.offered, row.chat_template_kwargs.enable_thinking, tokenizer)


def render_prompt(prompt: Sequence[Message], offered: Tools, thinks: bool, tokenizer: Renderer) -> list[int]:
    """The same, of a prompt in any mode."""
    return tokenizer.apply_chat_template(
        [message.model_dump(mode="json", exclude_unset=True) for message in prompt],
        tools=offered,
        add_generation_prompt=True,
        enable_thinking=thinks,
        return_dict=False,
    )


def question_tokens(question: Question, tokenizer: Renderer) -> list[int]:
    """Tokens of a question of an exam, up to the place where the answer begins."""
    return render_prompt(question.prompt, definitions(question.tools), question.thinks, tokenizer)
