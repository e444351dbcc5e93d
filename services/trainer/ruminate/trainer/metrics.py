"""What the trainer counts; each sentence ends in what to do about it."""

from __future__ import annotations

from typing import Final

from prometheus_client import Counter, Gauge, Histogram

JOBS: Final = Counter(
    "ruminate_training_jobs_total",
    "Sealed batches by what became of them (trained, or the reason of the failure); when a reason grows, read its explanation "
    "in training-failed-v1.",
    ["outcome"],
)
JOB_SECONDS: Final = Histogram(
    "ruminate_training_job_seconds",
    "From a sealed batch in hand to its stored version; when it comes near the age at which batches are sealed, train fewer "
    "epochs or add a GPU.",
    buckets=(10, 30, 60, 120, 300, 900, 3600, 4 * 3600, 12 * 3600, 48 * 3600),
)
CHILD_CRASHES: Final = Counter(
    "ruminate_training_child_crashes_total",
    "Training processes that ended without a word; when it grows, look at stderr.log in the job folder and at the kernel's log "
    "for killed processes.",
)
RUNNING: Final = Gauge(
    "ruminate_training_running",
    "Jobs that run; when one does while ruminate_training_step stands still, restart the trainer.",
)
WAITING: Final = Gauge(
    "ruminate_training_waiting",
    "Batches in hand that do not run, by what they wait for (parent, base, retry, approval, paused, turn); `ruminate train list` "
    "says what to type.",
    ["why"],
)
_OF_JOB: Final = ("tenant", "target")
"""A target has one job at a time; those of a job that is over are taken back."""
STEP: Final = Gauge("ruminate_training_step", "Step of a running job; when it stands still, restart the trainer.", _OF_JOB)
STEPS: Final = Gauge("ruminate_training_steps", "Steps of a running job; when there are too many, train fewer epochs.", _OF_JOB)
LOSS: Final = Gauge("ruminate_training_loss", "Loss of the last step; when it rises, lower RUMINATE_LEARNING_RATE.", _OF_JOB)
TOKENS_PER_SECOND: Final = Gauge(
    "ruminate_training_tokens_per_second", "Speed of a running job; when it falls, see what else uses the machine.", _OF_JOB
)
ETA_SECONDS: Final = Gauge(
    "ruminate_training_eta_seconds",
    "Until the running stage ends, as fast as it was so far; when it is too long, train fewer epochs.",
    _OF_JOB,
)
MEMORY_BYTES: Final = Gauge(
    "ruminate_training_memory_bytes",
    "Most memory that a running job has used of its device, or as a process without one; when it comes near what is there, "
    "lower RUMINATE_MICRO_BATCH_ROWS.",
    _OF_JOB,
)
OF_A_JOB: Final = (STEP, STEPS, LOSS, TOKENS_PER_SECOND, ETA_SECONDS, MEMORY_BYTES)

MIRROR_AWAY: Final = Gauge(
    "ruminate_mirror_away",
    "1 while the MLflow of RUMINATE_MLFLOW_URI takes nothing; trainings go on and it is told later: `/readyz` says why under "
    "notes.",
)
MIRROR_TOLD: Final = Counter(
    "ruminate_mirror_told_total",
    "Figures, tags and files that MLflow has taken; when it stands still while a job runs, read the notes in `/readyz`.",
)
MIRROR_UNTOLD_BYTES: Final = Gauge(
    "ruminate_mirror_untold_bytes",
    "Notes on disk of which MLflow has not been told yet; when it only grows, look at the server, or unset RUMINATE_MLFLOW_URI.",
)
MIRROR_LOST: Final = Counter(
    "ruminate_mirror_lost_total",
    "What MLflow is never told, by why (refused, no_room, too_many, taken, damaged, no_evidence, not_proxied, fault); the log says "
    "what was wrong. The events have all of it.",
    ["why"],
)
