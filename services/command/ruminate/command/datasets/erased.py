"""What a manifest remembers of what an erasure has taken out of its dataset. Pure.

It keeps salted hashes, by which nothing is found that is not asked for: whoever has the recorded id of an interaction learns
that it stood there, and for which request it went.
"""

from __future__ import annotations

from collections import Counter
from uuid import UUID

from ruminate.accumulator.erasure.revise import salted
from ruminate.accumulator.making.manifest import Erased, Manifest


class Remembered:
    """Every line that erasures have taken out of one dataset."""

    def __init__(self, manifest: Manifest) -> None:
        self._batch_id = manifest.batch_id
        self._lines: dict[str, list[Erased]] = {}
        for erased in manifest.erased:
            self._lines.setdefault(erased.salted_sha256, []).append(erased)
        self._erasure_ids = sorted({erased.erasure_id for erased in manifest.erased})

    def of(self, recorded_id: UUID) -> list[Erased]:
        """The lines that went with this interaction; none where it never stood here, or still does."""
        return [
            erased
            for erasure_id in self._erasure_ids
            for erased in self._lines.get(salted(recorded_id, batch_id=self._batch_id, erasure_id=erasure_id), ())
        ]


def interactions_by_request(manifest: Manifest) -> dict[str, int]:
    """How many interactions have left the dataset, by the request for which they did."""
    pairs = {(erased.erasure_id, erased.salted_sha256) for erased in manifest.erased}
    return dict(sorted(Counter(erasure_id for erasure_id, _ in pairs).items()))
