"""The spool keeps what was answered, whatever happens to the process or to the disk."""

from __future__ import annotations

import asyncio
import os
import shutil
import tempfile
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ruminate.gateway.settings import GatewaySettings
from ruminate.gateway.spool import Spool, SpoolDamaged, Spooled, SpoolFull, SpoolTaken, open_spool
from ruminate.schemas.envelope import Envelope

SETTINGS = GatewaySettings(spool_limit_bytes=1024 * 1024)


def event(name: str, payload: bytes = b"{}") -> Spooled:
    return Spooled(Envelope(id=name, source="/s", type="t", time=datetime(2026, 1, 1, tzinfo=UTC), order="o"), payload)


async def waiting(spool: Spool) -> list[tuple[int, Spooled]]:
    return await asyncio.wait_for(spool.oldest(count=100, limit_bytes=1024 * 1024), 5)


def names(found: list[tuple[int, Spooled]]) -> list[str]:
    return [spooled.envelope.id for _, spooled in found]


@given(st.binary(max_size=2000), st.text(st.characters(codec="utf-8"), min_size=1, max_size=50))
def test_an_event_is_read_back_as_it_was_written(payload: bytes, name: str) -> None:
    assert Spooled.from_bytes(event(name, payload).to_bytes()) == event(name, payload)


@given(st.data())
def test_no_torn_or_altered_file_is_taken_for_an_event(data: st.DataObject) -> None:
    whole = event("a", data.draw(st.binary(max_size=200))).to_bytes()
    torn = whole[: data.draw(st.integers(0, len(whole) - 1))]
    place, flip = data.draw(st.integers(0, len(whole) - 1)), data.draw(st.integers(1, 255))
    altered = whole[:place] + bytes([whole[place] ^ flip]) + whole[place + 1 :]
    for broken in (torn, altered, whole + b"x", torn + b"\0" * (len(whole) - len(torn))):
        if broken != whole:
            with pytest.raises(SpoolDamaged):
                Spooled.from_bytes(broken)


def test_events_leave_in_order_and_once(tmp_path: Path) -> None:
    async def scenario() -> None:
        with open_spool(tmp_path, SETTINGS) as spool:
            for name in "abc":
                await spool.append(event(name))
            found = await waiting(spool)
            assert names(found) == ["a", "b", "c"]
            spool.remove(found[1][0])
            assert names(await waiting(spool)) == ["a", "c"]

    asyncio.run(scenario())
    assert len(list(tmp_path.glob("*.event"))) == 2


@pytest.mark.parametrize("fsync", [False, True])
def test_a_new_process_finds_what_the_old_one_left_under_the_same_ids_and_goes_on_behind_it(tmp_path: Path, fsync: bool) -> None:
    settings = SETTINGS.model_copy(update={"spool_fsync": fsync})

    async def first() -> None:
        with open_spool(tmp_path, settings) as spool:
            await spool.append(event("a"))
            await spool.append(event("b"))

    async def second() -> None:
        with open_spool(tmp_path, settings) as spool:
            await spool.append(event("c"))
            assert names(await waiting(spool)) == ["a", "b", "c"]

    asyncio.run(first())
    (tmp_path / "0000000000000009.partial").write_bytes(b"half of an ev")
    asyncio.run(second())
    assert not list(tmp_path.glob("*.partial"))


@given(st.data())
def test_a_damaged_event_is_set_aside_and_the_others_go_out(data: st.DataObject) -> None:
    folder = Path(tempfile.mkdtemp())

    async def scenario() -> list[str]:
        with open_spool(folder, SETTINGS) as spool:
            for name in "abc":
                await spool.append(event(name))
            victim = folder / f"{data.draw(st.integers(0, 2)):016d}.event"
            left = victim.read_bytes()
            victim.write_bytes(left[: data.draw(st.integers(0, len(left) - 1))])
            found = names(await waiting(spool))
            assert [path.name for path in (folder / "damaged").iterdir()] == [victim.name]
            assert not victim.exists()
            return found

    try:
        assert len(asyncio.run(scenario())) == 2
    finally:
        shutil.rmtree(folder)


def test_numbers_of_what_was_set_aside_are_not_used_again(tmp_path: Path) -> None:
    async def scenario() -> None:
        with open_spool(tmp_path, SETTINGS) as spool:
            await spool.append(event("a"))
        (tmp_path / f"{0:016d}.event").rename(tmp_path / "damaged" / f"{0:016d}.event")
        with open_spool(tmp_path, SETTINGS) as spool:
            await spool.append(event("b"))
            assert (await waiting(spool))[0][0] == 1

    asyncio.run(scenario())


def test_a_full_spool_refuses_says_so_and_takes_again_once_there_is_room(tmp_path: Path) -> None:
    async def scenario() -> None:
        with open_spool(tmp_path, SETTINGS) as spool:
            await spool.append(event("a", b"x" * 900_000))
            assert not spool.readiness()
            with pytest.raises(SpoolFull, match="RUMINATE_SPOOL_LIMIT_BYTES"):
                await spool.append(event("b", b"x" * 900_000))
            assert "not captured" in next(iter(spool.readiness()))
            spool.remove((await waiting(spool))[0][0])
            assert not spool.readiness()
            await spool.append(event("b", b"x" * 900_000))

    asyncio.run(scenario())


def test_a_disk_that_refuses_is_reported_and_takes_no_room(tmp_path: Path) -> None:
    async def scenario() -> None:
        with open_spool(tmp_path / "spool", SETTINGS) as spool:
            shutil.rmtree(tmp_path / "spool")
            with pytest.raises(OSError, match="No such file"):
                await spool.append(event("a", b"x" * 900_000))
            assert "No such file" in next(iter(spool.readiness()))
            (tmp_path / "spool").mkdir()
            await spool.append(event("a", b"x" * 900_000))
            assert not spool.readiness()

    asyncio.run(scenario())


def test_two_processes_do_not_share_a_spool(tmp_path: Path) -> None:
    with open_spool(tmp_path, SETTINGS), pytest.raises(SpoolTaken, match="RUMINATE_REPLICA"), open_spool(tmp_path, SETTINGS):
        pass


def test_what_was_set_aside_is_removed_once_it_is_too_old_and_nothing_else_is(tmp_path: Path) -> None:
    async def scenario() -> None:
        with open_spool(tmp_path, SETTINGS.model_copy(update={"spool_damaged_days": 2.0})) as spool:
            await spool.append(event("a"))
            old, young = tmp_path / "damaged" / "0000000000000007.event", tmp_path / "damaged" / "0000000000000008.event"
            for path, seconds in ((old, 0), (young, 100), (tmp_path / f"{0:016d}.event", 0)):
                path.write_bytes(path.read_bytes() if path.exists() else b"torn")
                os.utime(path, (seconds, seconds))
            spool.forget_damaged(now=2 * 86_400 + 50)
            assert (old.exists(), young.exists()) == (False, True)
            assert names(await waiting(spool)) == ["a"]

    asyncio.run(scenario())
