"""What the pipe carries: a note of 1 KB, validated like every other event."""

from __future__ import annotations

from ruminate.schemas.payload import Name, Part, Payload, Ratio, Text
from ruminate.schemas.topic import Topic


class Step(Part):
    """A part of a note."""

    text: Text
    weight: Ratio


class Note(Payload):
    """One note."""

    note_id: Name
    thread: Name
    steps: tuple[Step, ...]
    tags: tuple[Name, ...] = ()


def _topic(name: str) -> Topic[Note]:
    return Topic(
        name=name,
        says="A note went through the pipe.",
        carries=Note,
        record_key="event_id",
        partitioned_by=("thread",),
        cleanup="delete",
        written_by=("pipe",),
        read_by=("pipe",),
    )


NOTES_IN = _topic("bench-notes-in-v1")
NOTES_OUT = _topic("bench-notes-out-v1")
