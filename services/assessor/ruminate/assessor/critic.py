"""The critic: a model on an Ollama node that is asked for its opinion where the verdict is in doubt. Off unless it is named.

    assess ──offer──▶ queue ──▶ ask the node ──▶ evidence-recorded-v1, of the kind `judged`

It never keeps the assessor waiting: what finds the queue full, the budget spent, or the node away, slow or talking nonsense is
judged without it, and counted. It is no consumer group of its own, which would look stuck while it is off or behind; so what waits
when the process ends is passed over, too. Its word is opinion: small, bounded, and no lesson (knowledge.py, reassess.py).
"""

from __future__ import annotations

import asyncio
import hashlib
import secrets
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime
from types import TracebackType
from typing import Any, Final, Self, TypeVar

import structlog

from ruminate.assessor.knowledge import Knowledge
from ruminate.assessor.metrics import CRITIC_JUDGED, CRITIC_PASSED_OVER, CRITIC_SECONDS
from ruminate.assessor.rubric import (
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
from ruminate.schemas.assessment import Verdict
from ruminate.schemas.envelope import derive_event_id
from ruminate.schemas.evidence import EvidenceRecorded
from ruminate.schemas.flow import EVIDENCE_RECORDED
from ruminate.schemas.interaction import InteractionRecorded
from ruminate.shared.bus import BrokerUnavailable, Bus
from ruminate.shared.ollama import NodeRefused, NodeUnavailable, OllamaClient

log = structlog.get_logger()

T = TypeVar("T")

SAID_BY: Final = "critic"
_SOURCE: Final = "/ruminate/assessor/critic"
_QUESTIONS: Final = 1_000
"""Latest questions of which an answer is kept, to compare the next one with."""
_THINKING_TOKENS, _ANSWER_TOKENS = 4_096, 256


@dataclass(frozen=True, slots=True, kw_only=True)
class CriticPlan:
    """Whom to ask, about what, and how much of it a day; see settings.py."""

    url: str
    model: str
    share: float = 1.0
    doubt: tuple[float, float] = (0.2, 0.8)
    known_share: float = 0.01
    calls_a_day: int = 1_000
    seconds_a_day: float = 3_600.0
    timeout_seconds: float = 60.0
    thinks: bool = False
    waiting: int = 100
    remembered: int = 10_000


@dataclass(slots=True)
class _Spent:
    """Of a tenant's budget, today."""

    day: date
    calls: int = 0
    seconds: float = 0.0


class _PassedOver(Exception):
    """The critic has nothing to say, and why."""

    def __init__(self, reason: str, why: str = "") -> None:
        super().__init__(why)
        self.reason = reason


class Critic:
    """Takes offers, and tells what the model says. A context: within it, offers are worked off, one after the other."""

    def __init__(self, bus: Bus, plan: CriticPlan, *, today: Callable[[], date] = lambda: datetime.now(UTC).date()) -> None:
        self._bus = bus
        self._plan = plan
        self._today = today
        self._client = OllamaClient(plan.url)
        self._waiting: asyncio.Queue[Work] = asyncio.Queue(plan.waiting)
        self._working: asyncio.Task[None] | None = None
        self._spent: dict[str, _Spent] = {}
        self._remembered: OrderedDict[bytes, Any] = OrderedDict()
        self._answers: OrderedDict[tuple[str, bytes], Work] = OrderedDict()

    async def __aenter__(self) -> Self:
        await self._client.__aenter__()
        self._working = asyncio.create_task(self._work(), name="critic")
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._working is not None:
            self._working.cancel()
            await asyncio.gather(self._working, return_exceptions=True)
        await self._client.__aexit__(kind, error, trace)

    def offer(self, interaction: InteractionRecorded, verdict: Verdict, knowledge: Knowledge) -> None:
        """Let it judge an interaction, if that is worth it and there is room. Never waits, never raises."""
        plan = self._plan
        chosen = is_chosen(
            interaction.recorded_id, verdict, knowledge, share=plan.share, doubt=plan.doubt, known_share=plan.known_share
        )
        if not chosen or (work := work_of(interaction)) is None:
            return
        try:
            self._waiting.put_nowait(work)
        except asyncio.QueueFull:
            CRITIC_PASSED_OVER.labels("queue_full").inc()

    async def settled(self) -> None:
        """Return when nothing waits any more."""
        await self._waiting.join()

    async def _work(self) -> None:
        while True:
            work = await self._waiting.get()
            try:
                await self._judge(work)
            except _PassedOver as error:
                CRITIC_PASSED_OVER.labels(error.reason).inc()
                log.info("critic_passed_over", recorded_id=str(work.recorded_id), reason=error.reason, why=str(error))
            except Exception:
                # A fault of ours must not end what is only an opinion.
                CRITIC_PASSED_OVER.labels("failed").inc()
                log.exception("critic_failed", recorded_id=str(work.recorded_id))
            finally:
                self._waiting.task_done()

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

        return await self._remembering(b"scores" + work.digest, ask)

    async def _better(self, first: Work, second: Work) -> Better:
        async def ask() -> Better:
            one_way = await self._compare(first, second)
            # Whoever is preferred for its place alone is not preferred.
            return one_way if one_way == "neither" else agreed(one_way, await self._compare(second, first))

        return await self._remembering(b"pair" + first.digest + second.digest, ask)

    async def _compare(self, first: Work, second: Work) -> Better:
        return await self._ask(first.tenant, pair_messages(first, second, mark=secrets.token_hex(12)), PAIR_FORMAT, better_of)

    async def _remembering(self, what: bytes, ask: Callable[[], Awaitable[T]]) -> T:
        key = hashlib.blake2b(what, digest_size=16).digest()
        if key in self._remembered:
            self._remembered.move_to_end(key)
            known: T = self._remembered[key]
            return known
        found = self._remembered[key] = await ask()
        while len(self._remembered) > self._plan.remembered:
            self._remembered.popitem(last=False)
        return found

    async def _ask(self, tenant: str, messages: list[dict[str, str]], form: Mapping[str, Any], read: Callable[[str], T]) -> T:
        """One answer of the model, read. Raises _PassedOver."""
        plan, spent = self._plan, self._spent_today(tenant)
        if spent.calls >= plan.calls_a_day or spent.seconds >= plan.seconds_a_day:
            raise _PassedOver("over_budget")
        spent.calls += 1
        began = time.monotonic()
        options = {"temperature": 0, "seed": 0, "num_predict": _THINKING_TOKENS if plan.thinks else _ANSWER_TOKENS}
        try:
            # The client's own timeout is between two bytes; ours comes first.
            async with asyncio.timeout(plan.timeout_seconds):
                answer = await self._client.chat(
                    plan.model, messages, think=plan.thinks, format=form, options=options, timeout_seconds=plan.timeout_seconds * 2
                )
            return read(answer.message.content)
        except TimeoutError:
            raise _PassedOver("too_slow") from None
        except NodeUnavailable as error:
            spent.calls -= 1  # nobody was asked: the budget is for when it is back
            raise _PassedOver("node_away", error.reason) from error
        except NodeRefused as error:
            raise _PassedOver("node_refused", str(error.status)) from error
        except ValueError as error:
            raise _PassedOver("garbage", str(error)) from error
        finally:
            seconds = time.monotonic() - began
            spent.seconds += seconds
            CRITIC_SECONDS.labels(plan.model).observe(seconds)

    def _spent_today(self, tenant: str) -> _Spent:
        today = self._today()
        spent = self._spent.get(tenant)
        if spent is None or spent.day != today:
            # What was spent on other days is of no interest any more.
            self._spent = {name: each for name, each in self._spent.items() if each.day == today}
            spent = self._spent[tenant] = _Spent(today)
        return spent

    async def _tell(self, work: Work, cause_id: str, what: str, **said: Any) -> None:
        """Make evidence of it. Whoever says the same of the same answer again says it under the same id."""
        model = self._plan.model
        evidence = EvidenceRecorded(
            tenant=work.tenant,
            recorded_id=work.recorded_id,
            conversation_id=work.conversation_id,
            kind="judged",
            said_by=SAID_BY,
            said_at=datetime.now(UTC),
            model=model,
            **said,
        )
        event_id = derive_event_id(
            tenant=work.tenant, cause_source=_SOURCE, cause_id=f"{model}/{cause_id}", topic=EVIDENCE_RECORDED.name
        )
        try:
            envelope = self._bus.begin(EVIDENCE_RECORDED, evidence, event_id=str(event_id), source=_SOURCE)
            await self._bus.publish(EVIDENCE_RECORDED, evidence, envelope)
        except BrokerUnavailable as error:
            raise _PassedOver("not_told", str(error)) from error
        CRITIC_JUDGED.labels(model, what).inc()
