"""What people see of the demo."""

from __future__ import annotations

import shutil
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from ruminate.command.demo.examiner import Reply, count_right


def introduce(console: Console, state: Path) -> None:
    """What is about to happen, plainly."""
    console.print(
        "Ruminate closes the loop: what agents ask and a model answers is judged, the good of it is trained on, and the model that "
        "learned answers next time. A Qwen3 of 1 M parameters, which can add and subtract and thinks as it does, stands in for a "
        f"real one, so that a laptop can learn in a minute. Everything lies in {state}.",
        highlight=False,
    )


@contextmanager
def counter(console: Console, what: str, total: int) -> Iterator[Callable[[], None]]:
    """A bar that counts to `total`; gives the function that advances it."""
    with Progress(TextColumn(f"  {what}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), console=console) as progress:
        task = progress.add_task(what, total=total)
        yield lambda: progress.advance(task)


def counted(words: Sequence[str]) -> str:
    """`280 taken, 1 duplicate`."""
    return ", ".join(f"{count} {word}" for word, count in Counter(words).most_common())


def compare(console: Console, before: Sequence[Reply], after: Sequence[Reply]) -> None:
    """The same questions side by side, and the sums by mode and wording."""
    shown = Table("question", "mode", "before", "after", title="some of the questions, before and after", expand=True)
    for number in range(0, len(after), 13):
        old, new = before[number], after[number]
        thought = f"[dim]{new.thinking.strip()}[/dim]\n" if new.thinking else ""
        mark = "[green]✓[/green] " if new.right else "[red]✗[/red] "
        shown.add_row(
            new.question.text,
            new.question.mode,
            old.content.strip()[:60] or "[dim]nothing[/dim]",
            thought + mark + new.content.strip()[:80],
        )
    console.print(shown)
    each = len(after) // 4
    totals = Table("mode", "wording", "right before", "right after", title=f"{each} made-up facts")
    was, now = count_right(before), count_right(after)
    for mode, by_wording in now.items():
        for wording, right in by_wording.items():
            totals.add_row(mode, wording, f"{was[mode][wording]} of {each}", f"[bold]{right} of {each}[/bold]")
    console.print(totals)


def say_what_was_kept(console: Console, before: int, after: int, exercises: int) -> None:
    """Whether it can still do what it could."""
    console.print(
        f"What it could do before, it still can: of {exercises} sums that are in no row, thought through step by step, {before} "
        f"were right before and {after} are now. Every version is asked such questions before it serves, and is refused where it "
        "has forgotten to think.",
        highlight=False,
    )


def say_plainly(console: Console, solved: int, problems: int) -> None:
    """What the figures do not mean."""
    console.print(
        f"This is recall in new words, not mathematics: of {problems} problems that are in no row, it solves {solved}. A model of "
        "1 M parameters can learn what it is told; to reason, give the loop a real Qwen3.",
        highlight=False,
    )


def where_things_are(console: Console, state: Path, found: Mapping[str, Any], seconds: Mapping[str, float]) -> None:
    """Where each artifact lies, what to try next, and how long each stage took."""
    console.rule("where things are", align="left")
    for name in ("dataset", "adapter", "weights"):
        console.print(f"  {name:10} {found[name]}", highlight=False, soft_wrap=True)
    console.print(f"  {'logs':10} {state / 'logs'}", highlight=False, soft_wrap=True)
    # A fresh clone has the command in .venv/bin alone.
    ruminate = "ruminate" if shutil.which("ruminate") else sys.argv[0]
    console.print("\nNext:", highlight=False)
    for command, what in (
        ("demo --keep", "the same, and leave it running: look around with `status` and `tail TOPIC`"),
        ("up --kafka HOST:PORT --node URL --base Qwen/Qwen3-8B", "the loop on your own machines"),
    ):
        console.print(f"  {ruminate} {command}\n      {what}", highlight=False, soft_wrap=True)
    took = "  ".join(f"{name} {value:.0f} s" for name, value in seconds.items())
    console.print(f"\n{took}", style="dim", highlight=False)
