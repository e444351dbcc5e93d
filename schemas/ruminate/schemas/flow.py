"""Every topic, in the order in which a value flows through them.

    interaction-completed -> recorded -> assessed -> batch-sealed -> adapter-trained -> model-registered

Topic creation, dead letters, JSON Schemas, the AsyncAPI document, the drawing and the contract tests derive from here.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any, Final

from ruminate.schemas.assessment import ReasoningAssessed
from ruminate.schemas.batch import BatchRequested, DatasetRevised, TrainingBatchSealed
from ruminate.schemas.dead_letter import DeadLetterSettled
from ruminate.schemas.erasure import ErasureRequested, RecordsErased
from ruminate.schemas.evidence import AnswerNoted, EvidenceRecorded
from ruminate.schemas.feedback import FeedbackGiven
from ruminate.schemas.interaction import InteractionCompleted, InteractionRecorded
from ruminate.schemas.metrics import PipelineMetrics
from ruminate.schemas.model import ModelMarked, ModelRegistered, ModelRolledBack, NodeStatus
from ruminate.schemas.scoring import LessonNoted, ScorerTaught
from ruminate.schemas.topic import MEBIBYTE, SideTopic, Topic
from ruminate.schemas.training import AdapterTrained, TrainingDirected, TrainingFailed, TrainingProgressed

_WEEK = timedelta(days=7)

INTERACTION_COMPLETED: Final = Topic(
    name="interaction-completed-v1",
    says="An agent's question was answered.",
    carries=InteractionCompleted,
    record_key="event_id",
    partitioned_by=("conversation_id",),
    cleanup="delete",
    retention=_WEEK,
    max_message_bytes=16 * MEBIBYTE,
    holds_texts=True,
    written_by=("gateway", "collector", "agents"),
    read_by=("collector",),
)

FEEDBACK_GIVEN: Final = Topic(
    name="feedback-given-v1",
    says="Somebody judged an answer.",
    carries=FeedbackGiven,
    record_key="event_id",
    partitioned_by=("conversation_id",),
    cleanup="delete",
    retention=_WEEK,
    holds_texts=True,
    written_by=("agents", "collector"),
    read_by=("collector",),
)

INTERACTION_RECORDED: Final = Topic(
    name="interaction-recorded-v1",
    says="An interaction was validated, normalised and recorded once.",
    carries=InteractionRecorded,
    record_key="event_id",
    partitioned_by=("conversation_id",),
    cleanup="compact",
    max_message_bytes=17 * MEBIBYTE,
    holds_texts=True,
    written_by=("collector",),
    read_by=("assessor",),
)

ANSWER_NOTED: Final = Topic(
    name="answer-noted-v1",
    says="A question was answered so.",
    carries=AnswerNoted,
    record_key="event_id",
    partitioned_by=("tenant", "question"),
    cleanup="delete",
    retention=timedelta(days=30),
    written_by=("assessor",),
    read_by=("assessor",),
)

EVIDENCE_RECORDED: Final = Topic(
    name="evidence-recorded-v1",
    says="Something that speaks for or against an answer was recorded.",
    carries=EvidenceRecorded,
    record_key="event_id",
    # As the interactions are, so that whoever looks one up looks in one partition.
    partitioned_by=("conversation_id",),
    cleanup="compact",
    holds_texts=True,
    written_by=("collector", "assessor"),
    read_by=("assessor",),
)

REASONING_ASSESSED: Final = Topic(
    name="reasoning-assessed-v1",
    says="An interaction was judged.",
    carries=ReasoningAssessed,
    record_key="event_id",
    # One partition a tenant and target: a batch is an interval of offsets in it.
    partitioned_by=("tenant", "target_model"),
    cleanup="compact",
    max_message_bytes=18 * MEBIBYTE,
    holds_texts=True,
    written_by=("assessor",),
    read_by=("accumulator",),
)

LESSON_NOTED: Final = Topic(
    name="lesson-noted-v1",
    says="The worth of an answer became known.",
    carries=LessonNoted,
    record_key="event_id",
    # One order a tenant: a snapshot is what was learned up to an offset.
    partitioned_by=("tenant",),
    cleanup="delete",
    retention=timedelta(days=90),
    written_by=("assessor",),
    read_by=("assessor",),
)

SCORER_TAUGHT: Final = Topic(
    name="scorer-taught-v1",
    says="A tenant's scorer has learned from what turned out.",
    carries=ScorerTaught,
    record_key="event_id",
    partitioned_by=("tenant",),
    cleanup="keep",
    written_by=("assessor",),
    read_by=("assessor", "operators"),
)

BATCH_REQUESTED: Final = Topic(
    name="batch-requested-v1",
    says="An operator wants what waits to be sealed.",
    carries=BatchRequested,
    record_key="event_id",
    partitioned_by=("tenant", "target_model"),
    cleanup="keep",
    written_by=("operators",),
    read_by=("accumulator",),
)

TRAINING_BATCH_SEALED: Final = Topic(
    name="training-batch-sealed-v1",
    says="A batch was cut from the log and is ready to train on.",
    carries=TrainingBatchSealed,
    record_key="event_id",
    partitioned_by=("tenant", "target_model"),
    cleanup="keep",
    written_by=("accumulator",),
    read_by=("trainer", "accumulator"),
)

DATASET_REVISED: Final = Topic(
    name="dataset-revised-v1",
    says="An erasure has taken lines out of a batch's dataset.",
    carries=DatasetRevised,
    record_key="event_id",
    partitioned_by=("tenant", "target_model"),
    cleanup="keep",
    written_by=("accumulator",),
    read_by=("accumulator", "trainer", "deployer", "operators"),
)

TRAINING_DIRECTED: Final = Topic(
    name="training-directed-v1",
    says="An operator has said what is to be trained, and what is not.",
    carries=TrainingDirected,
    record_key="event_id",
    # As the batches are, so that what is said of a target has one order.
    partitioned_by=("tenant", "target_model"),
    cleanup="keep",
    written_by=("operators",),
    read_by=("trainer", "operators"),
)

TRAINING_PROGRESSED: Final = Topic(
    name="training-progressed-v1",
    says="A training job moved.",
    carries=TrainingProgressed,
    record_key="job_id",
    partitioned_by=("job_id",),
    cleanup="delete",
    retention=_WEEK,
    written_by=("trainer",),
    read_by=("operators",),
)

ADAPTER_TRAINED: Final = Topic(
    name="adapter-trained-v1",
    says="A batch became a version.",
    carries=AdapterTrained,
    record_key="event_id",
    partitioned_by=("tenant", "target_model"),
    cleanup="keep",
    written_by=("trainer",),
    read_by=("deployer", "trainer"),
)

TRAINING_FAILED: Final = Topic(
    name="training-failed-v1",
    says="A batch gave no version.",
    carries=TrainingFailed,
    record_key="event_id",
    partitioned_by=("tenant", "target_model"),
    cleanup="keep",
    written_by=("trainer",),
    read_by=("operators", "trainer"),
)

NODE_STATUS: Final = Topic(
    name="node-status-v1",
    says="What a node is and holds.",
    carries=NodeStatus,
    record_key="node",
    partitioned_by=("node",),
    partitions=1,
    cleanup="compact",
    written_by=("deployer",),
    read_by=("gateway",),
)

MODEL_REGISTERED: Final = Topic(
    name="model-registered-v1",
    says="A version serves.",
    carries=ModelRegistered,
    record_key="event_id",
    partitioned_by=("tenant", "target_model"),
    cleanup="keep",
    written_by=("deployer",),
    read_by=("gateway", "trainer", "deployer"),
)

MODEL_ROLLED_BACK: Final = Topic(
    name="model-rolled-back-v1",
    says="A version does not serve, or no longer.",
    carries=ModelRolledBack,
    record_key="event_id",
    partitioned_by=("tenant", "target_model"),
    cleanup="keep",
    written_by=("deployer",),
    read_by=("gateway", "trainer", "deployer", "operators"),
)

MODEL_MARKED: Final = Topic(
    name="model-marked-v1",
    says="A version has learned from what was erased since.",
    carries=ModelMarked,
    record_key="event_id",
    partitioned_by=("tenant", "target_model"),
    cleanup="keep",
    written_by=("deployer",),
    read_by=("deployer", "operators"),
)

ERASURE_REQUESTED: Final = Topic(
    name="erasure-requested-v1",
    says="Something has to be forgotten.",
    carries=ErasureRequested,
    record_key="event_id",
    partitioned_by=("tenant", "target_model"),
    cleanup="keep",
    written_by=("operators",),
    read_by=("eraser", "collector", "assessor", "accumulator", "operators"),
)

RECORDS_ERASED: Final = Topic(
    name="records-erased-v1",
    says="What was to be forgotten was looked for in the log, and erased.",
    carries=RecordsErased,
    record_key="event_id",
    partitioned_by=("tenant", "target_model"),
    cleanup="keep",
    written_by=("eraser",),
    read_by=("eraser", "operators"),
)

PIPELINE_METRICS: Final = Topic(
    name="pipeline-metrics-v1",
    says="A window over every topic.",
    carries=PipelineMetrics,
    record_key="job_id",
    partitioned_by=("job_id",),
    partitions=1,
    cleanup="delete",
    retention=_WEEK,
    written_by=("monitor",),
    read_by=("operators",),
)

DEAD_LETTER_SETTLED: Final = Topic(
    name="dead-letter-settled-v1",
    says="An operator sent a dead letter back to its reader, or dropped it.",
    carries=DeadLetterSettled,
    record_key="event_id",
    partitioned_by=("reader",),
    partitions=1,
    cleanup="keep",
    written_by=("operators", "eraser"),
    read_by=("operators", "eraser"),
)

FLOW: Final[tuple[Topic[Any], ...]] = (
    INTERACTION_COMPLETED,
    FEEDBACK_GIVEN,
    INTERACTION_RECORDED,
    ANSWER_NOTED,
    EVIDENCE_RECORDED,
    REASONING_ASSESSED,
    LESSON_NOTED,
    SCORER_TAUGHT,
    BATCH_REQUESTED,
    TRAINING_BATCH_SEALED,
    DATASET_REVISED,
    TRAINING_DIRECTED,
    TRAINING_PROGRESSED,
    ADAPTER_TRAINED,
    TRAINING_FAILED,
    NODE_STATUS,
    MODEL_REGISTERED,
    MODEL_ROLLED_BACK,
    MODEL_MARKED,
    ERASURE_REQUESTED,
    RECORDS_ERASED,
    PIPELINE_METRICS,
    DEAD_LETTER_SETTLED,
)

SERVICES: Final = ("gateway", "collector", "assessor", "accumulator", "trainer", "deployer", "eraser", "monitor")
"""The services, in the order in which a value passes them; the eraser takes it away, and the monitor reads every topic."""

GROUP_READERS: Final[dict[str, tuple[Topic[Any], ...]]] = {
    "collector": (INTERACTION_COMPLETED,),
    "collector-feedback": (FEEDBACK_GIVEN,),
    "assessor": (INTERACTION_RECORDED,),
    "assessor-answers": (ANSWER_NOTED,),
    "assessor-evidence": (EVIDENCE_RECORDED,),
    "assessor-lessons": (LESSON_NOTED,),
    "accumulator": (REASONING_ASSESSED,),
    "trainer": (TRAINING_BATCH_SEALED,),
    "deployer": (ADAPTER_TRAINED,),
    "eraser": (ERASURE_REQUESTED,),
}
"""What each consumer group reads: only these have lag, dead letters and retries.

