"""How jobs are shown to people: one line each, and one in full. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import timedelta
from itertools import groupby, pairwise
from typing import Any, Final

from ruminate.command.training.jobs import Job
from ruminate.schemas.model import ModelRegistered, ModelRolledBack, ServedExam
from ruminate.schemas.training import AdapterTrained, TrainingFailed, TrainingProgressed

_BARS: Final = "▁▂▃▄▅▆▇█"
_CURVE_WIDTH: Final = 60


def in_a_line(job: Job) -> str:
    """What it does, as `train list` and `status` say it."""
    attempt = f", attempt {job.attempt}" if job.attempt > 1 else ""
    head = f"job {job.batch.batch_id} of {job.batch.target_model}{attempt}: {job.state}"
    match job.state:
        case "waiting":
            return f"{head} for {_without(job)}{_first(job)}"
        case "running":
            return f"{head}, {progress_said(job.last)}" if job.last is not None else head
        case "trained":
            assert isinstance(job.result, AdapterTrained)  # noqa: S101 - what the state says
            return f"{head} into {job.result.version} in {span(job.result.duration_seconds)}"
        case "failed":
            assert isinstance(job.result, TrainingFailed)  # noqa: S101
            return f"{head} ({job.result.reason}) {job.result.explanation}"


def _without(job: Job) -> str:
    # What is not said yet is put into a sentence; what the trainer says is one.
    said = job.waits_for or ""
    return said if said.startswith("its ") else f"this: {said}"


def _first(job: Job) -> str:
    return f"; priority {job.priority}" if job.priority else ""


def progress_said(progress: TrainingProgressed) -> str:
    """Phase, steps, loss, speed, time and memory, as far as they are known."""
    says = [progress.phase if progress.stage is None else f"{progress.phase} {progress.stage}"]
    if progress.steps:
        says.append(f"step {progress.step} of {progress.steps}")
    if progress.loss is not None:
        says.append(f"loss {progress.loss:.4g}")
    if progress.reward is not None:
        says.append(f"reward {progress.reward:.3g}")
    if progress.tokens_per_second is not None:
        says.append(f"{progress.tokens_per_second:,.0f} tokens/s")
    if progress.memory_bytes is not None:
        says.append(f"{progress.memory_bytes / 2**30:.1f} GiB")
    if progress.eta_seconds is not None:
        says.append(f"{span(progress.eta_seconds)} to go")
    return ", ".join(says)


def span(seconds: float) -> str:
    """A time as long as people say it."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    whole = timedelta(minutes=round(seconds / 60))
    hours, minutes = divmod(int(whole.total_seconds()) // 60, 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min"


def in_full(job: Job) -> Iterator[str]:
    """Everything that the log says of a job, a line each."""
    batch = job.batch
    yield in_a_line(job)
    yield (
        f"  batch {batch.number} of {batch.target_model} ({batch.tenant}): {batch.rows} rows "
        f"({batch.reasoning_rows} with thinking, {batch.replay_rows} rehearsed, "
        f"{batch.preference_pairs} pairs, {batch.verifiable_questions} questions), "
        f"sealed {batch.sealed_at:%Y-%m-%d %H:%M} by {batch.reason}: {batch.explanation}"
    )
    yield f"  dataset {batch.dataset.uri}"
    for failure in job.failures:
        yield f"  attempt {failure.attempt} failed {failure.failed_at:%Y-%m-%d %H:%M} while {failure.phase}: {failure.reason}"
        yield f"    {failure.explanation}"
        yield from _evidence(failure.evidence)
    for word in job.words:
        attempt = f" attempt {word.attempt}" if word.attempt is not None else ""
        priority = f" {word.priority}" if word.direction == "prioritise" else ""
        why = f": {word.reason}" if word.reason else ""
        yield f"  {word.directed_by} said {word.direction}{attempt}{priority} {word.directed_at:%Y-%m-%d %H:%M}{why}"
    for stage, losses in curves(job):
        yield f"  loss in {stage}: {losses[0]:.4g} {sparkline(losses)} {losses[-1]:.4g}"
    if isinstance(job.result, AdapterTrained):
        yield from _made(job.result)


def _evidence(evidence: Mapping[str, Any]) -> Iterator[str]:
    for name, value in evidence.items():
        if name == "findings":
            yield from _findings(value)
        elif isinstance(value, (list, tuple)):
            yield from (f"    {name}: {each}" for each in value)
        else:
            yield f"    {name}: {value}"


def _made(trained: AdapterTrained) -> Iterator[str]:
    # Earlier releases always went on from the parent, and did not say so.
    before = trained.continued_from or (trained.parent_version if trained.base_sha256 is None else None)
    goes_on = f"goes on from {before}" if before else "was trained from the base"
    yield f"  {trained.version} {goes_on} ({trained.base_model}), stages {', '.join(trained.stages) or 'none'}"
    for stage in _list(trained.metrics.get("stages")):
        yield f"    {stage.get('stage')}: " + ", ".join(f"{name} {value}" for name, value in stage.items() if _short(name, value))
    yield from _proof(trained.metrics.get("proof"))
    for equality in trained.equality:
        yield f"  equality in {equality.encoding}, {equality.method}: {equality.equal} of {equality.probes}"
    yield f"  adapter {trained.adapter.uri}"
    for file in trained.gguf:
        yield f"  {file.holds} in {file.encoding}: {file.file.uri}"


def end_in_full(end: ModelRegistered | ModelRolledBack | None) -> Iterator[str]:
    """What became of a version, a line each."""
    match end:
        case ModelRegistered():
            nodes = ", ".join(node.node for node in end.nodes)
            yield f"  serves as {end.model_name} on {nodes} since {end.registered_at:%Y-%m-%d %H:%M}"
            for served in end.served:
                yield from _served(served)
        case ModelRolledBack():
            yield f"  rolled back {end.rolled_back_at:%Y-%m-%d %H:%M} at {end.stage}: {end.reason}"
            exam = end.evidence.get("exam")
            if isinstance(exam, dict):
                yield from _served(ServedExam.model_validate(exam))
        case None:
            pass


def _served(served: ServedExam) -> Iterator[str]:
    says = "it serves what was proven" if served.kept else "it does not serve what was proven"
    where = f"{served.node} ({served.encoding}, engine {served.engine_version})"
    gone = f", {served.gone} stand in the dataset no longer" if served.gone else ""
    yield f"  {served.questions} questions asked again on {where}{gone}: {says}"
    yield from _findings(served.findings)


def _proof(proof: Any) -> Iterator[str]:
    if not isinstance(proof, dict):
        return
    kept = "has kept its reasoning" if proof.get("kept") else "has not kept its reasoning"
    if not proof.get("reasoning_measured", True):
        kept = "had no reasoning that could be measured"
    yield f"  proof: it {kept}, {'and has learned' if proof.get('learned') else 'and has learned nothing that is proven'}"
    yield from _findings(proof.get("findings"))


def _findings(findings: Any) -> Iterator[str]:
    for finding in _list(findings):
        values = [f"{value:.3g}" for value in (finding.get("before"), finding.get("after")) if isinstance(value, int | float)]
        measured = f"{finding.get('measure')} of {finding.get('group')}: {' -> '.join(values)}"
        yield f"    {measured}, {finding.get('verdict')} ({finding.get('questions')} questions)"


def _list(value: Any) -> list[dict[str, Any]]:
    return [each for each in value if isinstance(each, dict)] if isinstance(value, (list, tuple)) else []


def _short(name: str, value: Any) -> bool:
    return name != "stage" and isinstance(value, int | float | str) and not isinstance(value, bool)


def curves(job: Job) -> Iterator[tuple[str, list[float]]]:
    """The losses of this attempt as they were told, by stage."""
    told = [each for each in job.progress if each.attempt == job.attempt and each.loss is not None]
    for stage, steps in groupby(told, key=lambda each: each.stage or "training"):
        losses = [each.loss for each in steps if each.loss is not None]
        if len(losses) > 1:
            yield stage, losses


def sparkline(values: Sequence[float], width: int = _CURVE_WIDTH) -> str:
    """The values as bars of a line; where there are more than fit, the mean of neighbours."""
    count = min(width, len(values))
    edges = [round(place * len(values) / count) for place in range(count + 1)]
    means = [sum(values[low:high]) / (high - low) for low, high in pairwise(edges)]
    low, high = min(means), max(means)
    if high == low:
        return _BARS[0] * count
    return "".join(_BARS[round((mean - low) / (high - low) * (len(_BARS) - 1))] for mean in means)
