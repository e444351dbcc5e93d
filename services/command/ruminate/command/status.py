"""`status`: what runs, lag by reader, batch fill, jobs, versions and dead letters."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import orjson
from prometheus_client.parser import text_string_to_metric_families
from rich.table import Table

from ruminate.command.connection import Addresses, read_addresses, settings_for
from ruminate.command.supervisor import running_supervisor
from ruminate.command.terminal import console, line, printable
from ruminate.command.training.jobs import read_jobs
from ruminate.command.training.show import in_a_line
from ruminate.schemas.flow import ADAPTER_TRAINED, DATASET_REVISED, MODEL_REGISTERED, MODEL_ROLLED_BACK
from ruminate.schemas.marking import Mark, marks_by_chain
from ruminate.shared.bus import Bus, BusError
from ruminate.shared.kafka import KafkaBus
from ruminate.shared.lag import LagProbe
from ruminate.shared.letters import Box, read_letters

_ANSWER_WITHIN_SECONDS = 3.0


async def gather_status(state: Path) -> dict[str, Any]:
    """Everything that `status` says, as JSON values. Parts that do not answer say so instead of failing the whole."""
    addresses = read_addresses(state)
    pid = running_supervisor(state)
    status: dict[str, Any] = {"state": str(state), "supervisor": {"pid": pid, "running": pid is not None}}
    status["parts"] = _parts(state) if pid is not None else {}
    async with httpx.AsyncClient(timeout=_ANSWER_WITHIN_SECONDS) as client:
        readiness = await asyncio.gather(*(_readiness(client, url) for url in addresses.operations.values()))
        status["services"] = dict(zip(addresses.operations, readiness, strict=True))
        status["batch_fill"] = [asdict(fill) for fill in await read_fills(client, addresses) or ()]
        status["nodes"] = dict(
            zip(addresses.nodes, await asyncio.gather(*(_node(client, url) for url in addresses.nodes.values())), strict=True)
        )
    settings = settings_for(kafka=addresses.kafka, profile=addresses.kafka_profile, state=state)
    try:
        async with asyncio.timeout(20), LagProbe(settings) as probe, KafkaBus(settings, reader="command") as bus:
            status["lag"] = [asdict(lag) for lag in await probe.measure()]
            jobs = await read_jobs(bus)
            status["jobs"] = [job.as_json() | {"says": in_a_line(job)} for job in jobs.jobs]
            status["paused"] = [
                {"tenant": tenant, "target": target, "by": word.directed_by, "reason": word.reason}
                for (tenant, target), word in jobs.paused()
            ]
            status["versions"] = await _versions(bus)
            status["dead_letters"] = await _dead_letters(bus)
    except (BusError, TimeoutError) as error:
        status["kafka_error"] = f"{addresses.kafka} does not answer: {error}"
    return status


def _parts(state: Path) -> dict[str, Any]:
    parts: dict[str, Any] = orjson.loads((state / "supervisor.json").read_bytes())["parts"]
    for name, part in parts.items():
        if part["state"] == "halted":
            part["hint"] = (
                f"ended with exit 78: an operator looks first. Read {part['log']}, mend the cause, then:  ruminate resume {name}"
            )
    return parts


async def _readiness(client: httpx.AsyncClient, url: str) -> dict[str, Any]:
    try:
        answer = (await client.get(f"{url}/readyz")).json()
    except httpx.HTTPError as error:
        return {"ready": False, "reasons": [f"does not answer at {url} ({type(error).__name__})"], "notes": []}
    return {"ready": bool(answer["ready"]), "reasons": list(answer["reasons"]), "notes": list(answer.get("notes", ()))}


async def _node(client: httpx.AsyncClient, url: str) -> dict[str, Any]:
    try:
        version = (await client.get(f"{url}/api/version")).json()["version"]
        models = [model["name"] for model in (await client.get(f"{url}/api/tags")).json()["models"]]
    except (httpx.HTTPError, KeyError, ValueError) as error:
        return {"url": url, "healthy": False, "error": type(error).__name__}
    return {"url": url, "healthy": True, "version": version, "models": models}


@dataclass(frozen=True)
class Fill:
    """What waits for the next batch of a chain, as the accumulator shows it."""

    tenant: str
    target: str
    rows: int
    seal_at_rows: int
    tokens: int
    reasoning_rows: int
    direct_rows: int
    lost_rows: int
    blocked: bool
    requests: int
    paused: dict[str, str]
    """Until when, by why: `quiet_hours`, `budget`."""
    drift_looks: int
    drift_p_values: dict[str, float]
    """Of the last look, by test."""


async def read_fills(client: httpx.AsyncClient, addresses: Addresses) -> list[Fill] | None:
    """Of every chain; None where the accumulator does not answer."""
    try:
        text = (await client.get(f"{addresses.operations['accumulator']}/metrics")).text
    except (httpx.HTTPError, KeyError):
        return None
    return fills_in(text)


def fills_in(text: str) -> list[Fill]:
    """What the accumulator's metrics say."""
    chains: dict[tuple[str, str], dict[tuple[str, str], float]] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            labels = sample.labels
            if sample.name.startswith("ruminate_batch_") and {"tenant", "target"} <= labels.keys():
                other = next((labels[name] for name in ("kind", "why", "test") if name in labels), "")
                found = chains.setdefault((labels["tenant"], labels["target"]), {})
                found[sample.name.removeprefix("ruminate_batch_"), other] = sample.value
    return [_fill(tenant, target, found) for (tenant, target), found in chains.items() if ("fill_rows", "") in found]


