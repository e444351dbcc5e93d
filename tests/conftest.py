"""Fixtures that tests share, one plugin a real part."""

pytest_plugins = ["tests.plugins.broker", "tests.plugins.node"]
