"""What the accumulator can be told."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Self

from pydantic import Field, TypeAdapter, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource

from ruminate.accumulator.curation.best import MOST_A_CLUSTER
from ruminate.accumulator.curation.curate import MOST_HELD_OUT, Rules
from ruminate.accumulator.curation.decontaminate import Protected
from ruminate.accumulator.curation.near import ClusterIndex
from ruminate.accumulator.making.report import Limits
from ruminate.accumulator.records.rows import INDICATORS, RowLimits
from ruminate.accumulator.sealing.decide import Policy
from ruminate.accumulator.sealing.pauses import QuietHours, quiet_hours_of
from ruminate.schemas.payload import FiniteJson
from ruminate.shared.settings import ServiceSettings

SHAPING: Final = (
    "min_reasoning_ratio",
    "holdout_ratio",
    "holdout_most_rows",
    "cluster_most_rows",
    "generated_most_ratio",
    "replay_ratio",
    "anchor_ratio",
    "answer_most_ratio",
    "row_max_bytes",
    "context_tokens",
    "keep_images",
    "shuffle_seed",
    "indicator_weights",
    "thinking_called_for_at",
    "thinking_predicted_at",
)
"""Settings that shape a dataset whose cut is given."""

OWN_TO_A_CHAIN: Final = (
    "seal_at_rows",
    "min_reasoning_ratio",
    "seal_after_seconds",
    "seal_after_min_rows",
    "seal_at_tokens",
    "seal_at_records",
    "seal_false_alarm_ratio",
    "seal_most_a_day",
    "seal_quiet_hours",
    "seal_time_zone",
)
"""The settings that a tenant's target may have otherwise: when a batch is worth training."""


