"""The runbook of the ways in knows every reason for which a span or a record is refused."""

from __future__ import annotations

import ast
import re

from tests.contract.test_dlq_runbook import ROOT, constants_of

FOLDERS = ("services/collector", "services/command/ruminate/command/imports")
RAISED = ("Untellable", "Refused")


def test_every_reason_for_a_refusal_is_explained_and_none_is_made_up() -> None:
    trees = [ast.parse(path.read_text()) for folder in FOLDERS for path in (ROOT / folder).rglob("*.py")]
    constants = {name: value for tree in trees for name, value in constants_of(tree).items()}
    given = set()
    for tree in trees:
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in RAISED:
                reason = node.args[0]
                if isinstance(reason, ast.Constant):
                    given.add(reason.value)
                elif isinstance(reason, ast.Name):
                    given.add(constants[reason.id])
    assert {"no_answer", "no_target", "csv_row", "not_text"} <= given
    text = (ROOT / "docs/runbooks/ways-in.md").read_text().partition("## Reasons for a refusal")[2]
    explained = set(re.findall(r"^\| `(\w+)` \|", text, re.MULTILINE))
    assert given - explained == set()
    assert explained - given == {"conflict"}  # the collector's own answer to a repeat that is none
