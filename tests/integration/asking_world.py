"""The assessor with those who ask a node, on one broker, and a node whose model says what the test wants."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from datetime import date
from functools import partial
from typing import Any

from prometheus_client import REGISTRY
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from ruminate.assessor.asking.panel import Panel, PanelPlan
from ruminate.assessor.asking.writer import Writer, WriterPlan
from ruminate.assessor.evidence.casebook import Casebook, CasebookWindow
from ruminate.assessor.evidence.comparing import Comparing
from ruminate.assessor.handle import Scorer, assess_one
from ruminate.assessor.judging.decide import untaught
from ruminate.assessor.policy import Policy
from ruminate.assessor.reassess import reassess
from ruminate.schemas.assessment import ReasoningAssessed
from ruminate.schemas.evidence import EvidenceRecorded
from ruminate.schemas.flow import ANSWER_NOTED, EVIDENCE_RECORDED, INTERACTION_RECORDED, REASONING_ASSESSED
from ruminate.schemas.interaction import InteractionRecorded
from ruminate.shared.memory import MemoryBroker, MemoryBus
from ruminate.shared.operations import serve_http

POLICY = Policy()
MODEL = "asked:1b"


@dataclass
class Node:
    """A node of Ollama's API. `says` gives the content, or the whole answer; `asked` has what it was asked."""

    says: Callable[[dict[str, Any]], str | dict[str, Any]]
    status: int = 200
    delay_seconds: float = 0.0
    asked: list[dict[str, Any]] = field(default_factory=list)

    async def chat(self, request: Request) -> Response:
        body = await request.json()
        self.asked.append(body)
        await asyncio.sleep(self.delay_seconds)
        if self.status != 200:
            return JSONResponse({"error": "no"}, self.status)
        said = self.says(body)
        answer = said if isinstance(said, dict) else {"message": {"role": "assistant", "content": said}, "done_reason": "stop"}
        return JSONResponse({"done": True} | answer)

    @asynccontextmanager
    async def open(self) -> AsyncIterator[str]:
        app = Starlette(routes=[Route("/api/chat", self.chat, methods=["POST"])])
        async with serve_http(app, host="127.0.0.1", port=0, name="asked", grace_seconds=1) as port:
            yield f"http://127.0.0.1:{port}"


class World:
    """Everything of the assessor but its lessons."""

    def __init__(self) -> None:
        self.broker = MemoryBroker()
        self.panel: Panel | None = None
        self.writer: Writer | None = None

    @asynccontextmanager
    async def running(
        self,
        *,
        panel: PanelPlan | None = None,
        writer: WriterPlan | None = None,
        today: Callable[[], date] = date.today,
        compares: bool = False,
    ) -> AsyncIterator[MemoryBus]:
        scorer = Scorer(POLICY, POLICY.version, lambda *_: untaught(POLICY), compares=compares)
        async with AsyncExitStack() as resources:
            enter = resources.enter_async_context
            bus = await enter(MemoryBus(self.broker, reader="assessor"))
            answers = await enter(MemoryBus(self.broker, reader="assessor-answers"))
            judging = await enter(MemoryBus(self.broker, reader="assessor-evidence"))
            casebook = await enter(Casebook(judging, CasebookWindow(120_000, 1 << 20, 1_200)))
            self.panel = await enter(Panel(bus, panel, today=today)) if panel is not None else None
            checked = scorer.checked
            self.writer = await enter(Writer(bus, writer, POLICY, checked=checked, today=today)) if writer is not None else None
            once = partial(assess_one, scorer=scorer, panel=self.panel, writer=self.writer)
            again = partial(reassess, casebook=casebook, scorer=scorer, panel=self.panel, writer=self.writer)
            comparing = Comparing(answers, most_answers=12_000)
            tasks = [
                asyncio.create_task(bus.serve(INTERACTION_RECORDED, once)),
                asyncio.create_task(answers.serve(ANSWER_NOTED, comparing.compare, on_revoked=comparing.forget)),
                asyncio.create_task(judging.serve(EVIDENCE_RECORDED, again, on_assigned=casebook.open, on_revoked=casebook.forget)),
            ]
            try:
                yield bus
            finally:
                async with asyncio.timeout(20):
                    await asyncio.gather(bus.stop(), answers.stop(), judging.stop())
                    await asyncio.gather(*tasks)

    async def record(self, bus: MemoryBus, *interactions: InteractionRecorded) -> None:
        """Record them, and return when they are judged and nobody who was asked about them has more to say."""
        before = len(self.judged())
        for each in interactions:
            envelope = bus.begin(INTERACTION_RECORDED, each, event_id=str(each.recorded_id), source="/ruminate/collector")
            await bus.publish(INTERACTION_RECORDED, each, envelope)
        await until(lambda: len(self.judged()) >= before + len(interactions))
        await self.settled()

    async def say(self, bus: MemoryBus, said: EvidenceRecorded, *, event_id: str | None = None) -> None:
        """Publish evidence, and return when it has judged its interaction again."""
        before = len(self.judged())
        envelope = bus.begin(EVIDENCE_RECORDED, said, event_id=event_id, source="/tests")
        await bus.publish(EVIDENCE_RECORDED, said, envelope)
        await until(lambda: len(self.judged()) > before)
        await self.settled()

    async def settled(self) -> None:
        async with asyncio.timeout(20):
            for asker in (self.panel, self.writer):
                if asker is not None:
                    await asker.settled()

    def evidence(self, kind: str) -> list[EvidenceRecorded]:
        records = self.broker.records(EVIDENCE_RECORDED.name)
        found = [EvidenceRecorded.model_validate_json(each.value or b"") for each in records]
        return [each for each in found if each.kind == kind]

    def judged(self) -> list[ReasoningAssessed]:
        return [ReasoningAssessed.model_validate_json(each.value or b"") for each in self.broker.records(REASONING_ASSESSED.name)]


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.01)


def played(scenario: Callable[[World], Awaitable[None]]) -> World:
    """The world after a scenario."""
    world = World()

    async def play() -> None:
        await scenario(world)

    asyncio.run(play())
    return world


def counted(metric: str, **labels: str) -> float:
    """What a counter stands at."""
    return REGISTRY.get_sample_value(f"ruminate_{metric}_total", labels) or 0.0
