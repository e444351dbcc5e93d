"""A policy in a file: what the assessor and the accumulator of a replay are told.

    [assessment]                     # see `ruminate.assessor.policy.Policy`
    keep_overall_at_least = 0.7
    [assessment.weights]
    answer_quality = 4.0
    [batch]                          # the accumulator's settings that shape a batch
    seal_at_rows = 200

What the file does not name has its default, whatever the environment says: one file gives one result everywhere.
"""

from __future__ import annotations

import hashlib
import re
import tomllib
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import orjson
from pydantic import ValidationError

from ruminate.accumulator.curation.protect import NotProtected, ProtectedSets, read_protected
from ruminate.accumulator.making.anchors import AnchorSets, NotAnchored, read_anchors
from ruminate.accumulator.making.manifest import POLICY_VERSION
from ruminate.accumulator.settings import AccumulatorSettings
from ruminate.assessor.judging.decide import SCORER_VERSION
from ruminate.assessor.policy import Policy
from ruminate.shared.settings import ServiceSettings

BATCH_VALUES: Final = tuple(
    name
    for name in AccumulatorSettings.model_fields
    if name not in ServiceSettings.model_fields and name not in ("seal_check_seconds", "seal_retry_seconds")
)
"""The accumulator's settings that shape a batch; the others say how often it looks."""

_SECTIONS: Final = ("assessment", "batch")
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,59}")


class PolicyError(Exception):
    """The file says nothing that can be replayed; the message names the file, the value and what is allowed."""


@dataclass(frozen=True)
class ReplayPolicy:
    """How interactions are judged and batches cut."""

    assessment: Policy
    batch: AccumulatorSettings
    given_name: str | None = None
    protected: ProtectedSets = field(default_factory=ProtectedSets)
    """What the files of `batch.protected_sets` hold."""
    anchors: AnchorSets = field(default_factory=AnchorSets)
    """What those of `batch.anchor_rows` hold."""

    @property
    def name(self) -> str:
        """The given name, else one that changes with every value and with what judges and cuts."""
        return self.given_name or f"policy-{hashlib.sha256(self._identity).hexdigest()[:12]}"

    @cached_property
    def values(self) -> dict[str, dict[str, Any]]:
        """Every value, by section."""
        return {
            "assessment": self.assessment.model_dump(mode="json"),
            "batch": self.batch.model_dump(mode="json", include=set(BATCH_VALUES)),
        }

    @property
    def _identity(self) -> bytes:
        return orjson.dumps(
            [self.values, self.protected.sha256, self.anchors.sha256, SCORER_VERSION, POLICY_VERSION], option=orjson.OPT_SORT_KEYS
        )


def read_policy(path: Path, *, name: str | None = None) -> ReplayPolicy:
    """The policy in a TOML or JSON file. Raises PolicyError."""
    if name is not None and not _NAME.fullmatch(name):
        raise PolicyError(f"--policy-name {name!r}: up to 60 letters, digits, dots, dashes and underscores, no dot or dash first")
    sections = _sections(path)
    if unknown := sections.keys() - set(_SECTIONS):
        raise PolicyError(f"{path}: no section is named {', '.join(sorted(unknown))}; there are {' and '.join(_SECTIONS)}")
    batch = sections.get("batch", {})
    if unknown := batch.keys() - set(BATCH_VALUES):
        raise PolicyError(f"{path}: [batch] has no {', '.join(sorted(unknown))}; it has {', '.join(BATCH_VALUES)}")
    try:
        settings = AccumulatorSettings.written_down(batch)
        return ReplayPolicy(
            assessment=Policy.model_validate(sections.get("assessment", {})),
            batch=settings,
            given_name=name,
            protected=read_protected(settings.protected_sets),
            anchors=read_anchors(settings.anchor_rows),
        )
    except (NotProtected, NotAnchored) as error:
        raise PolicyError(f"{path}: {error}") from error
    except ValidationError as error:
        problems = (f"{'.'.join(map(str, each['loc']))}: {each['msg']}" for each in error.errors())
        raise PolicyError(f"{path}: {'; '.join(problems)}") from None


def _sections(path: Path) -> dict[str, dict[str, Any]]:
    try:
        text = path.read_text(encoding="utf-8")
        found: Any = orjson.loads(text) if path.suffix == ".json" else tomllib.loads(text)
    except (orjson.JSONDecodeError, tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise PolicyError(f"{path} is neither TOML nor, with the ending .json, JSON: {error}") from None
    if not isinstance(found, dict) or not all(isinstance(section, dict) for section in found.values()):
        raise PolicyError(f"{path} holds sections, {' and '.join(f'[{name}]' for name in _SECTIONS)}, and nothing beside them")
    return found
