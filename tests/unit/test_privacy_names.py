"""Names need what finds them: a collector whose policy asks for it and that has none says so and does not start."""

from __future__ import annotations

from importlib.util import find_spec

import pytest
from pydantic import ValidationError

from ruminate.collector.names import MODEL, load_names
from ruminate.collector.privacy.policy import PrivacySettings
from ruminate.collector.settings import CollectorSettings
from ruminate.shared.settings import problems_of


def test_nothing_is_loaded_where_no_policy_asks() -> None:
    assert load_names(PrivacySettings()) is None


@pytest.mark.skipif(find_spec(MODEL) is not None, reason="the model is installed, so nothing is missing")
def test_a_policy_that_asks_for_names_without_a_model_is_refused_with_what_to_type() -> None:
    with pytest.raises(ValidationError) as refused:
        CollectorSettings.model_validate({"privacy": {"tenants": {"acme": {"names": True}}}})
    (problem,) = problems_of(refused.value)
    assert problem.startswith("RUMINATE_PRIVACY: names is true, and this is not installed:")
    assert f"python -m spacy download {MODEL}" in problem
