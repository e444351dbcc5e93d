"""The dataset card: Markdown with YAML front matter, as the Hugging Face hub reads it, and its plots. Pure.

The same dataset and log give the same card: no clock takes part. JSON is YAML, so every value of the front matter is
written as JSON and nothing in a name can end it.
"""

from __future__ import annotations

import json
import shlex
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from ruminate.accumulator.dataset import Manifest
from ruminate.command.datasets.columns import features
from ruminate.command.datasets.export import Written, puzzling
from ruminate.command.datasets.measure import SCORES, TEXTS, Judged, Lengths
from ruminate.command.datasets.plots import bars, of_ratios, of_words
from ruminate.command.terminal import printable
from ruminate.schemas.batch import TrainingBatchSealed

CARD: Final = "README.md"
PLOTS: Final = "card"

_LISTED: Final = 12
_ESCAPED: Final = {ord(char): f"&#{ord(char)};" for char in "`|<>[]"}
_SIZES: Final = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))
_COLUMNS: Final = {
    "prompt": "messages before the answer: `role`, `content`, `reasoning_content`, `tool_calls`, `name`, `tool_call_id`",
    "completion": "the answer, one message of the same form; only it is trained",
    "chat_template_kwargs": "`enable_thinking`: whether the chat template is told to think",
    "origin": "where the row comes from: `batch`, `split`, `line`, `origin`, `recorded_id`, `event_id`, `conversation` (a digest), "
    "`reasoning`, `sha256` (of the row as it was sealed)",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Card:
    """What a card is written from. `manifest` may be without its rows; `origins` counts them."""

    batch: TrainingBatchSealed
    manifest: Manifest
    origins: Counter[str]
    indicators: Counter[str]
    lengths: Lengths
    judged: Judged
    files: Sequence[Written] = ()
    with_origin: bool = True
    names: bool = False
    """Whether the names of agents are shown."""
    plots: Mapping[str, str] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "plots", dict(_plots(self)))


def markdown(card: Card) -> str:
    """The card as `README.md`."""
    parts = (_front_matter, _what, _counts, _columns, _distributions, _left_out, _rules, _consent, _hashes)
    return "\n\n".join("\n".join(part(card)) for part in parts) + "\n"


def _front_matter(card: Card) -> Iterator[str]:
    batch = card.batch
    rows = batch.rows + batch.holdout_rows
    said: dict[str, Any] = {
        "pretty_name": f"{batch.target_model}, batch {batch.number}",
        "license": "other",
        "license_name": "by-consent-of-the-tenant",
        "task_categories": ["text-generation"],
        "tags": ["ruminate", "reasoning", "conversational", "sft"],
        "size_categories": [next((name for limit, name in _SIZES if rows < limit), "n>1M")],
    }
    if configs := _data_files(card):
        said["configs"] = [{"config_name": "default", "data_files": configs}]
        said["dataset_info"] = {"config_name": "default", "features": features(with_origin=card.with_origin)}
    yield "---"
    for name, value in said.items():
        yield f"{name}: {_yaml(value)}"
    yield "---"


def _data_files(card: Card) -> list[dict[str, str]]:
    """One file a split, Parquet where there is one. The library opens no split without rows, so those are not named."""
    chosen: dict[str, str] = {}
    for file in card.files:
        if file.rows and (file.split not in chosen or file.name.endswith(".parquet")):
            chosen[file.split] = file.name
    return [{"split": split, "path": path} for split, path in chosen.items()]


def _yaml(value: Any) -> str:
    if isinstance(value, dict):
        return json.dumps({name: _printable(each) for name, each in value.items()}, ensure_ascii=False)
    return json.dumps(_printable(value), ensure_ascii=False)


def _printable(value: Any) -> Any:
    if isinstance(value, list):
        return [_printable(each) for each in value]
    return printable(value) if isinstance(value, str) else value


def _what(card: Card) -> Iterator[str]:
    batch = card.batch
    yield f"# {_text(batch.target_model)}, batch {batch.number}"
    yield ""
    yield (
        "Interactions of agents with a language model, judged worth learning from and sealed into a versioned training dataset: "
        "conversations up to a question (`prompt`) and the answer that is learned (`completion`), with the thinking before it "
        "where it was captured."
    )
    yield ""
    yield from _table(("", ""), [
        ("batch", f"`{_text(batch.batch_id)}`"),
        ("chain", f"target `{_text(batch.target_model)}` of tenant `{_text(batch.tenant)}`"),
        ("number", str(batch.number)),
        ("parent", f"`{_text(batch.previous_batch_id)}`" if batch.previous_batch_id else "none: the first of its chain"),
        ("sealed", f"{batch.sealed_at.isoformat()}, by {batch.reason}: {_text(batch.explanation)}"),
        (
            "interval",
            f"offsets {batch.after_offset + 1} to {batch.to_offset} of partition {batch.assessed_partition} of "
            "`reasoning-assessed-v1`",
        ),
    ])  # fmt: skip


