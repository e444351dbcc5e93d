"""A token endpoint over TLS: the client-credentials grant, with real signed tokens."""

from __future__ import annotations

import json
import ssl
import threading
import time
from base64 import b64decode
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote_plus

from tests.plugins.certificates import Certificate, SigningKey, web_text


@dataclass
class TokenEndpoint:
    """What it gives, and what it was asked."""

    key: SigningKey
    secrets: dict[str, str]
    life_seconds: int = 600
    port: int = 0
    asked: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    """Client and form of each request whose client was known."""

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self.port}/token"

    def answer(self, authorization: str, form: dict[str, str]) -> tuple[int, dict[str, object]]:
        client, _, secret = b64decode(authorization.removeprefix("Basic ")).decode().partition(":")
        client, secret = unquote_plus(client), unquote_plus(secret)
        if self.secrets.get(client) != secret:
            return 401, {"error": "invalid_client"}
        self.asked.append((client, form))
        return 200, {"access_token": self.token(client, form), "expires_in": self.life_seconds, "token_type": "Bearer"}

    def token(self, client: str, form: dict[str, str]) -> str:
        now = int(time.time())
        claims = {"sub": client, "aud": form.get("audience", "kafka"), "iat": now, "exp": now + self.life_seconds, "iss": self.url}
        parts = ({"alg": "RS256", "kid": "one", "typ": "JWT"}, claims)
        text = ".".join(web_text(json.dumps(part).encode()) for part in parts)
        return f"{text}.{web_text(self.key.sign(text.encode()))}"


@contextmanager
def token_endpoint(key: SigningKey, certificate: Certificate, secrets: dict[str, str]) -> Iterator[TokenEndpoint]:
    """An endpoint that answers while the context is open."""
    endpoint = TokenEndpoint(key, secrets)

    class Answers(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"])).decode()
            form = {name: values[0] for name, values in parse_qs(body).items()}
            status, answer = endpoint.answer(self.headers["authorization"], form)
            text = json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    class Server(ThreadingHTTPServer):
        def handle_error(self, *_: object) -> None:
            """Clients that do not trust us hang up."""

    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(certificate.certificate, certificate.key)
    with Server(("127.0.0.1", 0), Answers) as server:
        server.socket = tls.wrap_socket(server.socket, server_side=True)
        endpoint.port = server.server_address[1]
        serving = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        serving.start()
        try:
            yield endpoint
        finally:
            server.shutdown()
            serving.join()
