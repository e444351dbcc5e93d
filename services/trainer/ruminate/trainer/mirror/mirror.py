"""Tells MLflow of every job, in the background: a training never waits for it, and does not end by what goes wrong here.

    begin, add        the trainer writes notes, on disk
    attend            tells what is in them; when the server is away, again later, once with a warning
    conclude          once the trainer is done with a job: its result as it stands in the log, and the evidence from the store

Notes stay until their run has ended, so that a trainer that starts again goes on where the one before it was cut off. What is
never told is counted, by why.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

import orjson
import structlog

from ruminate.schemas.batch import TrainingBatchSealed
from ruminate.schemas.training import AdapterTrained
from ruminate.shared.bus import BrokerUnavailable
from ruminate.shared.store import NotInFolder, Store, StoreError
from ruminate.trainer import metrics
from ruminate.trainer.decide import History
from ruminate.trainer.mirror.mlflow import Mlflow, MlflowAway, MlflowRefused, NotThere, Run, mlflow_at
from ruminate.trainer.mirror.notes import MOST_BYTES, SUFFIX, Note, Notes, NotesTaken
from ruminate.trainer.mirror.translate import (
    KEY_TAG,
    Point,
    curves_in,
    ending_of,
    exams_in,
    experiment_of,
    is_in,
    key_of,
    params_of,
    params_to_tell,
    points_of,
    result_in,
    tags_of,
    untold,
)
from ruminate.trainer.outcome import Progress
from ruminate.trainer.plan import JobPlan
from ruminate.trainer.settings import TrainerSettings

log = structlog.get_logger()

NOTES_FOLDER: Final = "mlflow"
PACE_SECONDS: Final = 1.0
"""So often, at most, a server is told of what runs."""
FIRST_LOOK_SECONDS: Final = 0.1
LONGEST_LOOK_SECONDS: Final = 60.0
"""Between looks in the log for the result of a job that the trainer is done with."""
LONGEST_AWAY_SECONDS: Final = 30.0

EVIDENCE_FILE: Final = "proof.json"
PICTURE_FILE: Final = "curves/loss.png"
MEDIA_TYPES: Final = {EVIDENCE_FILE: "application/json", PICTURE_FILE: "image/png"}

Ask = Callable[[TrainingBatchSealed], Awaitable[History]]
"""What the log says of a batch's target."""


@dataclass(eq=False)
class Account:
    """One attempt at a batch: its notes, and how far they are told."""

    key: str
    notes: Notes
    on_note: Callable[[], None]
    on_end: Callable[[], None]
    batch: TrainingBatchSealed | None = None
    attempt: int = 1
    plan: JobPlan | None = None
    begun_ms: int = 0
    active: bool = False
    """Whether the trainer works on it."""
    told_to: int = 0
    """Offset in the notes."""
    run: Run | None = None
    phase: str | None = None
    looks: int = 0
    due_at: float = 0.0
    """Not looked at again before then."""
    trouble: str | None = None
    """Why nothing of it can be told, where others can."""
    full: bool = field(default=False, repr=False)

    @property
    def job_id(self) -> str:
        """For the log."""
        return self.batch.batch_id if self.batch is not None else self.notes.path.name

    @property
    def untold_bytes(self) -> int:
        """What is noted and not told."""
        return self.notes.size_bytes - self.told_to

    def later(self, now: float, trouble: str | None = None) -> None:
        """Look again after a while, a longer one each time."""
        self.looks += 1
        self.due_at = now + min(LONGEST_LOOK_SECONDS, FIRST_LOOK_SECONDS * 2.0 ** min(self.looks - 1, 20))
        self.trouble = trouble

    def add(self, progress: Progress) -> None:
        """Note where the job stands. Takes no time, and raises nothing that would end it."""
        self._note(Note(at_ms=_now_ms(), progress=progress))

    def ended(self) -> None:
        """The trainer is done with it, for now at least; what came of it stands in the log, or will."""
        self.active, self.looks, self.due_at = False, 0, 0.0
        self.on_end()

    def begin(self, batch: TrainingBatchSealed, plan: JobPlan, attempt: int) -> None:
        """The trainer works on it."""
        self.active = True
        self._note(Note(at_ms=_now_ms(), batch=batch, attempt=attempt, plan=plan))

    def _note(self, note: Note) -> None:
        if self.notes.closed:
            _lose("fault", 1, quiet=True)  # said when they were set aside
            return
        try:
            lost, why = (None, "") if self.notes.add(note) else ("too_many", f"{MOST_BYTES} bytes are noted of it")
        except OSError as error:
            lost, why = "no_room", str(error)
        if lost is not None:
            _lose(lost, 1, quiet=self.full, job_id=self.job_id, why=why)
            self.full = True
        self.on_note()


