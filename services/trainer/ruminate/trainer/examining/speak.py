"""A transformers model as a speaker, and what texts of others are worth to it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Final

import torch

from ruminate.proof.asking import Sampling
from ruminate.trainer.examining.sit import Uttered
from ruminate.trainer.rows import IGNORED_LABEL, Tokens

_LOGITS_AT_ONCE: Final = 2**26
"""Logits that are held in memory together: 256 MB in float32."""


Generating = Callable[[Any], AbstractContextManager[Any]]
"""Makes a model ready to generate: the backend's."""


class ModelSpeaker:
    """Answers side by side, by the model in this process."""

    def __init__(self, model: Any, generating: Generating, *, pad: int) -> None:
        self._model, self._generating, self._pad = model, generating, pad

    def answer(self, prompts: Sequence[list[int]], *, most_tokens: int, sampling: Sampling, seed: int) -> list[Uttered]:
        """See `Speaker`."""
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
    found: dict[int, float] = {}
    order = sorted(range(len(rows)), key=lambda number: len(rows[number].input_ids))
    with still(model):
        for start in range(0, len(order), batch_rows):
            together = order[start : start + batch_rows]
            longest = max(len(rows[number].input_ids) for number in together)
            ids, labels = (torch.full((len(together), longest), fill) for fill in (0, IGNORED_LABEL))
            mask = torch.zeros_like(ids)
            for place, number in enumerate(together):
                row = rows[number]
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
                    torch.nn.functional.cross_entropy(
                        head(states[at : at + most]).float(), targets[at : at + most], reduction="none"
                    )
                    for at in range(0, len(targets), most)
                ]
            )
            for number, part in zip(together, torch.split(each, counted.sum(1).tolist()), strict=True):
                found[number] = float(part.mean())
    return [found[number] for number in range(len(rows))]


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
