"""The panel: a model on an Ollama node that answers a question again, where the log has too few other answers. Off unless named.

    assess ──offer──▶ asking.py ──▶ ask the node, several times ──▶ evidence-recorded-v1, of the kind `agreement`

The log comes first: a question waits a little, and whoever is judged again by the log's own answers meanwhile, and is in doubt no
more, is not asked. Its answers count like those in the log, and beside them (knowledge.py); they are a signal, and no lesson.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import date
from types import TracebackType
from typing import Final, Self
from uuid import UUID

from ruminate.assessor.asking.asking import CONTEXT_TOKENS, Asking, AskingPlan, PassedOver, today_utc
from ruminate.assessor.asking.opinions import NOBODY, Asked, Given, asked_of, counted, given_of, has_said_enough, is_chosen
from ruminate.assessor.finding.findings import Findings
from ruminate.assessor.judging.knowledge import Knowledge
from ruminate.assessor.metrics import PANEL, PANEL_ANSWERS
from ruminate.schemas.assessment import Verdict
from ruminate.schemas.interaction import InteractionRecorded
from ruminate.shared.bus import Bus
from ruminate.shared.ollama import ChatAnswer

SAID_BY: Final = "panel"
_THINKING_TOKENS, _ANSWER_TOKENS = 4_096, 1_024


@dataclass(frozen=True, slots=True, kw_only=True)
class PanelPlan(AskingPlan):
    """Whom to ask, about what, how often, and how much of it a day; see settings.py."""

    answers: int = 4
    share: float = 1.0
    doubt: tuple[float, float] = (0.2, 0.8)
    after_seconds: float = 5.0
    most_characters: int = 100_000


class Panel:
    """Takes offers, and tells how many answers agree. A context: within it, offers are worked off, one after the other."""

    def __init__(self, bus: Bus, plan: PanelPlan, *, today: Callable[[], date] = today_utc) -> None:
        self._plan = plan
        self._asking: Asking[Asked] = Asking(bus, plan, name=SAID_BY, counts=PANEL, work=self._hear, today=today)
        self._waiting: dict[UUID, Asked] = {}

    async def __aenter__(self) -> Self:
        await self._asking.__aenter__()
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self._asking.__aexit__(kind, error, trace)

    def offer(self, interaction: InteractionRecorded, found: Findings, verdict: Verdict, knowledge: Knowledge) -> None:
        """Let it answer the question of an interaction, if that is worth it and there is room. Never waits, never raises."""
        if interaction.recorded_id in self._waiting or not self._is_chosen(interaction, verdict, knowledge):
            return
        asked = asked_of(interaction, found, model=self._plan.model)
        if asked is not None and self._asking.offer(asked, after_seconds=self._plan.after_seconds):
            self._waiting[asked.recorded_id] = asked

    def reconsider(self, interaction: InteractionRecorded, verdict: Verdict, knowledge: Knowledge) -> None:
        """An interaction was judged again: it may be in doubt no more, or the log may have answers by now."""
        asked = self._waiting.get(interaction.recorded_id)
        if asked is None:
            return
        if self._is_chosen(interaction, verdict, knowledge):
            self._waiting[asked.recorded_id] = replace(asked, logged=knowledge.agreement or NOBODY)
        else:
            del self._waiting[asked.recorded_id]

    async def settled(self) -> None:
        """Return when nothing waits any more."""
        await self._asking.settled()

    def _is_chosen(self, interaction: InteractionRecorded, verdict: Verdict, knowledge: Knowledge) -> bool:
        plan = self._plan
        return is_chosen(interaction, verdict, knowledge, share=plan.share, doubt=plan.doubt, enough=plan.answers)

    async def _hear(self, offered: Asked) -> None:
        asked = self._waiting.pop(offered.recorded_id, None)
        if asked is None:
            raise PassedOver("no_longer_in_doubt")
        model, answers = self._plan.model, self._plan.answers
        given = await self._asking.remembering(asked.digest, _no_answers)
        stopped: PassedOver | None = None
        while stopped is None and not has_said_enough(asked, given, model=model, answers=answers):
            try:
                given.append(await self._answer(asked, seed=len(given)))
            except PassedOver as error:
                stopped = error  # what was said before is paid for, and counts
        agreement = counted(asked, given, model=model)
        if sum(agreement):
            what = "agrees" if agreement.agreeing > agreement.disagreeing else "differs"
            counts = {"agreeing": agreement.agreeing, "disagreeing": agreement.disagreeing}
            await self._asking.tell(asked, str(asked.recorded_id), kind="agreement", what=what, **counts)
        if stopped is not None:
            raise stopped
        if not sum(agreement):
            raise PassedOver("nothing_to_compare")

    async def _answer(self, asked: Asked, *, seed: int) -> Given:
        """One more answer. The temperature is the model's own, so that another seed gives another answer."""

        def read(answer: ChatAnswer) -> Given:
            if answer.done_reason != "stop":
                return Given(None, seed.to_bytes(16))  # it never came to its answer
            message = answer.message
            return given_of(asked, message.content, message.thinking, most_characters=self._plan.most_characters)

        tokens = _ANSWER_TOKENS + (_THINKING_TOKENS if asked.thinks else 0)
        options = {"seed": seed, "num_predict": tokens, "num_ctx": CONTEXT_TOKENS}
        given = await self._asking.ask(asked.tenant, asked.messages, read, think=asked.thinks, options=options)
        same = "nothing to compare" if given.said is None else "the same" if given.said == asked.said else "another"
        PANEL_ANSWERS.labels(self._plan.model, same).inc()
        return given


async def _no_answers() -> list[Given]:
    return []
