"""The critic: a model on an Ollama node that is asked for its opinion where the verdict is in doubt. Off unless it is named.

    assess ──offer──▶ asking.py ──▶ ask the node ──▶ evidence-recorded-v1, of the kind `judged`

Its word is opinion: small, bounded, and no lesson (knowledge.py, reassess.py).
"""

from __future__ import annotations

import secrets
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import date
from types import TracebackType
from typing import Any, Final, Self, TypeVar

from ruminate.assessor.asking.asking import Asking, AskingPlan, today_utc
from ruminate.assessor.asking.rubric import (
    PAIR_FORMAT,
    Better,
    Work,
    agreed,
    better_of,
    is_chosen,
    pair_messages,
    score_format,
    score_messages,
    scores_of,
    work_of,
)
from ruminate.assessor.judging.knowledge import Knowledge
from ruminate.assessor.metrics import CRITIC
from ruminate.schemas.assessment import Verdict
from ruminate.schemas.interaction import InteractionRecorded
from ruminate.shared.bus import Bus

T = TypeVar("T")

SAID_BY: Final = "critic"
_QUESTIONS: Final = 1_000
"""Latest questions of which an answer is kept, to compare the next one with."""
_THINKING_TOKENS, _ANSWER_TOKENS = 4_096, 256


@dataclass(frozen=True, slots=True, kw_only=True)
class CriticPlan(AskingPlan):
    """Whom to ask, about what, and how much of it a day; see settings.py."""

    share: float = 1.0
    doubt: tuple[float, float] = (0.2, 0.8)
    known_share: float = 0.01
    thinks: bool = False


class Critic:
    """Takes offers, and tells what the model says. A context: within it, offers are worked off, one after the other."""

    def __init__(self, bus: Bus, plan: CriticPlan, *, today: Callable[[], date] = today_utc) -> None:
        self._plan = plan
        self._asking: Asking[Work] = Asking(bus, plan, name=SAID_BY, counts=CRITIC, work=self._judge, today=today)
        self._answers: OrderedDict[tuple[str, bytes], Work] = OrderedDict()

    async def __aenter__(self) -> Self:
        await self._asking.__aenter__()
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self._asking.__aexit__(kind, error, trace)

    def offer(self, interaction: InteractionRecorded, verdict: Verdict, knowledge: Knowledge) -> None:
        """Let it judge an interaction, if that is worth it and there is room. Never waits, never raises."""
        plan = self._plan
        chosen = is_chosen(
            interaction.recorded_id, verdict, knowledge, share=plan.share, doubt=plan.doubt, known_share=plan.known_share
        )
        if chosen and (work := work_of(interaction)) is not None:
            self._asking.offer(work)

    async def settled(self) -> None:
        """Return when nothing waits any more."""
        await self._asking.settled()

    async def _judge(self, work: Work) -> None:
        scores = await self._scores(work)
        await self._tell(work, str(work.recorded_id), "scores", judged=scores)
        other = self._answers.get((work.tenant, work.question_key))
        self._answers[work.tenant, work.question_key] = work
        self._answers.move_to_end((work.tenant, work.question_key))
        while len(self._answers) > _QUESTIONS:
            self._answers.popitem(last=False)
        if other is None or other.recorded_id == work.recorded_id or other.answer == work.answer:
            return
        better = await self._better(other, work)
        if better != "neither":
            pair = f"{other.recorded_id}/{work.recorded_id}"
            await self._tell(other, f"{pair}/first", "preference", preferred=better == "first")
            await self._tell(work, f"{pair}/second", "preference", preferred=better == "second")

    async def _scores(self, work: Work) -> dict[str, float]:
        async def ask() -> dict[str, float]:
            messages = score_messages(work, mark=secrets.token_hex(12))
            return await self._ask(work.tenant, messages, score_format(work.parts), lambda said: scores_of(said, work.parts))

        return await self._asking.remembering(b"scores" + work.digest, ask)

    async def _better(self, first: Work, second: Work) -> Better:
        async def ask() -> Better:
            one_way = await self._compare(first, second)
            # Whoever is preferred for its place alone is not preferred.
            return one_way if one_way == "neither" else agreed(one_way, await self._compare(second, first))

        return await self._asking.remembering(b"pair" + first.digest + second.digest, ask)

    async def _compare(self, first: Work, second: Work) -> Better:
        return await self._ask(first.tenant, pair_messages(first, second, mark=secrets.token_hex(12)), PAIR_FORMAT, better_of)

    async def _ask(self, tenant: str, messages: list[dict[str, str]], form: Mapping[str, Any], read: Callable[[str], T]) -> T:
        """One answer of the model, read. Raises PassedOver."""
        thinks = self._plan.thinks
        options = {"temperature": 0, "seed": 0, "num_predict": _THINKING_TOKENS if thinks else _ANSWER_TOKENS}
        return await self._asking.ask(
            tenant, messages, lambda answer: read(answer.message.content), think=thinks, options=options, form=form
        )

    async def _tell(self, work: Work, cause_id: str, what: str, **said: Any) -> None:
        await self._asking.tell(work, cause_id, kind="judged", what=what, **said)
