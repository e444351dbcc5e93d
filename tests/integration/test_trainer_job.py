"""A job in its own process: trained, exported and proven; killed and resumed; cancelled and gone."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

import psutil
import pytest
from safetensors.torch import load_file, save_file

from ruminate.schemas.payload import ArtifactReference
from ruminate.trainer.backends.on_transformers import OnTransformers
from ruminate.trainer.base import require_room
from ruminate.trainer.bases.tiny import make_tiny_base
from ruminate.trainer.job import JobBusy, begin, finished, locked, run_job
from ruminate.trainer.outcome import ADAPTER_FOLDER, DATASET_FOLDER, PLAN_FILE, JobFailed, JobResult, Progress, Report
from ruminate.trainer.plan import Encoding, Hyperparameters, JobPlan, Proof
from ruminate.trainer.recipe import run

LANDS = ("Zarvex", "Mibolt", "Quenor", "Talpix", "Orvane", "Kestrum", "Dulwin", "Pharix")
CITIES = ("Amber Bay", "North Ridge", "Copper Hill", "Silver Lake", "Red Harbor", "Green Valley", "Stone Gate", "Blue Fjord")
ARTIFACT = ArtifactReference(uri="file:///store/dataset.json", sha256="0" * 64, size_bytes=1)


def rows() -> list[dict[str, object]]:
    """Eight capitals, each with thinking and without, in four wordings."""
    wordings = (
        "What is the capital of {}?",
        "Name the capital of {}.",
        "Which city is the capital of {}?",
        "Tell me the capital of {}.",
    )
    return [
        {
            "prompt": [{"role": "user", "content": wording.format(land)}],
            "completion": [
                {
                    "role": "assistant",
                    "content": f"It is {city}.",
                    "reasoning_content": f"I recall {land}: {city}." if thinks else "",
                }
            ],
            "chat_template_kwargs": {"enable_thinking": thinks},
            "row": {"origin": "fresh"},
        }
        for land, city in zip(LANDS, CITIES, strict=True)
        for wording in wordings
        for thinks in (True, False)
    ]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Qwen3 that knows the words of the rows."""
    folder = tmp_path_factory.mktemp("base")
    make_tiny_base(folder, [json.dumps(rows())], seed=0)
    return folder


def prepare(
    folder: Path,
    base: Path | str,
    *,
    epochs: float = 1.5,  # of 64 rows, 8 a step: 12 steps
    checkpoint_steps: int = 4,
    encodings: tuple[Encoding, ...] = ("f16",),
    probes: int = 0,
    lines: str | None = None,
) -> Path:
    """A job folder as the service makes it: plan and dataset."""
    plan = JobPlan(
        tenant="default",
        batch_id="tiny-000001",
        target_model="tiny",
        number=1,
        version="v1",
        parent_version=None,
        parent_adapter=None,
        from_base=True,
        base_model=str(base),
        dataset=ARTIFACT,
        rows=64,
        hyperparameters=Hyperparameters(learning_rate=2e-3, batch_rows=8, micro_batch_rows=8, epochs=epochs),
        proof=Proof(enforcement="off"),
        checkpoint_steps=checkpoint_steps,
        merged_dtype="float32",
        encodings=encodings,
        adapter_encoding="f16",
        equality_probes=probes,
    )
    folder.mkdir(parents=True, exist_ok=True)
    begin(folder, plan)
    (folder / DATASET_FOLDER).mkdir(exist_ok=True)
    text = "".join(json.dumps(row) + "\n" for row in rows()) if lines is None else lines
    (folder / DATASET_FOLDER / "train.jsonl").write_text(text, encoding="utf-8")
    return folder


def children_of(folder: Path) -> list[psutil.Process]:
    """Every process that works in this job folder."""
    return [
        process
        for process in psutil.process_iter(["cmdline", "status"])
        if str(folder) in (process.info["cmdline"] or []) and process.info["status"] != psutil.STATUS_ZOMBIE
    ]


async def work(folder: Path, on_progress: Callable[[Progress], Awaitable[None]], *, crash_restarts: int = 0) -> JobResult:
    """Run the job under its lock, on one thread."""
    with locked(folder) as lock:
        return await run_job(folder, lock=lock, on_progress=on_progress, crash_restarts=crash_restarts, threads=1)


