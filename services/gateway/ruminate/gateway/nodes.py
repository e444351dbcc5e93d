"""The live view of the nodes: which are well, what they hold, how busy they are.

Looked at actively (`/api/version` and `/api/tags`, every few seconds) and passively (what requests meet).
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Collection, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass

import httpx
import orjson
import structlog

from ruminate.gateway.decide import NodeView, canonical
from ruminate.gateway.metrics import IN_FLIGHT, NODE_UP
from ruminate.gateway.settings import GatewaySettings

log = structlog.get_logger()


@dataclass(slots=True)
class _Node:
    url: str
    healthy: bool = False
    failures: int = 0
    in_flight: int = 0
    models: frozenset[str] = frozenset()


class Nodes:
    """Every node that the settings name. None is well before it was looked at."""

    def __init__(self, settings: GatewaySettings, client: httpx.AsyncClient) -> None:
        self._nodes = {name: _Node(url.rstrip("/")) for name, url in settings.nodes.items()}
        self._client = client
        self._interval_seconds = settings.health_interval_seconds
        self._timeout_seconds = settings.health_timeout_seconds
        self._down_after_failures = settings.down_after_failures

    def view(self) -> list[NodeView]:
        """The nodes as they stand now."""
        return [
            NodeView(name=name, url=node.url, healthy=node.healthy, in_flight=node.in_flight, models=node.models)
            for name, node in self._nodes.items()
        ]

    def readiness(self) -> Collection[str]:
        """Why nobody can be answered; empty when somebody can."""
        if any(node.healthy for node in self._nodes.values()):
            return []
        return [f"none of the nodes {', '.join(self._nodes)} answers; start one or correct RUMINATE_NODES"]

    @property
    def retry_after_seconds(self) -> int:
        """When it is worth asking again after no node could answer."""
        return math.ceil(self._interval_seconds)

    @contextmanager
    def busy(self, name: str) -> Iterator[None]:
        """Count a request as in flight on the node."""
        node = self._nodes[name]
        node.in_flight += 1
        IN_FLIGHT.labels(name).set(node.in_flight)
        try:
            yield
        finally:
            node.in_flight -= 1
            IN_FLIGHT.labels(name).set(node.in_flight)

    def failed(self, name: str, error: Exception) -> None:
        """A request or a look met this error. A refused connection takes the node out at once."""
        node = self._nodes[name]
        node.failures += 1
        if node.healthy and (isinstance(error, httpx.ConnectError) or node.failures >= self._down_after_failures):
            node.healthy = False
            log.warning("node_went_down", node=name, url=node.url, error=type(error).__name__, failures=node.failures)
        NODE_UP.labels(name).set(node.healthy)

    async def look(self) -> None:
        """Look at every node once, all at the same time."""
        await asyncio.gather(*(self._look_at(name) for name in self._nodes))

    async def watch(self) -> None:
        """Look again and again."""
        while True:
            await asyncio.sleep(self._interval_seconds)
            await self.look()

    async def fetch(self, name: str, path: str) -> bytes:
        """What the node gives under `path`. Raises httpx.HTTPError, which counts against the node."""
        try:
            response = await self._client.get(self._nodes[name].url + path, timeout=self._timeout_seconds)
            return response.raise_for_status().content
        except httpx.HTTPError as error:
            self.failed(name, error)
            raise

    async def _look_at(self, name: str) -> None:
        try:
            version = orjson.loads(await self.fetch(name, "/api/version"))["version"]
            tags = orjson.loads(await self.fetch(name, "/api/tags"))
            models = frozenset(canonical(model["name"]) for model in tags["models"] or ())
        except httpx.HTTPError:
            return
        except (ValueError, KeyError, TypeError) as error:
            self.failed(name, error)
            return
        node = self._nodes[name]
        node.failures, node.models = 0, models
        if not node.healthy:
            node.healthy = True
            log.info("node_came_up", node=name, url=node.url, engine_version=version, models=len(models))
        NODE_UP.labels(name).set(1)


@asynccontextmanager
async def node_connections() -> AsyncIterator[tuple[httpx.AsyncBaseTransport, httpx.AsyncClient]]:
    """One pool of connections to all nodes: bare for what passes, and as a client for our own questions."""
    # Idle connections go before a node's server closes them (uvicorn: 5 s), so that none dies in our hands.
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=256, keepalive_expiry=4.0)
    async with httpx.AsyncHTTPTransport(limits=limits, trust_env=False) as transport:
        yield transport, httpx.AsyncClient(transport=transport)
