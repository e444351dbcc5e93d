"""Capture: an answer that has ended becomes an event in the spool, before its last chunk leaves."""

from __future__ import annotations

import asyncio
import re
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

import structlog
from pydantic import ValidationError

from ruminate.gateway.answer import Answer
from ruminate.gateway.conversation import Answers, Turn, chain, conversation_id
from ruminate.gateway.decide import Caller, Route, interaction_of
from ruminate.gateway.metrics import CAPTURES
from ruminate.gateway.question import Dialect, Json, Unrepresentable, read_question
from ruminate.gateway.settings import GatewaySettings
from ruminate.gateway.spool import Spool, Spooled, SpoolFull
from ruminate.schemas.envelope import Envelope
from ruminate.schemas.flow import INTERACTION_COMPLETED
from ruminate.schemas.interaction import Message

log = structlog.get_logger()

SOURCE = "/ruminate/gateway"

_TRACEPARENT = re.compile(r"^[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}$")
_HEADER_ROOM_BYTES = 64 * 1024
_LARGE_BODY_BYTES = 256 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Exchange:
    """One request, where it went and when its first token came."""

    interaction_id: str
    dialect: Dialect
    caller: Caller
    body: Json
    body_bytes: int
    route: Route
    node: str
    traceparent: str | None  # as the caller sent it
    first_token_seconds: float | None


class Capture:
    """Tells what was answered. Whatever goes wrong here is logged and counted, and never reaches the client."""

    def __init__(self, settings: GatewaySettings, spool: Spool, *, now: Callable[[], datetime]) -> None:
        self._spool = spool
        self._training_tenants = settings.training_tenants
        self._answers = Answers(settings.remembered_answers)
        self._now = now

    async def keep(self, exchange: Exchange, answer: Answer) -> None:
        """Spool the event of an answer that has ended."""
        outcome = "failed"
        try:
            outcome = await self._keep(exchange, answer)
        except SpoolFull as error:
            outcome = "spool_full"
            log.error("answer_not_captured", interaction_id=exchange.interaction_id, reason=str(error))  # noqa: TRY400
        except OSError as error:
            outcome = "disk_error"
            log.error("answer_not_captured", interaction_id=exchange.interaction_id, reason=error.strerror)  # noqa: TRY400
        except Unrepresentable as error:
            outcome = "unrepresentable"
            log.warning("answer_not_captured", interaction_id=exchange.interaction_id, reason=str(error))
        except ValidationError as error:
            # Only where and of what kind: the values are contents.
            outcome = "unrepresentable"
            problems = [f"{'.'.join(map(str, problem['loc']))}: {problem['type']}" for problem in error.errors(include_input=False)]
            log.warning("answer_not_captured", interaction_id=exchange.interaction_id, reason=problems[:5])
        finally:
            CAPTURES.labels(outcome).inc()

    def give_up(self, interaction_id: str) -> None:
        """An answer ended in which something was no chunk of its dialect: what is known of it is not the whole."""
        CAPTURES.labels("unreadable").inc()
        log.warning("answer_not_captured", interaction_id=interaction_id, reason="a chunk could not be read")

    async def _keep(self, exchange: Exchange, answer: Answer) -> str:
        # Hashing large images would stop every other answer meanwhile.
        question = (
            await asyncio.to_thread(read_question, exchange.dialect, exchange.body)
            if exchange.body_bytes > _LARGE_BODY_BYTES
            else read_question(exchange.dialect, exchange.body)
        )
        if question is None:
            return "nothing_asked"
        caller = exchange.caller
        response = answer.response()
        said = Message(role="assistant", content=response.content, tool_calls=response.tool_calls)
        *links, end = chain(caller.tenant, caller.agent, (*question.messages, said))
        earlier = self._answers.continued_by(question.messages, links)
        conversation = caller.conversation_id or (earlier.conversation_id if earlier else conversation_id(question.messages, links))
        interaction = interaction_of(
            interaction_id=exchange.interaction_id,
            caller=caller,
            question=question,
            answer=answer,
            route=exchange.route,
            node=exchange.node,
            conversation_id=conversation,
            continues_interaction=earlier.interaction_id if earlier and earlier.conversation_id == conversation else None,
            occurred_at=self._now(),
            first_token_seconds=exchange.first_token_seconds,
            training_tenants=self._training_tenants,
        )
        payload = interaction.model_dump_json().encode()
        if len(payload) > INTERACTION_COMPLETED.max_message_bytes - _HEADER_ROOM_BYTES:
            raise Unrepresentable(
                f"the event has {len(payload)} bytes; {INTERACTION_COMPLETED.name} takes {INTERACTION_COMPLETED.max_message_bytes}"
            )
        envelope = Envelope(
            id=exchange.interaction_id,
            source=SOURCE,
            type=INTERACTION_COMPLETED.event_type,
            time=interaction.occurred_at,
            traceparent=_traceparent(exchange.traceparent),
            order=INTERACTION_COMPLETED.order_of(interaction),
        )
        await self._spool.append(Spooled(envelope, payload))
        self._answers.remember(end, Turn(conversation, exchange.interaction_id))
        log.info(
            "interaction_captured",
            interaction_id=exchange.interaction_id,
            version=exchange.route.version,
            node=exchange.node,
            answer_characters=len(response.content),
            thinking_characters=len(response.thinking or ""),
        )
        return "spooled"


def _traceparent(sent: str | None) -> str:
    # W3C: a malformed one is ignored, and a new trace begins.
    return sent if sent and _TRACEPARENT.match(sent) else f"00-{secrets.token_hex(16)}-{secrets.token_hex(8)}-01"
