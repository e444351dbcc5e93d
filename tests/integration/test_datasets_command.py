"""`ruminate datasets` at the embedded broker: what an operator types, and what it says."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import orjson
import pytest
from typer.testing import CliRunner, Result

from ruminate.accumulator.erasure.reviser import Datasets, Reviser
from ruminate.accumulator.rebuilding.rebuild import SealedChain
from ruminate.accumulator.records.register import Register
from ruminate.command.__main__ import app as whole
from ruminate.command.datasets.verbs import app
from ruminate.embedded.broker import embedded_broker
from ruminate.schemas.batch import TrainingBatchSealed
from ruminate.schemas.erasure import ErasureRequested
from ruminate.schemas.flow import ERASURE_REQUESTED
from ruminate.shared.kafka import KafkaBus
from ruminate.shared.settings import ServiceSettings
from ruminate.shared.store import FileStore, StoreError
from ruminate.shared.topics import ensure_topics
from tests.integration.recorded_log import SETTINGS, Pieces, assess, chain_of, interaction, record, seal


@dataclass(frozen=True)
class Loop:
    """A state folder as `up` leaves it, with a chain of five batches in log and store."""

    state: Path
    chain: SealedChain

    @property
    def pieces(self) -> Pieces:
        return Pieces(self.state / "store")

    @property
    def batches(self) -> tuple[TrainingBatchSealed, ...]:
        return self.chain.batches

    def type(self, *words: str, environment: dict[str, str] | None = None) -> Result:
        return CliRunner().invoke(app, [*words, "--state", str(self.state)], env=environment, catch_exceptions=False)

    def ask(self, *words: str) -> Any:
        """What a verb says with --json."""
        said = self.type(*words, "--json")
        assert said.stdout, f"{words} ended with {said.exit_code}: {said.stderr}"
        return json.loads(said.stdout)


@pytest.fixture
def loop() -> Iterator[Loop]:
    async def prepare(settings: ServiceSettings, state: Path) -> SealedChain:
        await ensure_topics(settings)
        interactions = [interaction(n, thinks=n % 5 != 0, training_allowed=n % 7 != 3) for n in range(64)]
        async with KafkaBus(settings, reader="accumulator") as bus:
            await record(bus, *interactions)
            await assess(bus, *interactions)
            await seal(bus, FileStore(state / "store"), 5)
            return await chain_of(bus)

    # An event carries the address of a dataset: a short folder, wherever the tests run.
    with TemporaryDirectory(prefix="ruminate-") as folder, embedded_broker() as broker:
        state = Path(folder).resolve()
        settings = ServiceSettings(kafka_bootstrap=broker.bootstrap, kafka_profile="embedded", state_dir=state)
        chain = asyncio.run(prepare(settings, state))
        addresses = {
            "kafka": broker.bootstrap,
            "kafka_profile": "embedded",
            "gateway": "",
            "collector": "",
            "nodes": {},
            "operations": {},
            "target": "qwen3:8b",
            "store": (state / "store").as_uri(),
        }
        (state / "addresses.json").write_bytes(orjson.dumps(addresses))
        yield Loop(state, chain)


def test_a_lost_dataset_is_listed_and_rebuilt(loop: Loop) -> None:
    found = loop.ask("list")
    assert [(each["number"], each["artifact"]) for each in found] == [(n, "whole") for n in range(1, 6)]
    assert loop.type("verify").exit_code == 0
    loop.pieces.blob_of(loop.batches[1], "train.jsonl").unlink()
    loop.pieces.blob_of(loop.batches[2], "manifest.json").write_bytes(b"damaged")
    for verb in ("list", "verify"):
        said = loop.type(verb)
        assert said.exit_code == 1
        assert "missing" in said.stdout
    said = loop.type("rebuild", "--batch", "2..3", environment={"RUMINATE_HOLDOUT_RATIO": str(SETTINGS.holdout_ratio)})
    assert said.exit_code == 0
    lines = said.stdout.splitlines()
    assert [line.split("  ")[:2] for line in lines] == [[f"qwen3_8b-00000{n}", "identical"] for n in (2, 3)]
    assert all("put back into the store" in line for line in lines)
    assert "its manifest is gone" in lines[1]
    assert loop.type("list").exit_code == loop.type("verify").exit_code == 0
    again = loop.ask("rebuild")
    assert [(each["outcome"], each["decided"], each["put_back"]) for each in again] == [("identical", "anew", False)] * 5


def test_other_settings_and_no_manifest_end_in_exit_1_and_say_so(loop: Loop) -> None:
    said = loop.type("rebuild", "--without-manifests", environment={"RUMINATE_SHUFFLE_SEED": "7"})
    assert said.exit_code == 1
    assert "qwen3_8b-000001  differs  without a manifest" in said.stdout
    assert "Set RUMINATE_* as they were" in said.stdout


def test_a_batch_is_shown_with_its_policy_and_lineage(loop: Loop) -> None:
    shown = loop.ask("show", "qwen3_8b-000002")
    assert (shown["number"], shown["previous"], shown["policy"]["holdout_ratio"]) == (2, "qwen3_8b-000001", 0.25)
    assert shown["counts"]["train"] == loop.batches[1].rows
    assert shown["left_out_counts"]["not_allowed"] > 0
    assert shown["dataset"]["sha256"] == loop.batches[1].dataset.sha256
    assert shown["rehearsed"] == {"replay": {"qwen3_8b-000001": loop.batches[1].replay_rows}}
    assert all(check["passed"] for check in shown["report"])
    screen = loop.type("show", "qwen3_8b-000002").stdout
    assert "policy: min_reasoning_ratio 0.75" in screen
    assert "report: every check passed" in screen
    unknown = loop.type("show", "qwen3_8b-000009")
    assert (unknown.exit_code, "the last of each chain: qwen3_8b-000005" in unknown.stderr) == (2, True)


def test_a_tenant_or_target_that_nothing_is_sealed_or_recorded_for_is_no_success(loop: Loop) -> None:
    (loop.state / "default.toml").touch()
    for words in (("list",), ("verify",), ("rebuild",), ("rebuild", "--policy", str(loop.state / "default.toml"))):
        said = loop.type(*words, "--tenant", "nobody", "--target", "qwen3:8b")
        assert (said.exit_code, said.stdout) == (2, "")
        assert said.stderr.endswith(" for qwen3:8b of nobody; there is something for qwen3:8b of default\n")
    assert not (loop.state / "store" / "replays").exists()


def test_a_loop_elsewhere_is_found_in_the_environment_as_the_services_find_it(loop: Loop, tmp_path: Path) -> None:
    addresses = json.loads((loop.state / "addresses.json").read_bytes())
    environment = {
        "RUMINATE_KAFKA_BOOTSTRAP": addresses["kafka"],
        "RUMINATE_KAFKA_PROFILE": "embedded",
        "RUMINATE_STORE_URI": addresses["store"],
    }
    said = CliRunner().invoke(app, ["verify", "--state", str(tmp_path)], env=environment)
    assert said.exit_code == 0, said.stderr
    assert said.stdout.splitlines() == [f"qwen3_8b-00000{n}: sound" for n in range(1, 6)]
    (loop.state / "store").rename(tmp_path / "moved")
    said = loop.type("verify", "--store", str(tmp_path / "moved"))
    assert (said.exit_code, said.stdout.count(": 1 problem\n")) == (1, 5), "the sealed records point to where it lay before"


def test_a_file_with_another_policy_gives_the_same_replay_twice(loop: Loop) -> None:
    file = loop.state / "stricter.toml"
    file.write_text("[assessment]\nkeep_evidence_at_least = 0.6\nkeep_overall_at_least = 0\n[batch]\nseal_at_rows = 5\n")
    before = loop.type("list").stdout
    runs = [loop.ask("rebuild", "--policy", str(file)) for _ in range(2)]
    assert runs[0] == runs[1]
    assert runs[0]["name"].startswith("policy-")
    (chain,) = runs[0]["chains"]
    assert chain["rejected_for"] == {"little_evidence": 14}
    assert len(runs[0]["datasets"]) == len(chain["batches"]) > 5
    assert loop.type("list").stdout == before
    said = loop.type("rebuild", "--policy", str(file), "--policy-name", "stricter")
    assert said.exit_code == 0
    assert "# Replay stricter" in said.stdout
    assert "| batch.seal_at_rows | 5 | 500 |" in said.stdout
    assert f"summary  {(loop.state / 'store' / 'replays' / 'stricter').as_uri()}/" in said.stdout


def test_two_batches_are_compared_and_the_exit_says_whether_they_are_equal(loop: Loop) -> None:
    same = loop.type("diff", "2", loop.batches[1].dataset.sha256[:12])
    assert (same.exit_code, "0 added, 0 left, 0 changed" in same.stdout) == (0, True)
    said = loop.type("diff", "1", "qwen3_8b-000002")
    assert said.exit_code == 1
    assert said.stdout.splitlines()[0] == "qwen3_8b-000001  ->  qwen3_8b-000002"
    diff = json.loads(loop.type("diff", "1", "2", "--json").stdout)
    assert (len(diff["left"]), len(diff["added"])) == tuple(batch.rows + batch.holdout_rows for batch in loop.batches[:2])
    for words, says in (
        (("1", "9"), "no batch is '9'"),
        (("1",), "diff compares two batches"),
        (("--replay", "x"), "no replay is"),
    ):
        refused = loop.type("diff", *words)
        assert (refused.exit_code, says in refused.stderr) == (2, True), refused.stderr
    loop.pieces.blob_of(loop.batches[0], "manifest.json").unlink()
    assert loop.type("diff", "1", "2").exit_code == 2


def test_a_chain_is_compared_with_its_replay(loop: Loop) -> None:
    file = loop.state / "same.toml"
    file.write_text("[assessment]\nkeep_evidence_at_least = 0\nkeep_overall_at_least = 0\n[batch]\nseal_at_rows = 30\n")
    made = loop.ask("rebuild", "--policy", str(file), "--policy-name", "same")
    (chain,) = made["chains"]
    diff = json.loads(loop.type("diff", "--replay", "same", "--json").stdout)
    counted = {kind: sum(chain["differing_rows"][kind].values()) for kind in ("gained", "lost", "changed")}
    assert [len(diff[kind]) for kind in ("added", "left", "changed")] == list(counted.values())
    assert diff["same_rows"] == chain["same_rows"] > 0
    assert diff["second"] == f"replay same@{made['summary']['sha256'][:8]}"
    named = loop.type("diff", "--replay", f"same@{made['summary']['sha256'][:8]}")
    assert named.exit_code == (0 if diff["equal"] else 1)


def test_a_batch_is_exported_with_its_card_and_nothing_is_overwritten_unasked(loop: Loop, tmp_path: Path) -> None:
    to = tmp_path / "out"
    said = loop.type("export", "1", "--to", str(to), "--format", "both")
    assert said.exit_code == 0, said.stderr
    assert {path.name for path in to.iterdir()} == {
        *("README.md", "card", "train.parquet", "holdout.parquet", "train.jsonl", "holdout.jsonl"),
    }
    again = loop.type("export", "1", "--to", str(to))
    assert (again.exit_code, "has README.md, holdout.parquet, train.parquet already" in again.stderr) == (2, True)
    told = json.loads(loop.type("export", "1", "--to", str(to), "--overwrite", "--split", "train", "--json").stdout)
    assert told["files"]["train.parquet"]["rows"] == loop.batches[0].rows
    assert told["records_gone_from_the_log"] == 0
    later = json.loads(loop.type("export", "2", "--to", str(to), "--overwrite", "--json").stdout)
    assert later["files"]["replay.parquet"]["rows"] == loop.batches[1].replay_rows > 0
    assert later["left_out_without_lines"] == ["preferences", "verifiable", "verifiable-holdout"]
    first = json.loads(loop.type("export", "1", "--to", str(to), "--overwrite", "--json").stdout)
    assert "replay" in first["left_out_without_lines"]
    assert not (to / "replay.parquet").exists(), "what is left of another export would be taken for this one's"
    card = loop.type("card", "qwen3_8b-000002", "--to", str(tmp_path / "card-2"))
    assert (card.exit_code, (tmp_path / "card-2" / "README.md").exists()) == (0, True)
    assert "configs:" not in (tmp_path / "card-2" / "README.md").read_text()


def test_why_is_answered_at_a_broker_for_people_and_for_programs(loop: Loop) -> None:
    said = CliRunner().invoke(whole, ["why", "2:1", "--state", str(loop.state)], catch_exceptions=False)
    assert said.exit_code == 0, said.stderr
    assert "in qwen3_8b-000002: line 1 of train.jsonl" in said.stdout
    assert "no version was trained on it yet" in said.stdout
    told = json.loads(CliRunner().invoke(whole, ["why", "2:1", "--state", str(loop.state), "--json"]).stdout)
    assert told["kind"] == "interaction"
    nothing = CliRunner().invoke(whole, ["why", "nobody", "--state", str(loop.state)])
    assert (nothing.exit_code, "SUBJECT is a row" in nothing.stderr) == (2, True)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("rebuild", "--batch", "3..1"), "a number, two as 3..5, or all"),
        (("rebuild", "--policy-name", "x"), "--policy FILE"),
        (("rebuild", "--policy", "no.toml", "--batch", "1"), "neither --batch nor"),
        (("rebuild", "--policy", "no.toml", "--policy-name", "../up"), "--policy-name '../up'"),
        (
            ("export", "1", "--to", "out", "--config", "preferences", "--split", "holdout"),
            "--config preferences has no split holdout; default has train and replay and holdout, preferences has train, ",
        ),
    ],
)
def test_what_makes_no_sense_is_refused_with_exit_2(tmp_path: Path, words: tuple[str, ...], says: str) -> None:
    said = CliRunner().invoke(app, [*words, "--state", str(tmp_path)])
    assert (said.exit_code, says in said.stderr) == (2, True)


def erase(loop: Loop, conversation: str) -> None:
    """Somebody asks that a conversation is forgotten, and it is taken out of the datasets."""
    settings = ServiceSettings(
        kafka_bootstrap=orjson.loads((loop.state / "addresses.json").read_bytes())["kafka"],
        kafka_profile="embedded",
        state_dir=loop.state,
    )

    async def work() -> None:
        request = ErasureRequested(
            scope="conversation", subject=conversation, requested_by="an operator", requested_at=datetime.now(UTC)
        )
        async with KafkaBus(settings, reader="accumulator") as bus:
            await bus.publish(ERASURE_REQUESTED, request, bus.begin(ERASURE_REQUESTED, request, event_id="erasure-1"))
            register = Register(bus)
            await register.read()
            datasets = Datasets(loop.chain.partition, loop.chain.tenant, loop.chain.target)
            for batch in loop.batches:
                datasets.seal(batch.number, batch.dataset)
            reviser = Reviser(bus, FileStore(loop.state / "store"), register, clock=lambda: datetime.now(UTC))
            async with asyncio.timeout(15):
                while reviser.due(datasets):
                    with suppress(StoreError):  # what is acknowledged is shown a moment later
                        await reviser.work(datasets)

    asyncio.run(work())


def test_a_revised_dataset_is_listed_shown_verified_and_compared_as_what_is_left(loop: Loop) -> None:
    before = loop.ask("show", "qwen3_8b-000001")
    lines = loop.pieces.blob_of(loop.batches[0], "train.jsonl").read_text().splitlines()
    number = next(n for n in range(8) if any(f"What is {n} plus 1?" in line for line in lines))
    erase(loop, f"c-{number}")
    listed = {each["number"]: each for each in loop.ask("list")}
    assert (listed[1]["artifact"], listed[1]["revision"]) == ("whole", 1)
    assert (listed[1]["erased_interactions"], listed[1]["erasure_ids"]) == (1, ["erasure-1"])
    assert listed[1]["rows"] == loop.batches[0].rows - 1
    assert "revision 1, 1 interaction erased from it" in loop.type("list").stdout
    shown = loop.ask("show", "qwen3_8b-000001")
    assert (shown["revision"], shown["erased"], shown["report"]) == (1, {"erasure-1": 1}, None)
    assert shown["counts"]["train"] == before["counts"]["train"] - 1
    said = loop.type("show", "qwen3_8b-000001").stdout
    assert "erased: revision 1; interactions that have left it, by request: erasure-1 1; their lines: train 1" in said
    assert "what an erasure has left of it is not validated anew" in said
    verified = loop.type("verify")
    assert verified.exit_code == 0, verified.stdout
    assert "qwen3_8b-000001: sound, revision 1, 1 interaction erased from it" in verified.stdout
    # By the SHA-256 of what was sealed, which versions name that were trained before.
    diff = loop.ask("diff", loop.batches[0].dataset.sha256[:16], "1")
    assert diff["equal"]
    assert diff["first"] == "qwen3_8b-000001, revision 1"
    assert diff["counts"]["first"]["erased"] == {"erasure-1": 1}
    assert loop.type("card", "1", "--to", str(loop.state / "card")).exit_code == 0
    assert "This is revision 1: 1 interaction of this batch has been erased." in (loop.state / "card" / "README.md").read_text()
