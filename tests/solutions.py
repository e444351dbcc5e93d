"""Real solutions of four models to 1,319 problems, each known to be right or wrong, as interactions."""

from __future__ import annotations

import gzip
import json
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from uuid import UUID

from ruminate.schemas.interaction import InteractionRecorded, Message, Response, Thinking

_FILE = Path(__file__).parent / "data/gsm8k/model_solutions.jsonl.gz"
_MODELS = ("6b_finetuning", "6b_verification", "175b_finetuning", "175b_verification")


@dataclass(frozen=True)
class Solved:
    """One model's solution of one problem."""

    problem: int
    question: str
    thinking: str
    answer: str
    reference: str
    right: bool

    def interaction(self, *, reference: bool = False) -> InteractionRecorded:
        """As an interaction, with the reference where it is to be known."""
        return interaction(self.question, self.thinking, self.answer, self.reference if reference else None)


def interaction(question: str, thinking: str | None, answer: str, reference: str | None = None) -> InteractionRecorded:
    """An interaction of nothing but these."""
    return InteractionRecorded(
        interaction_id="i-1",
        conversation_id="c-1",
        agent="tester",
        target_model="qwen3",
        occurred_at=datetime(2026, 1, 1, tzinfo=UTC),
        messages=(Message(role="user", content=question),),
        response=Response(content=answer, thinking=thinking),
        thinking=Thinking(mode_used="thinking" if thinking else "direct"),
        reference_answer=reference,
        source="/tests",
        recorded_id=UUID(int=1),
    )


@cache
def solutions() -> tuple[Solved, ...]:
    """All of them, the four of a problem side by side."""
    found: list[Solved] = []
    with gzip.open(_FILE, "rt", encoding="utf-8") as lines:
        for number, line in enumerate(lines):
            problem = json.loads(line)
            for model in _MODELS:
                thinking, _, answer = problem[model]["solution"].rpartition("A:")
                found.append(
                    Solved(
                        problem=number,
                        question=problem["question"],
                        thinking=thinking.strip(),
                        answer=f"A:{answer}",
                        reference=problem["ground_truth"],
                        right=problem[model]["is_correct"],
                    )
                )
    return tuple(found)


def area_under_curve(scored: list[tuple[float, bool]]) -> float:
    """ROC AUC: how often a right one scores above a wrong one, ties half (Mann and Whitney, 1947)."""
    ordered = sorted(scored, key=lambda pair: pair[0])
    rights = sum(right for _, right in ordered)
    ranks, at = 0.0, 0
    while at < len(ordered):
        end = at
        while end < len(ordered) and ordered[end][0] == ordered[at][0]:
            end += 1
        ranks += (at + end + 1) / 2 * sum(right for _, right in ordered[at:end])
        at = end
    return (ranks - rights * (rights + 1) / 2) / (rights * (len(ordered) - rights))
