"""What runs, in which order and with which settings: the plan that the supervisor follows. Pure.

Parts start from left to right and stop from right to left:

    broker -> node(s) -> collector, assessor, accumulator, trainer, deployer, eraser, monitor -> gateway
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

PartKind = Literal["broker", "node", "service"]

INSTALLED = "ollama"
"""In place of a node's address: the Ollama that is installed on this machine, started and stopped with the rest."""

# The gateway comes last, so that whoever reaches it reaches a loop that is closed.
SERVICE_ORDER = ("collector", "assessor", "accumulator", "trainer", "deployer", "eraser", "monitor", "gateway")


@dataclass(frozen=True, slots=True)
class Part:
    """One process that the supervisor starts and watches."""

    name: str
    kind: PartKind
    command: tuple[str, ...]
    environment: Mapping[str, str]
    ready_url: str | None = None


@dataclass(frozen=True, kw_only=True)
class Ports:
    """A loopback port for everything that listens."""

    broker: int
    node: int
    gateway: int
    collector: int
    operations: Mapping[str, int]


@dataclass(frozen=True, kw_only=True)
class Wishes:
    """What the caller of `up` asked for; None takes the embedded part."""

    state: Path
    kafka: str | None = None
    nodes: tuple[str, ...] = ()
    target: str
    base: str
    settings: Mapping[str, str] = field(default_factory=dict)
    gateway_port: int = 0
    collector_port: int = 0

    @property
    def store_uri(self) -> str:
        """Where datasets and models of this state folder lie."""
        return (self.state / "store").as_uri()


def node_urls(wishes: Wishes, ports: Ports) -> dict[str, str]:
    """Name and address of each node: the caller's in the order given, else the embedded one."""
    ours = f"http://127.0.0.1:{ports.node}"
    if not wishes.nodes:
        return {"embedded": ours}
    return {
        "ollama" if url == INSTALLED else f"node-{number}": ours if url == INSTALLED else url.rstrip("/")
        for number, url in enumerate(wishes.nodes, start=1)
    }


def is_ours(node: str) -> bool:
    """Whether we start this node, by its name: then we may give it the target."""
    return node in {"embedded", "ollama"}


def bootstrap(wishes: Wishes, ports: Ports) -> str:
    """Where Kafka answers."""
    return wishes.kafka or f"127.0.0.1:{ports.broker}"


def addresses(wishes: Wishes, ports: Ports) -> dict[str, object]:
    """What `addresses.json` says: where to reach each part."""
    return {
        "kafka": bootstrap(wishes, ports),
        "kafka_profile": "kafka" if wishes.kafka else "embedded",
        "gateway": f"http://127.0.0.1:{ports.gateway}",
        "collector": f"http://127.0.0.1:{ports.collector}",
        "nodes": node_urls(wishes, ports),
        "operations": {service: f"http://127.0.0.1:{port}" for service, port in ports.operations.items()},
        "target": wishes.target,
        "store": wishes.store_uri,
    }


def plan_parts(wishes: Wishes, ports: Ports, *, ollama: Path | None = None) -> tuple[Part, ...]:
    """Every process, in the order in which they start; `ollama` is the program, needed where it is wished for."""
    parts: list[Part] = []
    if wishes.kafka is None:
        parts.append(Part("broker", "broker", _module("ruminate.embedded", "broker", "--port", str(ports.broker)), {}))
    if not wishes.nodes:
        models = wishes.state / "node"
        command = _module("ruminate.embedded", "node", "--port", str(ports.node), "--models", str(models))
        parts.append(Part("node", "node", command, {}, f"http://127.0.0.1:{ports.node}/api/version"))
    if ollama is not None:
        parts.append(_ollama(ollama, wishes, ports))
    parts += [_service(name, wishes, ports) for name in SERVICE_ORDER]
    return tuple(parts)


def _ollama(program: Path, wishes: Wishes, ports: Ports) -> Part:
    environment = {
        "OLLAMA_HOST": f"127.0.0.1:{ports.node}",
        "OLLAMA_MODELS": str(wishes.state / "ollama"),
        "OLLAMA_NO_CLOUD": "1",
    }
    command = (sys.executable, "-m", "ruminate.embedded.tied", str(program), "serve")
    return Part("node", "node", command, environment, f"http://127.0.0.1:{ports.node}/api/version")


def _service(name: str, wishes: Wishes, ports: Ports) -> Part:
    operations = ports.operations[name]
    environment = {
        "RUMINATE_KAFKA_BOOTSTRAP": bootstrap(wishes, ports),
        "RUMINATE_KAFKA_PROFILE": "kafka" if wishes.kafka else "embedded",
        # The embedded broker asks nobody who they are, whatever the environment says of another one.
        **({} if wishes.kafka else {"RUMINATE_KAFKA_SECURITY_PROTOCOL": "PLAINTEXT"}),
        "RUMINATE_STORE_URI": wishes.store_uri,
        "RUMINATE_STATE_DIR": str(wishes.state),
        "RUMINATE_OPERATIONS_PORT": str(operations),
        "RUMINATE_NODES": json.dumps(node_urls(wishes, ports)),
        "RUMINATE_BASES": json.dumps({wishes.target: wishes.base}),
        # Ctrl-C is not made to wait for handlers: what they have begun is delivered again.
        "RUMINATE_GRACE_SECONDS": "1",
        "RUMINATE_COLLECTOR_PORT": str(ports.collector),
        "RUMINATE_GATEWAY_PORT": str(ports.gateway),
        **wishes.settings,
    }
    return Part(name, "service", _module(f"ruminate.{name}"), environment, f"http://127.0.0.1:{operations}/readyz")


def _module(name: str, *arguments: str) -> tuple[str, ...]:
    return (sys.executable, "-m", "ruminate.shared.process", name, *arguments)
