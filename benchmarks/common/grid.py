"""What `fidelity.py` tries: methods, with and without smoothing, by scale groups and by bits, each with three seeds."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, fields, replace
from itertools import product
from typing import Any

from vlapack import Recipe
from vlapack.recipe.environment import GUIDE
from vlapack.recipe.presets import PRESETS

SEEDS = (0, 1, 2)
GROUPS = (None, 128, 32)
BITS = {"W4A8": (4, 8), "W8A8": (8, 8), "W4A4": (4, 4)}
LAMBDA = 0.3
"""The λ of rows with smoothing."""

PLAIN = Recipe(rotation="none", permute=False, rounding="rtn")
ROTATED = Recipe(block=64, shared_block=True, permute=True, rounding="rtn")
METHODS = {
    "rtn": replace(PLAIN, clip="absmax"),
    "clip": PLAIN,
    "hadamard": replace(ROTATED, rotation="hadamard"),
    "svd": replace(ROTATED, rotation="svd"),
    "svd_hadamard": replace(ROTATED, rotation="svd_hadamard"),
    "greedy": replace(ROTATED, rotation="greedy", order="rotate_permute_rotate"),
}
METHODS |= {
    "gptq" if name == "clip" else f"{name} + gptq": replace(recipe, rounding="gptq")
    for name, recipe in METHODS.items()
    if name not in ("rtn", "svd")
}
"""`rtn` takes the largest weight as the range; all others search the clip of least squared error. Rotations are blocks
of 64, one for each input, after the zigzag permutation; DuQuant's `greedy` is on both sides of it."""

GUIDE_FULL = replace(GUIDE, scope=PRESETS["full"].scope)
"""The scripts guide's own recipe on all four parts."""

PRESET = "preset"
"""The method of rows that measure a preset's layers at 4 bits."""
AT_FOUR_BITS = {
    name: replace(recipe, overrides=tuple(each for each in recipe.overrides if each not in PRESETS["full"].overrides))
    for name, recipe in PRESETS.items()
    if not name.endswith("-w4")
}
"""The presets before they mixed 4 and 8 bits, which is what version 1 of tiny-libero was measured with."""


@dataclass(frozen=True)
class Row:
    """One experiment: the fields of the result's JSON that name a row."""

    target: str
    method: str
    smooth: float
    group: int | None
    bits: str
    preset: str | None
    seed: int

    @classmethod
    def of(cls, found: Mapping[str, Any]) -> Row:
        """Return the experiment that a row of the result is about."""
        return cls(**{field.name: found[field.name] for field in fields(cls)})

    @property
    def recipe(self) -> Recipe:
        """How it is quantized; its scope is everything that a π0 network's `full` takes, or its preset's own."""
        weight_bits, act_bits = BITS[self.bits]
        if self.method == PRESET:
            return replace(AT_FOUR_BITS[self.preset or ""], act_bits=act_bits)
        if self.method == "guide":
            return replace(GUIDE_FULL, weight_bits=weight_bits, act_bits=act_bits)
        method = replace(METHODS[self.method], weight_bits=weight_bits, act_bits=act_bits)
        return replace(method, smooth=self.smooth, group_size=self.group)

    def to_dict(self) -> dict[str, Any]:
        """Return the fields by name."""
        return asdict(self)

    def __str__(self) -> str:
        """Name the row in one line; `--only` is matched against it."""
        group = "per channel" if self.group is None else f"g{self.group}"
        preset = "" if self.preset is None else f" {self.preset}"
        return f"{self.target}{preset} {self.bits} {group} {self.method} smooth {self.smooth} seed {self.seed}"


def rows(target: str, preset: str | None) -> Iterator[Row]:
    """Yield the experiments on one target; `preset` is the one whose layers it quantizes, None outside of π0."""
    for seed in SEEDS:
        # Rows with as many activation bits follow each other: what calibration's inputs say of them is the same.
        for method, smooth in product(METHODS, (0.0, LAMBDA)):
            for bits, group in product(BITS, GROUPS):
                yield Row(target, method, smooth, group, bits, preset, seed)
        for bits in BITS:
            yield Row(target, "guide", 0.0, None, bits, preset, seed)
        if preset is not None:
            for name, recipe in AT_FOUR_BITS.items():
                yield Row(target, PRESET, recipe.smooth, recipe.group_size, "W4A8", name, seed)
