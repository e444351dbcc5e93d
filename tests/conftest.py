"""Fixtures that tests share, one plugin a real part; and what suites state to differ."""

import signal
from collections.abc import Iterator

import pytest
import structlog
from hypothesis import settings

# What is asserted there says what it found, as in a test.
pytest.register_assert_rewrite("tests.contract", "tests.e2e")

# A busy machine is slow at times, and that is no finding.
settings.register_profile("any machine", deadline=None)
settings.load_profile("any machine")

pytest_plugins = [
    "tests.plugins.broker",
    "tests.plugins.differences",
    "tests.plugins.guarded",
    "tests.plugins.kafka",
    "tests.plugins.mlflow",
    "tests.plugins.node",
    "tests.plugins.ollama",
    "tests.plugins.threads",
]

# A shell lets what it starts in the background ignore Ctrl-C, and all that this starts would do the same.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="module", autouse=True)
def logs_as_before() -> Iterator[None]:
    """A verb that is called in this process configures the logs of all of it, and the next module may look at them."""
    before = structlog.get_config()
    yield
    structlog.configure(**before)
