"""How an embedded node lives: it survives restarts, ends at once, makes room, and is not held up by who has gone."""

from __future__ import annotations

import hashlib
import json
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import ollama
import psutil
import pytest

from ruminate.shared.ollama import QWEN3_TEMPLATE
from tests.contract.ollama_contract import ANSWER, GREEDY, HELLO, until
from tests.plugins.node import TinyModels, running_node

FOREVER = {"model": "endless", "messages": HELLO, "think": False, "options": {"num_ctx": 32_768}}


def create(url: str, name: str, path: Path) -> None:
    """Put a model on a node."""
    with ollama.Client(url) as client:
        client.create(name, files={"m.gguf": client.create_blob(path)}, template=QWEN3_TEMPLATE)


def digests(url: str) -> dict[str, str | None]:
    """Every name on a node, and its digest."""
    with ollama.Client(url) as client:
        return {model.model or "": model.digest for model in client.list().models}


def test_models_survive_a_restart_and_half_an_upload_does_not(tmp_path: Path, tiny_models: TinyModels) -> None:
    with running_node(tmp_path) as node:
        create(node.url, "talk", tiny_models.talk)
        before = digests(node.url)
        node.process.send_signal(signal.SIGKILL)
        node.process.wait(5)
    left_over = tmp_path / "blobs" / "partial-0123"
    left_over.write_bytes(b"half")
    with running_node(tmp_path) as node, ollama.Client(node.url) as client:
        assert digests(node.url) == before
        assert client.chat("talk", HELLO, think=False, options=GREEDY).message.content == ANSWER
        assert not left_over.exists()


def test_two_nodes_give_equal_content_an_equal_digest(tmp_path: Path, tiny_models: TinyModels) -> None:
    with running_node(tmp_path / "one") as one, running_node(tmp_path / "two") as two:
        create(one.url, "a:v1", tiny_models.talk)
        create(two.url, "b:v2", tiny_models.talk)
        assert digests(one.url)["a:v1"] == digests(two.url)["b:v2"]


def test_an_upload_that_breaks_off_leaves_nothing(tmp_path: Path) -> None:
    with running_node(tmp_path) as node:
        host, port = node.url.removeprefix("http://").split(":")
        digest = "sha256:" + "1" * 64
        with socket.create_connection((host, int(port))) as connection:
            head = f"POST /api/blobs/{digest} HTTP/1.1\r\nHost: x\r\nContent-Length: 9999999\r\n\r\n"
            connection.sendall(head.encode() + b"x" * 100_000)
            until(lambda: list((tmp_path / "blobs").glob("partial-*")))
        until(lambda: not list((tmp_path / "blobs").iterdir()))
        assert httpx.head(f"{node.url}/api/blobs/{digest}").status_code == 404


@pytest.mark.parametrize("busy", [False, True])
def test_sigterm_ends_a_node_within_three_seconds(tmp_path: Path, tiny_models: TinyModels, busy: bool) -> None:
    with running_node(tmp_path) as node, httpx.Client(base_url=node.url, timeout=30) as http:
        create(node.url, "endless", tiny_models.endless)
        with http.stream("POST", "/api/chat", json=FOREVER) as answer:
            lines = answer.iter_lines()
            next(lines)
            if not busy:
                answer.close()
            began = time.monotonic()
            node.process.send_signal(signal.SIGTERM)
            assert node.process.wait(10) == 0
            assert time.monotonic() - began < 3


