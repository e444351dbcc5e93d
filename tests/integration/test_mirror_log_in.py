"""A real MLflow that answers by TLS alone and asks who we are is told everything, and a password that changes needs no restart."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
from pydantic import SecretStr

from infra.real.mlflow import USER, Guard, MlflowServer, mlflow_server
from ruminate.trainer.mirror.mlflow import MlflowAway, Run, mlflow_at
from ruminate.trainer.mirror.translate import Point
from tests.plugins.certificates import Authority
from tests.plugins.real import installed

pytestmark = [pytest.mark.real, pytest.mark.timeout(600)]

PASSWORD = "of the tests, and long enough"


@dataclass(frozen=True)
class Settings:
    """The part of the trainer's settings that is about MLflow."""

    mlflow_uri: str | None = None
    mlflow_username: str | None = None
    mlflow_password: SecretStr | None = None
    mlflow_password_file: Path | None = None
    mlflow_token: SecretStr | None = None
    mlflow_token_file: Path | None = None
    mlflow_ca_file: Path | None = None


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MlflowServer]:
    """A server that asks for a log-in."""
    authority = Authority(tmp_path_factory.mktemp("authority"), "theirs")
    issued = authority.issue("mlflow")
    guard = Guard(issued.certificate, issued.key, authority.file, PASSWORD)
    with installed(), mlflow_server(guard=guard) as server:
        yield server


async def told(settings: Settings, name: str) -> Run:
    """Tell the server of a run, with all that a run may have."""
    async with mlflow_at(settings) as mlflow:
        experiment = await mlflow.experiment(name)
        run = await mlflow.create_run(experiment, "v1", 1, {"ruminate.version": "v1"})
        await mlflow.tell(run.run_id, points=[Point("loss", 0.5, at_ms=2, step=1)], params={"learning_rate": "1e-5"})
        assert await mlflow.put_artifact(run, "curves/loss.txt", b"0.5", "text/plain")
        await mlflow.set_status(run.run_id, "FINISHED", 3)
        return run


def test_whoever_logs_in_may_tell_everything_and_nobody_else_is_answered(guarded: MlflowServer, tmp_path: Path) -> None:
    assert guarded.guard is not None
    password = tmp_path / "password"
    password.write_text(f"{PASSWORD}\n")
    settings = Settings(guarded.url, USER, mlflow_password_file=password, mlflow_ca_file=guarded.guard.authority)
    run = asyncio.run(told(settings, "guarded"))
    asked = {"run_id": run.run_id}
    with httpx.Client(base_url=guarded.url, verify=guarded.trusted()) as client:
        assert client.get("/api/2.0/mlflow/runs/get", params=asked).status_code == 401
        found = client.get("/api/2.0/mlflow/runs/get", params=asked, auth=(USER, PASSWORD)).json()["run"]
        place = run.artifact_uri.removeprefix("mlflow-artifacts:/")
        artifact = f"/api/2.0/mlflow-artifacts/artifacts/{place}/curves/loss.txt"
        assert client.get(artifact, auth=(USER, PASSWORD)).content == b"0.5"
    assert found["info"]["status"] == "FINISHED"
    assert found["data"]["metrics"][0]["value"] == 0.5
    assert found["data"]["params"] == [{"key": "learning_rate", "value": "1e-5"}]


def test_a_wrong_password_is_named_and_the_right_one_is_read_from_its_file_without_a_restart(
    guarded: MlflowServer, tmp_path: Path
) -> None:
    async def scenario() -> None:
        assert guarded.guard is not None
        password = tmp_path / "password"
        password.write_text("another")
        settings = Settings(guarded.url, USER, mlflow_password_file=password, mlflow_ca_file=guarded.guard.authority)
        async with mlflow_at(settings) as mlflow:
            with pytest.raises(MlflowAway, match=r"HTTP 401.*Look at RUMINATE_MLFLOW_USERNAME and the password"):
                await mlflow.experiment("rotated")
            password.write_text(PASSWORD)
            assert await mlflow.experiment("rotated")

    asyncio.run(scenario())


def test_a_server_of_an_authority_that_is_not_trusted_is_told_nothing(guarded: MlflowServer) -> None:
    settings = Settings(guarded.url, USER, mlflow_password=SecretStr(PASSWORD))
    with pytest.raises(MlflowAway, match="CERTIFICATE_VERIFY_FAILED"):
        asyncio.run(told(settings, "untrusted"))
