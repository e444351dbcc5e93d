"""Access lists follow from the flow, and the two forms in which they are written say the same."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from pathlib import Path

from ruminate.schemas.flow import DERIVED, ERASABLE, FLOW, GROUP_READERS, SERVICES, service_of
from ruminate.shared.access import PEOPLE, Grant, grants, principal_of
from tests.plugins.guarded import written_grants

SCRIPT = Path(__file__).parents[2] / "infra/kafka/acls.sh"
Permission = tuple[str, str, str, str, str]


def single(found: Iterator[Grant] | tuple[Grant, ...] | list[Grant]) -> set[Permission]:
    return {(g.principal, g.resource, g.name, g.pattern, operation) for g in found for operation in g.operations}


def test_the_file_and_the_script_say_what_the_flow_says() -> None:
    assert single(written_grants()) == single(grants()) == set(permissions_of_the_script())


def permissions_of_the_script() -> Iterator[Permission]:
    text = SCRIPT.read_text().replace("\\\n", " ")
    for line in text.splitlines():
        if not line.startswith("allow User:"):
            continue
        _, principal, *words = shlex.split(line)
        options = list(zip(words[::2], words[1::2], strict=True))
        pattern = dict(options).get("--resource-pattern-type", "literal")
        operations = [value for option, value in options if option == "--operation"]
        for option, name in options:
            if (resource := option.removeprefix("--")) in ("topic", "group", "transactional-id"):
                yield from ((principal, resource, name, pattern, operation) for operation in operations)


def test_writers_and_readers_of_the_flow_may_and_no_other_service_may() -> None:
    allowed = single(grants())
    for topic in FLOW:
        for actor in (*SERVICES, *PEOPLE):
            may = {
                operation for principal, _, name, _, operation in allowed if principal == principal_of(actor) and name == topic.name
            }
            erases, looks = topic in ERASABLE and actor == "eraser", (topic.holds_texts or topic in DERIVED) and actor == "eraser"
            assert ("Write" in may) == (actor in topic.written_by or erases), (actor, topic.name)
            assert ("Read" in may) == (actor in (*topic.read_by, "monitor", "operators") or looks), (actor, topic.name)


def test_a_group_and_the_transactions_of_a_service_are_its_own() -> None:
    for reader in GROUP_READERS:
        assert {p for p, r, n, _, o in single(grants()) if r == "group" and n == reader and o == "Read"} == {
            principal_of(service_of(reader))
        }
    prefixes = [
        name for _, resource, name, pattern, _ in single(grants()) if resource == "transactional-id" and pattern == "prefixed"
    ]
    assert len(set(prefixes)) == len(prefixes) == len({service_of(reader) for reader in GROUP_READERS})
    assert not [a for a in prefixes for b in prefixes if a != b and a.startswith(b)]


def test_services_and_agents_administer_nothing() -> None:
    administration = {"Create", "Alter", "AlterConfigs", "Delete"}
    assert {p for p, _, _, _, operation in single(grants()) if operation in administration} == {principal_of("operators")}
    # How long a topic keeps what no tombstone can take away, the eraser has to ask the broker.
    looking = {p for p, _, _, _, operation in single(grants()) if operation == "DescribeConfigs"}
    assert looking == {principal_of("operators"), principal_of("eraser")}
