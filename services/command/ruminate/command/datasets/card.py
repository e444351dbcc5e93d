"""The dataset card: Markdown with YAML front matter, as the Hugging Face hub reads it, and its plots. Pure.

The same dataset and log give the same card: no clock takes part. JSON is YAML, so every value of the front matter is
written as JSON and nothing in a name can end it.
"""

from __future__ import annotations

import json
import re
import shlex
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC
from typing import Any, Final

from ruminate.accumulator.making.manifest import Manifest
from ruminate.accumulator.making.report import Report
from ruminate.command.datasets.columns import FORMS, features
from ruminate.command.datasets.export import Written, puzzling
from ruminate.command.datasets.files import CHECKS, CONFIGS, PAIRS, Config
from ruminate.command.datasets.measure import SCORES, TEXTS, Contents, Judged, Lengths
from ruminate.command.datasets.plots import bars, of_ratios, of_words
from ruminate.command.datasets.sentences import figures_of, predictor_says, strata_of
from ruminate.command.terminal import printable
from ruminate.schemas.batch import TrainingBatchSealed

CARD: Final = "README.md"
PLOTS: Final = "card"

_LISTED: Final = 12
_FIGURE: Final = re.compile(r"-|[0-9.]+(?: \([0-9.]+%\))?")
_ESCAPED: Final = {ord(char): f"&#{ord(char)};" for char in "`|<>[]"}
_SIZES: Final = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))
_MESSAGES: Final = "`role`, `content`, `reasoning_content`, `tool_calls`, `name`, `tool_call_id`"
_PROMPT: Final = f"messages before the answer: {_MESSAGES}"
_TEMPLATE: Final = "`enable_thinking`: whether the chat template is told to think"
_COLUMNS: Final[dict[Config, dict[str, str]]] = {
    "default": {
        "prompt": _PROMPT,
        "completion": "the answer, one message of the same form; only it is trained",
        "chat_template_kwargs": _TEMPLATE,
        "origin": "where the row comes from: `batch`, `split`, `line`; `origin` (`fresh`, or `replay` and `anchor` of what is "
        "rehearsed), `fresh_batch` and `fresh_line` (where it was fresh, or the anchors' name); `recorded_id`, `event_id`, "
        "`conversation` (a digest); `reasoning`, `thinking` (`none`, `captured`, `generated` afterwards, `unknown`); `domain`, "
        "`difficulty`; `sha256` (of the row as it was sealed)",
    },
    "preferences": {
        "prompt": _PROMPT,
        "chosen": "the better answer, one message of the same form",
        "rejected": "the worse one",
        "chat_template_kwargs": _TEMPLATE,
        "origin": "`batch`, `split`, `line`; `kind` (`correction`, `thumbs`), `chosen_recorded_id` (none of a correction), "
        "`rejected_recorded_id`, `domain`, `difficulty`, `sha256`",
    },
    "verifiable": {
        "prompt": _PROMPT,
        "check": "how an answer is checked: `kind` (`reference`, `exact`, `json_schema`, `python_tests`) and `content`",
        "origin": "`batch`, `split`, `line`, `recorded_id`, `conversation`, `domain`, `difficulty`, `sha256`",
    },
}
_ORIGINS: Final = {"replay": "rows of earlier batches", "anchor": "rows of an operator's own"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Card:
    """What a card is written from. `manifest` may be without its lines; `contents` counts them."""

    batch: TrainingBatchSealed
    manifest: Manifest
    report: Report | None
    contents: Contents
    indicators: Counter[str]
    lengths: Lengths
    judged: Judged
    files: Sequence[Written] = ()
    empty: Sequence[str] = ()
    """Files that were asked for and not written, for there is no line in them."""
    with_origin: bool = True
    names: bool = False
    """Whether the names of agents are shown."""
    plots: Mapping[str, str] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "plots", dict(_plots(self)))


def markdown(card: Card) -> str:
    """The card as `README.md`."""
    parts = (
        *(_front_matter, _what, _counts, _origin, _strata, _columns, _preferences, _practice, _distributions),
        *(_left_out, _validation, _rules, _consent, _hashes),
    )
    return "\n\n".join("\n".join(part(card)) for part in parts) + "\n"


