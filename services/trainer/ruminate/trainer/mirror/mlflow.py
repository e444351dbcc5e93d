"""MLflow's tracking server, by its REST API 2.0.

MlflowError
├── MlflowAway      no answer, a broken one, busy, or it does not know us: worth another try later
└── MlflowRefused   it understood and said no: `code` is its own word for why
    └── NotThere    what was asked about is not there
"""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar
from urllib.parse import quote, urlsplit

import httpx

from ruminate.shared.kafka_settings import WrongConnectionSettings
from ruminate.shared.tls import trusting
from ruminate.trainer.mirror.log_in import MlflowSettings, log_in_of
from ruminate.trainer.mirror.translate import KEY_TAG, Point, Status

ANSWER_SECONDS: Final = 15.0
MOST_POINTS: Final = 1000
MOST_PARAMS: Final = 100
MOST_TAGS: Final = 100
"""Of one request."""
STEPS_A_PAGE: Final = 10_000
PROXIED: Final = "mlflow-artifacts"
"""Scheme of artifacts that the server itself takes; others lie where it does not say how to reach them."""

_BUSY: Final = frozenset({401, 403, 407, 408, 425, 429})

T = TypeVar("T")


class MlflowError(Exception):
    """Anything that the server has to say against a request."""


class MlflowAway(MlflowError):
    """It cannot be told anything now."""


class MlflowRefused(MlflowError):
    """It will never take this."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(f"MLflow refused ({code}): {message[:300]}")
        self.code = code


class NotThere(MlflowRefused):
    """The run or experiment is not there."""


@dataclass(frozen=True)
class Run:
    """One run, as it was found or made."""

    run_id: str
    experiment_id: str
    status: str
    start_ms: int
    artifact_uri: str
    params: Mapping[str, str] = field(default_factory=dict)


class Mlflow:
    """One server. Used from one event loop."""

    def __init__(self, client: httpx.AsyncClient, log_in: Callable[[], httpx.Auth | None]) -> None:
        self._client = client
        self._log_in = log_in
        self.answers = 0
        """How often it has answered as such a server does."""

    async def experiment(self, name: str) -> str:
        """The id of an experiment, which is made where there is none."""
        try:
            return await self._experiment_called(name)
        except NotThere:
            pass
        try:
            made = await self._post("experiments/create", {"name": name})
        except MlflowRefused as error:
            if error.code != "RESOURCE_ALREADY_EXISTS":
                raise
            return await self._experiment_called(name)  # by somebody else, just now
        return _read(made, lambda found: str(found["experiment_id"]))

    async def _experiment_called(self, name: str) -> str:
        answer = await self._get("experiments/get-by-name", {"experiment_name": name})
        found = _read(answer, lambda answer: answer["experiment"])
        if found.get("lifecycle_stage") == "deleted":
            raise MlflowRefused(
                "EXPERIMENT_DELETED",
                f"the experiment {name} is deleted. Restore it (`mlflow experiments restore -x {found.get('experiment_id')}`), "
                "or let `mlflow gc` remove it",
            )
        return _read(found, lambda found: str(found["experiment_id"]))

    async def runs_with(self, experiment_id: str, key: str) -> list[Run]:
        """The runs of an experiment that bear this key, the earliest first."""
        wanted = {
            "experiment_ids": [experiment_id],
            "filter": f"tags.`{KEY_TAG}` = '{key}'",
            "max_results": 100,
        }
        answer = await self._post("runs/search", wanted)
        return sorted(
            (_run(found) for found in _read(answer, lambda answer: answer.get("runs", []))),
            key=lambda run: (run.start_ms, run.run_id),
        )

    async def create_run(self, experiment_id: str, name: str, start_ms: int, tags: Mapping[str, str]) -> Run:
        """One more run."""
        asked = {"experiment_id": experiment_id, "run_name": name, "start_time": start_ms, "tags": _pairs(tags)}
        return _run(_read(await self._post("runs/create", asked), lambda answer: answer["run"]))

    async def delete_run(self, run_id: str) -> None:
        """Take a run back."""
        await self._post("runs/delete", {"run_id": run_id})

    async def tell(
        self,
        run_id: str,
        *,
        points: Sequence[Point] = (),
        params: Mapping[str, str] | None = None,
        tags: Mapping[str, str] | None = None,
    ) -> None:
        """Values of a run, in as few requests as the server allows."""
        for some in _by(MOST_PARAMS, list((params or {}).items())):
            await self._post("runs/log-batch", {"run_id": run_id, "params": _pairs(dict(some))})
        for some in _by(MOST_TAGS, list((tags or {}).items())):
            await self._post("runs/log-batch", {"run_id": run_id, "tags": _pairs(dict(some))})
        for lot in _by(MOST_POINTS, points):
            metrics = [
                {"key": point.key, "value": _value(point.value), "timestamp": point.at_ms, "step": point.step} for point in lot
            ]
            await self._post("runs/log-batch", {"run_id": run_id, "metrics": metrics})

    async def steps_told(self, run_id: str, key: str) -> frozenset[int]:
        """The steps of which a run has a value of a metric."""
        steps: set[int] = set()
        asked: dict[str, Any] = {"run_id": run_id, "metric_key": key, "max_results": STEPS_A_PAGE}
        while True:
            answer = await self._get("metrics/get-history", asked)
            steps |= _read(answer, lambda answer: {int(each.get("step", 0)) for each in answer.get("metrics", [])})
            if not (token := answer.get("next_page_token")):
                return frozenset(steps)
            asked["page_token"] = token

    async def set_status(self, run_id: str, status: Status, end_ms: int | None = None) -> None:
        """A run's status, and when it ended."""
        ended = {} if end_ms is None else {"end_time": end_ms}
        await self._post("runs/update", {"run_id": run_id, "status": status, **ended})

    async def put_artifact(self, run: Run, path: str, content: bytes, media_type: str) -> bool:
        """Put a file beside a run; False where the server does not take any itself."""
        place = urlsplit(run.artifact_uri)
        if place.scheme != PROXIED:
            return False
        where = "/".join(quote(part, safe="") for part in f"{place.path.strip('/')}/{path}".split("/"))
        await self._ask(
            "PUT", f"/api/2.0/mlflow-artifacts/artifacts/{where}", content=content, headers={"content-type": media_type}
        )
        return True

    async def _get(self, path: str, asked: Mapping[str, Any]) -> dict[str, Any]:
        return _object(await self._ask("GET", f"/api/2.0/mlflow/{path}", params=dict(asked)))

    async def _post(self, path: str, asked: Mapping[str, Any]) -> dict[str, Any]:
        return _object(await self._ask("POST", f"/api/2.0/mlflow/{path}", json=dict(asked)))

    async def _ask(self, method: str, path: str, **given: Any) -> httpx.Response:
        try:
            answer = await self._client.request(method, path, auth=self._log_in(), **given)
        except httpx.HTTPError as error:
            raise MlflowAway(f"no answer: {error or type(error).__name__}") from error
        except WrongConnectionSettings as error:
            raise MlflowAway(str(error)) from error
        if answer.is_success:
            self.answers += 1
            return answer
        if answer.status_code in _BUSY or not answer.is_client_error:
            raise MlflowAway(f"HTTP {answer.status_code} from {path}{_way_out(answer.status_code)}")
        try:
            said = answer.json()
            code, message = str(said["error_code"]), str(said.get("message", ""))
        except (ValueError, KeyError, TypeError, AttributeError):
            raise MlflowAway(f"HTTP {answer.status_code} from {path}. Is RUMINATE_MLFLOW_URI a tracking server?") from None
        self.answers += 1
        raise (NotThere if code == "RESOURCE_DOES_NOT_EXIST" else MlflowRefused)(code, message)


