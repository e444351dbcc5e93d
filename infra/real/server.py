"""A server of one program on loopback, as tests want it: started, stopped, killed, made to hang, and started again where it was."""

from __future__ import annotations

import os
import signal
import ssl
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import httpx

from infra.real.tied import Tied, tail


class DidNotStart(RuntimeError):
    """The program ended early or did not answer in time; the message shows the end of its log."""


@dataclass(kw_only=True)
class Server:
    """One server: a port and a folder of its own, which it keeps over its ends and starts."""

    named: ClassVar[str]
    """Also its log's name."""
    answers_at: ClassVar[str]
    """A path of its own that is answered once it can be asked."""
    ready_seconds: ClassVar[float]
    stop_seconds: ClassVar[float]

    folder: Path
    port: int
    running: Tied | None = field(default=None, init=False)

    @property
    def url(self) -> str:
        """Where it answers."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def log(self) -> Path:
        """All that it has said, over its restarts."""
        return self.folder / f"{self.named}.log"

    def start(self) -> None:
        """Start it, on the port and with the folder that it had; returns when it answers."""
        if self.running is not None and self.running.ended() is None:
            raise RuntimeError(f"{self.named} at {self.url} runs already")
        self.end()
        self.folder.mkdir(parents=True, exist_ok=True)
        self.prepare()
        environment = {"PATH": os.environ["PATH"], "HOME": str(self.folder), **self.environment()}
        # Nothing else of our surroundings, lest somebody's own setting decides a test.
        only = ("env", "-i", *(f"{name}={value}" for name, value in environment.items()))
        self.running = Tied((*only, *self.command()), log=self.log, folder=self.folder)
        self._wait_until_ready(self.running)

    def prepare(self) -> None:
        """What has to be in the folder before it starts."""

    def command(self) -> Sequence[str]:
        """The program and its arguments."""
        raise NotImplementedError

    def environment(self) -> Mapping[str, str]:
        """What it is told beside PATH and HOME."""
        raise NotImplementedError

    def trusted(self) -> ssl.SSLContext | bool:
        """What its certificate is looked at by, where it has one."""
        return True

    def listens(self) -> bool:
        """By its own word, if it gives one: whoever else has the port may answer, too."""
        return True

    def stop(self) -> None:
        """SIGTERM: it ends what it has started, then itself."""
        running = self._running()
        running.signal(signal.SIGTERM)
        try:
            running.wait(self.stop_seconds)
        except subprocess.TimeoutExpired:
            said = tail(self.log)
            raise RuntimeError(f"{self.named} did not stop within {self.stop_seconds:.0f} s of SIGTERM:\n{said}") from None
        self.end()

    def kill(self) -> None:
        """SIGKILL, to what it has started, too; gone when this returns."""
        self._running().kill()
        self.running = None

    def pause(self) -> None:
        """SIGSTOP, to all of it: connections are taken and nothing answers."""
        self._running().signal(signal.SIGSTOP)

    def resume(self) -> None:
        """SIGCONT."""
        self._running().signal(signal.SIGCONT)

    def end(self) -> None:
        """Kill it if it still runs."""
        if self.running is not None:
            self.running.end()
            self.running = None

    def _running(self) -> Tied:
        if self.running is None:
            raise RuntimeError(f"{self.named} at {self.url} does not run")
        return self.running

    def _wait_until_ready(self, running: Tied) -> None:
        deadline = time.monotonic() + self.ready_seconds
        with httpx.Client(timeout=5, verify=self.trusted()) as client:
            while not (self.listens() and self._answers(client)):
                if (code := running.ended()) is not None:
                    raise DidNotStart(f"{self.named} ended with code {code}:\n{tail(self.log)}")
                if time.monotonic() > deadline:
                    raise DidNotStart(f"{self.named} did not answer within {self.ready_seconds:.0f} s:\n{tail(self.log)}")
                time.sleep(0.02)

    def _answers(self, client: httpx.Client) -> bool:
        try:
            return client.get(f"{self.url}{self.answers_at}").is_success
        except httpx.TransportError:
            return False
