"""How a handled record becomes a finished one: two ways, and what each promises.

`Acknowledged`   what was told is written at once; a record is finished when all of it is acknowledged, and now and then the
                 lowest unfinished offset of each partition is committed. At least once: what was acknowledged and not yet
                 committed is told again after a crash, with the same ids.
`Transacted`     what was told waits until everything before it in the partition is handled, then outputs and offset are
                 written in one transaction. Who reads committed records alone sees each once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Final, Protocol

import structlog

from ruminate.shared import metrics
from ruminate.shared.bus import BrokerUnavailable
from ruminate.shared.dead_letters import Place
from ruminate.shared.ledger import Commit
from ruminate.shared.shares import NO_RECORDS, AtomicWriter, Item, Outgoing, Share

log = structlog.get_logger()

MOST_RECORDS_A_TRANSACTION: Final = 2_000
MOST_BYTES_A_TRANSACTION: Final = 16 * 1024 * 1024

Settled = Callable[[int | Exception], None]
"""Called once: with the offset that the record was given, or with why it was not acknowledged."""


class Writer(Protocol):
    """Writes records in batches, in order a partition."""

    def write(self, record: Outgoing, settled: Settled) -> None:
        """Enqueue a record."""
        ...

    async def flush(self) -> None:
        """Return when everything enqueued so far is settled."""
        ...


class Host(Protocol):
    """What settling needs of the `Serving` that it works for."""

    def shares(self) -> Collection[Share]:
        """The partitions that are ours now."""
        ...

    def finished(self, item: Item) -> None:
        """The record needs nothing any more."""
        ...

    def fail(self, error: BaseException) -> None:
        """End the service with this error."""
        ...

    async def commit_to_group(self, commits: Mapping[Place, Commit]) -> bool:
        """Commit; False when the group refused because it has moved on. Raises BrokerUnavailable."""
        ...

    def set_aside(self, item: Item) -> None:
        """It is handled, and finishes who knows when: it takes no room until then."""
        ...

    def fenced(self, share: Share) -> None:
        """Somebody else owns this partition, the group has not told us yet."""
        ...


class Settling(Protocol):
    """See the module."""

    trouble: str
    """Why offsets are not committed, as a sentence; empty when they are."""

    def opened(self, share: Share) -> None:
        """The partition begins."""
        ...

    def settle(self, item: Item, outgoing: Sequence[Outgoing]) -> None:
        """The handler is through with this item, or a dead letter takes its place."""
        ...

    def release(self, item: Item) -> None:
        """A held item may finish."""
        ...

    async def flush(self) -> None:
        """Return when everything that was handled so far is written and acknowledged."""
        ...

    async def commit(self) -> None:
        """Tell the group how far we are."""
        ...


class Acknowledged:
    """At least once."""

    def __init__(self, host: Host, writer: Writer, *, labels: tuple[str, str]) -> None:
        self._host = host
        self._writer = writer
        self._labels = labels
        self._committing = asyncio.Lock()
        self.trouble = ""

    def opened(self, share: Share) -> None:
        """Nothing to prepare."""

    def settle(self, item: Item, outgoing: Sequence[Outgoing]) -> None:
        if not outgoing and not item.held:
            self._host.finished(item)
            return
        item.unsettled = len(outgoing) + item.held

        def settled(outcome: int | Exception) -> None:
            if isinstance(outcome, Exception):
                self._host.fail(outcome)
            else:
                self._one_less(item)

        for record in outgoing:
            self._writer.write(record, settled)

    def release(self, item: Item) -> None:
        self._one_less(item)

    async def flush(self) -> None:
        await self._writer.flush()

    async def commit(self) -> None:
        async with self._committing:
            shares = list(self._host.shares())
            commits = {share.place: commit for share in shares if (commit := share.ledger.commit()) != share.committed}
            if not commits:
                return
            try:
                accepted = await self._host.commit_to_group(commits)
            except BrokerUnavailable as error:
                self.trouble = str(error)
                return
            self.trouble = ""
            if not accepted:
                metrics.COMMITS_REFUSED.labels(*self._labels).inc()
                return
            for share in shares:
                share.committed = commits.get(share.place, share.committed)

    def _one_less(self, item: Item) -> None:
        item.unsettled -= 1
        if not item.unsettled or item.share.lost:
            self._host.finished(item)


class Transacted:
    """Once, for who reads committed records alone. A partition's transactions follow one another; partitions do not wait."""

    def __init__(self, host: Host, *, labels: tuple[str, str]) -> None:
        self._host = host
        self._labels = labels
        self._written = asyncio.Event()
        self.trouble = ""

    def opened(self, share: Share) -> None:
        share.has_handled.set()  # something may have waited while somebody else owned it
        share.writing = asyncio.create_task(self._write_all(share), name=f"transactions-{share.place[0]}-{share.place[1]}")

    def settle(self, item: Item, outgoing: Sequence[Outgoing]) -> None:
        item.outgoing = outgoing
        if not item.held:
            self._add(item)
        elif item.share.held == 1:  # the first: what is handled from now on is set aside at once
            for behind in list(item.share.handled.values()):
                self._host.set_aside(behind)

    def release(self, item: Item) -> None:
        self._add(item)

    async def flush(self) -> None:
        """Return when what could be written is: what stands behind an unfinished record cannot."""
        while any(share.writing is not None and not share.writing.done() and self._next(share) for share in self._host.shares()):
            self._written.clear()
            await self._written.wait()

    async def commit(self) -> None:
        """Write the counts of crashes, too, which no record is written with."""
        for share in list(self._host.shares()):
            async with share.one_write:
                commit = share.ledger.commit()
                if share.atomic is None or share.lost or commit == share.committed or self._next(share):
                    continue
                await self._write(share, share.atomic, [], commit)

    def _add(self, item: Item) -> None:
        share = item.share
        share.handled[item.record.offset] = item
        share.has_handled.set()
        if share.held:  # perhaps it stands behind one that is held, for as long as that is
            self._host.set_aside(item)

    def _next(self, share: Share) -> list[Item]:
        """The handled records from the first unfinished one on, without a gap, as many as one transaction takes."""
        items: list[Item] = []
        records = size = 0
        for offset in share.ledger.unfinished():
            item = share.handled.get(offset)
            if item is None or (items and (records >= MOST_RECORDS_A_TRANSACTION or size >= MOST_BYTES_A_TRANSACTION)):
                break
            items.append(item)
            records += 1 + len(item.outgoing)
            size += sum(len(each.value or b"") for each in item.outgoing)
        return items

    async def _write_all(self, share: Share) -> None:
        try:
            while not share.lost:
                await share.has_handled.wait()
                share.has_handled.clear()
                while not share.lost and (written := await self._write_next(share)) is not None:
                    if not written:
                        return  # `opened` begins anew, once the group has said whose it is
        except Exception as error:  # whatever it is, `run` raises it
            self._host.fail(error)
        finally:
            self._written.set()

    async def _write_next(self, share: Share) -> bool | None:
        """One transaction. None where there is nothing to write, False where somebody else owns the partition."""
        # What is committed is chosen when it is its turn, or the second of two would take the first one back.
        async with share.one_write:
            if not (items := self._next(share)):
                return None
            if share.atomic is None:
                raise RuntimeError(f"{share.place} was assigned without a writer of transactions")
            outgoing = [record for item in items for record in item.outgoing]
            commit = share.ledger.commit_after([item.record.offset for item in items])
            if not await self._write(share, share.atomic, outgoing, commit):
                return False
            for item in items:
                del share.handled[item.record.offset]
                item.outgoing = NO_RECORDS
                self._host.finished(item)
            self._written.set()
            return True

    async def _write(self, share: Share, atomic: AtomicWriter, outgoing: Sequence[Outgoing], commit: Commit) -> bool:
        with metrics.TRANSACTION_SECONDS.labels(*self._labels).time():
            written = await atomic.write(outgoing, commit)
        if not written:
            metrics.COMMITS_REFUSED.labels(*self._labels).inc()
            self._host.fenced(share)
            return False
        share.committed = commit
        return True