def _front_matter(card: Card) -> Iterator[str]:
    batch = card.batch
    rows = batch.rows + batch.holdout_rows + batch.replay_rows
    said: dict[str, Any] = {
        "pretty_name": f"{batch.target_model}, batch {batch.number}",
        "license": "other",
        "license_name": "by-consent-of-the-tenant",
        "task_categories": ["text-generation"],
        "tags": ["ruminate", "reasoning", "conversational", "sft"],
        "size_categories": [next((name for limit, name in _SIZES if rows < limit), "n>1M")],
    }
    if configs := _data_files(card):
        said["configs"] = [{"config_name": config, "data_files": files} for config, files in configs.items()]
        said["dataset_info"] = [
            {"config_name": config, "features": features(FORMS[config], with_origin=card.with_origin)} for config in configs
        ]
    yield "---"
    for name, value in said.items():
        yield f"{name}: {_yaml(value)}"
    yield "---"


def _data_files(card: Card) -> dict[Config, list[dict[str, str]]]:
    """By config one file a split, Parquet where there is one. The library opens no split without rows, so those are not named."""
    chosen: dict[Config, dict[str, str]] = {}
    for file in card.files:
        splits = chosen.setdefault(file.config, {})
        if file.rows and (file.split not in splits or file.name.endswith(".parquet")):
            splits[file.split] = file.name
    return {
        config: [{"split": split, "path": path} for split, path in splits.items()] for config, splits in chosen.items() if splits
    }


def _yaml(value: Any) -> str:
    return json.dumps(_printable(value), ensure_ascii=False)


def _printable(value: Any) -> Any:
    if isinstance(value, list):
        return [_printable(each) for each in value]
    if isinstance(value, dict):
        return {name: _printable(each) for name, each in value.items()}
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
        ("sealed", f"{batch.sealed_at.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC, by {batch.reason}: {_text(batch.explanation)}"),
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
        ("of these written and verified afterwards", _share(batch.generated_rows, batch.reasoning_rows)),
        ("of these direct", str(batch.direct_rows)),
        ("to be trained with them, rehearsed", str(batch.replay_rows)),
        ("of these with thinking written and verified afterwards", _share(batch.replay_generated_rows, batch.replay_rows)),
        ("held out, never trained", str(batch.holdout_rows)),
        ("direct, though thinking was called for", str(counts.get("thinking_missing", 0))),
        ("with tool calls", str(card.lengths.rows_with_tool_calls)),
    ])  # fmt: skip
    if card.indicators:
        yield ""
        shown = ", ".join(f"{name} {count}" for name, count in sorted(card.indicators.items()))
        yield f"Signs that a question calls for thinking, and the rows that show them: {shown}."
    yield ""
    predicted = _text(predictor_says(card.manifest.predictor))
    yield f"Which questions call for thinking is predicted from what earlier ones needed: {predicted}."


def _origin(card: Card) -> Iterator[str]:
    batch = card.batch
    yield "## Origin"
    yield ""
    rehearsed = card.contents.rehearsed
    listed = [
        (f"{origin}: {_ORIGINS.get(origin, origin)}", f"`{_text(named)}`", str(count))
        for (origin, named), count in sorted(rehearsed.items(), key=lambda each: (each[0][0] != "replay", -each[1], each[0][1]))
    ]
    fresh = ("fresh: the interval of this batch", f"`{_text(batch.batch_id)}`", str(batch.rows + batch.holdout_rows))
    yield from _table(("origin", "where it was fresh", "rows"), [fresh, *listed[:_LISTED]])
    if len(listed) > _LISTED:
        yield ""
        yield f"And {len(listed) - _LISTED} more batches or files of anchors."
    yield ""
    yield (
        "What is rehearsed stands in the split `replay`: it is trained with the rows of this batch so that what was learned stays. "
        "Each row of an earlier batch is, byte for byte, one of its trained lines."
        if listed
        else "Nothing is rehearsed."
    )


