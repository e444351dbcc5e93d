"""Official clients through the gateway to a real node, and a gateway that is killed while the broker is away."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from uuid import uuid4

import httpx
import ollama
import openai
import pytest

from infra.real.ollama import OllamaNode
from ruminate.embedded.broker import EmbeddedBroker
from ruminate.schemas.flow import INTERACTION_COMPLETED, MODEL_REGISTERED
from ruminate.schemas.interaction import InteractionCompleted
from ruminate.schemas.model import ModelRegistered, NodeDigest
from ruminate.schemas.payload import ArtifactReference
from ruminate.shared.kafka import KafkaBus
from ruminate.shared.ollama import QWEN3_TEMPLATE
from ruminate.shared.settings import ServiceSettings
from ruminate.shared.topics import ensure_topics
from tests.contract.ollama_contract import ONE_THREAD
from tests.plugins.node import TALK, TinyModels, write_scripted_model

DEADLINE_SECONDS = 60.0
DEAD_BROKER = "127.0.0.1:1"
FILE = ArtifactReference(uri="file:///x", sha256="0" * 64, size_bytes=1)
EXACT = {"temperature": 0}


@pytest.fixture(
    scope="module",
    params=[
        "embedded_node",
        pytest.param("older_ollama", marks=pytest.mark.real),
        pytest.param("newer_ollama", marks=pytest.mark.real),
    ],
)
def node_url(request: pytest.FixtureRequest) -> str:
    """A node of every kind, one after the other."""
    url: str = request.getfixturevalue(request.param).url
    return url


@pytest.fixture(scope="session")
def adapted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that answers with other words than `talk`."""
    return write_scripted_model(
        tmp_path_factory.mktemp("adapted") / "adapted.gguf", {**TALK, "</think>": ("Adapted",), "\n\n": ("Adapted",)}
    )


@pytest.fixture(scope="module")
def target(node_url: str, tiny_models: TinyModels, adapted: Path) -> str:
    """A target on the node; its version `NAME-v1` answers with other words."""
    name = f"gateway-{uuid4().hex[:8]}:tiny"
    put_target(node_url, name, tiny_models, adapted)
    return name


def put_target(url: str, name: str, tiny_models: TinyModels, adapted: Path) -> None:
    with ollama.Client(url) as client:
        for model, path in ((name, tiny_models.talk), (f"{name}-v1", adapted)):
            digest = client.create_blob(path)
            client.create(model, files={"model.gguf": digest}, template=QWEN3_TEMPLATE, parameters=ONE_THREAD)


@dataclass
class RunningGateway:
    """A gateway in a process of its own."""

    url: str
    operations: str
    process: subprocess.Popen[bytes]

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(DEADLINE_SECONDS)


@contextmanager
def gateway(folder: Path, *, nodes: Mapping[str, str], kafka: str, **settings: str) -> Iterator[RunningGateway]:
    log_path = folder / f"gateway-{uuid4().hex}.log"
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("RUMINATE_")},
        "RUMINATE_NODES": json.dumps(nodes),
        "RUMINATE_KAFKA_BOOTSTRAP": kafka,
        "RUMINATE_KAFKA_PROFILE": "embedded",
        "RUMINATE_GATEWAY_PORT": "0",
        "RUMINATE_STATE_DIR": str(folder),
        **settings,
    }
    with log_path.open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "ruminate.gateway"], env=environment, stderr=log, stdin=subprocess.DEVNULL
        )
    try:
        listening = wait_for_log(log_path, "gateway_listening", process)
        host = "http://127.0.0.1:"
        yield RunningGateway(f"{host}{listening['port']}", f"{host}{listening['operations_port']}", process)
    finally:
        process.terminate()
        assert process.wait(DEADLINE_SECONDS) in (0, -signal.SIGKILL), log_path.read_text()


def wait_for_log(path: Path, event: str, process: subprocess.Popen[bytes]) -> dict[str, object]:
    deadline = time.monotonic() + DEADLINE_SECONDS
    while time.monotonic() < deadline:
        for line in path.read_text().splitlines():
            if f'"{event}"' in line:
                found: dict[str, object] = json.loads(line)
                return found
        assert process.poll() is None, path.read_text()
        time.sleep(0.02)
    raise AssertionError(f"{event} is not in {path.read_text()}")


def settings_for(broker: EmbeddedBroker) -> ServiceSettings:
    return ServiceSettings(kafka_bootstrap=broker.bootstrap, kafka_profile="embedded")


def told_by(broker: EmbeddedBroker, ids: set[str]) -> list[InteractionCompleted]:
    """The records with these ids, once every id is there."""

    async def read() -> list[InteractionCompleted]:
        async with KafkaBus(settings_for(broker), reader="test") as bus, asyncio.timeout(DEADLINE_SECONDS):
            while True:
                deliveries = [delivery async for delivery in bus.read(INTERACTION_COMPLETED)]
                found = [delivery for delivery in deliveries if delivery.envelope.id in ids]
                if {delivery.envelope.id for delivery in found} == ids:
                    assert all(delivery.envelope.id == delivery.payload.interaction_id for delivery in found)
                    return [delivery.payload for delivery in found]

    return asyncio.run(read())


