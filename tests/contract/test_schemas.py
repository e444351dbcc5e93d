"""The registry of topics is sound, and its examples are what it says they are."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from ruminate.schemas.flow import FLOW, GROUP_READERS, SERVICES, service_of, topic_named
from ruminate.schemas.topic import Topic
from ruminate.shared.bus import Unprocessable
from ruminate.shared.decoding import decode, encode

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "schemas" / "examples"
NOW = datetime(2026, 1, 1, tzinfo=UTC)


def _examples(kind: str) -> list[Any]:
    return [
        pytest.param(topic, path, id=f"{topic.name}/{path.stem}")
        for topic in FLOW
        for path in sorted((EXAMPLES / topic.name / kind).glob("*.json"))
    ]


def _message(path: Path) -> tuple[dict[str, Any], bytes, list[tuple[str, bytes]]]:
    example = json.loads(path.read_text())
    value = example["raw"].encode() if "raw" in example else json.dumps(example["value"]).encode()
    return example, value, [(name, text.encode()) for name, text in example["headers"].items()]


@pytest.mark.parametrize(("topic", "path"), _examples("valid"))
def test_a_valid_example_is_read_and_written_again_the_same(topic: Topic[Any], path: Path) -> None:
    example, value, headers = _message(path)
    payload, envelope = decode(topic, value, headers, timestamp_ms=0)
    assert envelope.type == topic.event_type
    assert topic.carries.model_validate_json(encode(payload)) == payload
    # Nothing in the example is a field that no reader knows.
    topic.carries.model_validate_json(json.dumps(example["value"]), extra="forbid")


@pytest.mark.parametrize(("topic", "path"), _examples("invalid"))
def test_an_invalid_example_is_refused_for_the_reason_it_names(topic: Topic[Any], path: Path) -> None:
    example, value, headers = _message(path)
    with pytest.raises(Unprocessable) as refused:
        decode(topic, value, headers, timestamp_ms=0)
    assert refused.value.reason == example["because"]


def test_every_topic_has_valid_and_invalid_examples_and_no_example_is_an_orphan() -> None:
    for topic in FLOW:
        assert list((EXAMPLES / topic.name / "valid").glob("*.json")), topic.name
        assert list((EXAMPLES / topic.name / "invalid").glob("*.json")), topic.name
    assert {folder.name for folder in EXAMPLES.iterdir()} == {topic.name for topic in FLOW}


def test_names_are_unique_versioned_from_one_and_free_of_what_kafka_folds() -> None:
    names = [topic.name for topic in FLOW]
    assert len(set(names)) == len(names)
    for name in names:
        stem, _, version = name.rpartition("-v")
        assert stem and version.isdigit() and "." not in name and "_" not in name
        assert all(f"{stem}-v{earlier}" in names for earlier in range(1, int(version)))


def test_keys_and_orders_are_fields_of_the_payload() -> None:
    for topic in FLOW:
        fields = topic.carries.model_fields
        assert topic.record_key == "event_id" or topic.record_key in fields
        assert set(topic.partitioned_by) <= set(fields), topic.name


def test_writers_and_readers_are_services_or_people_and_group_readers_are_declared() -> None:
    known = {*SERVICES, "agents", "operators"}
    for topic in FLOW:
        assert topic.written_by and set(topic.written_by) | set(topic.read_by) <= known, topic.name
    for reader, topics in GROUP_READERS.items():
        assert service_of(reader) in SERVICES
        for topic in topics:
            assert service_of(reader) in topic.read_by
            letters = topic.dead_letters(reader)
            assert letters.partitions == topic.partitions
            assert letters.max_message_bytes > topic.max_message_bytes


def test_an_unknown_topic_is_answered_with_those_that_exist() -> None:
    with pytest.raises(KeyError, match="interaction-completed-v1"):
        topic_named("interactions")


def test_every_reference_of_the_asyncapi_document_resolves() -> None:
    import yaml

    document = yaml.safe_load((ROOT / "schemas" / "asyncapi.yaml").read_text())

    def references(node: Any) -> list[str]:
        if isinstance(node, dict):
            return [v for k, v in node.items() if k == "$ref"] + [r for v in node.values() for r in references(v)]
        return [r for v in node for r in references(v)] if isinstance(node, list) else []

    found = references(document)
    assert len(found) > len(FLOW)
    for reference in found:
        target: Any = document
        for step in reference.removeprefix("#/").split("/"):
            target = target[step]