def _strata(card: Card) -> Iterator[str]:
    yield "## Strata"
    yield ""
    strata = strata_of(card.manifest.strata)
    if not strata:
        yield "Domain, difficulty and mode of the rows were not counted by the release that sealed them."
        return
    yield "Of the rows that stood ready, by domain, difficulty and mode:"
    yield ""
    yield from _table(
        ("stratum", "trained", "held out", "left out", "why"),
        [(_text(each.name), str(each.train), str(each.holdout), str(each.left_out), each.reasons) for each in strata[:_LISTED]],
    )
    if len(strata) > _LISTED:
        yield ""
        rest = sum(each.train for each in strata[_LISTED:])
        yield f"And {len(strata) - _LISTED} smaller ones, with {rest} trained rows."


def _preferences(card: Card) -> Iterator[str]:
    yield "## Preferences"
    yield ""
    pairs = card.contents.pairs
    if not pairs:
        yield "There is no pair of answers of which people prefer one."
        return
    yield "Two answers to one question, of which people prefer one. None is of a question that is held out."
    yield ""
    yield from _table(
        ("kind", "what it is", "pairs"), [(kind, what, str(pairs[kind])) for kind, what in PAIRS.items() if kind in pairs]
    )


def _practice(card: Card) -> Iterator[str]:
    yield "## Practice"
    yield ""
    questions, kinds = card.contents.questions, {kind for _, kind in card.contents.questions}
    if not questions:
        yield "There is no question whose answers can be checked."
        return
    yield (
        "Questions whose answers can be checked, whatever was answered to them; those of rows that are held out are for measuring, "
        "and never practised."
    )
    yield ""
    yield from _table(
        ("check", "what it is", "to practise", "held out"),
        [
            (kind, what, str(questions["train", kind]), str(questions["holdout", kind]))
            for kind, what in CHECKS.items()
            if kind in kinds
        ],
    )
    if card.contents.aside:
        yield ""
        yield f"{card.contents.aside} interactions that have no row give some of these questions, or some of the pairs."


def _columns(card: Card) -> Iterator[str]:
    yield "## Columns"
    yield ""
    written: set[Config] = {file.config for file in card.files if file.rows}
    for config in CONFIGS:
        if config == "default" or config in written:
            said = {name: what for name, what in _COLUMNS[config].items() if card.with_origin or name != "origin"}
            yield from _table((f"column of `{config}`", "what it is"), [(f"`{name}`", what) for name, what in said.items()])
            yield ""
    yield (
        "Arguments of tool calls are JSON text. In Parquet, what a message does not have is null; in JSONL it is an empty string "
        "or list, so that types can be guessed from any part of a file, and the first rows with tool calls come first, because "
        "they show their type; Parquet has the rows in the order in which they are trained."
    )
    if not card.files:
        return
    yield ""
    yield "```python"
    yield "from datasets import load_dataset"
    yield ""
    for config in _data_files(card):
        yield 'load_dataset("this/folder")' if config == "default" else f'load_dataset("this/folder", "{config}")'
    for suffix, builder in ((".parquet", "parquet"), (".jsonl", "json")):
        for config in _data_files(card):
            of_config = [file for file in card.files if file.config == config and file.name.endswith(suffix) and file.rows]
            files = {file.split: file.name for file in of_config}
            if files:
                yield f'load_dataset("{builder}", data_files={json.dumps(files)})'
    yield "```"
    yield ""
    yield (
        "TRL takes them as they are: the rows for SFT, the pairs for DPO, the questions for GRPO, where `check` reaches the reward "
        "functions."
    )
    empty = sorted({file.name.rpartition(".")[0] for file in card.files if not file.rows})
    if empty:
        yield ""
        yield (
            f"No row is in: {', '.join(empty)}. The file is there, in Parquet with its columns, but `load_dataset` opens no split "
            "without rows unless it streams: leave it out of `data_files`."
        )
    if card.empty:
        yield ""
        yield f"Not written, for there is no line in it: {', '.join(card.empty)}."
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
    details = card.contents.details
    yield from _table(
        ("reason", "records", "in detail"),
        [
            (
                name,
                str(count),
                _listed(Counter({detail: number for (reason, detail), number in details.items() if reason == name}), ""),
            )
            for name, count in manifest.left_out_counts.items()
        ],
    )
    if details:
        yield ""
        yield (
            "A contaminated row gives away what the model is measured on: the detail names the protected set, `holdout` for what "
            "this chain holds out itself, and how: `exact` the question, `near` another wording of it, `ngram` words in a row, "
            "`split` a conversation that is on the other side."
        )


