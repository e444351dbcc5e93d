"""Asking: how a model on an Ollama node is asked something while nobody waits for it. What critic, panel and writer share.

    offer ──▶ queue ──▶ work, one after the other: ask, remember, tell ──▶ evidence-recorded-v1

An offer never waits and never raises: what finds the queue full, the budget spent, or the node away, slow or talking nonsense is
passed over, and counted by reason. It is no consumer group of its own, which would look stuck while it is off or behind; so what
waits when the process ends is passed over, too. Whoever says the same of the same interaction again says it under the same id.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from types import TracebackType
from typing import Any, Final, Generic, Protocol, Self, TypeVar
from uuid import UUID

import structlog

from ruminate.assessor.metrics import AskerCounts
from ruminate.schemas.envelope import derive_event_id
from ruminate.schemas.evidence import EvidenceKind, EvidenceRecorded
from ruminate.schemas.flow import EVIDENCE_RECORDED
from ruminate.shared.bus import BrokerUnavailable, Bus
from ruminate.shared.ollama import ChatAnswer, NodeRefused, NodeUnavailable, OllamaClient

log = structlog.get_logger()

T = TypeVar("T")

CONTEXT_TOKENS: Final = 16_384
"""A node cuts what is longer than its context without a word: this holds 12,000 characters of any script, and an answer."""


class Subject(Protocol):
    """An interaction that somebody is asked about."""

    @property
    def tenant(self) -> str: ...
    @property
    def recorded_id(self) -> UUID: ...
    @property
    def conversation_id(self) -> str: ...


S = TypeVar("S", bound=Subject)


@dataclass(frozen=True, slots=True, kw_only=True)
class AskingPlan:
    """Whom to ask, and how much of it a day; see settings.py."""

    url: str
    model: str
    calls_a_day: int = 1_000
    seconds_a_day: float = 3_600.0
    timeout_seconds: float = 60.0
    waiting: int = 100
    remembered: int = 10_000


class PassedOver(Exception):
    """There is nothing to say of an interaction, and why."""

    def __init__(self, reason: str, why: str = "") -> None:
        super().__init__(why)
        self.reason = reason


@dataclass(slots=True)
class _Spent:
    """Of a tenant's budget, today."""

    day: date
    calls: int = 0
    seconds: float = 0.0


def today_utc() -> date:
    """The day whose budget is spent."""
    return datetime.now(UTC).date()


