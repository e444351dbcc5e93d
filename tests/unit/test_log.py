"""Logs say where something went wrong, and never with what contents."""

from __future__ import annotations

import json
import subprocess
import sys

PROGRAM = """
import structlog
from ruminate.shared.log import configure_logging

configure_logging(service="tester", level="info")
def answer(question):
    raise ZeroDivisionError
try:
    answer("Rumpel" + "stilzchen")
except ZeroDivisionError:
    structlog.get_logger().exception("answer_failed")
"""


def test_a_traceback_names_the_place_and_none_of_the_values() -> None:
    said = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True).stderr
    assert json.loads(said)["event"] == "answer_failed"
    assert "ZeroDivisionError" in said
    assert '"name": "answer"' in said
    assert "Rumpelstilzchen" not in said
