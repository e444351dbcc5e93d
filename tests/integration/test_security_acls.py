"""`ruminate acls` at a broker that lets nobody in by default: what is missing is granted, what is beyond the flow is taken away."""

from __future__ import annotations

import asyncio
import time
from typing import Final

import pytest
from confluent_kafka.admin import AclBinding
from typer.testing import CliRunner, Result

from ruminate.command.__main__ import app
from ruminate.command.acls import bindings_of, grant, take_away
from ruminate.schemas.flow import INTERACTION_COMPLETED, REASONING_ASSESSED
from ruminate.shared.access import Grant, Operation
from tests.plugins.guarded import GuardedKafka, environment_of

pytestmark = pytest.mark.real

DEADLINE_SECONDS: Final = 30.0


def acls(kafka: GuardedKafka, *words: str, listener: str = "INTERNAL") -> Result:
    """As a super user, which everybody at the inner listener is."""
    return CliRunner().invoke(app, ["acls", *words], env=environment_of(kafka.settings(listener)))


def planned(kafka: GuardedKafka, *lines: str) -> Result:
    """What `plan` says once it says this: the broker shows what the controller has decided a moment later."""
    deadline = time.monotonic() + DEADLINE_SECONDS
    while True:
        found = acls(kafka, "plan")
        if found.stdout.splitlines() == list(lines):
            return found
        assert time.monotonic() < deadline, found.output
        time.sleep(0.1)


def of_collector(topic: str, operation: Operation) -> set[AclBinding]:
    return bindings_of(Grant("User:ruminate-collector", "topic", topic, "literal", (operation,)))


def test_rights_are_compared_with_the_flow_granted_and_taken_away(guarded_flow: GuardedKafka) -> None:
    assert planned(guarded_flow, "0 to grant, 0 beyond the flow").exit_code == 0
    needed, beyond = of_collector(INTERACTION_COMPLETED.name, "Read"), of_collector(REASONING_ASSESSED.name, "Write")
    asyncio.run(take_away(guarded_flow.admin, needed))
    asyncio.run(grant(guarded_flow.admin, beyond))
    missing = f"User:ruminate-collector  read  topic {INTERACTION_COMPLETED.name}"
    extra = f"User:ruminate-collector  write  topic {REASONING_ASSESSED.name}"
    assert planned(guarded_flow, f"+ {missing}", f"? {extra}", "1 to grant, 1 beyond the flow").exit_code == 2

    granted = acls(guarded_flow, "apply")
    assert (granted.exit_code, granted.stdout.splitlines()) == (0, [f"+ {missing}", f"? {extra}", "1 granted, 1 beyond the flow"])
    assert planned(guarded_flow, f"? {extra}", "0 to grant, 1 beyond the flow").exit_code == 0
    revoked = acls(guarded_flow, "apply", "--revoke")
    assert (revoked.exit_code, revoked.stdout.splitlines()) == (0, [f"- {extra}", "0 granted, 1 taken away"])
    planned(guarded_flow, "0 to grant, 0 beyond the flow")


def test_who_may_not_see_access_lists_is_told_who_may(guarded_flow: GuardedKafka) -> None:
    refused = acls(guarded_flow, "plan", listener="LOGIN")
    assert (refused.exit_code, refused.stdout) == (1, "")
    assert "Be one of the broker's super.users" in refused.stderr