A group bears the name of its service; a further topic of a service has a group of its own, whose name begins with the service's.
"""


def service_of(reader: str) -> str:
    """The service that a group belongs to; the name itself where it belongs to none."""
    return next((service for service in SERVICES if reader == service or reader.startswith(f"{service}-")), reader)


ERASABLE: Final[tuple[Topic[Any], ...]] = tuple(topic for topic in FLOW if topic.holds_texts and topic.cleanup == "compact")
"""Where tombstones erase, in the order of the flow."""

RAW: Final[tuple[Topic[Any], ...]] = tuple(topic for topic in FLOW if topic.holds_texts and topic.cleanup == "delete")
"""What agents wrote, as they wrote it: gone by retention, and by nothing else."""

DERIVED: Final[tuple[Topic[Any], ...]] = (ANSWER_NOTED, LESSON_NOTED)
"""Digests and signals of what was recorded, without a text: gone by retention."""

SIDE_TOPICS: Final[tuple[SideTopic, ...]] = tuple(
    side
    for reader, topics in GROUP_READERS.items()
    for topic in topics
    for side in (topic.dead_letters(reader), topic.retries(reader))
)
"""The dead letters and the retries of every group reader."""

MONITOR_APP: Final = "ruminate-monitor"
"""The monitor's name at the broker: its group, and the first part of the names of its changelogs."""

CHANGELOGS: Final[tuple[SideTopic, ...]] = tuple(
    # A day deletes closed windows; what is only compacted keeps the last value of each key, whatever its age.
    SideTopic(
        name=f"{MONITOR_APP}-{table}-changelog",
        partitions=1,
        cleanup="compact,delete" if table == "tallies" else "compact",
        max_message_bytes=MEBIBYTE,
        retention=timedelta(days=1),
    )
    for table in ("tallies", "kept", "cuts", "told")
)
"""What the monitor writes of its tables, for itself alone, and reads back when it starts."""


def topic_named(name: str) -> Topic[Any]:
    """The topic of that name. KeyError names the topics that exist."""
    for topic in FLOW:
        if topic.name == name:
            return topic
    raise KeyError(f"no topic is named {name!r}; there are {', '.join(topic.name for topic in FLOW)}")
