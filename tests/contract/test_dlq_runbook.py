"""The runbook of dead letters knows every reason for which a record is given up."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from ruminate.shared.dead_letters import CRASHED
from ruminate.shared.letters import UNREADABLE

ROOT = Path(__file__).parents[2]
RUNBOOK = ROOT / "docs" / "runbooks" / "dead-letters.md"


def constants_of(tree: ast.Module) -> dict[str, str]:
    return {
        node.target.id: node.value.value
        for node in tree.body
        if isinstance(node, ast.AnnAssign)
        and isinstance(node.target, ast.Name)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
    }


def reasons_in(tree: ast.Module, constants: dict[str, str]) -> Iterator[str]:
    """First arguments of `Unprocessable(…)`: words, and constants that stand for words."""
    known = constants | constants_of(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "Unprocessable":
            for part in ast.walk(node.args[0]):
                if isinstance(part, ast.Constant) and isinstance(part.value, str):
                    yield part.value
                elif isinstance(part, ast.Name) and part.id in known:
                    yield known[part.id]


def test_every_reason_is_explained_and_none_is_made_up() -> None:
    modules = [ast.parse(path.read_text()) for folder in ("shared", "services") for path in (ROOT / folder).rglob("*.py")]
    constants = {name: value for tree in modules for name, value in constants_of(tree).items()}
    given = {reason for tree in modules for reason in reasons_in(tree, constants)}
    assert {"not_json", "missing_header", "invalid_header", "conflict", "inconsistent", "invalid_name"} <= given
    text = RUNBOOK.read_text()
    explained = set(re.findall(r"`(\w+)`", " ".join(row.split("|")[1] for row in text.splitlines() if row.startswith("| `"))))
    answers_by_http = {"tenant_mismatch", "invalid_tenant"}
    passed_on = {"invalid_source"}
    assert given - answers_by_http <= explained
    assert explained <= given | passed_on | {CRASHED, UNREADABLE}
    assert all(f"`{reason}`" in text for reason in answers_by_http)
