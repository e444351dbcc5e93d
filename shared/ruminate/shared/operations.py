"""The operations port of a service: `/livez`, `/readyz` and `/metrics`.

`/livez` is 200 while the poll loop turns: a service that is stuck is restarted. `/readyz` is 200 while the service can do
its work, and else 503 with the reasons: a service that waits is left alone.
"""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import AsyncIterator, Callable, Collection
from contextlib import asynccontextmanager

import uvicorn
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

STUCK_AFTER_SECONDS = 30.0


def nothing_to_note() -> Collection[str]:
    """Whoever is ready has nothing else to say."""
    return ()


def operations_app(
    *,
    ready: Callable[[], Collection[str]],
    turned_at: Callable[[], float],
    notes: Callable[[], Collection[str]] = nothing_to_note,
) -> Starlette:
    """The three routes over a service's readiness (reasons why not) and the moment its poll loop last turned.

    Notes are what an operator may want to know of a service that is ready, as that it does nothing because he said so.
    """

    async def livez(_: Request) -> Response:
        still_for = time.monotonic() - turned_at()
        alive = still_for < STUCK_AFTER_SECONDS
        return JSONResponse({"alive": alive, "turned_seconds_ago": round(still_for, 3)}, status_code=200 if alive else 503)

    async def readyz(_: Request) -> Response:
        reasons = list(ready())
        return JSONResponse({"ready": not reasons, "reasons": reasons, "notes": list(notes())}, status_code=503 if reasons else 200)

    async def metrics(_: Request) -> Response:
        return Response(generate_latest(), media_type=CONTENT_TYPE_LATEST)

    return Starlette(routes=[Route("/livez", livez), Route("/readyz", readyz), Route("/metrics", metrics)])


class PortTaken(RuntimeError):
    """Another process listens there; the message names the port and the setting."""


@asynccontextmanager
async def serve_http(app: ASGIApp, *, host: str, port: int, name: str, grace_seconds: float = 5.0) -> AsyncIterator[int]:
    """Serve `app` while the context is open; gives the port that is bound. Raises PortTaken."""
    # With the protocol named, asyncio sets TCP_NODELAY; without it, an answer on a kept connection waits 40 ms.
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        raise PortTaken(
            f"{name}: {host}:{port} cannot be bound ({error.strerror}); stop what listens there or set another port"
        ) from None
    config = uvicorn.Config(
        app, log_config=None, access_log=False, lifespan="off", timeout_graceful_shutdown=int(max(1, grace_seconds)), ws="none"
    )
    server = uvicorn.Server(config)
    # serve() would take SIGTERM and SIGINT for itself.
    serving = asyncio.create_task(server._serve([listener]), name=f"http-{name}")
    try:
        while not server.started:
            if serving.done():
                serving.result()
                raise RuntimeError(f"{name}: the HTTP server ended while it started")
            await asyncio.sleep(0.005)
        yield int(listener.getsockname()[1])
    finally:
        server.should_exit = True
        await serving
        listener.close()


@asynccontextmanager
async def serve_operations(
    *,
    host: str,
    port: int,
    ready: Callable[[], Collection[str]],
    turned_at: Callable[[], float] = time.monotonic,
    notes: Callable[[], Collection[str]] = nothing_to_note,
) -> AsyncIterator[int]:
    """The operations port, open while the service is.

    A service without a poll loop leaves `turned_at` out: that it answers is its turn.
    """
    app = operations_app(ready=ready, turned_at=turned_at, notes=notes)
    async with serve_http(app, host=host, port=port, name="operations") as bound:
        yield bound
