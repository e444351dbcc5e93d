"""What the deployer counts; each sentence ends in what to do about it."""

from __future__ import annotations

from typing import Final

from prometheus_client import Counter, Gauge, Histogram

DEPLOYMENTS: Final = Counter(
    "ruminate_deployments_total",
    "Trained versions by what became of them; when rolled_back grows, read the reason in model-rolled-back-v1.",
    ["outcome"],
)
DEPLOYMENT_SECONDS: Final = Histogram(
    "ruminate_deployment_seconds",
    "From a trained version in hand to its end on all nodes; when it grows, look at upload in ruminate_node_action_seconds first.",
    buckets=(1, 2, 5, 10, 30, 60, 120, 300, 600, 1800, 3600),
)
NODE_ACTION_SECONDS: Final = Histogram(
    "ruminate_node_action_seconds",
    "One action on one node; when one node is slower than the others, look at its disk and its network.",
    ["node", "action"],
    buckets=(0.01, 0.05, 0.25, 1, 5, 15, 60, 300, 1200, 3600),
)
EXAM_SECONDS: Final = Histogram(
    "ruminate_served_exam_seconds",
    "Asking a version on a node what it was asked when it was proven; when it is too long, lower RUMINATE_SERVED_QUESTIONS.",
    ["node"],
    buckets=(1, 5, 15, 60, 300, 900, 1800, 3600, 7200),
)
NODE_REFUSALS: Final = Counter(
    "ruminate_node_refusals_total",
    "Actions that a node answered with an error; when it grows, read its words in the log.",
    ["node", "action"],
)
NODE_UP: Final = Gauge(
    "ruminate_node_up", "1 while a node answers, 0 while it does not; when 0, start it or take it out of RUMINATE_NODES.", ["node"]
)
NODE_RESPONSE_SECONDS: Final = Gauge(
    "ruminate_node_response_seconds",
    "How long a node took to say what it holds; when it grows, the node is overloaded: add one.",
    ["node"],
)
MARKS: Final = Counter(
    "ruminate_model_marks_total",
    "Versions marked for having learned from what was erased since; when it grows, decide whether they may go on serving.",
    ["how"],
)