def _fill(tenant: str, target: str, found: dict[tuple[str, str], float]) -> Fill:
    def number(name: str, other: str = "") -> int:
        return int(found.get((name, other), 0))

    until = {other: at for (name, other), at in found.items() if name == "paused_until_timestamp_seconds" and at}
    return Fill(
        tenant=tenant,
        target=target,
        rows=number("fill_rows"),
        seal_at_rows=number("seal_at_rows"),
        tokens=number("fill_tokens"),
        reasoning_rows=number("rows", "reasoning"),
        direct_rows=number("rows", "direct"),
        lost_rows=number("rows", "lost"),
        blocked=bool(number("blocked")),
        requests=number("requests"),
        paused={why: datetime.fromtimestamp(at, UTC).isoformat(timespec="minutes") for why, at in until.items()},
        drift_looks=number("drift_looks"),
        drift_p_values={other: p for (name, other), p in found.items() if name == "drift_p_value"},
    )


async def _versions(bus: Bus) -> list[dict[str, Any]]:
    versions: dict[tuple[str, str], dict[str, Any]] = {}
    marks = await _marks(bus)
    async for registered in bus.read(MODEL_REGISTERED):
        model = registered.payload
        versions.setdefault(
            (model.target_model, model.version),
            {
                "target": model.target_model,
                "version": model.version,
                "model": model.model_name,
                "batch": model.batch_id,
                "parent": model.parent_version,
                "nodes": [node.node for node in model.nodes],
                "registered_at": model.registered_at.isoformat(),
                "event_id": registered.envelope.id,
                "state": "registered",
                "marks": [mark._asdict() for mark in marks.get((model.tenant, model.target_model, model.version), ())],
            },
        )
    async for rolled_back in bus.read(MODEL_ROLLED_BACK):
        key = (rolled_back.payload.target_model, rolled_back.payload.version)
        fallen = {"target": key[0], "version": key[1], "state": "rolled back", "reason": rolled_back.payload.reason}
        versions[key] = versions.get(key, {}) | fallen
    return list(versions.values())


async def _marks(bus: Bus) -> dict[tuple[str, str, str], list[Mark]]:
    """What versions have learned that was erased since, by tenant, target and version."""
    trained = [each.payload async for each in bus.read(ADAPTER_TRAINED)]
    revised = [each.payload async for each in bus.read(DATASET_REVISED)]
    found: dict[tuple[str, str, str], list[Mark]] = {}
    for chain, of_chain in marks_by_chain(trained, revised).items():
        for mark in of_chain:
            found.setdefault((*chain, mark.version), []).append(mark)
    return found