class Asking(Generic[S]):
    """One asker's queue, budget, memory and voice. A context: within it, offers are worked off, one after the other.

    `name` is who says so in the evidence. `work` does what has to be done about one interaction, and may raise PassedOver.
    """

    def __init__(
        self,
        bus: Bus,
        plan: AskingPlan,
        *,
        name: str,
        counts: AskerCounts,
        work: Callable[[S], Awaitable[None]],
        today: Callable[[], date] = today_utc,
    ) -> None:
        self._bus = bus
        self._plan = plan
        self._name = name
        self._counts = counts
        self._work = work
        self._today = today
        self._client = OllamaClient(plan.url)
        self._waiting: asyncio.Queue[tuple[float, S]] = asyncio.Queue(plan.waiting)
        self._working: asyncio.Task[None] | None = None
        self._spent: dict[str, _Spent] = {}
        self._remembered: OrderedDict[bytes, Any] = OrderedDict()

    async def __aenter__(self) -> Self:
        await self._client.__aenter__()
        self._working = asyncio.create_task(self._work_off(), name=self._name)
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._working is not None:
            self._working.cancel()
            await asyncio.gather(self._working, return_exceptions=True)
        await self._client.__aexit__(kind, error, trace)

    def offer(self, subject: S, *, after_seconds: float = 0.0) -> bool:
        """Let an interaction wait for its turn, which comes no sooner than that; False where there is no room."""
        try:
            self._waiting.put_nowait((time.monotonic() + after_seconds, subject))
        except asyncio.QueueFull:
            self._counts.passed_over.labels("queue_full").inc()
            return False
        return True

    async def settled(self) -> None:
        """Return when nothing waits any more."""
        await self._waiting.join()

    async def ask(
        self,
        tenant: str,
        messages: Sequence[Mapping[str, Any]],
        read: Callable[[ChatAnswer], T],
        *,
        think: bool,
        options: Mapping[str, Any],
        form: Mapping[str, Any] | None = None,
    ) -> T:
        """One answer of the model, read; `read` raises ValueError where it is none. Raises PassedOver."""
        plan, spent = self._plan, self._spent_today(tenant)
        if spent.calls >= plan.calls_a_day or spent.seconds >= plan.seconds_a_day:
            raise PassedOver("over_budget")
        spent.calls += 1
        began = time.monotonic()
        try:
            # The client's own timeout is between two bytes; ours comes first.
            async with asyncio.timeout(plan.timeout_seconds):
                answer = await self._client.chat(
                    plan.model, messages, think=think, format=form, options=options, timeout_seconds=plan.timeout_seconds * 2
                )
            return read(answer)
        except TimeoutError:
            raise PassedOver("too_slow") from None
        except NodeUnavailable as error:
            spent.calls -= 1  # nobody was asked: the budget is for when it is back
            raise PassedOver("node_away", error.reason) from error
        except NodeRefused as error:
            raise PassedOver("node_refused", str(error.status)) from error
        except ValueError as error:
            raise PassedOver("garbage", str(error)) from error
        finally:
            seconds = time.monotonic() - began
            spent.seconds += seconds
            self._counts.seconds.labels(plan.model).observe(seconds)

    async def remembering(self, what: bytes, ask: Callable[[], Awaitable[T]]) -> T:
        """What was found for the same before, else what is found now. What raises is not remembered."""
        key = hashlib.blake2b(what, digest_size=16).digest()
        if key in self._remembered:
            self._remembered.move_to_end(key)
            known: T = self._remembered[key]
            return known
        found = self._remembered[key] = await ask()
        while len(self._remembered) > self._plan.remembered:
            self._remembered.popitem(last=False)
        return found

    async def tell(self, subject: S, cause_id: str, *, kind: EvidenceKind, what: str, **said: Any) -> None:
        """Make evidence of it. Raises PassedOver where the broker is away."""
        model = self._plan.model
        evidence = EvidenceRecorded(
            tenant=subject.tenant,
            recorded_id=subject.recorded_id,
            conversation_id=subject.conversation_id,
            kind=kind,
            said_by=self._name,
            said_at=datetime.now(UTC),
            model=model,
            **said,
        )
        source = f"/ruminate/assessor/{self._name}"
        event_id = derive_event_id(
            tenant=subject.tenant, cause_source=source, cause_id=f"{model}/{cause_id}", topic=EVIDENCE_RECORDED.name
        )
        try:
            envelope = self._bus.begin(EVIDENCE_RECORDED, evidence, event_id=str(event_id), source=source)
            await self._bus.publish(EVIDENCE_RECORDED, evidence, envelope)
        except BrokerUnavailable as error:
            raise PassedOver("not_told", str(error)) from error
        self._counts.told.labels(model, what).inc()

    async def _work_off(self) -> None:
        while True:
            turn, subject = await self._waiting.get()
            try:
                await asyncio.sleep(turn - time.monotonic())
                await self._work(subject)
            except PassedOver as error:
                self._counts.passed_over.labels(error.reason).inc()
                log.info(f"{self._name}_passed_over", recorded_id=str(subject.recorded_id), reason=error.reason, why=str(error))
            except Exception:
                # A fault of ours must not end what only adds to what is known.
                self._counts.passed_over.labels("failed").inc()
                log.exception(f"{self._name}_failed", recorded_id=str(subject.recorded_id))
            finally:
                self._waiting.task_done()

    def _spent_today(self, tenant: str) -> _Spent:
        today = self._today()
        spent = self._spent.get(tenant)
        if spent is None or spent.day != today:
            # What was spent on other days is of no interest any more.
            self._spent = {name: each for name, each in self._spent.items() if each.day == today}
            spent = self._spent[tenant] = _Spent(today)
        return spent
