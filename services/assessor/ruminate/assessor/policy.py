"""Policy: what each part weighs, and what is good enough to learn from."""

from __future__ import annotations

import hashlib
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from ruminate.grading.checking.limits import Limits
from ruminate.grading.finding.wording import MOST_CHARACTERS

Weight = Annotated[float, Field(ge=0.0, le=10.0)]
Share = Annotated[float, Field(ge=0.0, le=1.0)]


class Weights(BaseModel):
    """How much each part counts in `overall`, relative to the others."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    answer_quality: Annotated[float, Field(gt=0.0, le=10.0)] = 3.0
    logical_coherence: Weight = 1.0
    problem_decomposition: Weight = 0.5
    evidence_usage: Weight = 0.75
    conclusion_validity: Weight = 1.25
    step_by_step_clarity: Weight = 0.5
    mode_appropriateness: Weight = 0.5


class Policy(BaseModel):
    """Weights and thresholds of one assessor. Two equal policies have the same version, anywhere."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    weights: Weights = Weights()
    keep_overall_at_least: Share = Field(default=0.6, description="Least overall score of an interaction to learn from.")
    keep_evidence_at_least: Share = Field(default=0.5, description="Least share of the evidence that has to be at hand.")
    wrong_equations_at_most: Share = Field(default=0.25, description="Largest share of wrong equations in the thinking.")
    reject_wasted_thinking: bool = Field(
        default=False, description="Whether long thinking about a simple question is a reason to reject it."
    )
    reject_missing_thinking: bool = Field(
        default=False, description="Whether a direct answer to a demanding question is a reason to reject it."
    )
    simple_question_words: int = Field(default=15, ge=1, le=200, description="Most words of a question that counts as simple.")
    demanding_question_words: int = Field(default=50, ge=1, le=2000, description="Words from which a question counts as demanding.")
    demanding_codebase_lines: int = Field(
        default=10_000, ge=1, description="Lines of the code base at hand from which a question counts as demanding."
    )
    brief_thinking_words: int = Field(
        default=80, ge=1, le=10_000, description="Most words of thinking that cost a simple question nothing."
    )
    patience_seconds: float = Field(
        default=60.0, gt=0, le=86_400, description="Seconds from which an answer to a simple question was waited for too long."
    )
    most_characters: int = Field(
        default=MOST_CHARACTERS,
        ge=1_000,
        le=10_000_000,
        description="Characters of each text that are read: of a longer one, both ends.",
    )
    run_code: bool = Field(
        default=False, description="Whether the tests that came with a question are run with the code of its answer, confined."
    )
    run_code_without_namespaces: bool = Field(
        default=False, description="Whether also where nothing but limits confines it: it reads and reaches what the service does."
    )
    run_code_seconds: float = Field(
        default=10.0,
        ge=1.0,
        le=60.0,
        description="Seconds of computing for the tests of one answer, and three times as many by the clock.",
    )
    run_code_memory_bytes: int = Field(
        default=512 << 20, ge=64 << 20, le=8 << 30, description="Address space of the tests of one answer."
    )

    @property
    def code_limits(self) -> Limits | None:
        """How far the code of answers may go; None where it is not run."""
        if not self.run_code:
            return None
        return Limits(self.run_code_seconds, self.run_code_memory_bytes, without_namespaces=self.run_code_without_namespaces)

    @property
    def version(self) -> str:
        """A name that changes with every setting."""
        return f"policy-{hashlib.sha256(self.model_dump_json().encode()).hexdigest()[:12]}"
