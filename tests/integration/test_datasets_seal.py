"""`ruminate datasets seal` beside an accumulator at the embedded broker: what an operator types, and what comes of it."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import httpx
import orjson
import pytest
from typer.testing import CliRunner, Result

from ruminate.command.__main__ import app
from ruminate.command.datasets.seal import why_not_yet
from ruminate.command.status import fills_in, gather_status, print_status
from ruminate.embedded.broker import embedded_broker
from ruminate.schemas.assessment import ReasoningAssessed
from ruminate.schemas.batch import BatchRequested
from ruminate.schemas.flow import BATCH_REQUESTED, REASONING_ASSESSED
from ruminate.shared.decoding import now
from ruminate.shared.kafka import KafkaBus
from ruminate.shared.settings import ServiceSettings
from ruminate.shared.topics import ensure_topics
from tests.integration.test_accumulator_chain import assessed

TARGET = "seal-test"
DEADLINE_SECONDS = 60.0


@dataclass(frozen=True)
class Loop:
    """A state folder as `up` leaves it, and the operations port of its accumulator."""

    settings: ServiceSettings
    state: Path
    operations: str

    def type(self, *words: str) -> Result:
        return CliRunner().invoke(app, [*words, "--state", str(self.state)], catch_exceptions=False)

    def assess(self, *records: ReasoningAssessed) -> None:
        async def write() -> None:
            async with KafkaBus(self.settings, reader="assessor") as bus:
                for record in records:
                    envelope = bus.begin(REASONING_ASSESSED, record, event_id=str(record.recorded_id))
                    await bus.publish(REASONING_ASSESSED, record, envelope)

        asyncio.run(write())

    def batches(self) -> list[dict[str, Any]]:
        """What is sealed."""
        found: list[dict[str, Any]] = json.loads(self.type("datasets", "list", "--json").stdout)
        return found

    def metric(self, name: str) -> dict[str, float]:
        """The samples of this name, by what they are of."""
        text = httpx.get(f"{self.operations}/metrics").text
        lines = [line.rsplit(" ", 1) for line in text.splitlines() if line.startswith(f"{name}{{")]
        return {labels.removeprefix(name): float(value) for labels, value in lines}

    def until(self, condition: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + DEADLINE_SECONDS
        while not condition():
            assert time.monotonic() < deadline, f"{what}: not within {DEADLINE_SECONDS} s"
            time.sleep(0.05)


@pytest.fixture
def loop() -> Iterator[Loop]:
    with TemporaryDirectory(prefix="ruminate-") as folder, embedded_broker() as broker:
        state = Path(folder).resolve()
        settings = ServiceSettings(kafka_bootstrap=broker.bootstrap, kafka_profile="embedded", state_dir=state)
        asyncio.run(ensure_topics(settings))
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            operations = f"http://127.0.0.1:{free.getsockname()[1]}"
        store = (state / "store").as_uri()
        addresses = {
            "kafka": broker.bootstrap,
            "kafka_profile": "embedded",
            "gateway": "",
            "collector": "",
            "nodes": {},
            "operations": {"accumulator": operations},
            "target": TARGET,
            "store": store,
        }
        (state / "addresses.json").write_bytes(orjson.dumps(addresses))
        environment = os.environ | {
            "RUMINATE_KAFKA_BOOTSTRAP": broker.bootstrap,
            "RUMINATE_KAFKA_PROFILE": "embedded",
            "RUMINATE_STORE_URI": store,
            "RUMINATE_STATE_DIR": str(state / "state"),
            "RUMINATE_OPERATIONS_PORT": operations.rpartition(":")[2],
            "RUMINATE_SEAL_CHECK_SECONDS": "0.1",
            "RUMINATE_HOLDOUT_RATIO": "0",
            "RUMINATE_SEAL_QUIET_HOURS": "00:00-23:59",
            "RUMINATE_SEAL_POLICIES": json.dumps({f"*/{TARGET}": {"seal_at_rows": 3}}),
        }
        with (state / "log").open("ab") as log:
            process = subprocess.Popen((sys.executable, "-m", "ruminate.accumulator"), env=environment, stderr=log)
            try:
                yield Loop(settings, state, operations)
            finally:
                process.kill()
                process.wait()


def record(number: int, *, thinks: bool = True) -> ReasoningAssessed:
    return assessed(number, target=TARGET, thinks=thinks)


def ready(loop: Loop, kind: str) -> Callable[[], bool]:
    """Whether a row of this kind stands ready."""

    def there() -> bool:
        try:
            rows = loop.metric("ruminate_batch_rows")
        except httpx.HTTPError:
            return False
        return any(value for labels, value in rows.items() if TARGET in labels and f'kind="{kind}"' in labels)

    return there


def test_a_word_says_why_it_cannot_be_followed_and_is_followed_once_it_can(loop: Loop) -> None:
    loop.assess(record(1, thinks=False))
    loop.until(ready(loop, "direct"), "a direct row stands ready")
    said = loop.type("datasets", "seal", TARGET, "--wait", "--reason", "before the release")
    assert said.exit_code == 1, said.stderr
    assert said.stdout == (
        "1 direct row stands ready, and none with thinking to carry it (RUMINATE_MIN_REASONING_RATIO). The word stands: it is "
        "sealed as soon as that changes\n"
    )
    shown = asyncio.run(gather_status(loop.state))
    (fill,) = [each for each in shown["batch_fill"] if each["target"] == TARGET]
    assert (fill["requests"], fill["rows"], fill["seal_at_rows"], fill["direct_rows"]) == (1, 0, 3, 1)
    loop.assess(record(2))
    loop.until(lambda: bool(loop.batches()), "the word is followed")
    (batch,) = loop.batches()
    assert (batch["reason"], batch["rows"], len(batch["requests"])) == ("operator", 1, 1)


def test_a_word_is_followed_in_quiet_hours_and_a_full_batch_waits_for_their_end_in_status(
    loop: Loop, capsys: pytest.CaptureFixture[str]
) -> None:
    loop.assess(*(record(n) for n in range(10, 14)))
    loop.until(ready(loop, "reasoning"), "rows stand ready")
    loop.until(lambda: any(loop.metric("ruminate_batch_paused_until_timestamp_seconds").values()), "it is due and waits")
    status = asyncio.run(gather_status(loop.state))
    assert status["services"]["accumulator"]["ready"]
    print_status(status)
    assert f"batch of {TARGET} (default): 4 of 3 rows; due, waits for quiet hours to end at " in capsys.readouterr().out
    said = loop.type("datasets", "seal", TARGET, "--wait", "--by", "ada", "--json")
    assert said.exit_code == 0, said.stderr
    found = json.loads(said.stdout)
    assert (found["batch"]["reason"], found["batch"]["rows"], found["batch"]["requests"]) == ("operator", 4, [found["event_id"]])

    async def words() -> list[BatchRequested]:
        async with KafkaBus(loop.settings, reader="command") as bus:
            return [word.payload async for word in bus.read(BATCH_REQUESTED)]

    assert "ada" in {word.requested_by for word in asyncio.run(words())}


def test_a_word_that_nobody_waits_for_is_written_and_what_makes_none_is_refused(loop: Loop) -> None:
    said = loop.type("datasets", "seal", "nobody-asks-it", "--tenant", "acme")
    assert said.exit_code == 0
    assert said.stdout.startswith("asked for a batch of nobody-asks-it (acme); see  ruminate status --state ")
    said = loop.type("datasets", "seal", "two\nlines")
    assert (said.exit_code, said.stdout) == (2, "")
    assert "target_model: String should match pattern" in said.stderr


METRICS = """
ruminate_batch_fill_rows{target="t",tenant="default"} 0.0
ruminate_batch_seal_at_rows{target="t",tenant="default"} 500.0
ruminate_batch_rows{kind="reasoning",target="t",tenant="default"} 2.0
ruminate_batch_rows{kind="lost",target="t",tenant="default"} 2.0
ruminate_batch_blocked{target="t",tenant="default"} 0.0
ruminate_batch_requests{target="t",tenant="default"} 1.0
ruminate_batch_drift_looks{target="t",tenant="default"} 4.0
ruminate_batch_drift_p_value{target="t",tenant="default",test="topics"} 0.03
ruminate_batch_seal_at_rows{target="gone",tenant="default"} 500.0
"""


@pytest.mark.parametrize(
    ("was", "becomes", "says"),
    [
        ("", "", "2 rows stand ready, and every one would be held out or left out"),
        ('requests{target="t",tenant="default"} 1.0', 'requests{target="t",tenant="default"} 0.0', None),
        ('fill_rows{target="t",tenant="default"} 0.0', 'fill_rows{target="t",tenant="default"} 1.0', None),
        (
            'blocked{target="t",tenant="default"} 0.0',
            'blocked{target="t",tenant="default"} 1.0',
            "the batch of t fails its validation",
        ),
        (
            'kind="lost",target="t",tenant="default"} 2.0',
            'kind="lost",target="t",tenant="default"} 0.0',
            "no row stands ready for t",
        ),
        ('target="t"', 'target="u"', "nothing that was assessed waits for t (default); there is something for u (default)"),
    ],
)
def test_what_the_accumulator_shows_says_why_nothing_can_be_sealed(was: str, becomes: str, says: str | None) -> None:
    asked = BatchRequested(target_model="t", requested_by="ada", requested_at=now())
    fills = fills_in(METRICS.replace(was, becomes) if was else METRICS)
    assert len(fills) == 1
    assert (fills[0].drift_looks, fills[0].drift_p_values) == (4, {"topics": 0.03})
    found = why_not_yet(fills, asked)
    assert found is None if says is None else found is not None and found.startswith(says)
    assert why_not_yet(None, asked) is None, "nobody knows"