def _counts(card: Card) -> Iterator[str]:
    batch, counts = card.batch, card.manifest.counts
    yield "## Rows"
    yield ""
    yield from _table(("rows", "number"), [
        ("to train on", str(batch.rows)),
        ("of these with thinking", f"{batch.reasoning_rows} ({batch.reasoning_ratio:.1%})"),
        ("of these direct", str(batch.direct_rows)),
        ("held out, never trained", str(batch.holdout_rows)),
        ("direct, though thinking was called for", str(counts.get("thinking_missing", 0))),
        *((f"origin: {name}", str(count)) for name, count in sorted(card.origins.items())),
        ("with tool calls", str(card.lengths.rows_with_tool_calls)),
    ])  # fmt: skip
    if card.indicators:
        yield ""
        shown = ", ".join(f"{name} {count}" for name, count in sorted(card.indicators.items()))
        yield f"Signs that a question calls for thinking, and the rows that show them: {shown}."


def _columns(card: Card) -> Iterator[str]:
    yield "## Columns"
    yield ""
    names = [name for name in _COLUMNS if card.with_origin or name != "origin"]
    yield from _table(("column", "what it is"), [(f"`{name}`", _COLUMNS[name]) for name in names])
    yield ""
    yield (
        "Arguments of tool calls are JSON text. In Parquet, what a message does not have is null; in JSONL it is an empty string "
        "or list, so that types can be guessed from any part of a file, and at most two rows with tool calls come first, because "
        "they show their type; Parquet has the rows in the order in which they are trained."
    )
    if not card.files:
        return
    yield ""
    yield "```python"
    yield "from datasets import load_dataset"
    yield ""
    yield 'load_dataset("this/folder")'
    for suffix, builder in ((".parquet", "parquet"), (".jsonl", "json")):
        files = {file.split: file.name for file in card.files if file.name.endswith(suffix) and file.rows}
        if files:
            yield f'load_dataset("{builder}", data_files={json.dumps(files)})'
    yield "```"
    empty = sorted({file.split for file in card.files if not file.rows})
    if empty:
        yield ""
        yield (
            f"No row is in: {', '.join(empty)}. The file is there, in Parquet with its columns, but `load_dataset` opens no split "
            "without rows unless it streams: leave it out of `data_files`."
        )
    if column := puzzling(list(card.files)):
        yield ""
        yield (
            f"In JSONL, {column} has tool calls in a later split and none in the first, from which types are guessed: open each "
            "file by itself, or take the features of the Parquet files (`features=`)."
        )


def _distributions(card: Card) -> Iterator[str]:
    judged = card.judged
    yield "## Distributions"
    yield ""
    yield from _table(
        ("words of", "mean", "rows with none"),
        [(name, _mean(card.lengths.by_text[name].mean, "{:.0f}"), str(card.lengths.by_text[name].counts[0])) for name in TEXTS],
    )
    yield ""
    turns = ", ".join(f"{count} with {number}" for number, count in sorted(card.lengths.turns.items())[:_LISTED])
    yield f"Questions of the user in a row: {turns or 'no rows'}."
    yield ""
    if not judged.rows:
        yield (
            f"**Scores, domains, modes and agents are not known**: the log no longer holds one record of the "
            f"{judged.missing} rows (retention or erasure)."
        )
    else:
        if judged.missing:
            yield (
                f"Scores, domains, modes and agents are those of {judged.rows} rows: the records of {judged.missing} others are no "
                "longer in the log (retention or erasure)."
            )
            yield ""
        yield from _table(
            ("score", "mean", "rows that have it"),
            [
                (name.replace("_", " "), _mean(judged.scores[name].mean, "{:.3f}"), str(judged.scores[name].values))
                for name in SCORES
            ],
        )
        yield ""
        for title, counts in (
            ("Domains", judged.domains),
            ("Complexity", judged.complexities),
            ("Modes", judged.modes),
            ("Evidence beside the interaction", judged.evidence),
            ("Combiner snapshots", judged.combiners),
        ):
            yield f"* {title}: {_listed(counts)}"
        agents = f": {_listed(judged.agents)}" if card.names else " (names are not shown)"
        yield f"* Agents: {len(judged.agents)}{agents}"
    for name in card.plots:
        yield ""
        yield f"![{name.removesuffix('.svg').replace('-', ' ')}]({PLOTS}/{name})"


