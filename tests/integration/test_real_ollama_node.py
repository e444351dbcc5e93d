"""The nodes that tests get: killed, paused and started again like machines, and gone without a trace in the end."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import httpx
import ollama
import psutil
import pytest

from infra.real.cache import MissingPart
from infra.real.ollama import NEWER, VERSIONS, OllamaNode, ollama_node
from infra.real.server import DidNotStart
from ruminate.shared.ollama import QWEN3_TEMPLATE
from tests.contract.ollama_contract import ANSWER, GREEDY, HELLO, ONE_THREAD, until
from tests.plugins.node import TinyModels
from tests.plugins.real import installed

REPOSITORY = Path(__file__).resolve().parents[2]


def test_a_version_that_is_not_installed_names_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RUMINATE_CACHE", str(tmp_path))
    with (
        pytest.raises(MissingPart, match=r"ollama-0\.34\.0 is not installed\. Type: .* install ollama-0\.34\.0"),
        ollama_node("0.34.0"),
    ):
        pass


@pytest.mark.real
@pytest.mark.parametrize("version", VERSIONS)
def test_a_node_keeps_its_models_over_a_kill_and_its_runners_die_with_it(version: str, tiny_models: TinyModels) -> None:
    with installed(), ollama_node(version) as node, ollama.Client(node.url, timeout=30) as client:
        client.create(
            "talk", files={"m.gguf": client.create_blob(tiny_models.talk)}, template=QWEN3_TEMPLATE, parameters=ONE_THREAD
        )
        before = {model.model: model.digest for model in client.list().models}
        client.generate("talk", "")
        assert node.running is not None
        runners = psutil.Process(node.running.pid).children(recursive=True)
        assert runners
        node.kill()
        assert psutil.wait_procs(runners, timeout=5)[1] == []
        with pytest.raises(httpx.ConnectError):
            httpx.get(node.url)
        node.start()
        assert {model.model: model.digest for model in client.list().models} == before
        assert client.chat("talk", HELLO, think=False, options=GREEDY).message.content == ANSWER
        node.pause()
        with pytest.raises(httpx.ReadTimeout):
            httpx.get(node.url, timeout=0.3)
        node.resume()
        assert client.chat("talk", HELLO, think=True, options=GREEDY).message.content == ANSWER
        folder = node.folder
    assert not folder.exists()


@pytest.mark.real
def test_a_port_at_which_another_node_answers_is_said_and_not_taken_for_ours(newer_ollama: OllamaNode) -> None:
    with pytest.raises(DidNotStart, match="address already in use"), ollama_node(NEWER, port=newer_ollama.port):
        pass


@pytest.mark.real
def test_an_upload_stays_beside_what_was_made_of_it_until_a_restart_an_hour_later(tiny_models: TinyModels) -> None:
    with installed(), ollama_node("0.34.0") as node, ollama.Client(node.url) as client:
        digest = client.create_blob(tiny_models.talk)
        client.create("talk", files={"m.gguf": digest}, template=QWEN3_TEMPLATE, parameters=ONE_THREAD)
        for hours, status in ((0, 200), (1, 404)):
            ago = time.time() - hours * 3601
            os.utime(node.folder / "models" / "blobs" / digest.replace(":", "-"), (ago, ago))
            node.stop()
            node.start()
            assert httpx.head(f"{node.url}/api/blobs/{digest}").status_code == status
        assert client.chat("talk", HELLO, think=False, options=GREEDY).message.content == ANSWER


@pytest.mark.real
@pytest.mark.parametrize("version", VERSIONS)
def test_nothing_is_left_of_a_node_whose_parent_was_killed(version: str, tiny_models: TinyModels) -> None:
    with installed(), ollama_node(version):
        pass
    script = (
        "import sys\n"
        "from infra.real.ollama import ollama_node\n"
        "with ollama_node(sys.argv[1]) as node:\n"
        "    print(node.url, node.folder, flush=True)\n"
        "    sys.stdin.read()\n"
    )
    command = [sys.executable, "-c", script, version]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=REPOSITORY) as parent:
        assert parent.stdout is not None
        url, folder = parent.stdout.readline().split()
        with ollama.Client(url) as client:
            client.create(
                "talk", files={"m.gguf": client.create_blob(tiny_models.talk)}, template=QWEN3_TEMPLATE, parameters=ONE_THREAD
            )
            client.generate("talk", "")
        below = psutil.Process(parent.pid).children(recursive=True)
        assert any("runner" in " ".join(process.cmdline()) or "llama-server" in " ".join(process.cmdline()) for process in below)
        parent.kill()
    assert psutil.wait_procs(below, timeout=10)[1] == []
    until(lambda: not Path(folder).exists())
