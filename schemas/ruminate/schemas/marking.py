"""Marking: which versions have learned from what an erasure has taken out of a dataset since. Pure.

    dataset-revised-v1, adapter-trained-v1  ->  marks  ->  model-marked-v1

A version is marked by every revision of its batch's dataset that is later than what it was trained on, and by every such mark of
the versions that it went on from. What it was measured on counts, too: a revision does not say what its lines were.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from ruminate.schemas.batch import DatasetRevised, follows
from ruminate.schemas.training import AdapterTrained

Chain = tuple[str, str]
"""Tenant and target."""


class Mark(NamedTuple):
    """A version has learned from what left this revision of a dataset."""

    version: str
    batch_id: str
    revision: int
    erasure_ids: tuple[str, ...]
    """The requests for which this revision was made."""
    erased_interactions: int
    """How many interactions left with it."""
    inherited_from: str | None
    """The version that was trained on the dataset; None where it is this one."""


class Step(NamedTuple):
    """A revision, and what is new in it: what it says of requests and interactions is of all revisions until then."""

    revised: DatasetRevised
    erasure_ids: tuple[str, ...]
    erased_interactions: int


def steps(revised: Iterable[DatasetRevised]) -> dict[str, list[Step]]:
    """The revisions of each batch of one chain, given in the order of the log; those that do not follow are ignored."""
    found: dict[str, list[Step]] = {}
    for each in revised:
        known = found.setdefault(each.batch_id, [])
        last = known[-1].revised if known else None
        if follows(each, last.dataset if last else each.replaces, len(known)):
            before = set(last.erasure_ids) if last else set()
            # A request that had to be met a second time is not new, and is what this revision was made for all the same.
            new = tuple(name for name in each.erasure_ids if name not in before) or each.erasure_ids
            known.append(Step(each, new, each.erased_interactions - (last.erased_interactions if last else 0)))
    return found


def marks(trained: Iterable[AdapterTrained], revised: Iterable[DatasetRevised]) -> list[Mark]:
    """The marks of one chain, given in the order of the log, by the numbers of the versions. The first result of a batch counts."""
    results: dict[str, AdapterTrained] = {}
    for result in trained:
        results.setdefault(result.batch_id, result)
    versions = sorted(results.values(), key=lambda result: result.number)
    revisions = steps(revised)
    direct = {result.version: list(_direct(result, revisions.get(result.batch_id, []))) for result in versions}
    parents = {result.version: result.parent_version for result in versions}
    found = []
    for result in versions:
        found += direct[result.version]
        for ancestor in _ancestors(result.version, parents):
            inherited = direct.get(ancestor, [])
            found += [mark._replace(version=result.version, inherited_from=ancestor) for mark in inherited]
    return found


def marks_by_chain(trained: Iterable[AdapterTrained], revised: Iterable[DatasetRevised]) -> dict[Chain, list[Mark]]:
    """The marks of every chain in which anything was revised."""
    results: dict[Chain, list[AdapterTrained]] = {}
    revisions: dict[Chain, list[DatasetRevised]] = {}
    for result in trained:
        results.setdefault((result.tenant, result.target_model), []).append(result)
    for each in revised:
        revisions.setdefault((each.tenant, each.target_model), []).append(each)
    return {chain: marks(results.get(chain, ()), of_chain) for chain, of_chain in revisions.items()}


def _direct(result: AdapterTrained, revisions: list[Step]) -> Iterator[Mark]:
    """By the revisions that began with the dataset that this version was trained on."""
    learned = False
    for step in revisions:
        learned = learned or step.revised.replaces.sha256 == result.dataset.sha256
        if learned:
            revision = step.revised.revision
            yield Mark(result.version, result.batch_id, revision, step.erasure_ids, step.erased_interactions, None)


def _ancestors(version: str, parents: dict[str, str | None]) -> Iterator[str]:
    """Parent, its parent, and on; parents that the log contradicts end it."""
    seen = {version}
    parent = parents.get(version)
    while parent is not None and parent not in seen:
        seen.add(parent)
        yield parent
        parent = parents.get(parent)
