"""Conversations: which earlier answer does this request continue?

Each message extends a chain of hashes that begins with tenant and agent. Two names follow from it:

*   The *conversation* is the link of the first user message. It depends on the messages alone, so that every replica,
    and the same one after a restart, gives every turn of a conversation the same name. Two conversations of one agent
    that open with the same words share it: they are kept in order and on one side of the hold-out together.
*   The *continued interaction* is found by the link of an answer, remembered when that answer was given. It needs
    memory; where that is missing (another replica, a restart, too long ago) the conversation is still right.

System messages are left out, because they often carry the clock; so is thinking, because most clients do not send it back;
so is white space around a text, because some clients trim it.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

import orjson

from ruminate.schemas.interaction import Message

Link = bytes


def chain(tenant: str, agent: str, messages: Sequence[Message]) -> list[Link]:
    """One link a message, each depending on all before it."""
    link = hashlib.sha256(orjson.dumps([tenant, agent])).digest()
    links = []
    for message in messages:
        if message.role != "system":
            link = hashlib.sha256(link + _words(message)).digest()
        links.append(link)
    return links


def conversation_id(messages: Sequence[Message], links: Sequence[Link]) -> str:
    """The name that every turn of a conversation has in common: the link of its first user message."""
    opening = next((index for index, message in enumerate(messages) if message.role == "user"), 0)
    return links[opening].hex()[:32]


@dataclass(frozen=True, slots=True)
class Turn:
    """An answer that was given."""

    conversation_id: str
    interaction_id: str


class Answers:
    """The latest answers, by their link; the oldest make room."""

    def __init__(self, capacity: int) -> None:
        self._turns: OrderedDict[Link, Turn] = OrderedDict()
        self._capacity = capacity

    def continued_by(self, messages: Sequence[Message], links: Sequence[Link]) -> Turn | None:
        """The latest answer that the messages contain and go on from."""
        for index in range(len(messages) - 2, -1, -1):
            if messages[index].role == "assistant" and (turn := self._turns.get(links[index])):
                return turn
        return None

    def remember(self, link: Link, turn: Turn) -> None:
        """Keep the turn that ended with this link."""
        self._turns[link] = turn
        self._turns.move_to_end(link)
        while len(self._turns) > self._capacity:
            self._turns.popitem(last=False)


def _words(message: Message) -> bytes:
    return orjson.dumps(
        [
            message.role,
            message.content.strip(),
            [[call.name, call.arguments] for call in message.tool_calls],
            [image.sha256 for image in message.images],
        ],
        option=orjson.OPT_SORT_KEYS,
    )
