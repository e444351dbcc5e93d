"""What becomes of a test whose real part is missing: by hand it says what to type, where `CI` is set it fails."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from infra.real.cache import MissingPart


@contextmanager
def installed() -> Iterator[None]:
    """Around the start of a real part, in a fixture."""
    try:
        yield
    except MissingPart as missing:
        if os.environ.get("CI"):
            pytest.fail(str(missing))
        pytest.skip(str(missing))
