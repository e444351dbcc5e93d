"""docker-compose.yml, the Dockerfiles, Prometheus and Grafana fit each other and the code, as far as no engine is needed."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import json
import re
import shlex
import subprocess
import tomllib
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import TypeAdapter

from infra.real.promtool import find_promtool
from ruminate.schemas.flow import SERVICES
from ruminate.shared.settings import ServiceSettings
from tests.plugins.real import installed

TOP = Path(__file__).parents[2]
COMPOSE = yaml.safe_load((TOP / "docker-compose.yml").read_text())
CONTAINERS: dict[str, dict[str, Any]] = COMPOSE["services"]
PROMETHEUS = yaml.safe_load((TOP / "infra/prometheus/prometheus.yml").read_text())
RULES = yaml.safe_load((TOP / "infra/prometheus/rules.yml").read_text())
DASHBOARD = json.loads((TOP / "infra/grafana/dashboards/ruminate.json").read_text())

OURS = {name: service for name, service in CONTAINERS.items() if "build" in service}
OTHERS = {name: service for name, service in CONTAINERS.items() if "build" not in service}
ONE_SHOT = {"topics"}
"""Runs once and ends: whoever needs it waits for its success."""
OPERATIONS_PORT = "9464"


def service_of(container: str) -> str:
    """Which of our services' images a container runs."""
    return Path(OURS[container]["build"]["dockerfile"]).parent.name


def dockerfile(service: str) -> list[list[str]]:
    """The instructions of a Dockerfile, each as its words."""
    text = (TOP / "services" / service / "Dockerfile").read_text()
    lines = re.sub(r"\\\n", " ", re.sub(r"^#.*\n", "", text, flags=re.MULTILINE)).splitlines()
    return [line.split() for line in lines if line.strip()]


def arguments(service: str, instruction: str) -> list[list[str]]:
    return [words[1:] for words in dockerfile(service) if words[0] == instruction]


def image_environment(service: str) -> dict[str, str]:
    return dict(word.split("=", 1) for words in arguments(service, "ENV") for word in words)


@cache
def members_for(member: str) -> frozenset[str]:
    """A member of the workspace, and those that it needs, by their folders: what its pyproject.toml names, and what they name."""
    manifest = tomllib.loads((TOP / member / "pyproject.toml").read_text())
    named = [need.removeprefix("ruminate-") for need in manifest["project"]["dependencies"] if need.startswith("ruminate-")]
    folders = [name if (TOP / name / "pyproject.toml").is_file() else f"services/{name}" for name in named]
    return frozenset({member}).union(*map(members_for, folders))


@cache
def settings_class(service: str) -> type[ServiceSettings]:
    """The settings that the service's process reads."""
    module = importlib.import_module(f"ruminate.{service}.settings")
    found = [
        member
        for _, member in inspect.getmembers(module, inspect.isclass)
        if issubclass(member, ServiceSettings) and member is not ServiceSettings and not member.__name__.startswith("_")
    ]
    assert len(found) == 1, f"{module.__name__} has {len(found)} settings classes"
    return found[0]


def environment_of(container: str) -> dict[str, str]:
    """Every setting that reaches the process: the image's, then the container's."""
    together = image_environment(service_of(container)) | CONTAINERS[container].get("environment", {})
    return {name: str(value) for name, value in together.items() if name.startswith("RUMINATE_")}


def test_every_service_has_its_dockerfile_and_its_container() -> None:
    assert {service_of(container) for container in OURS} == set(SERVICES)
    assert set(SERVICES) <= set(CONTAINERS)


@pytest.mark.parametrize("container", CONTAINERS)
def test_images_are_pinned_to_an_exact_version(container: str) -> None:
    image = CONTAINERS[container]["image"]
    assert re.fullmatch(r"[a-z/-]+:v?\d+\.\d+\.\d+", image), image


@pytest.mark.parametrize("service", SERVICES)
def test_base_images_are_pinned_to_an_exact_version_and_the_process_is_not_root(service: str) -> None:
    bases = arguments(service, "FROM")
    assert all(re.fullmatch(r"python:3\.11\.\d+-slim-[a-z]+", base[0]) for base in bases), bases
    (user,) = arguments(service, "USER")
    assert int(user[0]) > 0


@pytest.mark.parametrize("container", sorted(set(CONTAINERS) - ONE_SHOT))
def test_every_container_has_a_health_check_and_a_restart_policy(container: str) -> None:
    service = CONTAINERS[container]
    assert service["healthcheck"]["test"][0] == "CMD"
    assert service["restart"] == ("on-failure" if container in OURS else "unless-stopped")