def register(broker: EmbeddedBroker, target: str, *, nodes: tuple[str, ...] = ("tiny",)) -> None:
    event = ModelRegistered(
        target_model=target,
        version="v1",
        number=1,
        model_name=f"{target}-v1",
        alias=f"{target}-live",
        base_model=target,
        batch_id="b",
        dataset=FILE,
        adapter=FILE,
        weights=FILE,
        stages=(),
        settings={},
        metrics={},
        nodes=tuple(NodeDigest(node=node, url="http://x", digest="0" * 64, engine_version="0.30.0") for node in nodes),
        probes=(),
        capabilities=(),
        registered_at=datetime.now(UTC),
    )

    async def publish() -> None:
        await ensure_topics(settings_for(broker))
        async with KafkaBus(settings_for(broker), reader="deployer") as bus:
            await bus.publish(MODEL_REGISTERED, event, bus.begin(MODEL_REGISTERED, event))

    asyncio.run(publish())


@pytest.fixture(scope="module")
def front(tmp_path_factory: pytest.TempPathFactory, node_url: str, broker: EmbeddedBroker, target: str) -> Iterator[RunningGateway]:
    """A gateway with a broker, at which version 1 of the target is registered."""
    register(broker, target)
    with gateway(tmp_path_factory.mktemp("front"), nodes={"tiny": node_url}, kafka=broker.bootstrap) as running:
        wait_until_ready(running)
        yield running


def wait_until_ready(running: RunningGateway) -> None:
    deadline = time.monotonic() + DEADLINE_SECONDS
    while httpx.get(running.operations + "/readyz").status_code != 200:
        assert time.monotonic() < deadline, httpx.get(running.operations + "/readyz").text


def ask(content: str = "user") -> list[dict[str, str]]:
    return [{"role": "user", "content": content}]


@pytest.mark.parametrize("think", [True, False])
def test_the_ollama_client_is_answered_by_the_version_in_both_modes(
    front: RunningGateway, broker: EmbeddedBroker, target: str, think: bool
) -> None:
    seen: list[httpx.Response] = []
    with ollama.Client(front.url, event_hooks={"response": [seen.append]}) as client:
        whole = client.chat(target, ask(), think=think, options=EXACT)
        pieces = list(client.chat(target, ask(), think=think, options=EXACT, stream=True))
    assert whole.message.content == "Adapted is the answer."
    assert "".join(piece.message.content or "" for piece in pieces) == whole.message.content
    assert bool(whole.message.thinking) == think
    assert "".join(piece.message.thinking or "" for piece in pieces) == (whole.message.thinking or "")
    assert {whole.model, *(piece.model for piece in pieces)} == {target}
    assert {(response.headers["x-ruminate-version"], response.headers["x-ruminate-node"]) for response in seen} == {("v1", "tiny")}

    told = told_by(broker, {response.headers["x-ruminate-interaction"] for response in seen})
    assert len(told) == 2
    for interaction in told:
        assert (interaction.target_model, interaction.answering_version, interaction.agent) == (target, "v1", "ollama-python")
        assert interaction.response.content == whole.message.content
        assert interaction.response.thinking == whole.message.thinking
        assert interaction.thinking.mode_used == ("thinking" if think else "direct")
        assert interaction.usage.response_tokens == whole.eval_count
        assert not interaction.training_allowed


def test_the_original_answers_under_its_own_suffix(front: RunningGateway, target: str) -> None:
    with ollama.Client(front.url) as client:
        assert client.chat(f"{target}@base", ask(), think=False, options=EXACT).message.content == "Blue is the answer."
        assert client.generate(f"{target}@v1", "user", think=False, options=EXACT).response == "Adapted is the answer."
        with pytest.raises(ollama.ResponseError, match="versions base, v1"):
            client.chat(f"{target}@v2", ask())


@pytest.mark.parametrize("effort", ["low", "none"])
def test_the_openai_client_is_answered_by_the_version_in_both_modes(
    front: RunningGateway, broker: EmbeddedBroker, target: str, effort: str
) -> None:
    body = {"reasoning_effort": effort}
    with openai.OpenAI(base_url=front.url + "/v1", api_key="none", max_retries=0) as client:
        raw = client.chat.completions.with_raw_response.create(
            model=target, messages=[{"role": "user", "content": "user"}], temperature=0, extra_body=body
        )
        whole = raw.parse()
        stream = client.chat.completions.create(
            model=target, messages=[{"role": "user", "content": "user"}], temperature=0, extra_body=body, stream=True
        )
        pieces = list(stream)
    message = whole.choices[0].message
    assert message.content == "Adapted is the answer."
    assert "".join(choice.delta.content or "" for piece in pieces for choice in piece.choices) == message.content
    assert {whole.model, *(piece.model for piece in pieces)} == {target}
    thought = getattr(message, "reasoning", None)
    assert bool(thought) == (effort == "low")
    ids = {raw.headers["x-ruminate-interaction"], stream.response.headers["x-ruminate-interaction"]}
    for interaction in told_by(broker, ids):
        assert (interaction.response.content, interaction.response.thinking) == (message.content, thought or None)
        assert interaction.thinking.mode_asked == ("thinking" if thought else "direct")


