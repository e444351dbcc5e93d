"""Topics on the embedded broker, which takes names and partitions alone; and what Faust calls its changelogs."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from ruminate.embedded.broker import embedded_broker
from ruminate.monitor.settings import MonitorSettings
from ruminate.monitor.windows import Windows
from ruminate.schemas.flow import CHANGELOGS, PIPELINE_METRICS
from ruminate.shared.settings import ServiceSettings
from ruminate.shared.topics import EVERY_TOPIC, TopicsDiffer, ensure_topics, open_admin


def test_an_empty_broker_is_given_every_topic_and_then_needs_nothing(tmp_path: Path) -> None:
    with embedded_broker() as broker:
        environment = os.environ | {"RUMINATE_KAFKA_BOOTSTRAP": broker.bootstrap, "RUMINATE_KAFKA_PROFILE": "embedded"}

        def ruminate(*arguments: str) -> subprocess.CompletedProcess[str]:
            command = (sys.executable, "-m", "ruminate.command", "topics", *arguments, "--state", str(tmp_path))
            return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, env=environment)

        planned = ruminate("plan", "--json")
        assert planned.returncode == 2, planned.stderr
        assert {each["name"] for each in json.loads(planned.stdout)["creations"]} == {topic.name for topic in EVERY_TOPIC}
        assert ruminate("apply").returncode == 0
        assert ruminate("plan").stdout == "Every topic is what the flow says.\n"


def test_what_differs_there_is_refused_for_nothing_can_be_changed() -> None:
    async def scenario(settings: ServiceSettings) -> None:
        admin = AIOKafkaAdminClient(bootstrap_servers=settings.kafka_bootstrap)
        await admin.start()
        await admin.create_topics([NewTopic(PIPELINE_METRICS.name, 3, 1)])
        await admin.close()
        with pytest.raises(TopicsDiffer, match="partitions is 3 and should be 1, but the embedded broker changes no topic"):
            await ensure_topics(settings)
        async with open_admin(settings) as topics:
            assert (await topics.plan()).to_do == 0, "all others were created"

    with embedded_broker() as broker:
        asyncio.run(scenario(ServiceSettings(kafka_bootstrap=broker.bootstrap, kafka_profile="embedded")))


def test_a_loss_can_be_allowed_for_topics_of_the_flow_alone(tmp_path: Path) -> None:
    command = (sys.executable, "-m", "ruminate.command", "topics", "apply", "--allow-loss", "orders-v1", "--state", str(tmp_path))
    asked = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert asked.returncode == 1
    assert "no topic of the flow is named orders-v1" in asked.stderr


def test_the_monitors_tables_have_the_changelogs_that_the_flow_names(tmp_path: Path) -> None:
    windows = Windows(MonitorSettings(state_dir=tmp_path))
    made = {table.changelog_topic.get_topic_name() for table in windows._app.tables.values()}
    assert made == {changelog.name for changelog in CHANGELOGS}