def _marked(marks: list[dict[str, Any]]) -> str:
    requests = {erasure_id for mark in marks for erasure_id in mark["erasure_ids"]}
    by = sorted({mark["inherited_from"] for mark in marks} - {None})
    how = f" by {', '.join(by)}" if by and not any(mark["inherited_from"] is None for mark in marks) else ""
    return (
        f"it has learned{how} from what was erased since, for {len(requests)} request{'s' * (len(requests) != 1)}. "
        "Type:  ruminate why"
    )


async def _dead_letters(bus: KafkaBus) -> list[dict[str, Any]]:
    reasons: dict[Box, Counter[str]] = {}
    for letter in (await read_letters(bus)).standing():
        reasons.setdefault(letter.box, Counter())[letter.reason] += 1
    return [
        {"topic": box.topic.name, "reader": box.reader, "standing": counts.total(), "reasons": dict(counts.most_common())}
        for box, counts in reasons.items()
    ]


def _filled(fill: dict[str, Any]) -> str:
    says = [f"{fill['rows']} of {fill['seal_at_rows']} rows"]
    says += [f"due, waits for {why.replace('_', ' ')} to end at {until}" for why, until in fill["paused"].items()]
    if fill["requests"]:
        says.append(f"asked for {fill['requests']} times" if fill["requests"] > 1 else "asked for")
    if fill["drift_looks"]:
        p_values = ", ".join(f"{test} {p:.2g}" for test, p in sorted(fill["drift_p_values"].items()))
        says.append(f"beside the last batch, p of {p_values} at look {fill['drift_looks']}")
    return "; ".join(says)


def _print_version(version: dict[str, Any]) -> None:
    says = version.get("reason") or version.get("model", "")
    line(console, f"version {version['version']} of {version['target']}: {version['state']} {says}")
    if version["state"] == "registered" and version["marks"]:
        line(console, f"  {_marked(version['marks'])} {version['version']} --target {version['target']}", style="yellow")


def _print_jobs(status: dict[str, Any]) -> None:
    for job in status["jobs"]:
        line(console, job["says"])
    for target in status["paused"]:
        line(
            console,
            f"{target['target']} is paused by {target['by']}. To go on:  ruminate resume {target['target']}",
            style="yellow",
        )


def print_status(status: dict[str, Any]) -> None:
    """The same for people."""
    supervisor = status["supervisor"]
    if supervisor["running"]:
        line(console, f"state {status['state']}: running, pid {supervisor['pid']}")
    else:
        line(console, f"state {status['state']}: not running", style="red")
    parts = Table("part", "state", "pid", "restarts", "ready", box=None, header_style="dim")
    for name, part in status["parts"].items():
        ready = status["services"].get(name)
        says = "" if ready is None else "; ".join(["yes", *ready["notes"]] if ready["ready"] else ready["reasons"])
        parts.add_row(name, part["state"], str(part["pid"] or ""), str(part["restarts"]), printable(part.get("hint", says)))
    console.print(parts)
    for node, what in status["nodes"].items():
        if what["healthy"]:
            line(console, f"node {node} {what['url']}: Ollama API {what['version']}, {', '.join(what['models'])}")
        else:
            line(console, f"node {node} {what['url']}: away", style="red")
    if "kafka_error" in status:
        line(console, status["kafka_error"], style="red")
        return
    lag = Table("reader", "topic", "behind", "seconds", box=None, header_style="dim")
    for row in status["lag"]:
        behind = "?" if row["messages"] is None else str(row["messages"])
        lag.add_row(row["reader"], row["topic"], behind, "" if row["seconds"] is None else f"{row['seconds']:.1f}")
    console.print(lag)
    for fill in status["batch_fill"]:
        line(console, f"batch of {fill['target']} ({fill['tenant']}): {_filled(fill)}")
    _print_jobs(status)
    for version in status["versions"]:
        _print_version(version)
    for box in status["dead_letters"]:
        reasons = ", ".join(f"{reason} {count}" for reason, count in box["reasons"].items())
        line(
            console,
            f"dead letters of {box['topic']}: {box['standing']} ({reasons}). Type:  ruminate dlq list {box['topic']}",
            style="yellow",
        )
