"""How long each topic that is looked through keeps what lies in it, as its broker says now."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from ruminate.eraser.decide import FOR_EVER, Life, life_of
from ruminate.schemas.flow import DERIVED, ERASABLE, RAW
from ruminate.shared.bus import BrokerUnavailable
from ruminate.shared.letters import BOXES
from ruminate.shared.profiles import PROFILES
from ruminate.shared.settings import ServiceSettings
from ruminate.shared.topics import open_admin

TEXT_BOXES: Final = tuple(box for box in BOXES if box.topic.holds_texts)
"""Where readers have put records with texts that they gave up."""

COMPACTED: Final = (*(topic.name for topic in ERASABLE), *(box.letters.name for box in TEXT_BOXES))
LASTING: Final = (*(topic.name for topic in (*RAW, *DERIVED)), *(box.retries.name for box in TEXT_BOXES))


async def read_lives(settings: ServiceSettings) -> Mapping[str, Life]:
    """By topic. Raises BrokerUnavailable."""
    names = (*COMPACTED, *LASTING)
    if not PROFILES[settings.kafka_profile].takes_topic_configuration:
        return dict.fromkeys(names, FOR_EVER)
    async with open_admin(settings) as admin:
        found = await admin.settings_of(names)
    if missing := sorted(set(names) - found.keys()):
        raise BrokerUnavailable(f"{', '.join(missing)}: no such topic. Type:  ruminate topics apply")
    return {name: life_of(each) for name, each in found.items()}