def test_the_other_routes_speak_for_the_node(front: RunningGateway, node_url: str, target: str) -> None:
    with ollama.Client(front.url) as through, ollama.Client(node_url) as direct:
        assert {target, f"{target}-v1"} <= {model.model for model in through.list().models}
        assert through.show(target).capabilities == direct.show(f"{target}-v1").capabilities
        assert through.ps().models
        with pytest.raises(ollama.ResponseError) as refused:
            through.chat(target, ask(), think="much")
        with pytest.raises(ollama.ResponseError) as original:
            direct.chat(target, ask(), think="much")
        assert (refused.value.status_code, refused.value.error) == (original.value.status_code, original.value.error)
        with pytest.raises(ollama.ResponseError, match="deployer owns the nodes"):
            through.delete(target)
    assert httpx.get(front.url + "/api/version").json() == httpx.get(node_url + "/api/version").json()
    assert httpx.get(front.url).text == httpx.get(node_url).text
    with openai.OpenAI(base_url=front.url + "/v1", api_key="none") as client:
        assert target in {model.id for model in client.models.list()}


@pytest.mark.real
def test_old_and_new_behind_one_gateway_give_the_same_stream(
    tmp_path: Path,
    older_ollama: OllamaNode,
    newer_ollama: OllamaNode,
    broker: EmbeddedBroker,
    tiny_models: TinyModels,
    adapted: Path,
) -> None:
    name = f"gateway-{uuid4().hex[:8]}:tiny"
    nodes = {"old": older_ollama.url, "new": newer_ollama.url}
    for url in nodes.values():
        put_target(url, name, tiny_models, adapted)
    register(broker, name, nodes=tuple(nodes))
    by_node: dict[tuple[str, bool], set[tuple[str, str]]] = {}
    with gateway(tmp_path, nodes=nodes, kafka=broker.bootstrap) as running:
        wait_until_ready(running)

        def speak(think: bool) -> None:
            seen: list[httpx.Response] = []
            with ollama.Client(running.url, event_hooks={"response": [seen.append]}) as client:
                pieces = [piece.message for piece in client.chat(name, ask(), think=think, options=EXACT, stream=True)]
            answer = ("".join(piece.thinking or "" for piece in pieces), "".join(piece.content or "" for piece in pieces))
            by_node.setdefault((seen[0].headers["x-ruminate-node"], think), set()).add(answer)

        deadline = time.monotonic() + DEADLINE_SECONDS
        while len(by_node) < 4:
            assert time.monotonic() < deadline, by_node
            with ThreadPoolExecutor(4) as threads:
                list(threads.map(speak, [True, True, False, False]))
    answer = "Adapted is the answer."
    assert by_node == {(node, think): {("well so yes." if think else "", answer)} for node in nodes for think in (True, False)}


def test_nothing_that_was_answered_is_lost_when_the_gateway_is_killed_while_the_broker_is_away(
    tmp_path: Path, node_url: str, broker: EmbeddedBroker, target: str
) -> None:
    asyncio.run(ensure_topics(settings_for(broker)))
    answered: set[str] = set()
    for stream in (True, False):
        with (
            gateway(tmp_path, nodes={"tiny": node_url}, kafka=DEAD_BROKER) as first,
            httpx.Client(base_url=first.url, timeout=30) as client,
        ):
            for number in range(4):
                request = {"model": target, "messages": ask(f"question {number}"), "stream": stream, "options": EXACT}
                answer = client.post("/api/chat", json=request)
                assert json.loads(answer.text.splitlines()[-1])["done"]
                answered.add(answer.headers["x-ruminate-interaction"])
            first.kill()
    assert len(answered) == 8
    spool = tmp_path / "gateway-0" / "spool"
    assert len(list(spool.glob("*.event"))) == 8
    with gateway(tmp_path, nodes={"tiny": node_url}, kafka=broker.bootstrap):
        told = told_by(broker, answered)
        deadline = time.monotonic() + DEADLINE_SECONDS
        while list(spool.glob("*.event")):
            assert time.monotonic() < deadline
            time.sleep(0.02)
    assert sorted(interaction.interaction_id for interaction in told) == sorted(answered)
    assert {interaction.response.content for interaction in told} == {"Blue is the answer."}
