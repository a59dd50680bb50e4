"""How a recipe's patterns are matched to the names of a network's linears."""

from __future__ import annotations

import re
from collections.abc import Collection

from vlapack.plan.selected import spellings
from vlapack.recipe.choice import Choice, as_choice
from vlapack.recipe.recipe import Recipe

FROM_THE_END = r"\.-"
"""What a pattern must hold to be searched for in names whose layers count from the end, `layers.-1.` the last."""


class Names:
    """How the patterns of a recipe read the names of a network's linears.

    A pattern that counts from the end, `layers\\.-1\\.`, is searched for in those names alone: if every pattern were
    searched for in both, one that excludes `layers\\.0\\.` would not exclude it under its other name.
    """

    def __init__(self, linears: Collection[str]) -> None:
        last: dict[str, int] = {}
        for name in linears:
            for place, stack in _stacks(name):
                last[stack] = max(last.get(stack, 0), int(name.split(".")[place]))
        self._last = last

    def match(self, pattern: str, name: str) -> bool:
        """Whether a pattern is found in a name, in either spelling."""
        read = self._from_the_end(name) if FROM_THE_END in pattern else name
        return any(re.search(pattern, form) for form in spellings(read))

    def selects(self, recipe: Recipe, name: str) -> bool:
        """Whether `include` and `exclude` choose it."""
        excluded = recipe.exclude is not None and self.match(recipe.exclude, name)
        return self.match(recipe.include, name) and not excluded

    def choice(self, recipe: Recipe, name: str) -> Choice:
        """What the first override that matches says of a layer, else the recipe's bits."""
        found = (chosen for pattern, chosen in recipe.overrides if self.match(pattern, name))
        return as_choice(next(found, recipe.weight_bits))

    def _from_the_end(self, name: str) -> str:
        pieces = name.split(".")
        for place, stack in _stacks(name):
            pieces[place] = str(int(pieces[place]) - self._last[stack] - 1)
        return ".".join(pieces)


def _stacks(name: str) -> list[tuple[int, str]]:
    """Return the stacks of layers that a name passes through: which of its pieces is a number, and what is before."""
    pieces = name.split(".")
    return [(place, ".".join(pieces[:place])) for place, piece in enumerate(pieces) if piece.isdecimal()]
