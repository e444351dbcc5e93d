"""Models: which version serves where, and what taught it."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from ruminate.schemas.payload import (
    ArtifactReference,
    Count,
    FiniteJson,
    Name,
    Part,
    Payload,
    Seconds,
    Sha256,
    Target,
    Text,
    Timestamp,
)


class Probe(Part):
    """One question that a freshly created model answered on a node."""

    node: Name
    mode: Literal["thinking", "direct"]
    parent_loaded: bool = Field(description="Asked again while the parent was loaded too: names that share weights must not mix.")
    passed: bool
    detail: Text = ""


class ServedExam(Part):
    """The questions by which a version was proven, asked once more where it is served.

    Exact words of the findings: measure, group, verdict, before (as trained), after (as served), change with its interval.
    """

    node: Name
    engine_version: Name
    encoding: Name = Field(description="Of the weights that the node was given.")
    questions: Count
    gone: Count = Field(default=0, description="Questions that were asked then and stand in the dataset no longer.")
    kept: bool
    because: Text = Field(default="", description="What was lost, in words.")
    findings: tuple[dict[str, FiniteJson], ...]
    seconds: Seconds


class NodeDigest(Part):
    """What a node holds under the version's name."""

    node: Name
    url: Name
    digest: Sha256
    engine_version: Name


class ModelRegistered(Payload):
    """A version serves. The first record of a version is the accepted one."""

    target_model: Target = Field(description="The name that agents ask for.")
    version: Name
    number: Count
    model_name: Name = Field(description="The version's own name on every node.")
    alias: Name = Field(description="The name that now points at it on every node; never the base's own tag.")
    parent_version: Name | None = None
    base_model: Name
    batch_id: Name
    dataset: ArtifactReference
    adapter: ArtifactReference
    weights: ArtifactReference = Field(description="The GGUF file that the nodes were given.")
    stages: tuple[Name, ...]
    settings: dict[str, FiniteJson]
    metrics: dict[str, FiniteJson]
    nodes: tuple[NodeDigest, ...]
    probes: tuple[Probe, ...]
    served: tuple[ServedExam, ...] = Field(
        default=(),
        description="One a version of the nodes' engine; none where it was not proven, or nothing is asked again.",
    )
    capabilities: tuple[Name, ...]
    registered_at: Timestamp


class ModelRolledBack(Payload):
    """A version does not serve, or no longer, and what serves in its place."""

    target_model: Target
    version: Name
    serving_version: Name | None = Field(description="What serves now; None means the base.")
    stage: Literal["upload", "create", "probe", "alias", "canary", "live"]
    reason: Text
    evidence: dict[str, FiniteJson] = Field(default_factory=dict)
    removed: tuple[Name, ...] = Field(default=(), description="Names that were removed again, as `node name`.")
    rolled_back_at: Timestamp


class ModelMarked(Payload):
    """A version has learned from what an erasure has taken out of a dataset since, or goes on from one that has.

    What a version has learned stays in it. Whether it may go on serving is a matter for people.
    """

    target_model: Target
    version: Name
    batch_id: Name = Field(description="The batch whose dataset was revised.")
    revision: Count = Field(description="The revision with which it left the dataset.")
    erasure_ids: tuple[Name, ...] = Field(description="Ids of the requests for which that revision was made.")
    erased_interactions: Count = Field(description="Interactions that left with that revision.")
    inherited_from: Name | None = Field(
        default=None, description="The version that was trained on the dataset; null where it is this one."
    )
    marked_at: Timestamp


class NodeStatus(Payload):
    """What a node is and holds, as the deployer last saw it."""

    node: Name
    url: Name
    healthy: bool
    engine_version: Name | None = None
    models: tuple[Name, ...] = ()
    loaded: tuple[Name, ...] = ()
    error: Text | None = None
    response_seconds: Seconds | None = None
    at: Timestamp