def _validation(card: Card) -> Iterator[str]:
    yield "## Validation"
    yield ""
    if card.report is None:
        if card.manifest.revision:
            yield "What an erasure has left of a batch is not validated anew: its lines are those that were, without what went."
        else:
            yield "The release that sealed it wrote no report."
        return
    yield "Each check looked at the lines themselves before the batch was sealed; one that does not pass blocks a batch."
    yield ""
    yield from _table(
        ("check", "passed", "figures"),
        [(check.name, "yes" if check.passed else "**no**", _text(figures_of(check))) for check in card.report.checks],
    )


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
    if card.manifest.revision:
        gone = len({erased.salted_sha256 for erased in card.manifest.erased})
        yield (
            f"This is revision {card.manifest.revision}: {gone} interaction{'s' * (gone != 1)} of this batch "
            f"{'have' if gone != 1 else 'has'} been erased. A copy of an earlier revision holds more than may be kept: remove it."
        )
        yield ""
    yield (
        "Each row is from an interaction whose `training_allowed` was true when the batch was cut, which it is only where the "
        f"policy of its tenant (`{_text(card.batch.tenant)}`) grants it; rows of several tenants are never mixed. That is "
        "consent to train, not to publish: the texts belong to whoever wrote them and are under no public licence unless the "
        "tenant gives one. Secrets and personal data are removed as far as they were recognised when the interaction was recorded."
    )
    if card.contents.rehearsed and any(origin == "anchor" for origin, _ in card.contents.rehearsed):
        yield ""
        yield "Anchors are rows of an operator's own, from no interaction: who wrote their file knows what may be done with them."
    yield ""
    yield (
        "A copy of this dataset is out of reach of erasures: whoever keeps one removes the rows of an interaction that is erased "
        + (
            "later (`origin.recorded_id`, and its like of pairs)."
            if card.with_origin
            else "later. Without the column `origin` they cannot be told apart."
        )
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
    kinds = [("reasoning", batch.reasoning_rows), ("direct", batch.direct_rows), ("held out", batch.holdout_rows)]
    if batch.replay_rows:
        kinds.append(("rehearsed", batch.replay_rows))
    yield "rows.svg", bars("Rows by kind", kinds)
    if strata := strata_of(card.manifest.strata):
        yield (
            "strata.svg",
            bars("Trained rows by stratum", _most(Counter({each.name: each.train for each in strata if each.train}))),
        )
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


def _listed(counts: Counter[str], nothing: str = "none") -> str:
    return ", ".join(f"{_text(name)} ({count})" for name, count in _most(counts)) or nothing


def _share(rows: int, of: int) -> str:
    return f"{rows} ({rows / of:.1%})" if of else str(rows)


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Columns of figures stand at the right."""
    columns = list(zip(*rows, strict=True)) or [()] * len(heads)
    figures = [any(column) and all(_FIGURE.fullmatch(cell) for cell in column if cell) for column in columns]
    yield f"| {' | '.join(heads)} |"
    yield f"|{''.join('---:|' if each else '---|' for each in figures)}"
    for row in rows:
        yield f"| {' | '.join(row)} |"


def _mean(value: float | None, form: str) -> str:
    return "-" if value is None else form.format(value)


def _text(text: str) -> str:
    """Somebody's words: nothing in them ends a cell or a code span, and nothing is HTML."""
    return printable(text).replace("\n", " ").translate(_ESCAPED)