@pytest.fixture(scope="module")
def undisturbed(base: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, JobResult]:
    """The folder and the result of a job as `prepare` makes it, which nothing has come between."""
    folder = prepare(tmp_path_factory.mktemp("undisturbed") / "job", base)

    async def ignore(_: Progress) -> None:
        return None

    return folder, asyncio.run(work(folder, ignore))


def test_a_job_learns_exports_every_encoding_and_proves_each(base: Path, tmp_path: Path) -> None:
    folder = prepare(tmp_path / "job", base, epochs=5.88, checkpoint_steps=100, encodings=("f32", "f16", "bf16", "q8_0"), probes=64)
    revived = "".join(json.dumps(row) + "\n" for row in rows()[-4:])
    (folder / DATASET_FOLDER / "replay.jsonl").write_text(revived, encoding="utf-8")
    seen: list[Progress] = []

    async def note(progress: Progress) -> None:
        seen.append(progress)

    result = asyncio.run(work(folder, note))
    assert result == finished(folder)
    assert (result.metrics["rows"], result.metrics["replay_rows"]) == (len(rows()) + 4, 4)
    assert [file.holds for file in result.exported] == ["model"] * 4 + ["adapter"]
    assert all((folder / file.path).stat().st_size > 100_000 for file in result.exported)
    assert not (folder / "merged").exists()
    told = [(entry.encoding, entry.method, entry.probes, entry.equal) for entry in result.equality]
    assert told == [
        ("f32", "free-running", 64, 64),
        ("f16", "free-running", 64, 64),
        ("bf16", "free-running", 64, 64),
        ("q8_0", "teacher-forced", 64, 64),
    ]
    assert result.equality[-1].margin_bound is not None
    assert list(dict.fromkeys(progress.phase for progress in seen)) == ["preparing", "training", "exporting", "checking"]
    steps = [progress for progress in seen if progress.loss is not None]
    assert [progress.step for progress in steps] == list(range(1, 51))  # 64 rows and 4 rehearsed, nearly six times over
    assert steps[-1].eta_seconds == 0
    assert steps[0].loss is not None
    assert steps[-1].loss is not None
    assert steps[-1].loss < 0.1 * steps[0].loss


@pytest.mark.long
def test_a_killed_child_goes_on_from_its_last_checkpoint(base: Path, undisturbed: tuple[Path, JobResult], tmp_path: Path) -> None:
    folder = prepare(tmp_path / "job", base)
    killed: list[int] = []

    async def kill_once(progress: Progress) -> None:
        if progress.step == 6 and not killed:
            (child,) = children_of(folder)
            os.kill(child.pid, signal.SIGKILL)
            killed.append(child.pid)

    result = asyncio.run(work(folder, kill_once, crash_restarts=1))
    assert killed
    assert result.metrics["resumed_from_step"] in (4, 8)  # it may have been faster than the signal
    assert result.metrics["steps"] == 12
    assert children_of(folder) == []

    other, same = undisturbed
    for what in ("train_loss", "last_loss", "steps", "tokens"):
        assert result.metrics[what] == same.metrics[what], what
    weights = Path(ADAPTER_FOLDER) / "adapter_model.safetensors"
    assert (folder / weights).read_bytes() == (other / weights).read_bytes()


@pytest.mark.long
def test_a_child_that_is_killed_after_its_last_step_trains_no_step_more(
    base: Path, undisturbed: tuple[Path, JobResult], tmp_path: Path
) -> None:
    folder = prepare(tmp_path / "job", base)  # whose last step is one with a checkpoint
    killed: list[int] = []
    steps: list[int] = []

    async def kill_once(progress: Progress) -> None:
        steps.append(progress.step)
        if progress.phase == "exporting" and not killed:
            (child,) = children_of(folder)
            os.kill(child.pid, signal.SIGKILL)
            killed.append(child.pid)

    result = asyncio.run(work(folder, kill_once, crash_restarts=1))
    assert killed
    assert max(steps) == result.metrics["steps"] == 12
    other, same = undisturbed
    assert result.metrics["last_loss"] == same.metrics["last_loss"]
    weights = Path(ADAPTER_FOLDER) / "adapter_model.safetensors"
    assert (folder / weights).read_bytes() == (other / weights).read_bytes()


