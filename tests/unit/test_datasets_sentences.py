"""What is said of a batch, on a screen, in JSON and in a card."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from ruminate.accumulator.accumulate import _announcement
from ruminate.accumulator.curation.decontaminate import Protected
from ruminate.accumulator.making.dataset import Made, load_manifest
from ruminate.accumulator.making.make import Sets
from ruminate.accumulator.making.report import Checked
from ruminate.accumulator.sealing.decide import Seal
from ruminate.command.datasets import verbs
from ruminate.command.datasets.card import Card, markdown
from ruminate.command.datasets.fetched import fetched
from ruminate.command.datasets.look import described, load_report
from ruminate.command.datasets.measure import Judged, contents_of, lengths_of
from ruminate.command.datasets.sentences import predictor_says, shown, strata_of
from ruminate.schemas.batch import TrainingBatchSealed
from tests.unit.making import START, Maker, assessed, question, said


def rich(folder: Path) -> Maker:
    """A chain whose second batch has something of everything, and something contaminated."""
    protected = Protected()
    protected.add("examination", [(question(105),)])
    chain = Maker(folder, sets=Sets(protected, {"examination": "0" * 64}))
    chain.batch(*(assessed(n) for n in range(8)))
    chain.batch(
        *(assessed(100 + n, domain="law", reference_answer="7") for n in range(8)),
        *(assessed(110 + n, thinks=False) for n in range(4)),
        assessed(120, keep=False, evidence=[said(120, correction="Two miles.")]),
    )
    return chain


def announced(chain: Maker, made: Made) -> TrainingBatchSealed:
    return _announcement(made.manifest, Seal("count", "enough"), chain.datasets[made.manifest.number], START)


def told(chain: Maker) -> dict[str, Any]:
    """What is known of the last batch."""
    made = chain.made[-1]
    dataset = chain.datasets[made.manifest.number]
    manifest = asyncio.run(load_manifest(chain.store, dataset))
    return described(announced(chain, made), manifest, asyncio.run(load_report(chain.store, dataset, manifest)))


def test_everything_is_said_of_a_batch_but_its_single_lines(tmp_path: Path) -> None:
    found = told(rich(tmp_path))
    assert found["rehearsed"] == {"replay": {"t-1": 8}}
    assert found["pairs"] == {"correction": 1}
    assert found["questions"] == {"train": {"reference": 7}}
    assert found["left_out_details"] == {"contaminated": {"examination/exact": 1}}
    assert found["aside"] == 1
    assert [check["name"] for check in found["report"]] == [
        *("schema", "template", "consent", "ratio", "generated", "lengths", "duplicates", "leaks", "balance")
    ]
    assert found["strata"]["law/simple/thinking"] == {"contaminated": 1, "train": 7}
    assert found["predictor"]["seen"] == [2, 15]
    assert found["policy"]["protected_sets"] == {"examination": "0" * 64}
    assert not {"rows", "left_out"} & found.keys()
    assert json.loads(json.dumps(found))["counts"]["replay"] == 8


def test_for_people_each_count_has_its_line_and_what_was_contaminated_its_detail(tmp_path: Path) -> None:
    lines = list(shown(told(rich(tmp_path))))
    for says in (
        "rows: 9 to train on (7 reasoning, 0 of these with thinking that was written afterwards; 2 direct), 0 held out",
        "rehearsed: 8 rows of earlier batches (0 of these with thinking that was written afterwards): t-1 8",
        "anchors: 0: none",
        "preferences: 1 pairs: correction 1",
        "practice: 7 questions that can be checked: reference 7",
        "beside: 1 records teach without a row",
        "left out: contaminated 1 (examination/exact 1), over_ratio 2, rejected 1; 4 interactions",
    ):
        assert says in lines
    assert next(line for line in lines if line.startswith("policy: ")).startswith("policy: min_reasoning_ratio 0.75, ")


def test_a_report_with_a_check_that_did_not_pass_says_which_and_why(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = rich(tmp_path).made[-1]
    report, manifest = made.report, made.manifest
    assert report is not None
    failed = Checked(name="leaks", passed=False, figures={"rows": 9}, problems=("row at offset 3: it answers a question",))
    verbs._say_report(report.model_copy(update={"checks": (*report.checks[:7], failed)}), manifest)
    said_of_it = capsys.readouterr().out.splitlines()
    assert said_of_it[0] == "report: 1 of 8 checks did not pass: leaks"
    assert "    ratio: passed  reasoning 7, rows 9, replayed_reasoning 8, replayed 8" in said_of_it
    assert said_of_it[-2:] == ["    leaks: did not pass  rows 9", "    row at offset 3: it answers a question"]
    verbs._say_report(None, manifest)
    assert capsys.readouterr().out == "report: none; its release made none\n"
    verbs._say_report(None, manifest.model_copy(update={"revision": 1}))
    assert capsys.readouterr().out == "report: none; what an erasure has left of it is not validated anew\n"


def test_strata_are_a_table_with_the_largest_first_and_why_rows_were_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    manifest = rich(tmp_path).made[-1].manifest
    assert [tuple(each) for each in strata_of(manifest.strata)] == [
        ("law/simple/thinking", 7, 0, 1, "contaminated 1"),
        ("general/unstated/direct", 2, 0, 2, "over_ratio 2"),
    ]
    verbs._say_strata(manifest)
    assert capsys.readouterr().out.splitlines()[2].split() == ["law/simple/thinking", "7", "0", "1", "contaminated", "1"]


def test_the_predictor_is_a_sentence_and_says_when_it_knows_too_little() -> None:
    assert predictor_says({}) == "no prediction of which questions call for thinking was kept"
    assert "it predicts nothing before it has seen 30 that did and 30" in predictor_says({"seen": (2, 15)})
    signs = {"shows=why": (0, 40), "first=say": (40, 0), "words=4": (40, 40)}
    assert predictor_says({"seen": (40, 40), **signs}) == (
        "of 80 questions of this chain, 40 needed thinking; most for it speaks shows=why; most against it first=say"
    )


def card_of(chain: Maker) -> Card:
    made = chain.made[-1]
    dataset = chain.datasets[made.manifest.number]

    async def work() -> Card:
        async with fetched(chain.store, dataset) as there:
            manifest = there.head()
            return Card(
                batch=announced(chain, made),
                manifest=manifest,
                report=await load_report(chain.store, dataset, manifest),
                contents=contents_of(there),
                indicators=Counter(),
                lengths=lengths_of(there),
                judged=Judged(),
            )

    return asyncio.run(work())


def test_a_card_says_where_rows_come_from_what_was_left_out_and_that_it_was_validated(tmp_path: Path) -> None:
    card = card_of(rich(tmp_path))
    text = markdown(card)
    for says in (
        "| to be trained with them, rehearsed | 8 |",
        "| replay: rows of earlier batches | `t-1` | 8 |",
        "| law/simple/thinking | 7 | 0 | 1 | contaminated 1 |",
        "| correction | a correction, and what it corrects | 1 |",
        "| reference | a reference answer | 7 | 0 |",
        "1 interactions that have no row give some of these",
        "| contaminated | 1 | examination/exact (1) |",
        "| over_ratio | 2 |  |",
        "| leaks | yes |  |",
        "| ratio | yes | reasoning 7, rows 9, replayed_reasoning 8, replayed 8 |",
    ):
        assert says in text, says
    assert {"rows.svg", "strata.svg", "left-out.svg"} <= card.plots.keys()
    assert "rehearsed" in card.plots["rows.svg"]


def test_a_card_of_a_first_batch_has_no_empty_tables(tmp_path: Path) -> None:
    chain = Maker(tmp_path)
    chain.batch(*(assessed(n) for n in range(6)))
    text = markdown(card_of(chain))
    for says in (
        "Nothing is rehearsed.",
        "There is no pair of answers of which people prefer one.",
        "There is no question whose answers can be checked.",
        "Nothing: every record of the interval has a row.",
    ):
        assert says in text
