"""What the trainer can be told from outside, with the reason for each default."""

from __future__ import annotations

import hashlib
from importlib.resources import files
from pathlib import Path
from typing import Final

from pydantic import Field, SecretStr, field_validator, model_validator
from pydantic_core import PydanticCustomError

from ruminate.grading.checking.limits import Limits
from ruminate.proof.exam import BadExam, read_questions
from ruminate.proof.judge import Policy as ProofPolicy
from ruminate.schemas.payload import Name, Target
from ruminate.schemas.training import Stage
from ruminate.shared.lines import lines_of
from ruminate.shared.settings import ServiceSettings, WrongSettings
from ruminate.trainer.decide import Approval, Policy
from ruminate.trainer.mirror.log_in import contradictions
from ruminate.trainer.plan import (
    ORDER,
    BackendWish,
    Checkpointing,
    Dtype,
    Encoding,
    Enforcement,
    Hyperparameters,
    Method,
    Practice,
    Preference,
    Proof,
    Recovery,
    Schedule,
    StageRules,
)

_OFFICIAL_BASES = {
    "qwen3:0.6b": "Qwen/Qwen3-0.6B",
    "qwen3:1.7b": "Qwen/Qwen3-1.7B",
    "qwen3:4b": "Qwen/Qwen3-4B",
    "qwen3:8b": "Qwen/Qwen3-8B",
    "qwen3:14b": "Qwen/Qwen3-14B",
    "qwen3:32b": "Qwen/Qwen3-32B",
    "qwen3:30b-a3b": "Qwen/Qwen3-30B-A3B",
    "qwen3:235b-a22b": "Qwen/Qwen3-235B-A22B",
}


SCHOOL_SET: Final = "school-problems"
SCHOOL_PROBLEMS: Final = Path(str(files("ruminate.proof") / "sets" / "school_problems.jsonl"))
"""Of GSM8K's test set (MIT, licence beside it), chosen by hash."""