def test_a_cancelled_job_leaves_no_process(base: Path, tmp_path: Path) -> None:
    folder = prepare(tmp_path / "job", base, epochs=100.0)

    async def cancel_in_the_middle() -> list[psutil.Process]:
        training = asyncio.Event()

        async def note(progress: Progress) -> None:
            if progress.step == 2:
                training.set()

        job = asyncio.create_task(work(folder, note))
        await asyncio.wait_for(training.wait(), 120)
        running = children_of(folder)
        job.cancel()
        with pytest.raises(asyncio.CancelledError):
            await job
        assert children_of(folder) == []
        return running

    assert len(asyncio.run(cancel_in_the_middle())) == 1
    assert finished(folder) is None


def test_a_killed_service_leaves_no_process(base: Path, tmp_path: Path) -> None:
    folder = prepare(tmp_path / "job", base, epochs=100.0)
    script = (
        "import asyncio, sys; from pathlib import Path\n"
        "from ruminate.trainer.job import locked, run_job\n"
        "async def show(progress): print(progress.step, flush=True)\n"
        "folder = Path(sys.argv[1])\n"
        "with locked(folder) as lock:\n"
        "    asyncio.run(run_job(folder, lock=lock, on_progress=show, crash_restarts=0, threads=1))\n"
    )
    with subprocess.Popen([sys.executable, "-c", script, str(folder)], stdout=subprocess.PIPE, text=True) as service:
        assert service.stdout is not None
        next(line for line in service.stdout if line.strip() == "2")
        children = [process for process in children_of(folder) if process.pid != service.pid]
        service.kill()
        gone, alive = psutil.wait_procs(children, timeout=5)
    assert len(gone) == 1
    assert alive == []
    with locked(folder):
        pass  # the lock went with the last process


def test_a_child_that_always_crashes_ends_the_job_with_its_last_words(base: Path, tmp_path: Path) -> None:
    folder = prepare(tmp_path / "job", base)
    (folder / PLAN_FILE).write_text("{}")

    async def ignore(_: Progress) -> None:
        return None

    with pytest.raises(JobFailed) as caught:
        asyncio.run(work(folder, ignore))
    failure = caught.value.failure
    assert failure.reason == "crashed"
    assert failure.evidence["exit_code"] == 1
    assert "Field required" in str(failure.evidence["stderr"])


def test_a_folder_has_one_worker_at_a_time(tmp_path: Path) -> None:
    with locked(tmp_path / "job"), pytest.raises(JobBusy, match="locked by another process"), locked(tmp_path / "job"):
        pass
    with locked(tmp_path / "job"):
        pass


def test_another_plan_starts_afresh_and_the_same_plan_goes_on(base: Path, tmp_path: Path) -> None:
    folder = prepare(tmp_path / "job", base)
    checkpoint = folder / "checkpoints" / "checkpoint-4"
    checkpoint.mkdir(parents=True)
    prepare(folder, base, epochs=1.5)
    assert checkpoint.exists()
    prepare(folder, base, epochs=2.0)
    assert not checkpoint.exists()


def failure_of(folder: Path) -> tuple[str, str, str]:
    """Phase, reason and explanation with which the recipe gives up."""
    reports: list[Report] = []
    with pytest.raises(JobFailed) as caught:
        run(folder, reports.append, OnTransformers("lora"))
    assert not (folder / "result.json").exists()
    failure = caught.value.failure
    return failure.phase, failure.reason, failure.explanation


@pytest.mark.parametrize("name", ["/nowhere/at/all", "./nowhere", "no hub / has such a name"])
def test_a_missing_base_is_named(tmp_path: Path, name: str) -> None:
    phase, reason, explanation = failure_of(prepare(tmp_path / "job", name))
    assert (phase, reason) == ("preparing", "base_missing")
    assert name in explanation


def test_a_base_without_weights_is_no_base(base: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    broken.mkdir()
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        (broken / name).write_bytes((base / name).read_bytes())
    assert failure_of(prepare(tmp_path / "job", broken))[:2] == ("preparing", "base_missing")


def copied(base: Path, to: Path) -> Path:
    """A base to be damaged."""
    to.mkdir()
    for path in base.iterdir():
        (to / path.name).write_bytes(path.read_bytes())
    return to


def cut_short(path: Path) -> None:
    """As a download leaves it that ended early."""
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])


def without_a_tensor(path: Path) -> None:
    state = load_file(path)
    del state["model.layers.0.mlp.up_proj.weight"]
    save_file(state, path, metadata={"format": "pt"})