class AccumulatorSettings(ServiceSettings):
    """When a batch is worth training, and what goes into it."""

    seal_at_rows: int = Field(default=500, ge=1, le=1_000_000, description="Rows to train on at which a batch is sealed.")
    min_reasoning_ratio: float = Field(
        default=0.75, ge=0.01, le=1, description="Least share of rows with thinking in a batch; it waits rather than fall below."
    )
    seal_after_seconds: float = Field(
        default=86_400.0, ge=0, le=31_536_000, description="Age of its oldest row at which a smaller batch is sealed."
    )
    seal_after_min_rows: int = Field(
        default=64, ge=1, le=1_000_000, description="Fewest rows of a batch that is sealed by anything but count or an operator."
    )
    seal_at_tokens: int | None = Field(
        default=None, ge=1, le=10**12, description="Tokens to train on at which a batch is sealed; unset, they are not looked at."
    )
    seal_at_records: int = Field(
        default=100_000,
        ge=1,
        le=10_000_000,
        description="Assessed interactions since the last batch at which one is cut with the rows that there are, even none: each "
        "that waits takes up a kilobyte of memory and is read again at a start.",
    )
    seal_false_alarm_ratio: float = Field(
        default=0.001,
        ge=0,
        le=0.1,
        description="Share of batches, at most, that are sealed for other topics, other scores or lower quality than in the last "
        "batch where nothing has changed; 0 looks for none.",
    )
    seal_most_a_day: int | None = Field(
        default=None, ge=1, le=10_000, description="Batches of a target in 24 hours, at most; an operator's word goes beyond it."
    )
    seal_quiet_hours: str = Field(
        default="", description="Hours in which nothing is sealed but by an operator's word, as 22:00-06:00; none where empty."
    )
    seal_time_zone: str = Field(default="UTC", description="Whose clocks the quiet hours are on, as Europe/Berlin.")
    seal_policies: dict[str, dict[str, Any]] = Field(
        default_factory=dict,
        description="JSON object of what is otherwise (seal_at_rows, min_reasoning_ratio, …) for a tenant's target "
        "(`acme/qwen3:8b`), a target (`*/qwen3:8b`) or a tenant (`acme/*`); the first of these three that names a value wins.",
    )
    seal_check_seconds: float = Field(default=1.0, gt=0, le=3600, description="How often ages are looked at.")
    seal_retry_seconds: float = Field(
        default=60.0, gt=0, le=3600, description="How long a batch that failed its validation waits before it is tried again."
    )
    holdout_ratio: float = Field(
        default=0.05, ge=0, le=0.5, description="Share of questions that is held out of training, with their conversations."
    )
    holdout_most_rows: int = Field(
        default=MOST_HELD_OUT, ge=0, le=1_000_000, description="Rows that a chain holds out at most; more measure no better."
    )
    cluster_most_rows: int = Field(
        default=MOST_A_CLUSTER,
        ge=1,
        le=1_000,
        description="Rows that answer one question in one mode, in whatever words, over all batches; the best-scored are kept.",
    )
    protected_sets: dict[str, Path] = Field(
        default_factory=dict,
        description="JSON object of names and JSONL files, whose questions and answers (`question`, `answer`) are never trained.",
    )
    replay_ratio: float = Field(
        default=0.5,
        ge=0,
        le=0.9,
        description="Rows of earlier batches to be trained with a batch, as a share of both: what is not rehearsed is forgotten.",
    )
    anchor_rows: dict[str, Path] = Field(
        default_factory=dict,
        description="JSON object of names and JSONL files of rows as in train.jsonl, some of which are trained with every batch.",
    )
    anchor_ratio: float = Field(
        default=0.1, ge=0, le=0.9, description="Anchor rows that are trained with a batch, as a share of both, where there are any."
    )
    generated_most_ratio: float = Field(
        default=0.2,
        ge=0,
        le=0.9,
        description="Most rows, as a share of those that reason, whose thinking was written and verified afterwards.",
    )
    answer_most_ratio: float = Field(
        default=0.9,
        gt=0,
        le=1,
        description="Most rows, as a share of those with a short answer, that may have the same one: else the batch is blocked.",
    )
    shuffle_seed: int = Field(
        default=0, ge=0, description="Seed of the order of rows and of the choice among direct rows over the ratio."
    )
    row_max_bytes: int = Field(default=1_048_576, ge=1_024, le=16_777_216, description="Longest row; longer ones are left out.")
    context_tokens: int = Field(
        default=32_768,
        ge=64,
        le=1_048_576,
        description="Tokens of the longest row, as the node counted them or estimated from its bytes; longer ones are left out.",
    )
    keep_images: bool = Field(
        default=False,
        description="Whether rows with images stay, with what is known of each image in place of its bytes. For who trains a model "
        "that sees from exports: the trainer teaches text alone, and refuses them.",
    )
    indicator_weights: dict[str, float] = Field(
        default_factory=lambda: dict.fromkeys(INDICATORS, 1.0),
        description=f"JSON object, the weight of each sign that thinking was called for: {', '.join(INDICATORS)}.",
    )
    thinking_called_for_at: float = Field(
        default=1.0, gt=0, le=100, description="Sum of indicator weights from which thinking counts as called for."
    )

    thinking_predicted_at: float = Field(
        default=0.8,
        gt=0,
        le=1,
        description="Chance, going by earlier questions like it, from which thinking counts as called for whatever its signs.",
    )

    @field_validator("indicator_weights")
    @classmethod
    def _known(cls, weights: dict[str, float]) -> dict[str, float]:
        if unknown := weights.keys() - INDICATORS.keys():
            raise ValueError(f"no indicator is named {', '.join(sorted(unknown))}; there are {', '.join(INDICATORS)}")
        return weights

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        self.quiet_hours()
        self.fits_in_memory()
        for name, own in self.seal_policies.items():
            tenant, _, target = name.partition("/")
            if not tenant or not target or tenant == target == "*":
                raise ValueError(
                    f'{name!r} in RUMINATE_SEAL_POLICIES names nobody; write "tenant/target", "*/target" or "tenant/*", and what '
                    "is for all without it"
                )
            if unknown := own.keys() - set(OWN_TO_A_CHAIN):
                raise ValueError(
                    f"{name!r} in RUMINATE_SEAL_POLICIES has {', '.join(sorted(unknown))}; it may have {', '.join(OWN_TO_A_CHAIN)}"
                )
            try:
                chain = self.of_chain(tenant, target)
                chain.quiet_hours()
                chain.fits_in_memory()
            except ValueError as error:
                raise ValueError(f"{name!r} in RUMINATE_SEAL_POLICIES: {error}") from None
        return self

    def of_chain(self, tenant: str, target: str) -> AccumulatorSettings:
        """What a target of a tenant is sealed by. Raises ValueError where a value of its own is none."""
        own: dict[str, Any] = {}
        for name in (f"{tenant}/*", f"*/{target}", f"{tenant}/{target}"):
            own |= self.seal_policies.get(name, {})
        return self.model_copy(update={name: _valid(name, value) for name, value in own.items()}) if own else self

    def quiet_hours(self) -> QuietHours | None:
        """As the decisions look at them. Raises ValueError where they are none."""
        return quiet_hours_of(self.seal_quiet_hours, self.seal_time_zone)

    def fits_in_memory(self) -> None:
        """Raises ValueError where a batch of so many rows is never reached, since one is cut with fewer records before."""
        if self.seal_at_rows > self.seal_at_records:
            raise ValueError(
                f"a batch of {self.seal_at_rows} rows (RUMINATE_SEAL_AT_ROWS) needs as many records, and one is cut at "
                f"{self.seal_at_records}: raise RUMINATE_SEAL_AT_RECORDS"
            )

    @classmethod
    def written_down(cls, values: Mapping[str, Any]) -> AccumulatorSettings:
        """These values, as a file has them, and defaults: the environment has no say."""
        return _WrittenDown(**values)

    def rules(self, protected: Protected, anchored: ClusterIndex | None = None) -> Rules:
        """What the choice of rows looks at."""
        return Rules(
            holdout_ratio=self.holdout_ratio,
            most_a_cluster=self.cluster_most_rows,
            most_held_out=self.holdout_most_rows,
            protected=protected,
            anchored=anchored,
            row_max_bytes=self.row_max_bytes,
            indicator_weights=self.indicator_weights,
            thinking_called_for_at=self.thinking_called_for_at,
            thinking_predicted_at=self.thinking_predicted_at,
        )

    def shaping(self) -> dict[str, FiniteJson]:
        """What shapes a dataset whose cut is given, for its manifest; files are named there by their hashes."""
        values: dict[str, FiniteJson] = {name: getattr(self, name) for name in SHAPING}
        if not self.keep_images:  # as every manifest was that was written before it could be kept
            del values["keep_images"]
        return values | {"indicator_weights": dict(sorted(self.indicator_weights.items()))}

    @property
    def limits(self) -> Limits:
        """What a dataset must keep to, beside its ratios."""
        return Limits(self.row_limits, self.answer_most_ratio)

    @property
    def row_limits(self) -> RowLimits:
        """What a row must keep to."""
        return RowLimits(self.row_max_bytes, self.context_tokens, self.keep_images)

    @property
    def policy(self) -> Policy:
        """What the decisions look at."""
        return Policy(
            seal_at_rows=self.seal_at_rows,
            min_reasoning_ratio=self.min_reasoning_ratio,
            seal_after_seconds=self.seal_after_seconds,
            seal_after_min_rows=self.seal_after_min_rows,
            generated_most_ratio=self.generated_most_ratio,
            replay_ratio=self.replay_ratio,
            anchor_ratio=self.anchor_ratio,
            seal_at_tokens=self.seal_at_tokens,
            seal_at_records=self.seal_at_records,
            false_alarm_ratio=self.seal_false_alarm_ratio,
            most_a_day=self.seal_most_a_day,
            quiet_hours=self.quiet_hours(),
        )


def _valid(name: str, value: Any) -> Any:
    """The value of a field, by its own rules. Raises ValueError."""
    field = AccumulatorSettings.model_fields[name]
    try:
        return TypeAdapter(Annotated[field.annotation, field]).validate_python(value)  # type: ignore[arg-type]
    except ValidationError as error:
        raise ValueError(f"{name}: {error.errors(include_url=False)[0]['msg']}") from None


class _WrittenDown(AccumulatorSettings):
    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return (init_settings,)