def _left_out(card: Card) -> Iterator[str]:
    manifest = card.manifest
    yield "## Left out"
    yield ""
    if not manifest.left_out_counts:
        yield "Nothing: every record of the interval has a row."
        return
    yield (
        f"{sum(manifest.left_out_counts.values())} records of the interval have no row, {manifest.rejected_interactions} of them "
        "interactions for which no other record stands."
    )
    yield ""
    yield from _table(("reason", "records"), [(name, str(count)) for name, count in manifest.left_out_counts.items()])


def _rules(card: Card) -> Iterator[str]:
    manifest = card.manifest
    yield "## Rules"
    yield ""
    yield from _table(("version of", "value"), [
        ("the rules of the batch", _text(manifest.policy_version)),
        ("the scorer", _text(", ".join(manifest.scorer_versions)) or "no rows"),
        ("the assessor's policy", _text(", ".join(manifest.assessor_policy_versions)) or "no rows"),
    ])  # fmt: skip
    yield ""
    yield from _table(
        ("setting", "value"),
        [*((name, f"`{json.dumps(value)}`") for name, value in manifest.policy.items()), ("seed", f"`{_text(manifest.seed)}`")],
    )


def _consent(card: Card) -> Iterator[str]:
    yield "## Licence and consent"
    yield ""
    yield (
        "Each row is from an interaction whose `training_allowed` was true when the batch was cut, which it is only where the "
        f"policy of its tenant (`{_text(card.batch.tenant)}`) grants it; rows of several tenants are never mixed. That is "
        "consent to train, not to publish: the texts belong to whoever wrote them and are under no public licence unless the "
        "tenant gives one. Secrets and personal data are removed as far as they were recognised when the interaction was recorded."
    )
    yield ""
    yield (
        "A copy of this dataset is out of reach of erasures: whoever keeps one removes the rows of an interaction that is erased "
        + ("later (`origin.recorded_id`)." if card.with_origin else "later. Without the column `origin` they cannot be told apart.")
    )


def _hashes(card: Card) -> Iterator[str]:
    batch = card.batch
    yield "## Hashes, and how to make it again"
    yield ""
    sealed = [("sealed dataset (its manifest)", f"`{batch.dataset.sha256}`", "", str(batch.dataset.size_bytes))]
    files = [(f"`{file.name}`", f"`{file.sha256}`", str(file.rows), str(file.size_bytes)) for file in card.files]
    yield from _table(("file", "SHA-256", "rows", "bytes"), [*sealed, *files])
    yield ""
    yield "The sealed dataset comes out of the log byte for byte, as long as the log holds its records:"
    yield ""
    yield "```"
    chain = f"--tenant {shlex.quote(batch.tenant)} --target {shlex.quote(batch.target_model)}"
    yield f"ruminate datasets rebuild {chain} --batch {batch.number}"
    yield f"ruminate datasets export {shlex.quote(batch.batch_id)} --to FOLDER"
    yield "```"


def _plots(card: Card) -> Iterator[tuple[str, str]]:
    batch, judged = card.batch, card.judged
    kinds = (("reasoning", batch.reasoning_rows), ("direct", batch.direct_rows), ("held out", batch.holdout_rows))
    yield "rows.svg", bars("Rows by kind", kinds)
    if card.manifest.left_out_counts:
        yield "left-out.svg", bars("Records left out, by reason", list(card.manifest.left_out_counts.items()))
    for name in TEXTS:
        yield f"{name}-words.svg", bars(f"Words of the {name}", of_words(card.lengths.by_text[name]))
    if judged.rows:
        yield "overall-score.svg", bars("Overall score", of_ratios(judged.scores["overall"]))
        yield "domains.svg", bars("Domains", _most(judged.domains))
        yield "modes.svg", bars("Modes", _most(judged.modes))


def _most(counts: Counter[str]) -> list[tuple[str, int]]:
    ranked = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    rest = sum(count for _, count in ranked[_LISTED:])
    return [(printable(name), count) for name, count in ranked[:_LISTED]] + ([("others", rest)] if rest else [])


def _listed(counts: Counter[str]) -> str:
    return ", ".join(f"{_text(name)} ({count})" for name, count in _most(counts)) or "none"


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    yield f"| {' | '.join(heads)} |"
    yield f"|{'---|' * len(heads)}"
    for row in rows:
        yield f"| {' | '.join(row)} |"


def _mean(value: float | None, form: str) -> str:
    return "-" if value is None else form.format(value)


def _text(text: str) -> str:
    """Somebody's words: nothing in them ends a cell or a code span, and nothing is HTML."""
    return printable(text).replace("\n", " ").translate(_ESCAPED)
