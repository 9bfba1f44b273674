"""What a row is made of: turns, and talks that hold them."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from random import Random
from typing import NamedTuple


class Turn(NamedTuple):
    """One question and its answer. The key names the knowledge that both need; held-out keys are never taught."""

    user: str
    reply: str
    key: str


@dataclass(frozen=True)
class Talk:
    """One row before it is written: the turns, the skill that they show, and the system message, if there is one."""

    skill: str
    turns: tuple[Turn, ...]
    system: str = ""

    def then(self, other: "Talk") -> "Talk":
        """The same talk, continued."""
        return replace(self, turns=self.turns + other.turns)

    def row(self) -> dict[str, object]:
        """The row of the JSONL file."""
        messages = [{"role": "system", "content": self.system}] if self.system else []
        for turn in self.turns:
            messages += [{"role": "user", "content": turn.user}, {"role": "assistant", "content": turn.reply}]
        return {"skill": self.skill, "messages": messages}


Skill = Callable[[Random], Iterator[Talk]]
"""Draws talks without end."""


def single(skill: str, user: str, reply: str, key: str = "") -> Talk:
    """A talk of one turn; without a key the question itself is the key."""
    return Talk(skill, (Turn(user, reply, key or user),))
