"""What the accumulator counts. Each sentence ends in what to do about it."""

from __future__ import annotations

from typing import Final

from prometheus_client import Counter, Gauge, Histogram

from ruminate.accumulator.sealing.decide import Policy, Progress, expected, usable_rows, usable_tokens
from ruminate.accumulator.sealing.drift import NAMES
from ruminate.accumulator.sealing.pauses import Pause

_CHAIN: Final = ("tenant", "target")
PAUSES: Final = ("quiet_hours", "budget")

FILL: Final = Gauge(
    "ruminate_batch_fill_rows",
    "Rows that would be trained on if the batch were cut now; if it stands still, see why interactions are left out.",
    _CHAIN,
)
SEAL_AT: Final = Gauge(
    "ruminate_batch_seal_at_rows",
    "Rows at which a batch is sealed; if batches come too seldom, lower RUMINATE_SEAL_AT_ROWS, or that of the target in "
    "RUMINATE_SEAL_POLICIES.",
    _CHAIN,
)
TOKENS: Final = Gauge(
    "ruminate_batch_fill_tokens",
    "Tokens that would be trained on if the batch were cut now; if batches vary too much in them, set RUMINATE_SEAL_AT_TOKENS.",
    _CHAIN,
)
ROWS: Final = Gauge(
    "ruminate_batch_rows",
    "Rows that stand ready by kind (reasoning, direct), and those among them that would be held out or left out (lost); if direct "
    "rows pile up, ask for more thinking; if lost ones do, see what is asked again and again.",
    (*_CHAIN, "kind"),
)
HELD: Final = Gauge(
    "ruminate_batch_held_deliveries",
    "Assessed interactions that wait for a cut, uncommitted; if it gets near RUMINATE_SEAL_AT_RECORDS, check the ratio of "
    "reasoning rows.",
    _CHAIN,
)
BLOCKED: Final = Gauge(
    "ruminate_batch_blocked",
    "1 while a batch fails its validation; read `batch_blocked` in the log and repair what it names.",
    _CHAIN,
)
PAUSED_UNTIL: Final = Gauge(
    "ruminate_batch_paused_until_timestamp_seconds",
    "Until when a batch that is due waits for quiet hours or the budget of a day (why), 0 where it does not; if it has to be "
    "sealed before, type `ruminate datasets seal`.",
    (*_CHAIN, "why"),
)
REQUESTS: Final = Gauge(
    "ruminate_batch_requests",
    "Operators' words that no batch has answered; if one stays, see whether any row with thinking stands ready.",
    _CHAIN,
)
DRIFT_P: Final = Gauge(
    "ruminate_batch_drift_p_value",
    "Of the last look at what waits beside the last batch: how likely chance alone makes them so unlike, by test (quality, scores, "
    "topics); if it is small again and again, see what is asked now.",
    (*_CHAIN, "test"),
)
DRIFT_LOOKS: Final = Gauge(
    "ruminate_batch_drift_looks",
    "Looks at what waits beside the last batch; if it stays 0 though conversations come, the last batch was too small to compare.",
    _CHAIN,
)
SEALED: Final = Counter(
    "ruminate_batches_sealed_total", "Batches of this replica that the log took; if none comes, see the fill.", (*_CHAIN, "reason")
)
LOST: Final = Counter(
    "ruminate_batches_lost_total",
    "Batches of this replica that came second and count for nothing; if they are many, look for rebalances.",
    _CHAIN,
)
LEFT_OUT: Final = Counter(
    "ruminate_interactions_left_out_total",
    "Assessed interactions that sealed batches left out, by reason; if `not_allowed` surprises you, check the tenant's policy.",
    ("reason",),
)
SEAL_SECONDS: Final = Histogram(
    "ruminate_seal_seconds",
    "Seconds from the decision to seal until the log took it; if it grows, look at the store.",
    buckets=(0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300),
)
REVISED: Final = Counter(
    "ruminate_datasets_revised_total",
    "Datasets that an erasure took lines out of; versions that were trained on them keep what they learned: `ruminate why MODEL` "
    "names them.",
    _CHAIN,
)
REVISION_BLOCKED: Final = Gauge(
    "ruminate_datasets_revision_blocked",
    "1 while what has to be forgotten cannot be taken out of a dataset; `/readyz` of the accumulator says why: mend what it names.",
    _CHAIN,
)


def show(
    chain: tuple[str, str],
    progress: Progress,
    policy: Policy,
    *,
    pause: Pause | None,
    held_deliveries: int,
    blocked: bool,
    revision_blocked: bool,
) -> None:
    """Set the gauges of a chain."""
    FILL.labels(*chain).set(usable_rows(expected(progress), policy))
    SEAL_AT.labels(*chain).set(policy.seal_at_rows)
    TOKENS.labels(*chain).set(usable_tokens(progress, policy))
    HELD.labels(*chain).set(held_deliveries)
    BLOCKED.labels(*chain).set(blocked)
    REVISION_BLOCKED.labels(*chain).set(revision_blocked)
    REQUESTS.labels(*chain).set(progress.requests)
    lost = progress.look.lost.rows if progress.look is not None else 0
    for kind, count in (*progress.counts._asdict().items(), ("lost", lost)):
        ROWS.labels(*chain, kind).set(count)
    for why in PAUSES:
        PAUSED_UNTIL.labels(*chain, why).set(pause.until.timestamp() if pause is not None and pause.why == why else 0)
    DRIFT_LOOKS.labels(*chain).set(progress.looked.look if progress.looked is not None else 0)
    found = {} if progress.looked is None else {test.what: test.p_value for test in progress.looked.tests}
    for what in NAMES:
        DRIFT_P.labels(*chain, what).set(found.get(what, 1.0))


def forget(chain: tuple[str, str]) -> None:
    """Take the gauges of a chain away: another replica shows them from now on."""
    for gauge in (FILL, SEAL_AT, TOKENS, HELD, BLOCKED, REVISION_BLOCKED, REQUESTS, DRIFT_LOOKS):
        gauge.remove(*chain)
    for kind in ("reasoning", "direct", "lost"):
        ROWS.remove(*chain, kind)
    for why in PAUSES:
        PAUSED_UNTIL.remove(*chain, why)
    for test in NAMES:
        DRIFT_P.remove(*chain, test)
