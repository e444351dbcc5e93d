"""A trial: the program that runs tests against an answer's code, and what its words come to. Pure; checker.py has it run, confined.

The answer is the module `answer`; the tests import from it, or use its names as they are. Functions `test_…` without parameters
and `unittest.TestCase`s are run, what stands outside of them first. It reports by lines that begin with a mark which is new each
time, so that an answer which merely ends, or writes that all is well, passes nothing. An answer that looks for the mark in its own
process finds it: tests are made against mistakes, not against malice.
"""

from __future__ import annotations

from typing import Final, Literal

from ruminate.grading.checking.answers import Comparison
from ruminate.grading.checking.checks import found, undecided
from ruminate.shared.confined import ConfinedResult

_PROGRAM: Final = """
def main(mark, code, tests):
    import io, os, sys, types, unittest
    write, leave = os.write, os._exit

    def say(*words):
        write(1, (" ".join((mark, *map(str, words))) + chr(10)).encode())

    def end(*words):
        say(*words)
        leave(0)

    class Nowhere(io.TextIOBase):
        def write(self, text):
            return len(text)

    def run(what):
        try:
            what()
        except ModuleNotFoundError as error:
            end("missing", error.name)
        except BaseException as error:
            return type(error).__name__
        return None

    say("started")
    sys.stdout = sys.stderr = Nowhere()
    answer = types.ModuleType("answer")
    sys.modules["answer"] = answer
    if failed := run(lambda: exec(compile(code, "answer.py", "exec"), answer.__dict__)):
        end("broken", failed)
    given = {name: value for name, value in vars(answer).items() if not name.startswith("__")}
    space = given | {"__name__": "tests"}
    if failed := run(lambda: exec(compile(tests, "tests.py", "exec"), space)):
        end("done", 1, 1, failed)
    own = {name: value for name, value in space.items() if given.get(name) is not value}
    todo = []
    for name, value in own.items():
        if isinstance(value, types.FunctionType) and name.startswith("test"):
            if value.__code__.co_argcount - len(value.__defaults__ or ()) or value.__code__.co_kwonlyargcount:
                end("fixtures")
            todo.append(value)
        elif isinstance(value, type) and issubclass(value, unittest.TestCase):
            for each in unittest.defaultTestLoader.loadTestsFromTestCase(value):
                todo.append(each.debug)
    failures = [failed for failed in map(run, todo) if failed and failed != "SkipTest"]
    end("done", len(todo) or 1, len(failures), *failures[:1])


"""


def program(code: str, tests: str, *, mark: str) -> str:
    """The source of a trial."""
    return f"{_PROGRAM}main({mark!r}, {code!r}, {tests!r})\n"


def outcome(result: ConfinedResult, *, mark: str) -> Comparison:
    """What a trial that has ended came to. What came of our limits or of what is not installed here, is no fault of the answer."""
    said = [line.removeprefix(f"{mark} ").split(" ") for line in _lines(result.output) if line.startswith(f"{mark} ")]
    if result.ended == "refused" or not said:
        return undecided("tests that could not be run here")
    if (ended := _ENDED.get(result.ended)) is not None:
        word, how = ended
        return undecided(how) if word == "undecided" else found(word, how)
    match said[-1]:
        case ["done", run, failed, *error]:
            holds = failed == "0"
            how = f"the tests: {run} of {run} hold" if holds else f"the tests: {failed} of {run} do not hold ({error[0][:40]})"
            return found("right" if holds else "wrong", how)
        case ["missing", *_]:
            return undecided("tests that want a module which is not there")
        case ["fixtures", *_]:
            return undecided("tests that want arguments")
    return found("wrong", f"the tests: the code of the answer ended them ({' '.join(said[-1])[:40]})")


_ENDED: Final[dict[str, tuple[Literal["wrong", "undecided"], str]]] = {
    "out_of_cpu": ("wrong", "the tests: they compute without end"),
    "too_much_output": ("wrong", "the tests: they write without end"),
    "out_of_time": ("undecided", "tests that waited for something until their time was up"),
}


def _lines(output: bytes) -> list[str]:
    return output.decode(errors="replace").splitlines()
