"""Metrics: windows over the topics, for operators who read topics."""

from __future__ import annotations

from pydantic import Field

from ruminate.schemas.payload import Count, Name, Part, Payload, Ratio, Seconds, Timestamp


class TopicWindow(Part):
    """What crossed one topic in the window."""

    topic: Name
    events: Count
    events_per_second: float = Field(ge=0)
    bytes: Count = 0
    age_seconds_mean: Seconds | None = Field(default=None, description="From the event's time to its being read.")
    age_seconds_max: Seconds | None = None


class ReaderLag(Part):
    """How far one reader is behind on one topic."""

    topic: Name
    reader: Name
    messages: Count
    seconds: Seconds | None = Field(default=None, description="Age of the oldest unread record; None when unknown.")


class PipelineMetrics(Payload):
    """One window over the whole pipeline."""

    job_id: Name = Field(default="pipeline", description="What the window is about; the record key.")
    window_start: Timestamp
    window_seconds: Seconds
    topics: tuple[TopicWindow, ...]
    lag: tuple[ReaderLag, ...]
    overall_mean: Ratio | None = Field(default=None, description="Mean of `overall` of what was assessed in the window.")
    kept_ratio: Ratio | None = Field(default=None, description="Share of what was assessed that was kept.")
    reasoning_ratio: Ratio | None = Field(default=None, description="Share of what was assessed that holds thinking.")
    batch_fill: dict[str, Count] = Field(default_factory=dict, description="Kept since the last cut, by tenant/target.")
    dead_letters: dict[str, Count] = Field(default_factory=dict, description="Dead letters in the window, by dead-letter topic.")
