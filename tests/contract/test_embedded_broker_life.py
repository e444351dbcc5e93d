"""How an embedded broker lives: it is ready when it says so, and never outlives whoever started it."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time

import pytest

from ruminate.embedded.broker import BrokerDidNotStart, EmbeddedBroker, embedded_broker


def accepts(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 0.5).close()
    except OSError:
        return False
    return True


def until_it(accepting: bool, port: int, process: subprocess.Popen[bytes] | None = None) -> None:
    deadline = time.monotonic() + 20
    while accepts(port) != accepting:
        assert time.monotonic() < deadline, f"port {port} still {'refuses' if accepting else 'accepts'}"
        assert not accepting or process is None or process.poll() is None
        time.sleep(0.01)


def port_of(broker: EmbeddedBroker) -> int:
    return int(broker.bootstrap.rsplit(":", 1)[1])


def run_in_foreground(port: int) -> subprocess.Popen[bytes]:
    program = f"import sys; from ruminate.embedded.broker import run_broker; sys.exit(run_broker({port}))"
    return subprocess.Popen((sys.executable, "-c", program))


@pytest.fixture
def free_port() -> int:
    with embedded_broker() as broker:
        port = port_of(broker)
    until_it(False, port)
    return port


def test_the_broker_ends_with_its_context() -> None:
    with embedded_broker() as broker:
        assert broker.process.poll() is None
        assert accepts(port_of(broker))
    assert broker.process.poll() is not None


def test_a_port_that_is_taken_is_said() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(BrokerDidNotStart, match="port"), embedded_broker(taken.getsockname()[1]):
            pass


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the parent's end is noticed half a second later, by looking")
def test_a_foreground_broker_dies_with_its_parent(free_port: int) -> None:
    process = run_in_foreground(free_port)
    try:
        until_it(True, free_port, process)
    finally:
        process.kill()
        process.wait()
    until_it(False, free_port)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_foreground_broker_ends_when_it_is_asked_to(free_port: int, number: signal.Signals) -> None:
    process = run_in_foreground(free_port)
    try:
        until_it(True, free_port, process)
        os.kill(process.pid, number)
        process.wait(20)
    finally:
        process.kill()
        process.wait()
    until_it(False, free_port)
