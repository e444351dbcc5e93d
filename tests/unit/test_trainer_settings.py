"""What every version is asked: ours unless told otherwise, an operator's own, or a refusal that names the file."""

from __future__ import annotations

from pathlib import Path

import pytest

from ruminate.proof.exam import read_questions
from ruminate.shared.settings import WrongSettings
from ruminate.trainer.settings import SCHOOL_PROBLEMS, SCHOOL_SET, TrainerSettings


def test_unless_told_otherwise_every_version_is_asked_school_problems_in_both_modes() -> None:
    exams = TrainerSettings().exams()
    assert list(exams) == [SCHOOL_SET]
    questions = read_questions(exams[SCHOOL_SET].decode().splitlines(), name=SCHOOL_SET, where="")
    assert len(questions) == 2 * 256
    assert {question.thinks for question in questions} == {True, False}
    assert list(TrainerSettings().policy().proof.exams) == [SCHOOL_SET]
    assert (SCHOOL_PROBLEMS.parent / "gsm8k_LICENSE").exists()


def test_an_operators_own_questions_take_their_place_and_none_are_asked_where_nothing_is_proven(tmp_path: Path) -> None:
    own = tmp_path / "own.jsonl"
    own.write_text('{"question": "2+2?", "reference": "4"}\n')
    assert list(TrainerSettings(proof_sets={"own": own}).exams()) == ["own"]
    assert TrainerSettings(proof_sets={}).exams() == {}
    assert TrainerSettings(proof="off").exams() == {}


@pytest.mark.parametrize(
    ("content", "says"),
    [("{}", "give either a question or a prompt"), ("", "has no questions"), (None, "cannot be read"), (b"\xff", "utf-8")],
)
def test_a_file_that_cannot_be_asked_is_named(tmp_path: Path, content: str | bytes | None, says: str) -> None:
    path = tmp_path / "own.jsonl"
    if content is not None:
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    with pytest.raises(WrongSettings, match=r"RUMINATE_PROOF_SETS 'own'") as caught:
        TrainerSettings(proof_sets={"own": path}).policy()
    assert says in str(caught.value)