class TrainerSettings(ServiceSettings):
    """Read once from `RUMINATE_*`, then passed down."""

    grace_seconds: float = Field(
        default=0.0,
        ge=0,
        le=600,
        description="How long SIGTERM waits for a job. None: a job of hours goes on from its checkpoint at the next start.",
    )
    bases: dict[Target, str] = Field(
        default=_OFFICIAL_BASES,
        description="The base that each target is trained on, as JSON: hub names or local folders.",
    )
    training_backend: BackendWish = Field(
        default="auto",
        description="Who trains: unsloth (CUDA; ruminate-trainer[gpu]), transformers (any device), or auto: the first that can.",
    )
    training_method: Method = Field(
        default="lora",
        description="What the base is held in: as released (lora), or in 4 bits (qlora; CUDA), which is slower and smaller.",
    )
    gradient_checkpointing: Checkpointing = Field(
        default="auto",
        description="Layers are computed again in the backward pass (on): a third more time, far less memory of the GPU. off: what "
        "they made is kept. auto: kept on transformers, where the longest rows of the batch leave room for it.",
    )
    approval: dict[Target, Approval] = Field(
        default_factory=dict,
        description="JSON object of targets, `*` for all others: `auto` trains each batch, `manual` waits for "
        "`ruminate train approve`.",
    )
    training_at_once: int = Field(
        default=1,
        ge=1,
        le=64,
        description="Jobs that run at the same time. More than one: each sees one GPU, of CUDA_VISIBLE_DEVICES or of 0, 1, 2, …",
    )
    lora_rank: int = Field(default=64, ge=1, le=512, description="Rank of the adapter: its room to learn.")
    lora_alpha: int = Field(default=128, ge=1, le=1024, description="Scale of the adapter; twice the rank is usual.")
    learning_rate: float = Field(
        default=1e-5, gt=0, le=1e-2, description="1e-5 is careful, for a model updated again and again; 2e-4 for a fresh adapter."
    )
    learning_rate_schedule: Schedule = Field(default="cosine", description="How the learning rate falls after the warm-up.")
    warmup_ratio: float = Field(default=0.03, ge=0, le=0.5, description="Share of the steps over which the learning rate rises.")
    training_epochs: float = Field(default=2.0, gt=0, le=100, description="How often each row is seen.")
    rehearsal_epochs: float | None = Field(
        default=None,
        gt=0,
        le=100,
        description="How often each rehearsed row is seen; unset, as often as a new one. Many seen once keep more than few often.",
    )
    batch_rows: int = Field(default=16, ge=1, le=1024, description="Rows a step.")
    micro_batch_rows: int = Field(
        default=16,
        ge=1,
        le=1024,
        description="Rows on the device at once, a divisor of the rows a step: less when memory runs out.",
    )
    max_row_tokens: int = Field(
        default=4096,
        ge=16,
        le=262_144,
        description="Longer rows are left out and counted: cut short, they would teach unfinished thoughts.",
    )
    retrain_every_versions: int = Field(
        default=10,
        ge=0,
        le=10_000,
        description="Versions, one on the other, after which the next is trained anew from the base on all earlier rows; 0: never.",
    )
    rehearsal_most_rows: int = Field(
        default=20_000, ge=1, le=10_000_000, description="Most rows of earlier batches in such a training, as many from each."
    )
    early_stop_looks: int = Field(
        default=3,
        ge=0,
        le=100,
        description="Looks at rows held out, one a checkpoint, without improvement that end a supervised stage; 0: none does.",
    )
    training_stages: tuple[Stage, ...] = Field(
        default=ORDER,
        min_length=1,
        description="Stages that may run, as JSON; of these, those run that a batch supports.",
    )
    cold_start_thinking_tokens: int = Field(
        default=1024, ge=1, le=262_144, description="Tokens of thinking from which a row is a long chain of thought."
    )
    cold_start_least_rows: int = Field(default=64, ge=1, le=1_000_000, description="Such rows that make the stage worth running.")
    practice_least_questions: int = Field(
        default=64,
        ge=1,
        le=1_000_000,
        description="Questions whose answers can be checked that make practice (GRPO) worth running.",
    )
    practice_rate: float = Field(default=5e-6, gt=0, le=1e-2, description="Learning rate of practice; higher ones forget.")
    practice_steps: int = Field(default=200, ge=1, le=1_000_000, description="Steps of practice, one generation each.")
    practice_questions_a_step: int = Field(default=8, ge=1, le=1024, description="Questions that are practised in a step.")
    practice_answers_a_question: int = Field(
        default=8, ge=2, le=256, description="Answers to each, which are compared with one another."
    )
    practice_answer_tokens: int = Field(
        default=2048, ge=8, le=131_072, description="Longest answer in practice; longer ones are cut."
    )
    practice_temperature: float = Field(default=1.0, gt=0, le=2, description="How unlike the answers to one question are.")
    practice_reasoning_ratio: float = Field(default=0.75, ge=0, le=1, description="Share of questions practised with thinking.")
    practice_form_weight: float = Field(
        default=0.2, ge=0, le=10, description="Worth of well-formed thinking beside that of a right answer, which is 1."
    )
    practice_length_weight: float = Field(
        default=0.1, ge=0, le=10, description="Worth of the shortest thinking among right answers over that of the longest."
    )
    preference_least_pairs: int = Field(
        default=32,
        ge=1,
        le=1_000_000,
        description="Pairs of answers of which one is preferred that make that stage (DPO) worth running.",
    )
    preference_rate: float = Field(default=5e-6, gt=0, le=1e-2, description="Learning rate of the stage of preferences.")
    preference_epochs: float = Field(default=1.0, gt=0, le=100, description="How often each pair is seen.")
    preference_beta: float = Field(
        default=0.1, gt=0, le=10, description="How closely the stage of preferences keeps to what the model was."
    )
    run_code: bool = Field(
        default=False,
        description="Whether tests that questions bring are run on answers, confined; else they decide nothing.",
    )
    run_code_seconds: float = Field(default=10.0, gt=0, le=600, description="Longest run of such tests.")
    run_code_memory_bytes: int = Field(default=512 * 2**20, ge=64 * 2**20, le=2**40, description="Most memory of such a run.")
    run_code_without_namespaces: bool = Field(
        default=False,
        description="Whether they run where the system cannot confine them but by limits: only where nothing is to be lost.",
    )
    proof: Enforcement = Field(
        default="enforce",
        description="Whether a version must be proven to have kept its reasoning and to have learned: enforce; report measures and "
        "lets every version pass; off measures nothing.",
    )
    proof_sets: dict[Name, Path] | None = Field(
        default=None,
        description="JSON object of names and JSONL files of questions (`question`, `reference`) that every version is asked; "
        "unset, 256 school problems (GSM8K's test set). The accumulator must not train on them: name them in "
        "RUMINATE_PROTECTED_SETS too.",
    )
    proof_questions: int = Field(
        default=256, ge=16, le=100_000, description="Questions asked of each set and mode: fewer prove less, more take longer."
    )
    proof_answer_tokens: int = Field(
        default=4096, ge=8, le=131_072, description="Longest answer of an exam; longer ones are wrong."
    )
    proof_batch_rows: int = Field(default=32, ge=1, le=4096, description="Questions that are answered side by side.")
    proof_most_loss_ratio: float = Field(
        default=0.05,
        gt=0,
        lt=1,
        description="Share of right answers, well-formed thinking and obedience to the mode that may be lost, with confidence.",
    )
    recovery_factor_tries: int = Field(
        default=3, ge=0, le=10, description="Tries to make a change that cost reasoning smaller, by halves of what is open."
    )
    recovery_gentler_tries: int = Field(
        default=2, ge=0, le=10, description="Times that a stage which cost reasoning is run again, slower and with more rehearsal."
    )
    training_seed: int = Field(default=0, ge=0, le=2**31 - 1, description="Seed of shuffling and of fresh adapters.")
    training_threads: int = Field(default=0, ge=0, le=1024, description="CPU threads of the training process; 0 lets torch choose.")
    checkpoint_steps: int = Field(default=50, ge=1, description="Steps between checkpoints: what a crash can cost.")
    crash_restarts: int = Field(default=3, ge=0, le=100, description="How often a crashed job goes on from its checkpoint.")
    merged_dtype: Dtype = Field(
        default="bfloat16", description="Precision in which adapter and base are merged; bfloat16 is what Qwen3 is released in."
    )
    export_encodings: tuple[Encoding, ...] = Field(
        default=("f16",),
        min_length=1,
        description="GGUF encodings of the merged model, as JSON; nodes quantise further from f16 or f32.",
    )
    adapter_encoding: Encoding = Field(default="f16", description="GGUF encoding of the adapter.")
    export_context_tokens: int | None = Field(
        default=None,
        ge=1,
        le=1_048_576,
        description="Stretch the exported model's context by YaRN, up to four times (131072 for Qwen3). Short texts lose by it.",
    )
    equality_probes: int = Field(
        default=64,
        ge=0,
        le=1024,
        description="Prompts on which llama.cpp and transformers must agree, 13 fixed ones among them; 0 leaves the check out.",
    )

    mlflow_uri: str | None = Field(
        default=None,
        description="MLflow tracking server that is told of every job, such as `https://mlflow.example.org`; unset, none is. "
        "Figures, names and hashes go there, never a text that is learned from.",
    )
    mlflow_username: str | None = Field(default=None, description="Who logs in there by a password.")
    mlflow_password: SecretStr | None = Field(default=None, description="The password of that user; better in a file.")
    mlflow_password_file: Path | None = Field(default=None, description="File that holds the password.")
    mlflow_token: SecretStr | None = Field(
        default=None, description="Bearer token for MLflow, instead of a user and password; better in a file."
    )
    mlflow_token_file: Path | None = Field(default=None, description="File that holds the token.")
    mlflow_ca_file: Path | None = Field(
        default=None,
        description="PEM file of the authorities that may sign MLflow's certificate; without it, those that the system trusts.",
    )

    @field_validator(
        "mlflow_uri",
        "mlflow_username",
        "mlflow_password",
        "mlflow_password_file",
        "mlflow_token",
        "mlflow_token_file",
        "mlflow_ca_file",
        mode="before",
    )
    @classmethod
    def _empty_is_no_mirror(cls, value: object) -> object:
        # Container files pass variables on that nobody has set: `NAME: ${NAME:-}`.
        return None if value == "" else value

    @model_validator(mode="after")
    def _mirror_makes_sense(self) -> TrainerSettings:
        problem = next(contradictions(self), None)
        if problem is not None:
            raise PydanticCustomError("mlflow", "{problem}", {"problem": problem})
        return self

    @model_validator(mode="after")
    def _hyperparameters_are_possible(self) -> TrainerSettings:
        self.hyperparameters()
        return self

    def code_limits(self) -> Limits | None:
        """How code of answers is run; None where it is not."""
        if not self.run_code:
            return None
        return Limits(
            seconds=self.run_code_seconds,
            memory_bytes=self.run_code_memory_bytes,
            without_namespaces=self.run_code_without_namespaces,
        )

    def exams(self) -> dict[str, bytes]:
        """The files of questions, by the names of their sets. Raises WrongSettings for one that cannot be asked."""
        found: dict[str, bytes] = {}
        if self.proof == "off":
            return found
        for name, path in ({SCHOOL_SET: SCHOOL_PROBLEMS} if self.proof_sets is None else self.proof_sets).items():
            try:
                found[name] = path.read_bytes()
                questions = read_questions(lines_of(found[name]), name=name, where=str(path))
            except OSError as error:
                raise WrongSettings(f"RUMINATE_PROOF_SETS {name!r}: {path} cannot be read: {error.strerror}") from error
            except (BadExam, UnicodeDecodeError) as error:
                raise WrongSettings(f"RUMINATE_PROOF_SETS {name!r}: {error}") from error
            if not questions:
                raise WrongSettings(f"RUMINATE_PROOF_SETS {name!r}: {path} has no questions")
        return found

    def hyperparameters(self) -> Hyperparameters:
        """What changes what is learned."""
        return Hyperparameters(
            method=self.training_method,
            lora_rank=self.lora_rank,
            lora_alpha=self.lora_alpha,
            learning_rate=self.learning_rate,
            schedule=self.learning_rate_schedule,
            warmup_ratio=self.warmup_ratio,
            epochs=self.training_epochs,
            rehearsal_epochs=self.rehearsal_epochs,
            rehearsal_most_rows=self.rehearsal_most_rows,
            batch_rows=self.batch_rows,
            micro_batch_rows=self.micro_batch_rows,
            max_row_tokens=self.max_row_tokens,
            early_stop_looks=self.early_stop_looks,
            seed=self.training_seed,
            practice=Practice(
                learning_rate=self.practice_rate,
                steps=self.practice_steps,
                questions_a_step=self.practice_questions_a_step,
                answers_a_question=self.practice_answers_a_question,
                answer_tokens=self.practice_answer_tokens,
                temperature=self.practice_temperature,
                reasoning_ratio=self.practice_reasoning_ratio,
                form_weight=self.practice_form_weight,
                length_weight=self.practice_length_weight,
            ),
            preference=Preference(
                learning_rate=self.preference_rate,
                epochs=self.preference_epochs,
                batch_rows=self.batch_rows,
                beta=self.preference_beta,
            ),
        )

    def policy(self) -> Policy:
        """What `decide` needs to know."""
        return Policy(
            bases=self.bases,
            hyperparameters=self.hyperparameters(),
            stages=StageRules(
                wanted=self.training_stages,
                cold_start_thinking_tokens=self.cold_start_thinking_tokens,
                cold_start_least_rows=self.cold_start_least_rows,
                practice_least_questions=self.practice_least_questions,
                preference_least_pairs=self.preference_least_pairs,
            ),
            proof=Proof(
                enforcement=self.proof,
                policy=ProofPolicy(most_loss=self.proof_most_loss_ratio),
                questions=self.proof_questions,
                answer_tokens=self.proof_answer_tokens,
                batch_rows=self.proof_batch_rows,
                exams={name: hashlib.sha256(content).hexdigest() for name, content in self.exams().items()},
            ),
            recovery=Recovery(factor_tries=self.recovery_factor_tries, gentler_tries=self.recovery_gentler_tries),
            code=self.code_limits(),
            checkpoint_steps=self.checkpoint_steps,
            merged_dtype=self.merged_dtype,
            encodings=self.export_encodings,
            adapter_encoding=self.adapter_encoding,
            equality_probes=self.equality_probes,
            retrain_every_versions=self.retrain_every_versions,
            backend=self.training_backend,
            gradient_checkpointing=self.gradient_checkpointing,
            export_context_tokens=self.export_context_tokens,
            approval=self.approval,
        )