@asynccontextmanager
async def mlflow_at(settings: MlflowSettings) -> AsyncIterator[Mlflow]:
    """The server that the settings name, while the context is open; it is not asked yet. Raises WrongConnectionSettings."""
    log_in = log_in_of(settings)
    log_in()
    uri = (settings.mlflow_uri or "").rstrip("/")
    tls = trusting("mlflow_ca_file", settings.mlflow_ca_file)
    async with httpx.AsyncClient(base_url=uri, verify=tls, timeout=ANSWER_SECONDS, follow_redirects=False) as client:
        yield Mlflow(client, log_in)


def _way_out(status: int) -> str:
    return ". Look at RUMINATE_MLFLOW_USERNAME and the password, or at RUMINATE_MLFLOW_TOKEN" if status in (401, 403) else ""


def _object(answer: httpx.Response) -> dict[str, Any]:
    try:
        found = answer.json()
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise MlflowAway(f"{answer.request.url.path} was answered with what is no JSON object; is it a tracking server?")
    return found


def _read(answer: dict[str, Any], what: Callable[[dict[str, Any]], T]) -> T:
    try:
        return what(answer)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise MlflowAway(f"an answer lacks what MLflow's have ({type(error).__name__}: {error})") from error


def _run(found: dict[str, Any]) -> Run:
    return _read(
        found,
        lambda run: Run(
            run_id=str(run["info"]["run_id"]),
            experiment_id=str(run["info"]["experiment_id"]),
            status=str(run["info"]["status"]),
            start_ms=int(run["info"].get("start_time", 0)),
            artifact_uri=str(run["info"].get("artifact_uri", "")),
            params={each["key"]: each.get("value", "") for each in run.get("data", {}).get("params", [])},
        ),
    )


def _pairs(told: Mapping[str, str]) -> list[dict[str, str]]:
    return [{"key": key, "value": value} for key, value in told.items()]


def _value(value: float) -> float | str:
    """JSON has no word for what is no number; MLflow has."""
    if math.isnan(value):
        return "NaN"
    return value if math.isfinite(value) else ("Infinity" if value > 0 else "-Infinity")


def _by(size: int, things: Sequence[T]) -> Iterable[Sequence[T]]:
    return (things[begin : begin + size] for begin in range(0, len(things), size))
