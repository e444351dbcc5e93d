"""What a manifest's digests say is to be forgotten is what the register says of the interaction itself."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

from hypothesis import given
from hypothesis import strategies as st

from ruminate.accumulator.erasure.revise import gone_from, named_in, revise, salted
from ruminate.accumulator.records.names import Forgotten, names_in
from ruminate.schemas.erasure import ErasureRequested, Erasures, names_of
from ruminate.schemas.interaction import InteractionRecorded
from tests.unit.making import START, Maker, assessed, said

NOW = datetime(2026, 3, 2, tzinfo=UTC)
ids = st.sampled_from(["a", "b", "e\u0301", "\u00e9", str(UUID(int=1)), str(UUID(int=2))])
interactions = st.builds(
    lambda number, **changed: assessed(number, **changed).interaction,
    st.integers(1, 2),
    interaction_id=ids,
    conversation_id=ids,
    agent=ids,
    source=st.sampled_from(["/one", "/two"]),
    continues_interaction=st.one_of(st.none(), ids),
    occurred_at=st.integers(0, 3).map(lambda hours: NOW + timedelta(hours=hours)),
)
requests = st.builds(
    lambda scope, subject, source, target, hours, what, tenant: ErasureRequested(
        tenant=tenant,
        target_model=target,
        scope=scope,
        subject=tenant if scope == "tenant" else subject,
        interaction_source=source,
        requested_by="somebody",
        requested_at=NOW + timedelta(hours=hours),
        what=what,
    ),
    st.sampled_from(["interaction", "conversation", "agent", "tenant"]),
    ids,
    st.sampled_from([None, "/one", "/two"]),
    st.sampled_from(["*", "t", "another"]),
    st.integers(0, 3),
    st.sampled_from(["everything", "training"]),
    st.sampled_from(["default", "other"]),
)


@given(interactions, st.lists(requests, max_size=6))
def test_digests_find_what_the_names_themselves_find(interaction: InteractionRecorded, asked: list[ErasureRequested]) -> None:
    register, forgotten = Erasures(), Forgotten("default", "t")
    for number, request in enumerate(asked):
        register.take(f"e-{number}", request)
        forgotten.take(f"e-{number}", request)
        forgotten.take(f"e-{number}", request)
    named = names_of(interaction, source=interaction.source, recorded_id=interaction.recorded_id, seen_at=interaction.occurred_at)
    digests = names_in(interaction)
    assert (forgotten.erased(digests, interaction.occurred_at) is None) == (register.covers(named) is None)
    assert (forgotten.withdrawn(digests, interaction.occurred_at) is None) == (register.withdrawn(named) is None)


def request(**named: Any) -> ErasureRequested:
    return ErasureRequested(requested_by="somebody", requested_at=START + timedelta(days=1), **named)


def test_a_revision_keeps_the_other_lines_as_they_were_and_names_nobody(tmp_path: Path) -> None:
    chain = Maker(tmp_path)
    chain.batch(*(assessed(n, reference_answer=f"{n}") for n in range(10)))
    made = chain.batch(
        assessed(10, keep=False, evidence=[said(10, correction="Far off.")], conversation_id="c-gone"),
        *(assessed(n, reference_answer=f"{n}", conversation_id="c-gone" if n % 3 == 0 else f"c-{n}") for n in range(11, 21)),
    )
    files = {name: b"".join(lines) for name, lines in made.files().items()}
    forgotten = Forgotten("default", "t", [("e-1", request(scope="conversation", subject="c-gone"))])
    gone = gone_from(named_in(made.manifest), forgotten)
    assert {each.int for each in gone} == {10, 12, 15, 18}
    revised, left = revise(made.manifest, files, gone)
    for name in ("train.jsonl", "replay.jsonl", "holdout.jsonl", "preferences.jsonl", "verifiable.jsonl"):
        before, after = files[name].splitlines(), left[name].splitlines()
        assert [line for line in before if line in after] == after
    assert left["preferences.jsonl"] == b""
    assert len(left["train.jsonl"].splitlines()) == revised.counts["train"] == 7
    assert len(revised.rows) + len(revised.aside) == len(left["signatures.bin"]) // 264
    assert {erased.salted_sha256 for erased in revised.erased} == {
        salted(UUID(int=n), batch_id="t-2", erasure_id="e-1") for n in (10, 12, 15, 18)
    }
    named = left["manifest.json"].decode()
    assert not any(str(UUID(int=n)) in named.split('"left_out": [')[0] for n in (12, 15, 18))
    assert gone_from(named_in(revised), forgotten) == {}


def test_a_rehearsed_row_leaves_too_and_what_is_left_is_accounted_for(tmp_path: Path) -> None:
    chain = Maker(tmp_path)
    chain.batch(*(assessed(n) for n in range(8)))
    made = chain.batch(*(assessed(n) for n in range(8, 16)))
    files = {name: b"".join(lines) for name, lines in made.files().items()}
    rehearsed = {each.recorded_id.int for each in made.manifest.rehearsed if each.recorded_id is not None}
    one = min(rehearsed)
    forgotten = Forgotten("default", "t", [("e-1", request(scope="interaction", subject=f"i-{one}"))])
    revised, left = revise(made.manifest, files, gone_from(named_in(made.manifest), forgotten))
    assert len(left["replay.jsonl"].splitlines()) == len(rehearsed) - 1 == revised.counts["replay"]
    (erased,) = revised.erased
    assert (erased.was, erased.offset) == ("replay", None)
