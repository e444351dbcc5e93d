"""What goes wrong for a known reason ends a job with words that say what to do, in whichever phase; anything else is a crash."""

from __future__ import annotations

from errno import EDQUOT, ENOSPC

import pytest
import torch

from ruminate.trainer.course import Course, explain
from ruminate.trainer.outcome import JobFailed


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (OSError(ENOSPC, "No space left on device"), "no_room"),
        (OSError(EDQUOT, "Disk quota exceeded"), "no_room"),
        # As tokenizers and `torch.save` say it, without a number.
        (Exception("No space left on device (os error 28)"), "no_room"),
        (RuntimeError("[enforce fail at inline_container.cc:668] . unexpected pos 512 vs 406"), "no_room"),
        (RuntimeError("PytorchStreamWriter failed writing file data/0: file write failed"), "no_room"),
        (torch.OutOfMemoryError("CUDA out of memory"), "out_of_memory"),
        (RuntimeError("[enforce fail at alloc_cpu.cpp:124] DefaultCPUAllocator: can't allocate memory: 1 bytes"), "out_of_memory"),
        (MemoryError(), "out_of_memory"),
    ],
)
def test_a_full_disk_and_full_memory_are_known_by_what_each_library_says(error: Exception, reason: str) -> None:
    failure = explain(error, "exporting")
    assert failure is not None
    assert (failure.phase, failure.reason) == ("exporting", reason)
    assert "ruminate train retry" in failure.explanation


def test_between_two_phases_it_is_explained_as_in_the_one_that_was_last() -> None:
    course = Course(lambda _: None)

    def fill() -> None:
        with course.explained():
            with course.during("measuring"):
                pass
            raise OSError(ENOSPC, "No space left on device")

    with pytest.raises(JobFailed, match="no_room while measuring"):
        fill()


def test_what_nobody_knows_stays_what_it_is() -> None:
    course = Course(lambda _: None)
    with pytest.raises(ZeroDivisionError), course.explained():
        raise ZeroDivisionError
