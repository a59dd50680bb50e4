"""What an observation of a layout is made of: its pictures and vectors, and where in the dictionary they lie.

Recordings, data sets and layouts share these few words, so that none of them knows a robot by name.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

PROMPT_KEY = "prompt"


@dataclass(frozen=True)
class Field:
    """A picture or a vector.

    Attributes:
        path: the keys that lead to it, the outermost first: ALOHA's pictures lie in a dictionary of their own.
        width: how many numbers the vector has; None for a picture.
        optional: a robot may lack it.
    """

    path: tuple[str, ...]
    width: int | None = None
    optional: bool = False

    @property
    def name(self) -> str:
        """What recordings call it: its own key, without openpi's `observation/`."""
        return self.path[-1].removeprefix("observation/")

    def get(self, observation: Mapping[str, Any]) -> Any:
        """Return it from an observation; KeyError where it is not there."""
        value: Any = observation
        for key in self.path:
            value = value[key]
        return value

    def put(self, observation: dict[str, Any], value: Any) -> None:
        """Place it in an observation that is being made."""
        for key in self.path[:-1]:
            observation = observation.setdefault(key, {})
        observation[self.path[-1]] = value
