"""`ruminate assess`: every form of a line is read or refused with a reason, and the report says what the verdicts come to."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from ruminate.command.__main__ import app
from ruminate.command.assess.lines import Refused, take
from ruminate.command.assess.page import page_of
from ruminate.command.assess.report import Report
from tests.solutions import interaction

QUESTION = "Mira has 14 books. She buys twice as many new ones, and gives 5 away. How many books does she have?"
THINKING = (
    "Mira buys 14 * 2 = 28 new books.\nTogether she has 14 + 28 = 42 books.\nAfter giving some away she has 42 - 5 = 37 books."
)
SHORTEST = {"question": QUESTION, "thinking": THINKING, "answer": "37", "reference": "37", "right": True}


def taken(value: Any) -> Any:
    return take(json.dumps(value).encode(), 7)


# Lines.


@pytest.mark.parametrize(
    "value",
    [
        SHORTEST,
        {"messages": [{"role": "user", "content": QUESTION}, {"role": "assistant", "content": f"<think>{THINKING}</think>\n\n37"}]},
        {"messages": [{"role": "user", "content": QUESTION}, {"role": "assistant", "content": "37", "reasoning": THINKING}]},
        {
            "messages": [
                {"role": "user", "content": [{"type": "text", "text": QUESTION}]},
                {"role": "assistant", "content": "37", "reasoning_content": THINKING},
            ]
        },
        {
            "prompt": [{"role": "user", "content": QUESTION}],
            "completion": [{"role": "assistant", "content": "37", "reasoning_content": THINKING}],
            "chat_template_kwargs": {"enable_thinking": True},
        },
        interaction(QUESTION, THINKING, "37").model_dump(mode="json"),
        {"verdict": {}, "interaction": interaction(QUESTION, THINKING, "37").model_dump(mode="json")},
    ],
)
def test_every_form_gives_the_same_question_thinking_and_answer(value: dict[str, Any]) -> None:
    it = taken(value).interaction
    assert it.messages[-1].content == QUESTION
    assert (it.response.thinking, it.response.content) == (THINKING, "37")
    assert it.thinking.mode_used == "thinking"


def test_what_else_a_line_knows_is_kept() -> None:
    found = taken(SHORTEST | {"outcome": "failed", "agent": "ann", "right": False})
    assert (found.interaction.reference_answer, found.interaction.outcome, found.interaction.agent) == ("37", "failed", "ann")
    assert found.right is False
    assert found.interaction.interaction_id == "line-7"


def test_tool_calls_come_along() -> None:
    call = {"type": "function", "function": {"name": "search", "arguments": '{"for": "tides"}'}}
    it = taken(
        {"messages": [{"role": "user", "content": "When?"}, {"role": "assistant", "content": None, "tool_calls": [call]}]}
    ).interaction
    assert it.response.tool_calls[0].arguments == {"for": "tides"}


@pytest.mark.parametrize(
    ("line", "why"),
    [
        (b"{", "no JSON"),
        (b"[1]", "no JSON object"),
        (b'{"text": "x"}', "none of the forms that are read: it has text"),
        (b'{"messages": [{"role": "user", "content": "x"}]}', "not the assistant's"),
        (b'{"messages": [], "response": {"content": "x"}}', "messages: too_short"),
        (b'{"question": "x", "answer": "y", "outcome": "superb"}', "outcome: literal_error"),
        (b'{"messages": ["x", {"role": "assistant", "content": "y"}]}', "a message is no JSON object"),
    ],
)
def test_what_is_no_interaction_is_refused_and_says_why(line: bytes, why: str) -> None:
    with pytest.raises(Refused, match=why):
        take(line, 1)


# The command.


@pytest.fixture
def file(tmp_path: Path) -> Path:
    wrong = SHORTEST | {"answer": "41", "right": False, "reference": None}
    right = SHORTEST | {"reference": None}
    lines = [json.dumps(right)] * 3 + [json.dumps(wrong), "{}", "no json", ""]
    path = tmp_path / "some.jsonl"
    path.write_text("\n".join(lines) + "\n")
    return path


def ran(*arguments: object, code: int = 0) -> str:
    result = CliRunner().invoke(app, ["assess", *map(str, arguments)])
    assert result.exit_code == code, result.output
    return result.stdout


def test_the_report_counts_what_was_kept_refused_and_why(file: Path) -> None:
    report = json.loads(ran(file, "--format", "json"))
    assert (report["lines"], report["refused"]["count"]) == (4, 2)
    assert [each["line"] for each in report["refused"]["lines"]] == [5, 6]
    assert report["decisions"] == {"keep": 3, "reject": 1}
    assert report["with_agreement"] == 4
    assert report["most_trusted"][0]["line"] == 1
    assert report["least_trusted"][0]["line"] == 4
    assert report["trust"]["auc"] == 1.0
    assert report["trust"]["same_question_pairs"] == 3
    assert report["parts"]["answer_quality"]["abstained"] == 4


def test_the_text_names_the_same(file: Path) -> None:
    text = ran(file)
    assert "4 interactions assessed, 3 to learn from, 2 lines refused" in text
    assert "line 4: " in text
    assert "area under the ROC curve" in text
    assert "line 6: no JSON" in text


def test_other_answers_count_unless_they_must_not(file: Path) -> None:
    with_others = json.loads(ran(file, "--format", "json"))
    alone = json.loads(ran(file, "--format", "json", "--no-agreement"))
    assert alone["with_agreement"] == 0
    assert alone["least_trusted"][0]["overall"] > with_others["least_trusted"][0]["overall"]


def test_verdicts_and_reports_are_written_where_they_are_wanted(file: Path, tmp_path: Path) -> None:
    verdicts, page = tmp_path / "v.jsonl", tmp_path / "report.html"
    assert ran(file, "--verdicts", verdicts, "--format", "html", "--out", page) == ""
    lines = [json.loads(line) for line in verdicts.read_text().splitlines()]
    assert [line["line"] for line in lines] == [1, 2, 3, 4]
    assert lines[0]["reasoning_steps"] == 3
    assert page.read_text().startswith("<!doctype html>")


def test_what_is_learned_from_one_file_is_used_for_another(file: Path, tmp_path: Path) -> None:
    snapshot = tmp_path / "snapshot.json"
    ran(file, "--learn", snapshot)
    learned = json.loads(snapshot.read_text())
    assert (learned["number"], learned["lessons"]) == (1, 4)
    report = json.loads(ran(file, "--snapshot", snapshot, "--format", "json"))
    assert report["combiner"].startswith("1-")


def test_the_page_is_one_file_without_scripts_and_escapes_what_others_wrote() -> None:
    report = Report(file="<script>alert(1)</script>", policy_version="p", scorer_version="s", combiner="0", most=5)
    report.refused.append((1, "<img src=x>"))
    page = page_of(report)
    assert "<script" not in page
    assert "<img" not in page
    assert "http" not in page


def test_one_score_among_many_is_drawn_so_that_it_can_be_seen_and_none_is_not() -> None:
    report = Report(file="f", policy_version="p", scorer_version="s", combiner="0", most=5)
    report.evidence.bins = [0] * 8 + [1, 5000]
    heights = [float(height) for height in re.findall(r' height="([0-9.]+)"', page_of(report).rpartition("<tr>")[2])]
    assert heights[:8] == [0] * 8
    assert 1 <= heights[8] < heights[9]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--snapshot", "nowhere.json"], "nowhere.json"),
        (["--policy", "nowhere.toml"], "nowhere.toml"),
        (["--snapshot", "a.json", "--learn", "b.json"], "give one of them"),
    ],
)
def test_what_makes_no_sense_is_refused_with_the_way_out(file: Path, arguments: list[str], said: str) -> None:
    result = CliRunner().invoke(app, ["assess", str(file), *arguments])
    assert result.exit_code == 2
    assert said in result.stderr
