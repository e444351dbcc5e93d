"""`acls plan` and `acls apply`: what each service may do at the broker, compared with the flow and brought to it.

Only access lists of our own principals are looked at. What they have beyond the flow is shown, and taken away with `--revoke`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Annotated, Any, Final

import typer
from confluent_kafka import KafkaException
from confluent_kafka.admin import (
    AclBinding,
    AclBindingFilter,
    AclOperation,
    AclPermissionType,
    AdminClient,
    ResourcePatternType,
    ResourceType,
)

from ruminate.command.connection import read_settings, settings_for
from ruminate.command.terminal import DEFAULT_STATE, console, line, run
from ruminate.shared.access import Grant, grants
from ruminate.shared.bus import BrokerUnavailable
from ruminate.shared.connection import librdkafka_options, why_not_connected
from ruminate.shared.settings import ServiceSettings

NOTHING_TO_DO: Final = 0
SOMETHING_TO_DO: Final = 2

_ANSWER_SECONDS: Final = 15.0
_ANY_HOST: Final = "*"
_RESOURCES: Final = {
    "topic": ResourceType.TOPIC,
    "group": ResourceType.GROUP,
    "transactional-id": ResourceType.TRANSACTIONAL_ID,
}
_PATTERNS: Final = {"literal": ResourcePatternType.LITERAL, "prefixed": ResourcePatternType.PREFIXED}
_OPERATIONS: Final = {
    "Read": AclOperation.READ,
    "Write": AclOperation.WRITE,
    "Create": AclOperation.CREATE,
    "Describe": AclOperation.DESCRIBE,
    "Alter": AclOperation.ALTER,
    "DescribeConfigs": AclOperation.DESCRIBE_CONFIGS,
    "AlterConfigs": AclOperation.ALTER_CONFIGS,
}

app = typer.Typer(
    help="Show what each service may do at the broker and what the flow says, and apply it. Needs a super user.",
    epilog="Begin with:  ruminate acls plan   (docs/runbooks/security.md says what a new cluster needs, in order)",
    no_args_is_help=True,
    rich_markup_mode=None,
)

Kafka = Annotated[str | None, typer.Option("--kafka", metavar="HOST:PORT", help="Your Kafka; else what RUMINATE_* say.")]
Revoke = Annotated[bool, typer.Option("--revoke", help="Also take away what our principals have beyond the flow.")]


@app.command("plan")
def plan_command(kafka: Kafka = None) -> None:
    """Say what would be granted (+) and what is granted beyond the flow (?). Exit 0: nothing to grant, 2: something, 1: failed."""
    missing, beyond = run(_work(kafka, apply=False, revoke=False))
    _say("+", missing)
    _say("?", beyond)
    line(console, f"{len(missing)} to grant, {len(beyond)} beyond the flow")
    raise typer.Exit(SOMETHING_TO_DO if missing else NOTHING_TO_DO)


@app.command("apply")
def apply_command(kafka: Kafka = None, revoke: Revoke = False) -> None:
    """Grant what is missing, and say what was done. Exit 1 when it failed."""
    missing, beyond = run(_work(kafka, apply=True, revoke=revoke))
    _say("+", missing)
    _say("-" if revoke else "?", beyond)
    line(console, f"{len(missing)} granted, {len(beyond)} {'taken away' if revoke else 'beyond the flow'}")


def _say(sign: str, bindings: Iterable[AclBinding]) -> None:
    for text in sorted(map(_text, bindings)):
        line(console, f"{sign} {text}", style={"+": "green", "-": "red"}.get(sign))


async def _work(kafka: str | None, *, apply: bool, revoke: bool) -> tuple[set[AclBinding], set[AclBinding]]:
    settings = read_settings(ServiceSettings) if kafka is None else settings_for(kafka=kafka, profile="kafka", state=DEFAULT_STATE)
    if why := await why_not_connected(settings):
        raise BrokerUnavailable(why)
    try:
        with AdminClient({**librdkafka_options(settings), "log_level": 2}) as client:
            await _may_see(client)
            missing, beyond = await compare(client, grants())
            if apply:
                await grant(client, missing)
            if revoke:
                await take_away(client, beyond)
    except KafkaException as error:
        raise BrokerUnavailable(f"the access lists at {settings.kafka_bootstrap}: {error.args[0].str()}") from error
    return missing, beyond


async def _may_see(client: AdminClient) -> None:
    """Raises BrokerUnavailable where access lists are not shown to us: the client would take that for an empty answer."""
    asked = client.describe_cluster(include_authorized_operations=True, request_timeout=_ANSWER_SECONDS)
    cluster = await asyncio.wrap_future(asked)
    if AclOperation.DESCRIBE not in (cluster.authorized_operations or ()):
        raise BrokerUnavailable(
            "this user may not see access lists. Be one of the broker's super.users, or one that may Describe and Alter the cluster"
        )


async def compare(client: AdminClient, wanted: Iterable[Grant]) -> tuple[set[AclBinding], set[AclBinding]]:
    """What is missing at the broker, and what the principals of `wanted` have beyond it. Raises KafkaException."""
    asked = list(wanted)
    there: set[AclBinding] = set()
    for principal in {each.principal for each in asked}:
        # None stands for any name and any host, whatever the stubs say.
        about = AclBindingFilter(
            ResourceType.ANY,
            None,  # type: ignore[arg-type]
            ResourcePatternType.ANY,
            principal,
            None,  # type: ignore[arg-type]
            AclOperation.ANY,
            AclPermissionType.ANY,
        )
        there |= set(await asyncio.wrap_future(client.describe_acls(about, request_timeout=_ANSWER_SECONDS)))
    needed = {binding for each in asked for binding in bindings_of(each)}
    return needed - there, there - needed


async def grant(client: AdminClient, bindings: Iterable[AclBinding]) -> None:
    """Add access lists. Raises KafkaException."""
    if asked := list(bindings):
        await _all(client.create_acls(asked, request_timeout=_ANSWER_SECONDS))


async def take_away(client: AdminClient, bindings: Iterable[AclBinding]) -> None:
    """Remove exactly these access lists. Raises KafkaException."""
    if asked := [
        AclBindingFilter(b.restype, b.name, b.resource_pattern_type, b.principal, b.host, b.operation, b.permission_type)
        for b in bindings
    ]:
        await _all(client.delete_acls(asked, request_timeout=_ANSWER_SECONDS))


def bindings_of(wanted: Grant) -> set[AclBinding]:
    """A grant in the broker's words."""
    return {
        AclBinding(
            _RESOURCES[wanted.resource],
            wanted.name,
            _PATTERNS[wanted.pattern],
            wanted.principal,
            _ANY_HOST,
            _OPERATIONS[operation],
            AclPermissionType.ALLOW,
        )
        for operation in wanted.operations
    }


def _text(binding: AclBinding) -> str:
    kind, operation = ResourceType(binding.restype).name, AclOperation(binding.operation).name
    more = "…" if binding.resource_pattern_type == ResourcePatternType.PREFIXED else ""
    deny = " is denied" if binding.permission_type == AclPermissionType.DENY else ""
    return f"{binding.principal}{deny}  {operation.lower()}  {kind.lower().replace('_', '-')} {binding.name}{more}"


async def _all(outcomes: dict[Any, Any]) -> None:
    for outcome in outcomes.values():
        await asyncio.wrap_future(outcome)