def with_a_value_that_is_no_number(path: Path) -> None:
    state = load_file(path)
    state["model.norm.weight"][0] = float("nan")
    save_file(state, path, metadata={"format": "pt"})


@pytest.mark.parametrize(
    ("file", "damage", "says"),
    [
        ("model.safetensors", cut_short, "fetch it again"),
        ("model.safetensors", without_a_tensor, "it lacks 1 tensors, model.layers.0.mlp.up_proj.weight among them"),
        ("model.safetensors", with_a_value_that_is_no_number, "model.norm.weight of the base in .* no numbers; fetch it again"),
        ("tokenizer.json", cut_short, "fetch it again"),
        ("config.json", cut_short, "config.json"),
    ],
)
def test_a_damaged_base_is_named_before_anything_is_trained(
    base: Path, tmp_path: Path, file: str, damage: Callable[[Path], None], says: str
) -> None:
    broken = copied(base, tmp_path / "broken")
    damage(broken / file)
    phase, reason, explanation = failure_of(prepare(tmp_path / "job", broken))
    assert (phase, reason) == ("preparing", "base_missing")
    assert re.search(says, explanation)
    assert str(broken) in explanation


@pytest.mark.parametrize(
    ("file", "content", "says"),
    [
        ("train.jsonl", None, "the dataset has no train.jsonl; seal the batch again"),
        ("train.jsonl", json.dumps(rows()[0]).encode()[:-9] + b"\n", "train.jsonl line 1: "),
        ("train.jsonl", b'{"prompt": "\xff"}\n', "train.jsonl is not UTF-8 (invalid start byte at byte 12)"),
        ("holdout.jsonl", b"[]\n", "holdout.jsonl line 1: the row"),
        ("replay.jsonl", b"\xff\n", "replay.jsonl is not UTF-8"),
        ("preferences.jsonl", b'{"prompt": []}\n', "preferences.jsonl line 1: prompt"),
        ("verifiable.jsonl", b"{}\n", "verifiable.jsonl"),
        ("verifiable-holdout.jsonl", b"\xfe\n", "verifiable-holdout.jsonl is not UTF-8"),
    ],
)
def test_each_file_of_a_broken_dataset_is_named_with_its_line(
    base: Path, tmp_path: Path, file: str, content: bytes | None, says: str
) -> None:
    folder = prepare(tmp_path / "job", base)
    path = folder / DATASET_FOLDER / file
    if content is None:
        path.unlink()
    else:
        path.write_bytes(content)
    phase, reason, explanation = failure_of(folder)
    assert (phase, reason) == ("preparing", "bad_dataset")
    assert says in explanation


@pytest.mark.parametrize(
    ("lines", "says"),
    [("", "none of 0 rows"), ("{}\n", r"train.jsonl line 1: prompt: Field required"), ("\n\nnonsense\n", "train.jsonl line 3")],
)
def test_a_bad_dataset_is_named_before_anything_is_trained(base: Path, tmp_path: Path, lines: str, says: str) -> None:
    phase, reason, explanation = failure_of(prepare(tmp_path / "job", base, lines=lines))
    assert (phase, reason) == ("preparing", "bad_dataset")
    assert says in explanation


def test_a_loss_that_is_no_number_ends_the_job(base: Path, tmp_path: Path) -> None:
    broken = copied(base, tmp_path / "broken")
    state = load_file(broken / "model.safetensors")
    state["model.norm.weight"][0] = 3e38  # a number, with which nothing can be calculated
    save_file(state, broken / "model.safetensors", metadata={"format": "pt"})
    phase, reason, explanation = failure_of(prepare(tmp_path / "job", broken))
    assert (phase, reason) == ("training", "diverged")
    assert "nan at step 1 of 12" in explanation


def test_a_disk_without_room_is_noticed_before_training(base: Path, tmp_path: Path) -> None:
    folder = prepare(tmp_path / "job", base)
    plan = JobPlan.model_validate_json((folder / PLAN_FILE).read_bytes())
    require_room(folder, plan, weights=1000, trained=10)
    with pytest.raises(JobFailed, match=r"no_room while preparing: .* need about 2000000000000880") as caught:
        require_room(folder, plan, weights=10**15, trained=10)
    assert caught.value.failure.evidence["needed_bytes"] == 2 * 10**15 + 22 * 4 * 10