class Mirror:
    """Of one trainer. Used from its event loop alone."""

    def __init__(self, server: Mlflow, folder: Path, *, ask: Ask, store: Store, uri: str, code_version: str, replica: str) -> None:
        self._server, self._folder, self._ask, self._store = server, folder, ask, store
        self._uri, self._code_version, self._replica = uri, code_version, replica
        self._accounts: dict[str, Account] = {}
        self._experiments: dict[str, str] = {}
        self._noted, self._ended = asyncio.Event(), asyncio.Event()
        self._away: str | None = None
        self._tries = 0

    def notes(self) -> Collection[str]:
        """What an operator may want to know."""
        troubles = [self._away, *(account.trouble for account in self._accounts.values())]
        waiting = f"{len(self._accounts)} job{'s' if len(self._accounts) != 1 else ''}"
        return [f"MLflow at {self._uri} is told of {waiting} later: {why}" for why in dict.fromkeys(troubles) if why is not None]

    def begin(self, batch: TrainingBatchSealed, plan: JobPlan, attempt: int) -> Account | None:
        """The trainer works on an attempt: begun for the first time, or once more. None: it cannot be noted, which is counted."""
        key = key_of(batch, attempt)
        account = self._accounts.get(key)
        if account is None:
            name = f"{quote(plan.batch_id, safe='')[:100]}.{attempt}.{key[:12]}.{self._replica}{SUFFIX}"
            account = self._open(self._folder / name, key)
        if account is None:
            return None
        account.begin(batch, plan, attempt)
        if not account.notes.size_bytes:  # nobody could tell what the rest is about
            del self._accounts[key]
            account.notes.remove()
            return None
        return account

    def take_up(self) -> None:
        """What trainers before us have left."""
        for path in sorted(self._folder.glob(f"*{SUFFIX}")):
            self._open(path, None)

    async def attend(self) -> None:
        """Tell, until cancelled."""
        while True:
            self._noted.clear()
            self._ended.clear()
            await self.round()
            if self._away is not None:
                await _either(self._ended, within_seconds=min(LONGEST_AWAY_SECONDS, 2.0 ** min(self._tries - 1, 10)))
            else:
                await _either(self._noted, self._ended, within_seconds=self._until_due())
                await _either(self._ended, within_seconds=PACE_SECONDS if self._noted.is_set() else 0.0)

    def close(self) -> None:
        """Let whoever comes next have the notes."""
        for account in self._accounts.values():
            account.notes.close()
        self._accounts.clear()

    def _open(self, path: Path, key: str | None) -> Account | None:
        try:
            notes = Notes(path)
        except NotesTaken:
            if key is not None:
                _lose("taken", 1, why=f"{path} is another trainer's: give each a RUMINATE_REPLICA of its own")
            return None
        except OSError as error:
            _lose("no_room", 1, why=str(error))
            return None
        account = Account(key or "", notes, self._noted.set, self._ended.set)
        if key is None:
            first, _, _ = notes.after(0)
            begun = next((note for note in first if note.batch is not None), None)
            if begun is None or begun.batch is None:
                if notes.size_bytes:
                    _lose("damaged", 1, why=str(notes.set_aside()))
                else:
                    notes.remove()  # killed before the first line
                return None
            account.key = key_of(begun.batch, begun.attempt)
        self._accounts[account.key] = account
        self._count()
        return account

    # Told in rounds.

    def _until_due(self) -> float | None:
        now = asyncio.get_running_loop().time()
        due = [account.due_at for account in self._accounts.values() if not account.active or account.untold_bytes]
        return max(0.0, min(due) - now) if due else None

    async def round(self) -> None:
        """Tell whatever is to be told and can be by now."""
        clock = asyncio.get_running_loop().time
        for account in list(self._accounts.values()):
            if account.due_at > clock():
                continue
            answers = self._server.answers
            try:
                await self._serve(account)
            except MlflowAway as error:
                self._is_away(str(error))
                return  # the others would hear the same
            except (MlflowRefused, BrokerUnavailable, OSError) as error:
                self._experiments.clear()
                account.later(clock(), str(error))
                log.warning("mirror_waits", job_id=account.job_id, why=str(error))
            except Exception:
                # A fault of ours ends the telling of this job, and nothing else: training is worth more than its mirror.
                log.exception("mirror_failed", job_id=account.job_id)
                self._give_up(account)
            if self._server.answers > answers:
                self._is_there()
        self._count()

    def _give_up(self, account: Account) -> None:
        del self._accounts[account.key]
        try:
            _lose("fault", 1, why=f"its notes lie in {account.notes.set_aside()}")
        except OSError as error:
            _lose("fault", 1, why=f"its notes cannot be set aside: {error}")

    def _is_away(self, why: str) -> None:
        if self._away is None:
            log.warning("mlflow_away", uri=self._uri, why=why)
        self._away, self._tries = why, self._tries + 1
        metrics.MIRROR_AWAY.set(1)
        self._count()

    def _is_there(self) -> None:
        if self._away is not None:
            log.info("mlflow_back", uri=self._uri)
        self._away, self._tries = None, 0
        metrics.MIRROR_AWAY.set(0)

    def _count(self) -> None:
        metrics.MIRROR_UNTOLD_BYTES.set(sum(account.untold_bytes for account in self._accounts.values()))

    async def _serve(self, account: Account) -> None:
        """Tell what is noted, and how it ended where it has."""
        clock = asyncio.get_running_loop().time
        try:
            while account.untold_bytes:
                await self._tell_notes(account)
            account.trouble = None
            if account.active:
                account.looks, account.due_at = 0, 0.0
            elif not await self._conclude(account):
                account.later(clock())
        except NotThere as error:
            # The server lost the run, with whatever was told: all of it is told again, to another one.
            log.warning("mlflow_run_gone", job_id=account.job_id, why=str(error))
            account.run, account.told_to, account.phase = None, 0, None
            self._experiments.clear()
            account.later(clock())

    async def _tell_notes(self, account: Account) -> None:
        notes, offset, damaged = account.notes.after(account.told_to)
        if offset == account.told_to:  # cut short by somebody else
            offset, damaged = account.notes.size_bytes, damaged + 1
        if damaged:
            _lose("damaged", damaged, job_id=account.job_id)
        points: list[Point] = []
        phase = account.phase
        for note in notes:
            if note.batch is not None and note.plan is not None:
                account.batch, account.attempt, account.begun_ms = note.batch, note.attempt, account.begun_ms or note.at_ms
                if note.plan != account.plan:
                    account.plan, account.run = note.plan, None
            if note.progress is not None:
                points += points_of(note.progress, note.at_ms)
                phase = note.progress.phase
        run = await self._run_of(account)
        tags = {"ruminate.phase": phase} if phase is not None and phase != account.phase else {}
        await self._tell(account, run, points=points, tags=tags)
        account.told_to, account.phase = offset, phase

    async def _run_of(self, account: Account) -> Run:
        """The run of an attempt: the one that there is, or a new one; begun where it was not, and with the plan's params."""
        if account.run is not None:
            return account.run
        assert account.batch is not None and account.plan is not None  # noqa: S101 - the first of the notes has both
        tags = tags_of(account.batch, account.plan, account.attempt, self._code_version)
        name = experiment_of(account.batch)
        if name not in self._experiments:
            self._experiments[name] = await self._server.experiment(name)
        experiment = self._experiments[name]
        found = await self._server.runs_with(experiment, tags[KEY_TAG])
        if not found:
            made = await self._server.create_run(experiment, account.plan.version, account.begun_ms, tags)
            found = await self._server.runs_with(experiment, tags[KEY_TAG]) or [made]
            if made.run_id != found[0].run_id:
                await self._server.delete_run(made.run_id)  # another trainer was quicker
        run = found[0]
        if run.status != "RUNNING" and account.active:
            await self._server.set_status(run.run_id, "RUNNING")
        params, changed = params_to_tell(params_of(account.plan), run.params)
        await self._tell(account, run, params=params, tags={**tags, **changed})
        account.run = run
        return run

    async def _tell(self, account: Account, run: Run, *, points: Iterable[Point] = (), **told: dict[str, str]) -> None:
        """Tell it; what is refused is counted, and not told again."""
        points = list(points)
        count = len(points) + sum(map(len, told.values()))
        try:
            await self._server.tell(run.run_id, points=points, **told)
        except NotThere:
            raise
        except MlflowRefused as error:
            _lose("refused", count, job_id=account.job_id, why=str(error))
        else:
            metrics.MIRROR_TOLD.inc(count)

    # How it ended.

    async def _conclude(self, account: Account) -> bool:
        """Tell the result that the log has; False where there is none yet."""
        assert account.batch is not None  # noqa: S101 - told before
        history = await self._ask(account.batch)
        result = result_in(history, account.batch, account.attempt)
        if account.active or (result is None and is_in(history, account.batch)):
            return False
        run = await self._run_of(account)
        ending = ending_of(result)
        if isinstance(result, AdapterTrained):
            await self._tell_evidence(account, run, result, ending.at_ms or account.begun_ms)
        await self._tell(account, run, points=ending.points, tags=ending.tags)
        try:
            await self._server.set_status(run.run_id, ending.status, ending.at_ms or _now_ms())
        except NotThere:
            raise
        except MlflowRefused as error:
            _lose("refused", 1, job_id=account.job_id, why=str(error))
        account.notes.remove()
        del self._accounts[account.key]
        log.info("job_mirrored", job_id=account.job_id, attempt=account.attempt, status=ending.status, run_id=run.run_id)
        return True

    async def _tell_evidence(self, account: Account, run: Run, trained: AdapterTrained, at_ms: int) -> None:
        """What lies beside the adapter: the picture and the proof as they are, and what the run has not got of the curves."""
        for path, media_type in MEDIA_TYPES.items():
            try:
                content = await self._store.read_file(trained.adapter, path)
            except StoreError as error:
                if path == EVIDENCE_FILE or not isinstance(error, NotInFolder):  # a job of no steps has no curve
                    _lose("no_evidence", 1, job_id=account.job_id, why=str(error))
                continue
            try:
                taken = await self._server.put_artifact(run, path, content, media_type)
            except NotThere:
                raise
            except MlflowRefused as error:
                _lose("refused", 1, job_id=account.job_id, why=str(error))
            else:
                if taken:
                    metrics.MIRROR_TOLD.inc()
                else:
                    _lose("not_proxied", 1, job_id=account.job_id, why=f"artifacts of this server lie at {run.artifact_uri}")
            if path == EVIDENCE_FILE:
                await self._fill_up(account, run, orjson.loads(content), at_ms)

    async def _fill_up(self, account: Account, run: Run, evidence: dict[str, Any], at_ms: int) -> None:
        points = list(curves_in(evidence, at_ms))
        told = {key: await self._server.steps_told(run.run_id, key) for key in {point.key for point in points}}
        await self._tell(account, run, points=[*untold(points, told), *exams_in(evidence, at_ms)])


