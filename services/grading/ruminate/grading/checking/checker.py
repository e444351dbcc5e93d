"""The checker: runs the checks that answers came with. Code is run only where whoever asks has limits for it, and only confined.

exact         compared
json_schema   validator.py
python_tests  trial.py, by `run_confined`
"""

from __future__ import annotations

import hashlib
import secrets
import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import Final, Self

import structlog

from ruminate.grading.checking import trial
from ruminate.grading.checking.answers import Comparison
from ruminate.grading.checking.checks import (
    NoJson,
    exactly,
    found,
    held_against,
    json_of,
    python_of,
    schema_of,
    undecided,
    why_no_tests,
)
from ruminate.grading.checking.limits import Limits
from ruminate.grading.checking.validator import Validator
from ruminate.schemas.interaction import AnswerCheck
from ruminate.shared.confined import run_confined
from ruminate.shared.scratch import sweep_scratch

log = structlog.get_logger()

Checked = Callable[[AnswerCheck, Comparison], None]
"""Told of every check that was made, and what it came to; not of what is merely compared, or remembered."""

_TRIALS_AT_ONCE: Final = 2
_OUTPUT_BYTES: Final = 64 * 1024
_REMEMBERED: Final = 10_000


class Checker:
    """Somebody who can be asked what a check comes to, from any thread; see `Checks`. Close it, or use it as a context.

    It remembers what it found: evidence judges an interaction again, and nothing of its check has changed by then.
    """

    def __init__(self, limits: Limits | None = None, *, on_checked: Checked = lambda *_: None) -> None:
        self._limits = limits
        self._on_checked = on_checked
        self._validator = Validator()
        self._trials = threading.BoundedSemaphore(_TRIALS_AT_ONCE)
        self._lock = threading.Lock()
        self._found: OrderedDict[bytes, Comparison] = OrderedDict()

    def __enter__(self) -> Self:
        # A process that was killed has left the folders of what it ran.
        sweep_scratch()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the validator's process."""
        self._validator.close()

    def __call__(self, check: AnswerCheck, answer: str, /) -> Comparison:
        """What the check comes to."""
        if check.kind == "exact":
            return exactly(check.content, answer)
        # No record holds lone surrogates, but what a model is just writing may.
        texts = f"{check.kind}\x1f{check.content}\x1f{answer}".encode("utf-8", "surrogatepass")
        key = hashlib.blake2b(texts, digest_size=16).digest()
        with self._lock:
            known = self._found.get(key)
        if known is not None:
            return known
        comparison = self._against_schema(check, answer) if check.kind == "json_schema" else self._by_tests(check, answer)
        self._on_checked(check, comparison)
        with self._lock:
            self._found[key] = comparison
            while len(self._found) > _REMEMBERED:
                self._found.popitem(last=False)
        return comparison

    def _against_schema(self, check: AnswerCheck, answer: str) -> Comparison:
        try:
            schema, value = schema_of(check.content), json_of(answer)
        except NoJson:
            return found("wrong", "the JSON Schema: the answer is no JSON")
        except ValueError as error:
            return undecided(str(error))
        try:
            return held_against(self._validator(schema, value))
        except RuntimeError as error:
            log.error("schema_not_checked", why=str(error))  # noqa: TRY400 - the sentence says it all
            return undecided("a JSON Schema that nobody here can check")

    def _by_tests(self, check: AnswerCheck, answer: str) -> Comparison:
        limits = self._limits
        if limits is None:
            return undecided("tests, which are run only where the policy says so (`run_code`)")
        if (why := why_no_tests(check.content)) is not None:
            return undecided(why)
        code = python_of(answer)
        if code is None:
            return found("wrong", "the tests: the answer holds no Python code")
        mark = secrets.token_hex(16)
        with self._trials:
            try:
                result = run_confined(
                    trial.program(code, check.content, mark=mark),
                    seconds=limits.seconds,
                    memory_bytes=limits.memory_bytes,
                    output_bytes=_OUTPUT_BYTES,
                    namespaces="preferred" if limits.without_namespaces else "required",
                )
            except OSError as error:
                log.warning("tests_not_run", why=error.strerror)
                return undecided("tests that could not be run here")
        log.info("tests_run", ended=result.ended, seconds=round(result.seconds, 3), network_cut=result.network_cut)
        if result.ended == "refused":
            log.warning("tests_not_run", why="this system gives no namespaces; see run_code_without_namespaces of the policy")
        return trial.outcome(result, mark=mark)
