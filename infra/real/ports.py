"""Ports that stay ours: nobody listens on one when it is taken, and nobody who takes theirs here gets it until it is let go.

They lie below those that the system hands out by itself: a server that is down must find its port free again, and a client
that tries to reach it in the meantime must not be given the very same port to call from. A port is held by its twin, the
UDP port of the same number: that of TCP stays free for the server, and what dies lets go of both.
"""

from __future__ import annotations

import secrets
import socket
from collections.abc import Callable
from contextlib import ExitStack
from typing import TypeVar

_FIRST, _COUNT = 12_000, 20_000
_ATTEMPTS = 5

T = TypeVar("T")


def _any_port() -> int:
    return _FIRST + secrets.randbelow(_COUNT)


def hold_port(until: ExitStack, candidate: Callable[[], int] = _any_port) -> int:
    """A free port on loopback, held until the stack is closed."""
    while True:
        port = candidate()
        with ExitStack() as held:
            twin = held.enter_context(socket.socket(type=socket.SOCK_DGRAM))
            try:
                twin.bind(("127.0.0.1", port))
                with socket.socket() as probe:
                    probe.bind(("127.0.0.1", port))
            except OSError:
                continue  # somebody has it: try another
            until.enter_context(held.pop_all())
            return port


def on_free_ports(start: Callable[[], T]) -> T:
    """Start a server, on other ports where a stranger took one of them between our looking and its binding."""
    for _ in range(_ATTEMPTS - 1):
        try:
            return start()
        except RuntimeError as error:
            if "address already in use" not in str(error).lower():
                raise
    return start()