@pytest.mark.parametrize("container", CONTAINERS)
def test_dependencies_exist_and_wait_for_health_or_for_success(container: str) -> None:
    for needed, how in CONTAINERS[container].get("depends_on", {}).items():
        condition = "service_completed_successfully" if needed in ONE_SHOT else "service_healthy"
        assert how == {"condition": condition}, f"{container} needs {needed}"
        assert needed in CONTAINERS


@pytest.mark.parametrize("container", sorted(set(OURS) - ONE_SHOT))
def test_our_containers_wait_for_the_topics_and_check_the_livez_of_their_operations_port(container: str) -> None:
    service = CONTAINERS[container]
    assert "topics" in service["depends_on"]
    assert environment_of(container)["RUMINATE_OPERATIONS_PORT"] == OPERATIONS_PORT
    assert environment_of(container)["RUMINATE_OPERATIONS_HOST"] == "0.0.0.0"
    assert f"http://127.0.0.1:{OPERATIONS_PORT}/livez" in service["healthcheck"]["test"][-1]
    (check,) = [" ".join(words) for words in arguments(service_of(container), "HEALTHCHECK")]
    assert f"http://127.0.0.1:{OPERATIONS_PORT}/livez" in check


@pytest.mark.parametrize("container", OURS)
def test_our_containers_write_nowhere_but_in_volumes_and_temporary_folders(container: str) -> None:
    service = CONTAINERS[container]
    assert service["read_only"]
    assert service["cap_drop"] == ["ALL"]
    if container in ONE_SHOT:
        return
    mounts = {mount.split(":")[1] for mount in service.get("volumes", [])} | set(service["tmpfs"])
    environment = environment_of(container)
    assert {"/tmp", environment["RUMINATE_STATE_DIR"]} <= mounts
    assert not set(service["tmpfs"]) & {mount.split(":")[1] for mount in service.get("volumes", [])}


def test_who_writes_and_reads_artifacts_shares_one_store() -> None:
    stores = {}
    for container in ("accumulator", "trainer", "trainer-gpu", "deployer"):
        folder = environment_of(container)["RUMINATE_STORE_URI"].removeprefix("file://")
        stores[container] = {mount for mount in CONTAINERS[container]["volumes"] if mount.split(":")[1] == folder}
    assert set(map(frozenset, stores.values())) == {frozenset({"store:/var/lib/ruminate/store"})}


def test_ports_are_published_once_and_on_loopback_alone() -> None:
    published = [port for service in CONTAINERS.values() for port in service.get("ports", [])]
    assert all(port.startswith("127.0.0.1:") for port in published)
    hosts = [port.split(":")[1] for port in published]
    assert len(hosts) == len(set(hosts))
    assert {"11435", "8080", "9090", "3000"} <= set(hosts)


def test_published_ports_are_those_on_which_the_services_listen() -> None:
    for container in ("gateway", "collector"):
        inside = [port.split(":")[2] for port in CONTAINERS[container]["ports"]]
        assert inside == [environment_of(container)[f"RUMINATE_{container.upper()}_PORT"]]
        assert inside[0] in arguments(service_of(container), "EXPOSE")[0]


def test_volumes_and_mounted_folders_exist() -> None:
    for container, service in CONTAINERS.items():
        for mount in service.get("volumes", []):
            source = mount.split(":")[0]
            if source.startswith("."):
                assert (TOP / source).is_dir(), f"{container} mounts {source}"
            else:
                assert source in COMPOSE["volumes"], f"{container} mounts {source}"
    used = {mount.split(":")[0] for service in CONTAINERS.values() for mount in service.get("volumes", [])}
    assert set(COMPOSE["volumes"]) <= used


@pytest.mark.parametrize("container", OURS)
def test_every_setting_is_known_to_its_service_and_its_value_is_taken(container: str, monkeypatch: pytest.MonkeyPatch) -> None:
    environment = environment_of(container)
    settings = ServiceSettings if container in ONE_SHOT else settings_class(service_of(container))
    unknown = {name for name in environment if name.removeprefix("RUMINATE_").lower() not in settings.model_fields}
    assert not unknown, f"{settings.__name__} does not know {unknown}"
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert settings().kafka_bootstrap == "kafka:9092"


