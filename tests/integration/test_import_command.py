"""`ruminate import` as it is typed: killed and started again over the embedded broker, and to a collector by HTTP."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from ruminate.collector.http import http_app
from ruminate.collector.intake import Intake
from ruminate.collector.settings import CollectorSettings
from ruminate.collector.window import Window
from ruminate.command.imports.progress import path_of
from ruminate.embedded.broker import embedded_broker
from ruminate.schemas.envelope import Envelope
from ruminate.schemas.flow import INTERACTION_COMPLETED
from ruminate.schemas.topic import Topic
from ruminate.shared.bus import BrokerUnavailable
from ruminate.shared.kafka import KafkaBus
from ruminate.shared.memory import MemoryBroker, MemoryBus
from ruminate.shared.operations import serve_http
from ruminate.shared.record import Position
from ruminate.shared.settings import ServiceSettings
from ruminate.shared.topics import ensure_topics

DEADLINE_SECONDS = 60.0
CONVERSATIONS = 6000


def record(number: int) -> dict[str, Any]:
    turns = [("human", f"{number}?"), ("gpt", f"<think>\n{number}\n</think>\n\nOne."), ("human", "And?"), ("gpt", "Two.")]
    return {"id": f"c-{number}", "conversations": [{"from": who, "value": said} for who, said in turns]}


def typed(*words: str, state: Path, **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "ruminate.command", "import", *words, "--state", str(state)],
        env=os.environ | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_an_import_that_is_killed_goes_on_where_acknowledged_records_end(tmp_path: Path) -> None:
    file = tmp_path / "chats.jsonl"
    file.write_text("".join(json.dumps(record(number)) + "\n" for number in range(CONVERSATIONS)))
    with embedded_broker() as broker:
        environment = {"RUMINATE_KAFKA_BOOTSTRAP": broker.bootstrap, "RUMINATE_KAFKA_PROFILE": "embedded"}
        settings = ServiceSettings(kafka_bootstrap=broker.bootstrap, kafka_profile="embedded", state_dir=tmp_path)
        asyncio.run(ensure_topics(settings))
        words = (str(file), "--target", "qwen3", "--report", str(tmp_path / "report.json"))
        first = typed(*words, state=tmp_path / "state", **environment)
        noted = path_of(tmp_path / "state", file, broker.bootstrap)
        deadline = time.monotonic() + DEADLINE_SECONDS
        while not noted.exists():
            assert first.poll() is None, first.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.005)
        first.send_signal(signal.SIGKILL)
        first.communicate()
        assert noted.exists()
        second = typed(*words, state=tmp_path / "state", **environment)
        said, complained = second.communicate(timeout=DEADLINE_SECONDS)
        assert second.returncode == 0, complained
        values = asyncio.run(completed(settings))
    report = json.loads((tmp_path / "report.json").read_text())
    assert 0 < report["files"][0]["resumed_at_record"] < CONVERSATIONS
    assert report["taken"] == 2 * CONVERSATIONS
    assert f"went on behind record {report['files'][0]['resumed_at_record']:,}" in said
    assert not noted.exists()
    by_id = {json.loads(value)["interaction_id"]: value for value in values}
    assert len(by_id) == 2 * CONVERSATIONS
    assert set(values) == set(by_id.values())  # what was sent again is the same, byte for byte
    one = json.loads(next(value for name, value in by_id.items() if name.startswith("c-0-")))
    assert (one["response"]["thinking"], one["training_allowed"]) == ("0", False)


async def completed(settings: ServiceSettings) -> list[bytes]:
    async with KafkaBus(settings, reader="tests") as bus:
        return [bytes(delivery.value) async for delivery in bus.read(INTERACTION_COMPLETED)]


class AwayAtFirst(MemoryBus):
    """A broker that refuses the first of what it is sent."""

    refusals = 3

    async def publish(self, topic: Topic[Any], payload: Any, envelope: Envelope) -> Position:
        if topic is INTERACTION_COMPLETED and self.refusals > 0:
            self.refusals -= 1
            raise BrokerUnavailable("away")
        return await super().publish(topic, payload, envelope)


def test_a_collector_says_what_is_taken_what_is_a_duplicate_and_what_contradicts_an_earlier_import(tmp_path: Path) -> None:
    file = tmp_path / "chats.jsonl"
    file.write_text("".join(json.dumps(record(number)) + "\n" for number in range(300)))

    async def scenario() -> None:
        broker = MemoryBroker()
        settings = CollectorSettings()
        async with AwayAtFirst(broker, reader="collector") as bus:
            app = http_app(Intake(bus, Window(most=10_000), settings), settings)
            async with serve_http(app, host="127.0.0.1", port=0, name="test") as port:
                url = f"http://127.0.0.1:{port}"

                async def run(*words: str) -> tuple[int, dict[str, Any], str]:
                    report = tmp_path / "report.json"
                    process = typed(
                        *(str(file), "--to", "http", "--collector", url, "--report", str(report), *words), state=tmp_path / "state"
                    )
                    _, complained = await asyncio.to_thread(process.communicate, timeout=DEADLINE_SECONDS)
                    return process.returncode, json.loads(report.read_text()), complained

                code, found, complained = await run("--target", "qwen3")
                assert code == 0, complained
                assert found["taken"] + found["duplicates"] == 600
                code, found, _ = await run("--target", "qwen3")
                assert (code, found["taken"], found["duplicates"]) == (0, 0, 600)
                code, found, _ = await run("--target", "qwen3:4b")
                assert (code, found["taken"], found["refused"]) == (1, 0, {"conflict": 600})
        assert len(broker.records(INTERACTION_COMPLETED.name)) == 600
        sources = {
            value for each in broker.records(INTERACTION_COMPLETED.name) for name, value in each.headers if name == "ce_source"
        }
        assert sources == {b"/imports/sharegpt"}

    asyncio.run(scenario())


def test_the_exit_of_an_import_without_a_broker_is_2_and_nothing_is_noted(tmp_path: Path) -> None:
    file = tmp_path / "chats.jsonl"
    file.write_text(json.dumps(record(1)) + "\n")
    process = typed(str(file), "--target", "qwen3", "--kafka", "127.0.0.1:9", state=tmp_path / "state")
    _, complained = process.communicate(timeout=DEADLINE_SECONDS)
    assert process.returncode == 2
    assert complained.count("\n") == 1
    assert not (tmp_path / "state").exists()