def test_a_node_ends_with_its_parent(tmp_path: Path) -> None:
    script = (
        "import subprocess, sys, time\n"
        "node = subprocess.Popen([sys.executable, '-m', 'ruminate.embedded', 'node', '--port', '0', '--models', sys.argv[1]],"
        " stdout=subprocess.PIPE, text=True)\n"
        "print(node.pid, node.stdout.readline().strip(), flush=True)\n"
        "time.sleep(60)\n"
    )
    with subprocess.Popen([sys.executable, "-c", script, str(tmp_path)], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        pid, url = parent.stdout.readline().split()
        assert httpx.get(url).status_code == 200
        parent.kill()
    until(lambda: not psutil.pid_exists(int(pid)) or psutil.Process(int(pid)).status() == psutil.STATUS_ZOMBIE)


def test_at_most_so_many_models_are_loaded_and_the_longest_idle_makes_room(tmp_path: Path, tiny_models: TinyModels) -> None:
    with running_node(tmp_path, "--max-loaded-models", "2") as node, ollama.Client(node.url) as client:
        for name in ("talk", "call", "babble"):
            create(node.url, name, getattr(tiny_models, name))

        def loaded_after(name: str) -> set[str | None]:
            client.generate(name, "x", options={"num_predict": 1})
            return {model.model for model in client.ps().models}

        assert loaded_after("talk") == {"talk:latest"}
        assert loaded_after("call") == {"talk:latest", "call:latest"}
        assert loaded_after("talk") == {"talk:latest", "call:latest"}
        assert loaded_after("babble") == {"talk:latest", "babble:latest"}
        with ThreadPoolExecutor(6) as threads:
            said = list(
                threads.map(lambda name: client.chat(name, HELLO, think=False, options=GREEDY), ["talk", "call", "babble"] * 3)
            )
        assert [answer.message.content for answer in said[::3]] == [ANSWER] * 3
        assert len(client.ps().models) <= 2


def test_an_idle_model_leaves_when_its_time_is_over(tmp_path: Path, tiny_models: TinyModels) -> None:
    with running_node(tmp_path) as node, ollama.Client(node.url) as client:
        create(node.url, "talk", tiny_models.talk)
        client.generate("talk", "x", options={"num_predict": 1}, keep_alive="200ms")
        until(lambda: not client.ps().models)


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_hangs_up_frees_the_model(tmp_path: Path, tiny_models: TinyModels, stream: bool) -> None:
    with running_node(tmp_path) as node, ollama.Client(node.url, timeout=10) as client:
        create(node.url, "endless", tiny_models.endless)
        client.generate("endless", "x", options={"num_predict": 1, "num_ctx": 32_768})
        for _ in range(3):
            request = httpx.Request("POST", f"{node.url}/api/chat", json={**FOREVER, "stream": stream})
            with httpx.Client(timeout=httpx.Timeout(10, read=0.2 if not stream else 10)) as http:
                if stream:
                    answer = http.send(request, stream=True)
                    next(answer.iter_lines())
                    answer.close()
                else:
                    with pytest.raises(httpx.ReadTimeout):
                        http.send(request)
        assert client.generate("endless", "x", options={"num_predict": 1, "num_ctx": 32_768}).done


def test_more_requests_than_may_wait_are_503(tmp_path: Path, tiny_models: TinyModels) -> None:
    with running_node(tmp_path, "--max-queue", "1") as node, httpx.Client(base_url=node.url, timeout=30) as http:
        create(node.url, "endless", tiny_models.endless)
        with http.stream("POST", "/api/chat", json=FOREVER) as answer:
            lines = answer.iter_lines()
            next(lines)
            refused = httpx.post(f"{node.url}/api/chat", json=FOREVER)
            assert refused.status_code == 503
            assert refused.json()["error"].startswith("server busy")


def test_loading_and_answering_do_not_hold_up_others(tmp_path: Path, tiny_models: TinyModels) -> None:
    with running_node(tmp_path) as node, httpx.Client(base_url=node.url, timeout=30) as http:
        create(node.url, "endless", tiny_models.endless)
        create(node.url, "talk", tiny_models.talk)
        with http.stream("POST", "/api/chat", json=FOREVER) as answer, ollama.Client(node.url) as client:
            lines = answer.iter_lines()
            next(lines)
            assert client.chat("talk", HELLO, think=False, options=GREEDY).message.content == ANSWER
            assert len(client.list().models) == 2


def test_a_blob_taken_twice_at_once_is_whole(tmp_path: Path) -> None:
    content = b"x" * 3_000_000
    digest = "sha256:" + hashlib.sha256(content).hexdigest()
    with running_node(tmp_path) as node:
        with ThreadPoolExecutor(4) as threads:
            statuses = list(
                threads.map(lambda _: httpx.post(f"{node.url}/api/blobs/{digest}", content=content).status_code, range(4))
            )
        assert set(statuses) <= {200, 201}
        assert [path.read_bytes() for path in (tmp_path / "blobs").iterdir()] == [content]


def test_a_node_outlives_its_llama_cpp(tmp_path: Path, tiny_models: TinyModels) -> None:
    with running_node(tmp_path) as node, ollama.Client(node.url) as client, httpx.Client(base_url=node.url, timeout=30) as http:
        create(node.url, "endless", tiny_models.endless)
        with http.stream("POST", "/api/chat", json=FOREVER) as answer:
            lines = answer.iter_lines()
            next(lines)
            for engine in psutil.Process(node.process.pid).children():
                engine.kill()
            assert "llama.cpp ended" in json.loads(list(lines)[-1])["error"]
        assert client.generate("endless", "x", options={"num_predict": 1, "num_ctx": 32_768}).done
