"""Keeps processes running: starts them, restarts what crashes, stops them in reverse order.

Nothing outlives the supervisor: every part hangs on its rope (`ruminate.shared.process`), so even `kill -9` of this
process ends them all. Whatever changes is written to `supervisor.json` in the state folder; `resume` speaks through a
file there, too, so that no port has to be guarded.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import signal
import time
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Literal, TypeVar

import httpx
import orjson

from ruminate.command.plan import Part
from ruminate.shared.bus import EXIT_FAULT_IS_OURS
from ruminate.shared.process import Rope
from ruminate.shared.store import whole_file

T = TypeVar("T")
PartState = Literal["running", "backing-off", "halted", "stopped"]

FIRST_BACKOFF_SECONDS = 0.2
LONGEST_BACKOFF_SECONDS = 30.0
# Whoever ran this long has recovered: the next crash starts the back-off anew.
SETTLED_AFTER_SECONDS = 30.0
# Together they keep the promise that nothing is left running five seconds after Ctrl-C.
SERVICES_STOP_WITHIN_SECONDS = 3.0
OTHERS_STOP_WITHIN_SECONDS = 0.7
_LOOK_EVERY_SECONDS = 0.1


class SupervisorError(Exception):
    """What the supervisor cannot do, with the way out."""


@dataclass(slots=True)
class Watched:
    """One part, its process, and how it has fared."""

    part: Part
    process: asyncio.subprocess.Process | None = None
    state: PartState = "stopped"
    restarts: int = 0
    exit_code: int | None = None
    started_at: float = 0.0
    backoff_seconds: float = FIRST_BACKOFF_SECONDS
    wake: asyncio.Event = field(default_factory=asyncio.Event)
    watcher: asyncio.Task[None] | None = None


class Supervisor:
    """Runs parts in a state folder, one supervisor a folder. An async context manager: leaving it stops everything."""

    def __init__(self, state: Path, *, on_change: Callable[[str, PartState, int | None], None] | None = None) -> None:
        self.state = state
        # Set when a part has ended that nothing can replace.
        self._ended = asyncio.Event()
        self._ended_because = ""
        self._on_change = on_change
        self._watched: dict[str, Watched] = {}
        self._rope = Rope()
        self._lock: IO[str] | None = None
        self._listener: asyncio.Task[None] | None = None
        self._stopping = False

    async def __aenter__(self) -> Supervisor:
        self.state.mkdir(parents=True, exist_ok=True)
        for folder in ("logs", "resume"):
            (self.state / folder).mkdir(exist_ok=True)
        self._lock = (self.state / "lock").open("a")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._lock.close()
            raise SupervisorError(
                f"{self.state} is in use by another `ruminate up` or `ruminate demo`; "
                f"type:  ruminate down --state {self.state}   or take another folder with --state"
            ) from None
        for request in (self.state / "resume").iterdir():
            request.unlink()
        self._listener = asyncio.create_task(self._listen_for_resume())
        self._record()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.stop()

    async def start(self, part: Part) -> None:
        """Start a part and watch it from now on."""
        watched = Watched(part)
        self._watched[part.name] = watched
        log = self._log_of(part)
        if log.exists():
            log.replace(log.with_suffix(".log.1"))
        await self._spawn(watched)
        watched.watcher = asyncio.create_task(self._watch(watched), name=f"watch-{part.name}")

    async def wait_ready(self, name: str, *, within_seconds: float) -> None:
        """Return when the part's ready address answers 200. Raises SupervisorError with the last reason and the log."""
        watched = self._watched[name]
        url = watched.part.ready_url
        if url is None:
            return
        deadline = time.monotonic() + within_seconds
        last = "it does not answer yet"
        async with httpx.AsyncClient(timeout=2.0) as client:
            while True:
                if watched.state == "halted":
                    raise SupervisorError(f"{name} ended with exit {watched.exit_code}; see {self._log_of(watched.part)}")
                if self._ended.is_set():
                    raise SupervisorError(self._ended_because)
                try:
                    answer = await client.get(url)
                    if answer.status_code == httpx.codes.OK:
                        return
                    last = answer.text[:300]
                except httpx.HTTPError as error:
                    last = f"{type(error).__name__} at {url}"
                if time.monotonic() > deadline:
                    raise SupervisorError(
                        f"{name} is not ready after {within_seconds:.0f} s: {last}. See {self._log_of(watched.part)}"
                    )
                await asyncio.sleep(_LOOK_EVERY_SECONDS)

    def describe(self) -> dict[str, Any]:
        """Each part with its state, pid, restarts and last exit code."""
        return {
            name: {
                "state": watched.state,
                "pid": watched.process.pid if watched.process and watched.state == "running" else None,
                "restarts": watched.restarts,
                "exit_code": watched.exit_code,
                "log": str(self._log_of(watched.part)),
            }
            for name, watched in self._watched.items()
        }

    async def unless_ended(self, work: Coroutine[Any, Any, T]) -> T:
        """Do the work. Raises SupervisorError as soon as a part has ended that nothing can replace."""
        working = asyncio.create_task(work)
        ending = asyncio.create_task(self._ended.wait())
        both: set[asyncio.Task[Any]] = {working, ending}
        try:
            await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
            if not working.done():
                raise SupervisorError(self._ended_because)
            return working.result()
        finally:
            for task in both:
                task.cancel()
            await asyncio.gather(*both, return_exceptions=True)

    async def until_stopped(self) -> None:
        """Return at SIGINT or SIGTERM. Raises SupervisorError when a part has ended that nothing can replace."""
        asked = asyncio.Event()
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, asked.set)
        await self.unless_ended(asked.wait())

    async def stop(self) -> None:
        """Stop every part, services first; whoever does not stop in time is killed."""
        if self._stopping:
            return
        self._stopping = True
        if self._listener is not None:
            self._listener.cancel()
        services = [w for w in self._watched.values() if w.part.kind == "service"]
        others = [w for w in self._watched.values() if w.part.kind != "service"]
        # Services do not need each other to stop, but all of them need the broker to commit; it and the nodes need nobody.
        await asyncio.gather(*(self._stop_one(watched, SERVICES_STOP_WITHIN_SECONDS) for watched in services))
        await asyncio.gather(*(self._stop_one(watched, OTHERS_STOP_WITHIN_SECONDS) for watched in others))
        self._record()
        self._rope.cut()
        if self._lock is not None:
            self._lock.close()

    async def _spawn(self, watched: Watched) -> None:
        environment = {**os.environ, **watched.part.environment, **self._rope.environment(), "PYTHONUNBUFFERED": "1"}
        environment.pop("PYTHONDONTWRITEBYTECODE", None)
        with self._log_of(watched.part).open("ab") as log:
            watched.process = await asyncio.create_subprocess_exec(
                *watched.part.command,
                env=environment,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=(self._rope.reading_end,),
                # Ctrl-C in a terminal reaches the whole foreground group; the parts are stopped in order instead.
                start_new_session=True,
            )
        watched.started_at = time.monotonic()
        self._change(watched, "running")

    async def _watch(self, watched: Watched) -> None:
        while True:
            assert watched.process is not None  # noqa: S101 - spawned before
            watched.exit_code = await watched.process.wait()
            if self._stopping:
                return
            if watched.part.kind == "broker":
                self._change(watched, "stopped")
                self._end(
                    f"the embedded broker ended (exit {watched.exit_code}). Its events lived in memory and are gone, so everything "
                    "is stopped. For events that last, run Apache Kafka and start with --kafka HOST:PORT"
                )
                return
            if watched.exit_code == EXIT_FAULT_IS_OURS:
                self._change(watched, "halted")
                await watched.wake.wait()
                watched.wake.clear()
                watched.backoff_seconds = FIRST_BACKOFF_SECONDS
            else:
                if time.monotonic() - watched.started_at > SETTLED_AFTER_SECONDS:
                    watched.backoff_seconds = FIRST_BACKOFF_SECONDS
                self._change(watched, "backing-off")
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(watched.backoff_seconds):
                        await watched.wake.wait()
                watched.wake.clear()
                watched.backoff_seconds = min(watched.backoff_seconds * 2, LONGEST_BACKOFF_SECONDS)
            if self._stopping:
                return
            watched.restarts += 1
            await self._spawn(watched)

    async def _stop_one(self, watched: Watched, within_seconds: float) -> None:
        if watched.watcher is not None and watched.state != "running":
            watched.watcher.cancel()
        process = watched.process
        if process is not None and process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(signal.SIGTERM)
            try:
                async with asyncio.timeout(within_seconds):
                    await process.wait()
            except TimeoutError:
                with contextlib.suppress(ProcessLookupError):
                    process.kill()
                await process.wait()
        if process is not None:
            watched.exit_code = process.returncode
        if watched.watcher is not None:
            await asyncio.gather(watched.watcher, return_exceptions=True)
        watched.state = "stopped"

    async def _listen_for_resume(self) -> None:
        folder = self.state / "resume"
        while True:
            for request in list(folder.iterdir()):
                request.unlink()
                if request.name in self._watched:
                    self._watched[request.name].wake.set()
            await asyncio.sleep(_LOOK_EVERY_SECONDS)

    def _change(self, watched: Watched, state: PartState) -> None:
        watched.state = state
        self._record()
        if self._on_change is not None:
            self._on_change(watched.part.name, state, watched.exit_code)

    def _end(self, reason: str) -> None:
        self._ended_because = reason
        self._ended.set()

    def _record(self) -> None:
        with whole_file(self.state / "supervisor.json") as out:
            out.write(orjson.dumps({"pid": os.getpid(), "parts": self.describe()}, option=orjson.OPT_INDENT_2))

    def _log_of(self, part: Part) -> Path:
        return self.state / "logs" / f"{part.name}.log"


def write_addresses(state: Path, addresses: Mapping[str, object]) -> None:
    """Leave `addresses.json` in the state folder, for whoever wants to talk to what runs."""
    with whole_file(state / "addresses.json") as out:
        out.write(orjson.dumps(addresses, option=orjson.OPT_INDENT_2))


def running_supervisor(state: Path) -> int | None:
    """The pid of the supervisor that holds this state folder, or None: the lock knows, whatever the files say."""
    try:
        with (state / "lock").open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return None
    except FileNotFoundError:
        return None
    except BlockingIOError:
        pid = orjson.loads((state / "supervisor.json").read_bytes())["pid"]
        return int(pid)
