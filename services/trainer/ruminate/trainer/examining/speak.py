"""A transformers model as a speaker, and what texts of others are worth to it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Final, TypeVar

import torch

from ruminate.proof.asking import Sampling
from ruminate.trainer.examining.sit import Uttered
from ruminate.trainer.rows import IGNORED_LABEL, Tokens

_LOGITS_AT_ONCE: Final = 2**26
"""Logits that are held in memory together: 256 MB in float32."""


T = TypeVar("T")
Made = TypeVar("Made")

Generating = Callable[[Any], AbstractContextManager[Any]]
"""Makes a model ready to generate: the backend's."""


class ModelSpeaker:
    """Answers side by side, by the model in this process."""

    def __init__(self, model: Any, generating: Generating, *, pad: int) -> None:
        self._model, self._generating, self._pad = model, generating, pad
        self._at_once: int | None = None

    def answer(self, prompts: Sequence[list[int]], *, most_tokens: int, sampling: Sampling, seed: int) -> list[Uttered]:
        """See `Speaker`. Fewer at once where the device's memory is full: those that follow are drawn by other seeds then."""

        def some(part: Sequence[list[int]], start: int) -> list[Uttered]:
            return self._answer(part, most_tokens=most_tokens, sampling=sampling, seed=seed + start)

        found, self._at_once = in_parts(prompts, self._at_once or len(prompts), some)
        return found

    def _answer(self, prompts: Sequence[list[int]], *, most_tokens: int, sampling: Sampling, seed: int) -> list[Uttered]:
        longest = max(len(prompt) for prompt in prompts)
        ids = torch.full((len(prompts), longest), self._pad)
        mask = torch.zeros_like(ids)
        for number, prompt in enumerate(prompts):
            ids[number, longest - len(prompt) :] = torch.tensor(prompt)
            mask[number, longest - len(prompt) :] = 1
        ends = ends_of(self._model)
        drawn: dict[str, Any] = {"do_sample": False, "temperature": None, "top_p": None, "top_k": None}
        if sampling.temperature > 0:
            drawn = {"do_sample": True, "temperature": sampling.temperature, "top_p": sampling.top_p, "top_k": sampling.top_k}
        torch.manual_seed(seed)
        with self._generating(self._model) as model:
            written = model.generate(
                input_ids=ids.to(self._model.device),
                attention_mask=mask.to(self._model.device),
                max_new_tokens=most_tokens,
                pad_token_id=self._pad,
                eos_token_id=ends,
                use_cache=True,
                remove_invalid_values=True,  # what is no number cannot be drawn from: that it is none is told by the losses
                **drawn,
            )[:, longest:].tolist()
        found = []
        for tokens in written:
            end = next((at for at, token in enumerate(tokens) if token in ends), None)
            found.append(Uttered(tokens if end is None else tokens[:end], ended=end is not None))
        return found


@torch.no_grad()
def losses(model: Any, rows: Sequence[Tokens], batch_rows: int) -> list[float]:
    """The mean loss of each row over its labels, nats a token. Logits are computed for labels alone, and never all at once."""
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    decoder, head = inner.get_decoder(), inner.get_output_embeddings()
    most = max(1, _LOGITS_AT_ONCE // inner.config.vocab_size)

    def some(together: Sequence[Tokens], _: int) -> list[float]:
        longest = max(len(row.input_ids) for row in together)
        ids, labels = (torch.full((len(together), longest), fill) for fill in (0, IGNORED_LABEL))
        mask = torch.zeros_like(ids)
        for place, row in enumerate(together):
            ids[place, : len(row.input_ids)] = torch.tensor(row.input_ids)
            labels[place, : len(row.labels)] = torch.tensor(row.labels)
            mask[place, : len(row.input_ids)] = 1
        hidden = decoder(input_ids=ids.to(model.device), attention_mask=mask.to(model.device)).last_hidden_state
        # What is said at a position is foreseen at the one before it.
        wanted = labels[:, 1:].to(hidden.device)
        counted = wanted != IGNORED_LABEL
        states, targets = hidden[:, :-1][counted], wanted[counted]
        each = torch.cat(
            [
                torch.nn.functional.cross_entropy(head(states[at : at + most]).float(), targets[at : at + most], reduction="none")
                for at in range(0, len(targets), most)
            ]
        )
        return [float(part.mean()) for part in torch.split(each, counted.sum(1).tolist())]

    order = sorted(range(len(rows)), key=lambda number: len(rows[number].input_ids))
    with still(model):
        by_length, _ = in_parts([rows[number] for number in order], batch_rows, some)
    found = dict(zip(order, by_length, strict=True))
    return [found[number] for number in range(len(rows))]


def in_parts(things: Sequence[T], at_once: int, make: Callable[[Sequence[T], int], list[Made]]) -> tuple[list[Made], int]:
    """What is made of each, so many at once, and fewer where the device's memory is full; and how many it was in the end.

    `make` takes some of them and the place of the first. Raises torch.OutOfMemoryError where there is no room for one.
    """
    found: list[Made] = []
    while len(found) < len(things):
        part = things[len(found) : len(found) + at_once]
        drawn = _state_of_chance()
        try:
            found += make(part, len(found))
            continue
        except torch.OutOfMemoryError:
            if len(part) == 1:
                raise
        # Here, not above: until the exception is gone, it holds what has filled the memory.
        at_once = len(part) // 2
        torch.cuda.empty_cache()
        _put_back(drawn)  # what was drawn in vain is drawn again
    return found, at_once


def _state_of_chance() -> tuple[torch.Tensor, list[torch.Tensor]]:
    return torch.get_rng_state(), torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []


def _put_back(state: tuple[torch.Tensor, list[torch.Tensor]]) -> None:
    torch.set_rng_state(state[0])
    if state[1]:
        torch.cuda.set_rng_state_all(state[1])


@contextmanager
def still(model: Any) -> Iterator[None]:
    """The model as it answers: nothing random in it, and afterwards as it was."""
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)


def ends_of(model: Any) -> list[int]:
    """The tokens that end a turn."""
    ends = model.generation_config.eos_token_id
    return list(ends) if isinstance(ends, list | tuple) else [ends]
