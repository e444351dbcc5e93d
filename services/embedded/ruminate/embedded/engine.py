"""Models in memory: one llama.cpp server a (model, adapter, window), in a process of its own, asked over loopback HTTP.

An engine answers one request at a time, from one slot. So an answer never depends on who else is asking: tokens of two
requests in one batch are summed in another order, which can turn a close choice. A LoRA adapter is loaded with its
model, never switched by a request: a switch would leave the prompt cache of the other behind.
"""

from __future__ import annotations

import asyncio
import json
import math
import sys
import time
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import orjson
import structlog

from ruminate.embedded.decide import Refused
from ruminate.shared.lines import streamed_lines

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Spec:
    """What has to be loaded."""

    weights: Path
    adapter: Path | None
    context_tokens: int
    embeds: bool = False


@dataclass(frozen=True, slots=True)
class Stats:
    """What one inference cost."""

    prompt_tokens: int
    answer_tokens: int
    prompt_ns: int
    answer_ns: int
    reason: str

    def __add__(self, later: Stats) -> Stats:
        """Two inferences for one answer: the prompt counts once."""
        return Stats(
            self.prompt_tokens,
            self.answer_tokens + later.answer_tokens,
            self.prompt_ns + later.prompt_ns,
            self.answer_ns + later.answer_ns,
            later.reason,
        )


class EngineFailed(Exception):
    """llama.cpp could not load or refused a request; the message is its own."""


