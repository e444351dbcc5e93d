"""The writer: a model on an Ollama node that writes the thinking which a right answer calls for and lacks. Off unless named.

    assess, reassess ──offer──▶ asking.py ──▶ write ──▶ proofread ──▶ conclude ──▶ evidence-recorded-v1, of the kind `thinking`
                                              node      (pure)        node

Told is only what is verified: proofreading.py finds no fault in it, and the node, shown the thinking and not the answer, comes
to the same answer, by the reference or the check where there is one. It says nothing of the answer's worth, moves no verdict and
is no lesson (decide.py, reassess.py); it is carried with the verdict, so that a reasoning row can be made of it.

The question that the node sees was redacted when it was recorded, so what it writes can repeat placeholders and no more; what it
makes up is nobody's, and an address among it is refused all the same.
"""

from __future__ import annotations

import secrets
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from datetime import date
from types import TracebackType
from typing import Any, Final, Self, TypeVar
from uuid import UUID

from ruminate.assessor.asking.asking import CONTEXT_TOKENS, Asking, AskingPlan, PassedOver, today_utc
from ruminate.assessor.asking.proofreading import Standards, draft_of, faults_of
from ruminate.assessor.asking.writing import (
    CONCLUDED_FORM,
    WRITTEN_FORM,
    Unthought,
    conclude_messages,
    concluded,
    concluded_of,
    says_the_same,
    unthought_of,
    write_messages,
    written_of,
)
from ruminate.assessor.finding.findings import Findings, find
from ruminate.assessor.judging.decide import knowledge_of
from ruminate.assessor.judging.knowledge import Knowledge
from ruminate.assessor.metrics import WRITER, WRITER_REFUSED
from ruminate.assessor.policy import Policy
from ruminate.grading.checking.answers import Comparison
from ruminate.grading.checking.mathematics import Equal, nobody
from ruminate.schemas.assessment import Verdict
from ruminate.schemas.interaction import InteractionRecorded
from ruminate.shared.bus import Bus
from ruminate.shared.ollama import ChatAnswer

T = TypeVar("T")

SAID_BY: Final = "writer"
_TOKENS: Final = 4_096

Checked = Callable[[InteractionRecorded], Awaitable[Comparison | None]]
"""What an interaction's own check comes to."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WriterPlan(AskingPlan):
    """Whom to ask, for what, how good it has to be, and how much of it a day; see settings.py."""

    share: float = 1.0
    thinks: bool = False
    standards: Standards = field(default_factory=Standards)


@dataclass(frozen=True, slots=True)
class _Written:
    """What came of writing: thinking that is verified, or why there is none."""

    thinking: str | None
    refused: str = ""


class Writer:
    """Takes offers, and tells verified thinking. A context: within it, offers are worked off, one after the other."""

    def __init__(
        self,
        bus: Bus,
        plan: WriterPlan,
        policy: Policy,
        *,
        checked: Checked,
        equal: Equal = nobody,
        today: Callable[[], date] = today_utc,
    ) -> None:
        self._plan = plan
        self._policy = policy
        self._checked = checked
        self._equal = equal
        self._asking: Asking[Unthought] = Asking(bus, plan, name=SAID_BY, counts=WRITER, work=self._think, today=today)
        self._waiting: set[UUID] = set()

    async def __aenter__(self) -> Self:
        await self._asking.__aenter__()
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self._asking.__aexit__(kind, error, trace)

    def offer(self, interaction: InteractionRecorded, found: Findings, verdict: Verdict, knowledge: Knowledge) -> None:
        """Let it write thinking for an interaction, if that lacks it and there is room. Never waits, never raises."""
        if interaction.recorded_id in self._waiting:
            return
        unthought = unthought_of(interaction, found, verdict, knowledge, self._policy, share=self._plan.share)
        if unthought is not None and self._asking.offer(unthought):
            self._waiting.add(unthought.recorded_id)

    async def settled(self) -> None:
        """Return when nothing waits any more."""
        await self._asking.settled()

    async def _think(self, unthought: Unthought) -> None:
        self._waiting.discard(unthought.recorded_id)
        # What is refused is remembered, too: each piece of evidence offers the interaction again.
        written = await self._asking.remembering(unthought.digest, lambda: self._written(unthought))
        if written.thinking is None:
            raise PassedOver(written.refused)
        await self._asking.tell(unthought, str(unthought.recorded_id), kind="thinking", what="thinking", thinking=written.thinking)

    async def _written(self, unthought: Unthought) -> _Written:
        thinking, cut_off = await self._write(unthought)
        if not thinking.strip():
            return _Written(None, "nothing_written")
        draft = draft_of(unthought.interaction, thinking, self._policy)
        faults = faults_of(draft, self._plan.standards, cut_off=cut_off)
        if not faults and not await self._leads_there(unthought, draft.thinking):
            faults = ("another_answer",)
        for fault in faults:
            WRITER_REFUSED.labels(self._plan.model, fault.partition(":")[0]).inc()
        return _Written(None, "refused") if faults else _Written(draft.thinking)

    async def _write(self, unthought: Unthought) -> tuple[str, bool]:
        """What the model writes, and whether it was cut off."""

        def read(answer: ChatAnswer) -> tuple[str, bool]:
            cut_off = answer.done_reason != "stop"
            # Half an object is no object; what was cut off is refused as such, whatever it holds.
            return (answer.message.content if cut_off else written_of(answer.message.content)), cut_off

        messages = write_messages(unthought, mark=secrets.token_hex(12))
        return await self._ask(unthought, messages, read, form=WRITTEN_FORM)

    async def _leads_there(self, unthought: Unthought, thinking: str) -> bool:
        """Whether the model, shown the thinking and not the answer, comes to the same answer."""
        messages = conclude_messages(unthought, thinking, mark=secrets.token_hex(12))
        answer = await self._ask(unthought, messages, lambda said: concluded_of(said.message.content), form=CONCLUDED_FORM)
        if not unthought.decided:
            return says_the_same(unthought, answer, most_characters=self._policy.most_characters)
        other = concluded(unthought, answer)
        found = find(other, most_characters=self._policy.most_characters)
        return knowledge_of(found, other, self._equal, await self._checked(other)).sure == "right"

    async def _ask(
        self, unthought: Unthought, messages: list[dict[str, str]], read: Callable[[ChatAnswer], T], *, form: Mapping[str, Any]
    ) -> T:
        options = {"temperature": 0, "seed": 0, "num_predict": _TOKENS, "num_ctx": CONTEXT_TOKENS}
        return await self._asking.ask(unthought.tenant, messages, read, think=self._plan.thinks, options=options, form=form)
