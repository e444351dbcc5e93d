"""Makes the differences that a suite states strict expected failures (see tests/contract/differences.py)."""

from __future__ import annotations

import pytest

from tests.contract.differences import reason_of


def pytest_itemcollected(item: pytest.Item) -> None:
    if isinstance(item, pytest.Function):
        reason = reason_of(item.cls, item.originalname, item.name)
        if reason is not None:
            item.add_marker(pytest.mark.xfail(strict=True, reason=reason))
