"""`Choice`: what an override sets for the layers that its pattern matches."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from vlapack.recipe.rules import check_choice, nearest, require

WEIGHT_BITS = (4, 8, 16)
ACT_BITS = (4, 8, 16)
GROUP_SIZES = (None, 32, 64, 128)
RECIPES: Literal["recipe"] = "recipe"
"""In place of a value: the recipe's own."""

_SPELLED = re.compile(r"(?P<weight_bits>\d+)(g(?P<group_size>\d+))?(a(?P<act_bits>\d+))?", re.IGNORECASE)


@dataclass(frozen=True)
class Choice:
    """Weight bits of some layers, and where they differ from the recipe's, their groups and activation bits.

        Choice(4, group_size=32)  # 4 bits in groups of 32 channels
        Choice(4, group_size=None)  # 4 bits without groups, in a recipe that has them

    Raises:
        InputError: a field breaks its rule; the message names field, value and rule
    """

    weight_bits: int
    """4, 8, or 16: the layer stays float."""
    group_size: int | Literal["recipe"] | None = "recipe"
    """32, 64 or 128, as `Recipe.group_size`; None: one scale per output channel, whatever the recipe says."""
    act_bits: int | Literal["recipe"] = "recipe"
    """4, 8 or 16, as `Recipe.act_bits`; layers that share an input must agree."""

    def __post_init__(self) -> None:
        """Check every field against its rule."""
        check_choice("overrides: weight_bits", self.weight_bits, WEIGHT_BITS)
        check_choice("overrides: group_size", self.group_size, (RECIPES, *GROUP_SIZES))
        check_choice("overrides: act_bits", self.act_bits, (RECIPES, *ACT_BITS))
        require(
            self.weight_bits < 16 or self.is_plain,
            "overrides",
            self.to_json(),
            "at 16 weight bits a layer stays float, and has neither groups nor activation bits",
        )

    @property
    def is_plain(self) -> bool:
        """Whether it chooses nothing but weight bits."""
        return self.group_size == RECIPES and self.act_bits == RECIPES

    def to_json(self) -> int | dict[str, Any]:
        """Return the weight bits, or a dict of what is chosen if that is more."""
        if self.is_plain:
            return self.weight_bits
        return {key: value for key, value in vars(self).items() if value != RECIPES}

    def __str__(self) -> str:
        """Return the short form that `from_text` reads."""
        group = "" if self.group_size == RECIPES else f"g{self.group_size or 0}"
        return f"{self.weight_bits}{group}{'' if self.act_bits == RECIPES else f'a{self.act_bits}'}"

    @classmethod
    def from_json(cls, value: Any) -> Choice:
        """Read what `to_json` returned.

        Raises:
            InputError: it is neither weight bits nor a dict of fields.
        """
        if not isinstance(value, Mapping):
            check_choice("overrides", value, WEIGHT_BITS)
            return cls(value)
        for key in value:
            known = list(cls.__dataclass_fields__)
            require(key in known, "overrides", key, f"no key of a choice{nearest(str(key), known)}")
        require("weight_bits" in value, "overrides", dict(value), "weight_bits is missing")
        require(RECIPES not in value.values(), "overrides", dict(value), "leave out what is to be the recipe's")
        return cls(**value)

    def to_text(self) -> str:
        """Return the short form, which `from_text` reads."""
        group = "" if self.group_size == RECIPES else f"g{self.group_size or 0}"
        return f"{self.weight_bits}{group}{'' if self.act_bits == RECIPES else f'a{self.act_bits}'}"

    @classmethod
    def from_text(cls, text: str) -> Choice:
        """Read the short form: `8`, `4g32` (groups of 32), `4g0` (no groups), `4a16`, `4g32a8`.

        Raises:
            ValueError: it has another form.
            InputError: as in the constructor.
        """
        found = _SPELLED.fullmatch(text.strip())
        if found is None:
            raise ValueError(f"{text!r} is not of the form bits, 4g32, 4a16 or 4g32a8")
        bits, size, act = found["weight_bits"], found["group_size"], found["act_bits"]
        return cls(
            int(bits),
            "recipe" if size is None else int(size) or None,
            "recipe" if act is None else int(act),
        )


def as_choice(value: int | Choice) -> Choice:
    """Return a choice as it is, and weight bits as one.

    Raises:
        InputError: it is neither.
    """
    return value if isinstance(value, Choice) else Choice.from_json(value)
