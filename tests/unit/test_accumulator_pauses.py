"""Quiet hours on the clocks of a place, and the budget of a day."""

from __future__ import annotations

from datetime import UTC, datetime, time, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ruminate.accumulator.sealing.pauses import Pause, QuietHours, pause_of, quiet_hours_of
from ruminate.accumulator.settings import AccumulatorSettings

BERLIN = ZoneInfo("Europe/Berlin")
NIGHT = QuietHours(time(22), time(6), BERLIN)


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def test_hours_over_midnight_are_quiet_on_both_sides_of_it() -> None:
    shown = {"20:59": False, "21:00": True, "23:30": True, "04:59": True, "05:00": False, "12:00": False}
    assert {when: NIGHT.holds(at(f"2026-01-10T{when}")) for when in shown} == shown


def test_hours_of_one_day_end_on_it() -> None:
    lunch = QuietHours(time(12), time(13, 30), UTC)
    assert [lunch.holds(at(f"2026-01-10T{when}")) for when in ("11:59", "12:00", "13:29", "13:30")] == [False, True, True, False]
    assert lunch.end_after(at("2026-01-10T12:10")) == at("2026-01-10T13:30")


def test_they_follow_the_clocks_when_those_are_put_forward_and_back() -> None:
    assert NIGHT.end_after(at("2026-03-28T21:30")) == at("2026-03-29T04:00"), "six o'clock is an hour earlier from then on"
    assert NIGHT.end_after(at("2026-10-24T21:30")) == at("2026-10-25T05:00")
    twice = QuietHours(time(2, 15), time(2, 45), BERLIN)
    quiet = [twice.holds(at(f"2026-10-25T{when}")) for when in ("00:20", "00:50", "01:20", "01:50")]
    assert quiet == [True, False, True, False], "half past two comes twice"
    assert twice.end_after(at("2026-10-25T01:20")) == at("2026-10-25T01:45")
    assert not any(twice.holds(at("2026-03-29T00:00") + timedelta(minutes=minute)) for minute in range(180)), "and once not at all"


times = st.times().map(lambda each: each.replace(second=0, microsecond=0))
zones = st.sampled_from(["UTC", "Europe/Berlin", "America/St_Johns", "Australia/Lord_Howe", "Asia/Kathmandu", "Pacific/Apia"])


@given(times, times, zones, st.datetimes(min_value=datetime(2020, 1, 1), max_value=datetime(2030, 1, 1), timezones=st.just(UTC)))
def test_a_quiet_hour_ends_later_and_is_none_then(begin: time, end: time, zone: str, moment: datetime) -> None:
    if begin == end:
        return
    quiet = QuietHours(begin, end, ZoneInfo(zone))
    if quiet.holds(moment):
        until = quiet.end_after(moment)
        assert moment < until <= moment + timedelta(hours=26)
        assert not quiet.holds(until)


def test_a_budget_is_of_any_24_hours() -> None:
    noon = at("2026-01-10T12:00")
    sealed = [noon - timedelta(hours=hours) for hours in (30, 20, 3)]
    assert pause_of(None, 3, sealed, now=noon) is None
    assert pause_of(None, 2, sealed, now=noon) == Pause("budget", noon + timedelta(hours=4))
    assert pause_of(None, 2, sealed, now=noon + timedelta(hours=4)) is None
    assert pause_of(None, 2, sealed[-1:], now=noon) is None
    assert pause_of(None, None, sealed * 100, now=noon) is None
    assert pause_of(NIGHT, None, (), now=noon) is None
    midnight = at("2026-01-11T00:00")
    assert pause_of(NIGHT, None, (), now=midnight) == Pause("quiet_hours", at("2026-01-11T05:00"))


@pytest.mark.parametrize(
    ("hours", "zone", "says"),
    [
        ("22-6", "UTC", "write them as 22:00-06:00"),
        ("24:00-06:00", "UTC", "are no hours"),
        ("06:00-06:00", "UTC", "the whole day"),
        ("22:00-06:00", "Europe/Atlantis", "no time zone is named 'Europe/Atlantis'"),
        ("", "../../etc/passwd", "no time zone is named"),
    ],
)
def test_hours_that_are_none_are_refused_and_say_what_is_allowed(hours: str, zone: str, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        AccumulatorSettings(seal_quiet_hours=hours, seal_time_zone=zone)
    assert quiet_hours_of("", "UTC") is None


# A target's own policy


def test_the_first_of_target_of_a_tenant_target_and_tenant_that_names_a_value_wins() -> None:
    settings = AccumulatorSettings(
        seal_at_rows=100,
        seal_policies={
            "acme/*": {"seal_at_rows": 1, "seal_most_a_day": 2, "seal_quiet_hours": "22:00-06:00"},
            "*/qwen3:8b": {"seal_at_rows": 3, "seal_at_tokens": 4, "seal_time_zone": "Europe/Berlin"},
            "acme/qwen3:8b": {"seal_at_tokens": 5},
            "acme/hf.co/Qwen/Qwen3-8B": {"min_reasoning_ratio": 0.5},
        },
    )
    own = settings.of_chain("acme", "qwen3:8b").policy
    assert (own.seal_at_rows, own.seal_at_tokens, own.most_a_day, own.quiet_hours) == (3, 5, 2, NIGHT)
    assert settings.of_chain("acme", "other").policy.seal_at_rows == 1
    assert settings.of_chain("acme", "hf.co/Qwen/Qwen3-8B").min_reasoning_ratio == 0.5
    assert settings.of_chain("other", "other") is settings


@pytest.mark.parametrize(
    ("policies", "says"),
    [
        ({"qwen3:8b": {}}, 'write "tenant/target", "\\*/target" or "tenant/\\*"'),
        ({"*/*": {}}, "what is for all without it"),
        ({"acme/t": {"holdout_ratio": 0.1}}, "has holdout_ratio; it may have seal_at_rows, min_reasoning_ratio"),
        (
            {"acme/t": {"seal_at_rows": 0}},
            "'acme/t' in RUMINATE_SEAL_POLICIES: seal_at_rows: Input should be greater than or equal to 1",
        ),
        ({"acme/*": {"seal_quiet_hours": "late"}}, "'acme/\\*' in RUMINATE_SEAL_POLICIES: 'late' are no hours"),
        ({"*/t": {"seal_time_zone": "Mars"}}, "no time zone is named 'Mars'"),
    ],
)
def test_a_policy_that_says_nothing_is_refused_and_says_what_it_may_say(policies: dict[str, dict[str, object]], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        AccumulatorSettings(seal_policies=policies)