def test_nodes_in_the_settings_are_containers_and_ollama_listens_there() -> None:
    for container in ("deployer", "gateway"):
        nodes = TypeAdapter(dict[str, str]).validate_json(environment_of(container)["RUMINATE_NODES"])
        addresses = {f"http://{name}:11434" for name, service in OTHERS.items() if "ollama" in service["image"]}
        assert set(nodes.values()) == addresses
        assert {name for name in CONTAINERS if name.startswith("node-")} <= set(CONTAINERS[container]["depends_on"])
    assert all(OTHERS[node]["environment"]["OLLAMA_HOST"] == "0.0.0.0:11434" for node in ("node-a", "node-b"))


@pytest.mark.parametrize("service", SERVICES)
def test_what_is_copied_exists_and_docker_is_given_it(service: str) -> None:
    given = {line.removeprefix("!") for line in (TOP / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    for words in arguments(service, "COPY"):
        if words[0].startswith("--from="):
            continue
        for source in words[:-1]:
            assert (TOP / source).exists(), source
            assert source.split("/")[0] in given, source


@pytest.mark.parametrize("service", SERVICES)
def test_an_image_installs_its_own_pins_with_hashes_and_what_it_needs_of_the_workspace_alone(service: str) -> None:
    copied = {source for words in arguments(service, "COPY") if not words[0].startswith("--from=") for source in words[:-1]}
    assert {"pins/uv.txt", f"pins/{service}.txt"} <= copied
    needed = members_for(f"services/{service}")
    assert {source for source in copied if not source.startswith("pins/")} == needed
    installs = [" ".join(words) for words in arguments(service, "RUN") if "install" in words and "pip" in words]
    assert len(installs) == 3
    assert all("--require-hashes" in line for line in installs[:2])
    assert "--no-deps" in installs[2]
    assert {word for word in installs[2].split() if word.startswith("/build/")} == {f"/build/{Path(each).name}" for each in needed}


@pytest.mark.parametrize("service", SERVICES)
def test_what_an_image_runs_is_a_module_of_its_service(service: str) -> None:
    (command,) = arguments(service, "CMD")
    words = json.loads(" ".join(command))
    assert words == ["python", "-m", f"ruminate.{service}"]
    assert importlib.util.find_spec(f"ruminate.{service}.__main__") is not None


def test_commands_that_replace_an_image_s_own_are_modules() -> None:
    commands = [service["command"] for service in OURS.values() if "command" in service]
    assert commands
    for words in commands:
        assert words[:2] == ["python", "-m"], shlex.join(words)
        found = importlib.util.find_spec(words[2])
        assert found is not None, words[2]
        assert found.origin is not None
        # A module without this does nothing when it is run, and says that all went well.
        assert '__name__ == "__main__"' in Path(found.origin).read_text(), words[2]


def test_build_arguments_are_declared_and_name_pins_that_exist() -> None:
    for container, service in OURS.items():
        for name, value in service["build"].get("args", {}).items():
            declared = {word.split("=")[0] for words in arguments(service_of(container), "ARG") for word in words}
            assert name in declared
            assert (TOP / "pins" / value).is_file()


def test_prometheus_scrapes_every_service_at_its_operations_port_under_its_own_name() -> None:
    targets: dict[str, set[str]] = {}
    for job in PROMETHEUS["scrape_configs"]:
        static = {target for config in job.get("static_configs", []) for target in config["targets"]}
        looked_up = {f"{name}:{config['port']}" for config in job.get("dns_sd_configs", []) for name in config["names"]}
        targets[job["job_name"]] = static | looked_up
    assert targets.pop("prometheus") == {"localhost:9090"}
    assert set(targets) == set(SERVICES)
    for job, addresses in targets.items():
        assert f"{job}:{OPERATIONS_PORT}" in addresses
        for address in addresses:
            host, _, port = address.partition(":")
            assert service_of(host) == job
            assert port == environment_of(host)["RUMINATE_OPERATIONS_PORT"]


SUFFIXES = {"counter": ("",), "histogram": ("_bucket", "_sum", "_count"), "gauge": ("",)}
BY_PROMETHEUS = {"job", "instance", "le"}
"""Labels that no metric of ours declares."""


@cache
def listed_series() -> dict[str, frozenset[str]]:
    """Every series that docs/metrics.md lists, with its labels. `make check` keeps that list what the code makes."""
    rows = re.findall(r"^\| `(\w+)` \| (\w+) \| ([^|]*) \|", (TOP / "docs/metrics.md").read_text(), flags=re.MULTILINE)
    assert rows
    return {
        name + suffix: frozenset(filter(None, labels.strip().split(", ")))
        for name, kind, labels in rows
        for suffix in SUFFIXES[kind]
    }


@cache
def recorded_series() -> dict[str, frozenset[str]]:
    """What the recording rules make; each keeps the labels by which it is summed."""
    recorded = {rule["record"]: rule["expr"] for group in RULES["groups"] for rule in group["rules"] if "record" in rule}
    return {name: labels_in(query) - {"le"} for name, query in recorded.items()}


def labels_in(query: str) -> frozenset[str]:
    """The labels that a query speaks of: those by which it groups or matches, and those that it selects by."""
    grouped = re.findall(r"\b(?:by|without|on|ignoring)\s*\(([^)]*)\)", query)
    selected = re.findall(r"(\w+)\s*(?:=~|!~|!=|=)\s*\"", query)
    return frozenset(label.strip() for labels in grouped for label in labels.split(",") if label.strip()) | frozenset(selected)


def rules() -> list[Any]:
    """Each rule: its name, its query, and the labels that its words show."""
    return [
        pytest.param(
            rule["expr"], re.findall(r"\$labels\.(\w+)", str(rule.get("annotations"))), id=rule.get("alert", rule.get("record"))
        )
        for group in RULES["groups"]
        for rule in group["rules"]
    ]


PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]


def targets() -> list[Any]:
    """Each query of a panel, and the labels that its legend shows."""
    return [
        pytest.param(target["expr"], re.findall(r"{{(\w+)}}", target["legendFormat"]), id=f"{panel['title']}-{target['refId']}")
        for panel in PANELS
        for target in panel["targets"]
    ]


@pytest.mark.parametrize(("query", "shown"), [*rules(), *targets()])
def test_queries_speak_of_series_and_labels_that_the_code_makes(query: str, shown: list[str]) -> None:
    known = listed_series() | recorded_series() | {"up": frozenset[str]()}
    spoken_of = set(re.findall(r"\b(?:ruminate[a-z0-9_:]+|up)\b", query))
    assert spoken_of
    assert spoken_of <= known.keys()
    labels = frozenset[str]().union(*(known[series] for series in spoken_of)) | BY_PROMETHEUS
    assert labels_in(query) | set(shown) <= labels


def alerts() -> dict[str, Any]:
    return {rule["alert"]: rule for group in RULES["groups"] for rule in group["rules"] if "alert" in rule}


def test_every_alert_says_what_is_wrong_and_what_to_do() -> None:
    for rule in alerts().values():
        assert rule["annotations"].keys() == {"summary", "action"}
        assert rule["labels"]["severity"] in {"page", "warn", "info"}


def test_every_alert_is_shown_to_fire() -> None:
    tests = yaml.safe_load((TOP / "infra/prometheus/rules_test.yml").read_text())["tests"]
    fired = {expected["alertname"] for test in tests for expected in test["alert_rule_test"] if expected["exp_alerts"]}
    assert fired == alerts().keys()


@pytest.mark.real
def test_prometheus_reads_the_rules_and_every_alert_fires_when_it_should() -> None:
    with installed():
        promtool = find_promtool()
    for words in (("check", "rules", "rules.yml"), ("test", "rules", "rules_test.yml"), ("check", "config", "prometheus.yml")):
        checked = subprocess.run((promtool, *words), cwd=TOP / "infra/prometheus", capture_output=True, text=True, check=False)
        assert checked.returncode == 0, checked.stdout + checked.stderr


def test_panels_have_ids_of_their_own_and_lie_beside_each_other() -> None:
    ids = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(ids) == len(set(ids))
    taken: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        place = panel["gridPos"]
        cells = {(x, y) for x in range(place["x"], place["x"] + place["w"]) for y in range(place["y"], place["y"] + place["h"])}
        assert not cells & taken, panel["title"]
        assert max(x for x, _ in cells) < 24
        taken |= cells


def test_the_dashboard_asks_the_data_source_that_is_provisioned() -> None:
    folder = TOP / "infra/grafana/provisioning"
    (source,) = yaml.safe_load((folder / "datasources/prometheus.yml").read_text())["datasources"]
    assert {panel["datasource"]["uid"] for panel in PANELS} == {source["uid"]}
    (provider,) = yaml.safe_load((folder / "dashboards/ruminate.yml").read_text())["providers"]
    mounts = dict(mount.split(":")[:2] for mount in CONTAINERS["grafana"]["volumes"])
    assert provider["options"]["path"] == mounts["./infra/grafana/dashboards"]
    home = Path(CONTAINERS["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"])
    assert home.parent == Path(provider["options"]["path"])
    assert (TOP / "infra/grafana/dashboards" / home.name).is_file()