@asynccontextmanager
async def mirror_for(settings: TrainerSettings, *, ask: Ask, store: Store) -> AsyncIterator[Mirror | None]:
    """The mirror at work while the context is open, where the settings name a server; what is not told by then is told at the
    next start. Raises WrongConnectionSettings.
    """
    if settings.mlflow_uri is None:
        yield None
        return
    async with (
        mlflow_at(settings) as server,
        telling(
            Mirror(
                server,
                settings.state_dir / NOTES_FOLDER,
                ask=ask,
                store=store,
                uri=settings.mlflow_uri,
                code_version=version("ruminate-trainer"),
                replica=settings.replica,
            )
        ) as mirror,
    ):
        yield mirror


@asynccontextmanager
async def telling(mirror: Mirror) -> AsyncIterator[Mirror]:
    """The mirror at work while the context is open."""
    mirror.take_up()
    attending = asyncio.create_task(mirror.attend(), name="mirror")
    try:
        yield mirror
    finally:
        attending.cancel()
        await asyncio.gather(attending, return_exceptions=True)
        mirror.close()


async def _either(*events: asyncio.Event, within_seconds: float | None) -> None:
    """Return once one of them is set, or after so many seconds."""
    waiting = [asyncio.create_task(event.wait()) for event in events]
    try:
        await asyncio.wait(waiting, timeout=within_seconds, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for each in waiting:
            each.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)


def _lose(reason: str, count: int, *, quiet: bool = False, **told: str) -> None:
    """Say, and count, that MLflow is never told of something."""
    metrics.MIRROR_LOST.labels(reason).inc(count)
    if not quiet:
        log.warning("mirror_lost", reason=reason, count=count, **told)


def _now_ms() -> int:
    return int(time.time() * 1000)
