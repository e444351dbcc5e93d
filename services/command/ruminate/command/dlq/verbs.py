"""`ruminate dlq list|show|replay|drop`: parses what it was given, asks before it settles many, says what it did."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Callable, Collection, Coroutine, Iterable, Sequence
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import Annotated, Any, Final, TypeVar

import typer
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaError
from rich.console import Console

from ruminate.command.connection import find_settings, open_bus_at
from ruminate.command.dlq.choose import Filter, NotChosen, find, moment, shown_length
from ruminate.command.dlq.outcome import Outcome, outcomes
from ruminate.command.dlq.show import (
    contents,
    counted,
    dead_letters,
    describe,
    headers,
    letter_as_json,
    said,
    short,
    show_letters,
    show_settled,
    word_as_json,
)
from ruminate.command.terminal import (
    DEFAULT_STATE,
    FAILED,
    Kafka,
    State,
    checked,
    complaints,
    console,
    fail,
    line,
    refuse,
    run,
    who,
    write_json_lines,
)
from ruminate.schemas.flow import DEAD_LETTER_SETTLED, SIDE_TOPICS
from ruminate.schemas.payload import Text
from ruminate.shared.bus import BrokerUnavailable, BusError
from ruminate.shared.connection import aiokafka_options
from ruminate.shared.decoding import now
from ruminate.shared.kafka import KafkaBus
from ruminate.shared.letters import (
    Action,
    CannotSettle,
    Letter,
    Letters,
    SentBack,
    drop,
    read_contents,
    read_letters,
    replay,
    why_not,
)
from ruminate.shared.member import Member
from ruminate.shared.settings import ServiceSettings

_SHOWN: Final = 100
_SHOWN_BEFORE: Final = 20
_TOLD_EVERY: Final = 5_000

T = TypeVar("T")

app = typer.Typer(
    help="Dead letters, which are records that a reader gave up: list them, look at one, send them back or drop them.",
    epilog="Begin with:  ruminate dlq list   (docs/runbooks/dead-letters.md says what each reason means, and what to do)",
    no_args_is_help=True,
    rich_markup_mode=None,
)

TopicOption = Annotated[str | None, typer.Option("--topic", help="Only records of this topic.")]
Reader = Annotated[str | None, typer.Option("--reader", help="Only what this reader gave up.")]
Reason = Annotated[list[str] | None, typer.Option("--reason", help="Only for this reason; may be given again.")]
Since = Annotated[str | None, typer.Option("--since", metavar="TIME", help="Given up since then: 30m, 2h, 7d ago, or a time.")]
Until = Annotated[str | None, typer.Option("--until", metavar="TIME", help="Given up before then.")]
Limit = Annotated[int | None, typer.Option("--limit", min=1, help="At most so many, those that were given up first.")]
Ids = Annotated[list[str] | None, typer.Argument(metavar="ID", help="Ids, or the beginnings of them.", show_default=False)]
Yes = Annotated[bool, typer.Option("--yes", help="Do not ask, however many they are.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Say which, and do nothing.")]
By = Annotated[str | None, typer.Option("--by", help="Who decides; else you, at this machine.")]
AsJson = Annotated[bool, typer.Option("--json", help="JSON, for programs: an object a line.")]


@app.command("list")
def list_command(
    topic_name: Annotated[str | None, typer.Argument(metavar="TOPIC", help="The same as --topic.", show_default=False)] = None,
    state: State = DEFAULT_STATE,
    kafka: Kafka = None,
    topic: TopicOption = None,
    reader: Reader = None,
    reason: Reason = None,
    since: Since = None,
    until: Until = None,
    limit: Limit = None,
    every: Annotated[bool, typer.Option("--all", help="Also those that are settled, and how.")] = False,
    as_json: AsJson = False,
) -> None:
    """The dead letters that stand, first those that were given up first, and how many for which reason."""
    if None not in (topic_name, topic) and topic_name != topic:
        refuse(f"two topics are named: {topic_name} and {topic} (--topic)")
    wanted = _filter(topic_name or topic, reader, reason, since, until)

    async def work() -> int:
        async with _open(state, kafka) as (bus, _):
            known = await read_letters(bus, wanted.boxes())
        letters, words = wanted.letters(known), wanted.settled(known) if every else []
        if as_json:
            write_json_lines(map(letter_as_json, letters[:limit]))
            write_json_lines(map(word_as_json, words[:limit]))
            return 0
        most = limit or _SHOWN
        line(console, _total(letters, known.standing(), wanted))
        show_letters(letters[:most], known, console, now=now())
        _say_more(len(letters) - most)
        if words:
            show_settled(words[:most], known, console)
            _say_more(len(words) - most)
        elif every:
            line(console, "none is settled")
        return 0

    raise typer.Exit(_run(work()))


@app.command("show")
def show_command(
    letter_id: Annotated[str, typer.Argument(metavar="ID", help="Its id, or the beginning of it.")],
    state: State = DEFAULT_STATE,
    kafka: Kafka = None,
    with_value: Annotated[bool, typer.Option("--value", help="Also the contents: JSON, or hexadecimal.")] = False,
    with_headers: Annotated[bool, typer.Option("--headers", help="Also the headers that its writer gave it.")] = False,
) -> None:
    """One dead letter: everything but its contents, which may be personal data."""

    async def work() -> int:
        async with _open(state, kafka) as (bus, _):
            known = await read_letters(bus)
            found = find(known, letter_id)
            letter = known.letter(found)
            if letter is None:
                line(console, f"dead letter {found} does not stand any more: {_what_became_of(found, known)}")
                return 0
            for each in describe(letter, known):
                line(console, each)
            if with_value or with_headers:
                return await _show_contents(bus, letter, with_value=with_value, with_headers=with_headers)
        line(console, f"\nnext:  ruminate dlq show {short(found, known)} --value --headers   (may be personal data)", style="dim")
        return 0

    raise typer.Exit(_run(work()))


@app.command("replay")
def replay_command(
    ids: Ids = None,
    state: State = DEFAULT_STATE,
    kafka: Kafka = None,
    topic: TopicOption = None,
    reader: Reader = None,
    reason: Reason = None,
    since: Since = None,
    until: Until = None,
    limit: Limit = None,
    yes: Yes = False,
    dry_run: DryRun = False,
    wait: Annotated[
        bool, typer.Option("--wait", help="Wait until the readers have come to them, and say what became of each.")
    ] = False,
    wait_seconds: Annotated[float, typer.Option("--wait-seconds", min=0, help="How long --wait waits at most.")] = 60.0,
    by: By = None,
    why: Annotated[str, typer.Option("--why", help="For whoever asks later.")] = "",
    as_json: AsJson = False,
) -> None:
    """Send dead letters back to the reader that gave them up, once the cause is mended. Twice is once.

    The reader takes them where it stands now, after all that it has read meanwhile: their order against later events of
    the same key is not promised.
    """
    wanted = _filter(topic, reader, reason, since, until)
    decided_by, decided_why = who(by), checked(Text, why, "--why")
    out = complaints if as_json else console
    known, letters = _run(_choose(state, kafka, ids, wanted, limit, "replayed", out=out))
    if dry_run or not letters or not _agreed(letters, known, "send back", yes=yes):
        _say_undone(letters, known, "sent back", dry_run=dry_run, as_json=as_json)
        return

    async def settle() -> int:
        async with _open(state, kafka) as (bus, settings):
            known, standing = await _still_standing(bus, letters)
            sent = await _settled(replay(bus, known, standing, by=decided_by, why=decided_why, told=_told(len(standing))))
            if not as_json:
                _say_sent(sent, len(standing))
            ended = await outcomes(bus, settings, sent, seconds=wait_seconds) if wait else []
        if as_json:
            write_json_lines(map(_outcome_as_json, ended) if wait else map(_sent_as_json, sent))
        else:
            _say_outcomes(ended, known)
        failed = len(sent) < len(standing) or any(each.fate in ("dead again", "waiting") for each in ended)
        return FAILED if failed else 0

    raise typer.Exit(_run(settle()))


@app.command("drop")
def drop_command(
    why: Annotated[str, typer.Option("--why", help="For whoever asks later.", show_default=False)],
    ids: Ids = None,
    state: State = DEFAULT_STATE,
    kafka: Kafka = None,
    topic: TopicOption = None,
    reader: Reader = None,
    reason: Reason = None,
    since: Since = None,
    until: Until = None,
    limit: Limit = None,
    yes: Yes = False,
    dry_run: DryRun = False,
    by: By = None,
) -> None:
    """Take dead letters away for good. Who did it and why is kept on dead-letter-settled-v1."""
    wanted = _filter(topic, reader, reason, since, until)
    decided_by, decided_why = who(by), checked(Text, why.strip(), "--why")
    if not decided_why:
        refuse("--why is empty; say why these letters may go, for whoever asks later")
    known, letters = _run(_choose(state, kafka, ids, wanted, limit, "dropped", out=console))
    if dry_run or not letters or not _agreed(letters, known, "drop", yes=yes):
        _say_undone(letters, known, "dropped", dry_run=dry_run)
        return

    async def settle() -> None:
        async with _open(state, kafka) as (bus, _):
            known, standing = await _still_standing(bus, letters)
            sent_before = sum(known.said(letter, "replayed") for letter in standing)
            count = await _settled(drop(bus, known, standing, by=decided_by, why=decided_why))
        line(console, f"{count - sent_before:,} dropped")
        if sent_before:
            line(
                console,
                f"{sent_before:,} had been sent back already by somebody who was cut short; that is ended, they do not stand",
            )

    _run(settle())


# Which.


def _filter(topic: str | None, reader: str | None, reasons: Collection[str] | None, since: str | None, until: str | None) -> Filter:
    at = now()
    try:
        wanted = Filter(
            topic=topic,
            reader=reader,
            reasons=frozenset(reasons or ()),
            since=None if since is None else moment(since, now=at),
            until=None if until is None else moment(until, now=at),
        )
        wanted.boxes()
    except NotChosen as error:
        refuse(str(error))
    return wanted


async def _choose(
    state: Path,
    kafka: str | None,
    ids: Sequence[str] | None,
    wanted: Filter,
    limit: int | None,
    action: Action,
    *,
    out: Console,
) -> tuple[Letters, list[Letter]]:
    """What stands of what was asked for; says what does not. Raises NotChosen."""
    if not ids and not wanted.says_something:
        raise NotChosen("say which: ids, or --topic, --reader, --reason, --since, --until.  See:  ruminate dlq list")
    if ids and (wanted.says_something or limit is not None):
        raise NotChosen("give ids, or say what the letters have in common; not both")
    async with _open(state, kafka) as (bus, _):
        known = await read_letters(bus, wanted.boxes())
    if ids:
        return known, _named(ids, known, out)
    letters = wanted.letters(known)
    able = [letter for letter in letters if not why_not(letter, action)]
    if len(able) < len(letters):
        example = next(reason for letter in letters if (reason := why_not(letter, action)))
        line(complaints, f"left out: {dead_letters(len(letters) - len(able))}, such as this: {example}")
    if not letters and (others := known.standing()):
        line(out, f"nothing matches; there stand {counted(letter.reason for letter in others)}")
    return known, able[:limit]


def _named(ids: Iterable[str], known: Letters, out: Console) -> list[Letter]:
    letters = []
    for letter_id in dict.fromkeys(find(known, each) for each in ids):
        letter = known.letter(letter_id)
        if letter is None:
            line(out, f"{short(letter_id, known)} is settled already: {_what_became_of(letter_id, known)}")
        else:
            letters.append(letter)
    return letters


def _agreed(letters: Sequence[Letter], known: Letters, verb: str, *, yes: bool) -> bool:
    if yes or len(letters) == 1:
        return True
    show_letters(letters[:_SHOWN_BEFORE], known, complaints, now=now())
    if len(letters) > _SHOWN_BEFORE:
        line(complaints, f"and {len(letters) - _SHOWN_BEFORE:,} more")
    try:
        return typer.confirm(f"{verb} {dead_letters(len(letters))}?", err=True)
    except typer.Abort:
        fail("nobody answered, so nothing was done; say --yes where nobody can be asked")


async def _still_standing(bus: Member, letters: Sequence[Letter]) -> tuple[Letters, list[Letter]]:
    """Look once more: people take their time to answer, and are not alone."""
    known = await read_letters(bus, dict.fromkeys(letter.box for letter in letters))
    standing = {letter.id: letter for letter in known.standing()}
    found = [standing[letter.id] for letter in letters if letter.id in standing]
    if len(found) < len(letters):
        line(
            complaints, f"{len(letters) - len(found):,} were settled meanwhile by somebody else, or their topic has forgotten them"
        )
    return known, found


# What became of it.


async def _show_contents(bus: KafkaBus, letter: Letter, *, with_value: bool, with_headers: bool) -> int:
    async with aclosing(read_contents(bus, [letter])) as found:
        async for _, record in found:
            line(complaints, "what follows may be personal data: keep it out of tickets and chats", style="yellow")
            if with_headers:
                key = letter.tries[-1].key if letter.tries else record.key
                line(console, f"\nkey: {'none' if key is None else key.decode(errors='backslashreplace')}")
                for each in headers(record):
                    line(console, each)
            if with_value:
                line(console, "")
                for each in contents(record.value or b""):
                    line(console, each)
            return 0
    line(complaints, "its contents have gone meanwhile: somebody settled it, or its topic has forgotten it")
    return FAILED


def _what_became_of(letter_id: Any, known: Letters) -> str:
    words = known.words(letter_id)
    if not words:
        return f"its tombstone is of {known.taken_away(letter_id):%Y-%m-%d %H:%M:%S %Z}, and nobody said by whom or why"
    again = known.again(words[-1])
    return said(words[-1]) + (f". It is dead again: {short(again.id, known)}, {again.reason}" if again else "")


async def _settled(settling: Coroutine[Any, Any, T]) -> T:
    try:
        return await settling
    except BusError as error:
        raise BrokerUnavailable(
            f"{error}. Not all are settled, and none is lost: type the same again, it goes on from there"
        ) from error


def _told(of: int) -> Callable[[int], None]:
    """Says how far it is, where there is much."""
    last = 0

    def told(count: int) -> None:
        nonlocal last
        if count - last >= _TOLD_EVERY:
            last = count
            line(complaints, f"{count:,} of {of:,}", style="dim")

    return told


def _say_sent(sent: Sequence[SentBack], wanted: int) -> None:
    readers = Counter(each.letter.box.reader for each in sent)
    line(console, "; ".join(f"{count:,} sent back to {reader}" for reader, count in readers.items()) or "nothing is sent back")
    if len(sent) < wanted:
        line(
            complaints,
            f"{wanted - len(sent):,} had gone before: somebody settled them, or their topic has forgotten them",
            style="red",
        )


def _say_outcomes(ended: Sequence[Outcome], known: Letters) -> None:
    for fate, count in Counter(each.fate for each in ended).most_common():
        line(console, f"{count:,} {fate}")
    rest = [each for each in ended if each.fate != "done"]
    length = shown_length(known.ids())
    for each in rest[:_SHOWN]:
        line(console, f"  {str(each.sent.letter.id)[:length]}  {each.fate}: {each.says}")
    _say_more(len(rest) - _SHOWN)


def _say_undone(letters: Sequence[Letter], known: Letters, what: str, *, dry_run: bool, as_json: bool = False) -> None:
    if as_json:
        write_json_lines(map(letter_as_json, letters if dry_run else ()))
    elif dry_run:
        show_letters(letters[:_SHOWN], known, console, now=now())
        _say_more(len(letters) - _SHOWN)
        line(console, f"{len(letters):,} would be {what}")
    else:
        line(console, f"nothing is {what}")


def _total(letters: Sequence[Letter], standing: Sequence[Letter], wanted: Filter) -> str:
    if letters:
        verb = "stands" if len(letters) == 1 else "stand"
        return f"{dead_letters(len(letters))} {verb}: {counted(letter.reason for letter in letters)}"
    if wanted.says_something and standing:
        return f"no dead letter matches; there stand {counted(letter.reason for letter in standing)}"
    return "no dead letter stands"


def _say_more(more: int) -> None:
    if more > 0:
        line(console, f"and {more:,} more (--limit, --json)", style="dim")


def _sent_as_json(sent: SentBack) -> dict[str, Any]:
    return letter_as_json(sent.letter) | {"state": "replayed", "retry_offset": sent.offset}


def _outcome_as_json(outcome: Outcome) -> dict[str, Any]:
    return _sent_as_json(outcome.sent) | {"outcome": outcome.fate, "says": outcome.says}


# At the door.


@asynccontextmanager
async def _open(state: Path, kafka: str | None) -> AsyncIterator[tuple[KafkaBus, ServiceSettings]]:
    """The bus at the broker that was named, else of the loop in this folder, else of the environment. Raises BrokerUnavailable."""
    settings = find_settings(state.resolve(), kafka)
    async with open_bus_at(settings) as bus:
        await _check_topics(settings)
        yield bus, settings


async def _check_topics(settings: ServiceSettings) -> None:
    """Raises BrokerUnavailable. Whoever reads a topic that does not exist makes it, with the broker's settings."""
    admin = AIOKafkaAdminClient(**aiokafka_options(settings))
    try:
        await admin.start()
        wanted = {DEAD_LETTER_SETTLED.name, *(side.name for side in SIDE_TOPICS)}
        missing = sorted(wanted - set(await admin.list_topics()))
    except (KafkaError, OSError) as error:
        raise BrokerUnavailable(f"the topics of {settings.kafka_bootstrap} could not be listed: {type(error).__name__}") from error
    finally:
        await admin.close()
    if missing:
        more = f" and {len(missing) - 1} others" if len(missing) > 1 else ""
        raise BrokerUnavailable(
            f"{settings.kafka_bootstrap} has no topic {missing[0]}{more}. Is it the right broker? Type:  ruminate topics plan"
        )


def _run(work: Coroutine[Any, Any, T]) -> T:
    return run(work, failures=(CannotSettle, NotChosen))
