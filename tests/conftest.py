"""Fixtures that tests share, one plugin a real part; and what suites state to differ."""

pytest_plugins = [
    "tests.plugins.broker",
    "tests.plugins.differences",
    "tests.plugins.guarded",
    "tests.plugins.kafka",
    "tests.plugins.node",
    "tests.plugins.ollama",
]
