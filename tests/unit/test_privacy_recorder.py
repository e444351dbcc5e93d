"""The collector as a whole records no secret, says none, and knows repeats as it did before."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime
from typing import Any

from prometheus_client import REGISTRY

from ruminate.collector.privacy.redaction import Privacy
from ruminate.collector.recorder import Recorder
from ruminate.collector.settings import CollectorSettings
from ruminate.collector.window import Window
from ruminate.schemas.envelope import Envelope
from ruminate.schemas.flow import INTERACTION_COMPLETED, INTERACTION_RECORDED
from ruminate.schemas.interaction import InteractionRecorded
from ruminate.shared.memory import MemoryBroker, MemoryBus

SECRETS = ("anna.berg@web.de", "tr0ub4dor&3x", "4111 1111 1111 1111", "gh" + "p_" + "aB3dE5gH7jK9mN1pQ3sT5vW7yZ9bC1dE3fG5")
DEAD_LETTERS = INTERACTION_COMPLETED.dead_letters("collector").name


def put(broker: MemoryBroker, interaction_id: str, *, event_id: str | None = None, **changed: Any) -> None:
    text = f"Mail {SECRETS[0]}, card {SECRETS[2]}; my password is {SECRETS[1]}"
    interaction = {
        "interaction_id": interaction_id,
        "conversation_id": "c-1",
        "agent": "tester",
        "target_model": "qwen3",
        "occurred_at": "2026-01-01T00:00:00Z",
        "messages": [
            {"role": "user", "content": text, "tool_calls": [{"name": "t", "arguments": {SECRETS[0]: {"key": SECRETS[3]}}}]}
        ],
        "response": {"content": f"Zu\u0308rich, {SECRETS[1]}", "thinking": SECRETS[3]},
        "thinking": {"mode_used": "thinking", "reason": text},
        "context": {"other": {"note": text}},
        "tags": [SECRETS[0]],
        "reference_answer": text,
    } | changed
    at = datetime(2026, 1, 1, tzinfo=UTC)
    envelope = Envelope(id=event_id or interaction_id, source="/agents/tester", type=INTERACTION_COMPLETED.event_type, time=at)
    broker.append(INTERACTION_COMPLETED.name, json.dumps(interaction).encode(), headers=envelope.to_headers(), partition=0)


async def collect(broker: MemoryBroker, *, records: int, letters: int) -> None:
    settings = CollectorSettings()
    async with MemoryBus(broker, reader="collector") as bus:
        recorder = Recorder(bus, Window(most=100), settings, Privacy(settings.privacy))
        serving = asyncio.create_task(bus.serve(INTERACTION_COMPLETED, recorder.record_one, concurrency=4))
        async with asyncio.timeout(20):
            while len(broker.records(INTERACTION_RECORDED.name)) < records or len(broker.records(DEAD_LETTERS)) < letters:
                await asyncio.sleep(0.01)
        await bus.stop()
        await serving


def test_no_planted_secret_is_recorded_anywhere_and_the_record_says_what_was_replaced() -> None:
    broker = MemoryBroker()
    put(broker, "i-1")
    before = REGISTRY.get_sample_value("ruminate_values_redacted_total", {"kind": "email"}) or 0
    asyncio.run(collect(broker, records=1, letters=0))
    (record,) = broker.records(INTERACTION_RECORDED.name)
    value = record.value or b""
    assert not [secret for secret in SECRETS if secret.encode() in value]
    recorded = InteractionRecorded.model_validate_json(value)
    assert recorded.normalised == ("nfc", "redacted:card", "redacted:email", "redacted:github_token", "redacted:password")
    assert recorded.response.content == "Z\u00fcrich, [PASSWORD_1]"
    assert recorded.messages[0].tool_calls[0].arguments == {"[EMAIL_1]": {"key": "[GITHUB_TOKEN_1]"}}
    assert REGISTRY.get_sample_value("ruminate_values_redacted_total", {"kind": "email"}) == before + 6


def test_repeats_are_told_by_what_came_and_not_by_what_is_recorded() -> None:
    broker = MemoryBroker()
    put(broker, "i-1", reference_answer="a@web.de")
    put(broker, "i-1", reference_answer="a@web.de")
    put(broker, "i-1", reference_answer="b@web.de")  # would be recorded alike
    put(broker, "i-2", event_id="i-3")
    asyncio.run(collect(broker, records=1, letters=2))
    letters = broker.records(DEAD_LETTERS)
    said = [value for letter in letters for name, value in letter.headers]
    assert {b"conflict", b"id_mismatch"} <= set(said)
    assert not [secret for secret in (*SECRETS, "a@web.de", "b@web.de") for value in said if secret.encode() in value]