class Engine:
    """A loaded model."""

    def __init__(self, process: asyncio.subprocess.Process, address: str) -> None:
        self._process = process
        self._broken = False
        # No connection is kept: llama.cpp has few HTTP threads, and an idle connection holds one.
        self._http = httpx.AsyncClient(
            base_url=address,
            timeout=None,  # noqa: S113 - a long prompt may take minutes before its first token
            limits=httpx.Limits(max_keepalive_connections=0),
            trust_env=False,
        )

    @classmethod
    async def load(cls, spec: Spec, *, threads: int) -> Engine:
        """Start llama.cpp over these weights; EngineFailed where it ends instead."""
        wanted = {
            "weights": str(spec.weights),
            "adapter": None if spec.adapter is None else str(spec.adapter),
            "context_tokens": spec.context_tokens,
            "embeds": spec.embeds,
            "threads": threads,
        }
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "ruminate.embedded.llama", json.dumps(wanted)),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        assert process.stdout is not None  # noqa: S101 - it is a pipe
        try:
            address = (await process.stdout.readline()).decode().strip()
        except BaseException:
            process.kill()
            raise
        if not address:
            raise EngineFailed(f"llama.cpp cannot load {spec.weights.name}: it ended with {await process.wait()}")
        return cls(process, address)

    @property
    def alive(self) -> bool:
        """Whether llama.cpp still runs."""
        return self._process.returncode is None and not self._broken

    async def close(self) -> None:
        """Free the model's memory."""
        if self._process.returncode is None:
            self._process.kill()
        await self._process.wait()
        await self._http.aclose()

    async def render(
        self, messages: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]], *, thinking: bool | None
    ) -> str:
        """The prompt of a conversation, by the Jinja template inside the GGUF, up to where the assistant speaks."""
        body: dict[str, Any] = {"messages": messages}
        if tools:
            body["tools"] = tools
        if thinking is not None:
            body["chat_template_kwargs"] = {"enable_thinking": thinking}
        return str((await self._ask("/apply-template", body))["prompt"])

    async def tokenize(self, text: str, *, beginning: bool = True) -> list[int]:
        """Tokens of a text, special tokens by their names; with what the model wants at the beginning of a prompt."""
        answer = await self._ask("/tokenize", {"content": text, "add_special": beginning, "parse_special": True})
        return list(answer["tokens"])

    async def detokenize(self, tokens: Sequence[int]) -> str:
        """The text of tokens."""
        return str((await self._ask("/detokenize", {"tokens": tokens}))["content"])

    async def complete(
        self, prompt: Sequence[int], sampling: Mapping[str, Any], schema: Mapping[str, Any] | None
    ) -> AsyncGenerator[tuple[str, Stats | None], None]:
        """What follows the prompt, piece by piece; statistics come with the last. Leaving the loop stops the inference."""
        body = {"prompt": prompt, "stream": True, **sampling, **({"json_schema": schema} if schema is not None else {})}
        with self._failures():
            async with self._http.stream("POST", "/completion", content=orjson.dumps(body)) as answer:
                if answer.status_code != httpx.codes.OK:
                    raise EngineFailed(_fault(await answer.aread()))
                async for line in streamed_lines(answer):
                    if line.startswith(b"error: "):
                        raise EngineFailed(_fault(line.removeprefix(b"error: ")))
                    if not line.startswith(b"data: {"):
                        continue
                    piece = orjson.loads(line.removeprefix(b"data: "))
                    if "error" in piece:
                        raise EngineFailed(str(piece["error"].get("message", piece["error"])))
                    yield piece["content"], _stats(piece) if piece["stop"] else None

    async def embed(self, texts: Sequence[str]) -> tuple[list[list[float]], int]:
        """A vector of length 1 a text, and the tokens read."""
        answer = await self._ask("/v1/embeddings", {"input": texts})
        vectors = [row["embedding"] for row in sorted(answer["data"], key=lambda row: row["index"])]
        return vectors, answer["usage"]["prompt_tokens"]

    @contextmanager
    def _failures(self) -> Iterator[None]:
        try:
            yield
        except httpx.HTTPError as error:
            # Its connections break a moment before its exit is known: whoever asks next must not be sent to a corpse.
            self._broken = True
            raise EngineFailed(f"llama.cpp ended while it was asked: {type(error).__name__}") from error

    async def _ask(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        with self._failures():
            answer = await self._http.post(path, content=orjson.dumps(body))
        if answer.status_code != httpx.codes.OK:
            raise EngineFailed(_fault(answer.content))
        read: dict[str, Any] = orjson.loads(answer.content)
        return read


def _fault(body: bytes) -> str:
    try:
        return str(orjson.loads(body)["error"]["message"])
    except (orjson.JSONDecodeError, KeyError, TypeError):
        return body[:200].decode(errors="replace")


def _stats(last: Mapping[str, Any]) -> Stats:
    timings = last["timings"]
    return Stats(
        prompt_tokens=last["tokens_evaluated"],
        answer_tokens=last["tokens_predicted"],
        prompt_ns=int(timings["prompt_ms"] * 1e6),
        answer_ns=int(timings["predicted_ms"] * 1e6),
        reason="length" if last["stop_type"] == "limit" else "stop",
    )


@dataclass(slots=True, eq=False)
class Berth:
    """A place in memory for one spec: empty, loading, in use or idle."""

    spec: Spec
    label: str
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    engine: Engine | None = None
    takes_place: bool = False
    users: int = 0
    used_at: float = 0.0
    expires_at: float = math.inf


class Fleet:
    """The loaded models: at most `most_loaded`, the longest idle one makes room, each leaves when its time is over."""

    def __init__(self, *, most_loaded: int, most_waiting: int, threads: int) -> None:
        self._most_loaded, self._most_waiting, self._threads = most_loaded, most_waiting, threads
        self._berths: dict[Spec, Berth] = {}
        self._waiting = 0
        self._changed = asyncio.Event()

    @asynccontextmanager
    async def engine(self, spec: Spec, *, label: str, keep_alive_seconds: float) -> AsyncIterator[Engine]:
        """The engine for `spec`, alone, loaded first if it must be; Refused (503) where too many wait."""
        if self._waiting >= self._most_waiting:
            raise Refused(503, "server busy, please try again.  maximum pending requests exceeded")
        berth = self._berths.setdefault(spec, Berth(spec, label))
        berth.label = label
        berth.users += 1
        self._waiting += 1
        try:
            async with berth.lock:
                if berth.engine is not None and not berth.engine.alive:
                    log.warning("engine_found_dead", model=berth.label)
                    await berth.engine.close()
                    berth.engine, berth.takes_place = None, False
                yield berth.engine or await self._load(berth)
        finally:
            self._waiting -= 1
            berth.users -= 1
            berth.used_at = time.monotonic()
            berth.expires_at = berth.used_at + keep_alive_seconds
            if berth.engine is None and not berth.users:
                self._berths.pop(spec, None)
            self._tell()

    def loaded(self) -> list[Berth]:
        """Every model in memory, with when it leaves on the monotonic clock."""
        return [berth for berth in self._berths.values() if berth.engine is not None]

    def expire(self, weights: Path, adapter: Path | None) -> None:
        """Let these leave as soon as they are idle."""
        for berth in self._berths.values():
            if (berth.spec.weights, berth.spec.adapter) == (weights, adapter):
                berth.expires_at = 0.0
        self._tell()

    async def watch(self) -> None:
        """Unload what is over its time, until cancelled."""
        while True:
            idle = [berth for berth in self.loaded() if not berth.users]
            now = time.monotonic()
            over = [berth for berth in idle if berth.expires_at <= now]
            for berth in over:
                # While another was unloaded, somebody may have come.
                if not berth.users:
                    await self._unload(berth)
            if not over:
                soonest = min((berth.expires_at - now for berth in idle), default=math.inf)
                await self._wait_for_change(soonest)

    async def close(self) -> None:
        """Unload everything, also what is in use."""
        for berth in self.loaded():
            await self._unload(berth)

    async def _load(self, berth: Berth) -> Engine:
        while sum(other.takes_place for other in self._berths.values()) >= self._most_loaded:
            idle = [other for other in self.loaded() if not other.users]
            if idle:
                await self._unload(min(idle, key=lambda other: other.used_at))
            else:
                await self._wait_for_change(math.inf)
        berth.takes_place = True
        began = time.monotonic()
        try:
            berth.engine = await Engine.load(berth.spec, threads=self._threads)
        except EngineFailed as error:
            raise Refused(500, str(error)) from error
        finally:
            berth.takes_place = berth.engine is not None
        log.info(
            "model_loaded", model=berth.label, seconds=round(time.monotonic() - began, 3), context_tokens=berth.spec.context_tokens
        )
        return berth.engine

    async def _unload(self, berth: Berth) -> None:
        # Off the list first, without a pause before: whoever asks from here on loads anew.
        self._berths.pop(berth.spec, None)
        engine, berth.engine = berth.engine, None
        if engine is not None:
            await engine.close()
            log.info("model_unloaded", model=berth.label)
        self._tell()

    def _tell(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    async def _wait_for_change(self, seconds: float) -> None:
        waiting = self._changed.wait()
        try:
            await asyncio.wait_for(waiting, None if math.isinf(seconds) else max(0.0, seconds))
        except TimeoutError:
            return
