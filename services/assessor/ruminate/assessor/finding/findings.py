"""Findings: everything that can be read in one interaction, found once, before anything is judged."""

from __future__ import annotations

from dataclasses import dataclass

from ruminate.assessor.finding.blocks import Blocks, check_blocks
from ruminate.assessor.finding.reading import Reading, read
from ruminate.assessor.finding.structure import Structure, look_at
from ruminate.assessor.finding.trail import Trail, follow_numbers
from ruminate.grading.finding.marks import final_number
from ruminate.schemas.interaction import InteractionRecorded


@dataclass(frozen=True, slots=True)
class Findings:
    """What the texts hold. `final` is the number that the answer ends in."""

    reading: Reading
    final: float | None
    trail: Trail
    structure: Structure
    blocks: Blocks


def find(interaction: InteractionRecorded, *, most_characters: int) -> Findings:
    """Take an interaction apart. Of a text over `most_characters`, both ends are read."""
    reading = read(interaction, most_characters=most_characters)
    final = final_number(reading)

    def context() -> str:
        return "\n".join(message.content[:most_characters] for message in interaction.messages)

    return Findings(
        reading=reading,
        final=final,
        trail=follow_numbers(reading, final),
        structure=look_at(reading),
        blocks=check_blocks(reading.thinking, reading.answer, context),
    )
