"""The part of MLflow's REST API that the mirror speaks, in memory: for what a real server does not do when asked to."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import httpx


@dataclass
class Ledger:
    """What a server was told, and what it says instead of taking it."""

    experiments: dict[str, str] = field(default_factory=dict)
    runs: dict[str, dict[str, Any]] = field(default_factory=dict)
    artifacts: dict[str, bytes] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    instead: Callable[[str], httpx.Response | None] = lambda _: None
    artifact_root: str = "mlflow-artifacts:"
    on_search: Callable[[], None] = lambda: None

    def client(self) -> httpx.AsyncClient:
        """Whatever it asks is answered here."""
        return httpx.AsyncClient(base_url="http://mlflow", transport=httpx.MockTransport(self._answer))

    def points(self, run_id: str) -> set[tuple[str, float, int]]:
        """Key, value and step."""
        return {(each["key"], each["value"], each["step"]) for each in self.runs[run_id]["metrics"]}

    def forget(self) -> None:
        """As a server that was set up anew."""
        self.experiments.clear()
        self.runs.clear()

    def add_run(self, experiment_id: str, name: str, start_time: int, tags: list[dict[str, str]]) -> dict[str, Any]:
        """One more run."""
        run_id = f"run{len(self.runs)}"
        self.runs[run_id] = {
            "info": {
                "run_id": run_id,
                "experiment_id": experiment_id,
                "run_name": name,
                "status": "RUNNING",
                "start_time": start_time,
                "artifact_uri": f"{self.artifact_root}/{experiment_id}/{run_id}/artifacts",
            },
            "tags": {each["key"]: each["value"] for each in tags},
            "params": {},
            "metrics": [],
        }
        return self.runs[run_id]

    def _answer(self, request: httpx.Request) -> httpx.Response:
        path = request.url.path.removeprefix("/api/2.0/mlflow")
        self.asked.append(path)
        if (said := self.instead(path)) is not None:
            return said
        if path.startswith("-artifacts/artifacts/"):
            self.artifacts[path.removeprefix("-artifacts/artifacts/")] = request.content
            return httpx.Response(200)
        given = json.loads(request.content) if request.content else dict(request.url.params)
        if path in ("/runs/log-batch", "/runs/update", "/runs/delete", "/metrics/get-history") and given["run_id"] not in self.runs:
            return _refused("RESOURCE_DOES_NOT_EXIST", 404)
        return httpx.Response(200, json=_DOES[path](self, given)) if path in _DOES else self._experiment(path, given)

    def _experiment(self, path: str, given: dict[str, Any]) -> httpx.Response:
        if path == "/experiments/create":
            self.experiments[given["name"]] = f"{len(self.experiments) + 1}"
            return httpx.Response(200, json={"experiment_id": self.experiments[given["name"]]})
        found = self.experiments.get(given["experiment_name"])
        if found is None:
            return _refused("RESOURCE_DOES_NOT_EXIST", 404)
        return httpx.Response(200, json={"experiment": {"experiment_id": found, "lifecycle_stage": "active"}})

    def search(self, given: dict[str, Any]) -> dict[str, Any]:
        self.on_search()
        key = given["filter"].split("'")[1]
        return {"runs": [_shown(run) for run in self.runs.values() if run["tags"].get("ruminate.key") == key]}

    def create(self, given: dict[str, Any]) -> dict[str, Any]:
        return {"run": _shown(self.add_run(given["experiment_id"], given["run_name"], given["start_time"], given["tags"]))}

    def log_batch(self, given: dict[str, Any]) -> dict[str, Any]:
        run = self.runs[given["run_id"]]
        assert len(given.get("metrics", ())) <= 1000 and len(given.get("params", ())) <= 100 and len(given.get("tags", ())) <= 100
        run["metrics"] += given.get("metrics", [])
        for kind in ("tags", "params"):
            run[kind] |= {each["key"]: each["value"] for each in given.get(kind, [])}
        return {}

    def update(self, given: dict[str, Any]) -> dict[str, Any]:
        self.runs[given.pop("run_id")]["info"] |= given
        return {}

    def delete(self, given: dict[str, Any]) -> dict[str, Any]:
        del self.runs[given["run_id"]]
        return {}

    def history(self, given: dict[str, Any]) -> dict[str, Any]:
        """Two a page."""
        found = [each for each in self.runs[given["run_id"]]["metrics"] if each["key"] == given["metric_key"]]
        at = int(given.get("page_token", 0))
        more = {"next_page_token": str(at + 2)} if at + 2 < len(found) else {}
        return {"metrics": found[at : at + 2], **more}


_DOES: dict[str, Callable[[Ledger, dict[str, Any]], dict[str, Any]]] = {
    "/runs/search": Ledger.search,
    "/runs/create": Ledger.create,
    "/runs/log-batch": Ledger.log_batch,
    "/runs/update": Ledger.update,
    "/runs/delete": Ledger.delete,
    "/metrics/get-history": Ledger.history,
}


def _shown(run: dict[str, Any]) -> dict[str, Any]:
    data = {kind: [{"key": key, "value": value} for key, value in run[kind].items()] for kind in ("tags", "params")}
    return {"info": run["info"], "data": data}


def _refused(code: str, status: int) -> httpx.Response:
    return httpx.Response(status, json={"error_code": code, "message": "said no"})
