"""The one way from a command line and its environment to a recipe, with the source of every value.

Precedence: preset or guide's defaults < variables < flags. A recipe file stands alone: together with variables it is
an error, since nobody could say which was meant; flags still change single fields of it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

from vlapack.errors import InputError
from vlapack.recipe.environment import (
    GUIDE,
    PREFIX,
    Options,
    fields_from_environment,
    names,
    options_from_environment,
    overrides,
    variables_set,
)
from vlapack.recipe.presets import PRESETS, preset
from vlapack.recipe.recipe import Recipe, read_recipe


@dataclass(frozen=True)
class RecipeFlags:
    """Single fields of the recipe; they override the preset and the variables.

    Args:
        scope: Prefix of the dotted layer names.
        include: Regular expression that a layer's name must match.
        exclude: Regular expression that a layer's name must not match.
        only_layers: Exact layer names, separated by commas; include and exclude are ignored then.
        weight_overrides: Bits per layer, `pattern:bits,…` (4, 8, or 16: stays float; 4g32: in groups of 32, 4g0:
            without groups; 4a16: with 16-bit activations; 4g32a8); the first match wins.
        weight_bits: Bits of all other selected weights.
        act_bits: Bits of the activations; 16 leaves them float.
        rotation: How blocks of input channels are rotated.
        block: Channels per rotation block, a power of two.
        shared_block: One rotation block per input instead of K/B distinct ones.
        permute: Spread important channels evenly over the blocks.
        row_rot: `restore`: rotate output rows before rounding, and rotate the result back.
        block_out: Rows per block of the row rotation.
        smooth: λ of the smoothing step; 0: none.
        order: Permute and rotate, or rotate, permute and rotate again (DuQuant).
        group_size: Input channels per weight scale, instead of one scale per output channel.
        rounding: rtn: round to nearest; gptq: later columns compensate for each column's error, using calibration data.
        clip: End of the integer range: where the squared error is least, or the largest weight.
        act_scale: One activation scale per token, or one per layer from calibration.
        act_percentile: Percentile that sets the static scale.
        calib_steps: How many observations to calibrate on.
        fold: Fold the first steps of a transform into the layers before it.
        embedding_bits: 8: store the embedding's rows as int8.
        atm: Attention temperature matching (QuantVLA): scale the expert's queries, head by head, so that their logits
            vary as much as the float policy's.
        ohb: Output head balancing (QuantVLA): the same for the strength of the expert's attention.
        seed: Seed for random choices in a method.
    """

    scope: str | None = None
    include: str | None = None
    exclude: str | None = None
    only_layers: str | None = None
    weight_overrides: str | None = None
    weight_bits: Literal[4, 8, 16] | None = None
    act_bits: Literal[4, 8, 16] | None = None
    rotation: Literal["none", "hadamard", "svd", "svd_hadamard", "greedy"] | None = None
    block: int | None = None
    shared_block: bool | None = None
    permute: bool | None = None
    row_rot: Literal["0", "restore"] | None = None
    block_out: int | None = None
    smooth: float | None = None
    order: Literal["permute_rotate", "rotate_permute_rotate"] | None = None
    group_size: Literal[32, 64, 128] | None = None
    rounding: Literal["rtn", "gptq"] | None = None
    clip: Literal["mse", "absmax"] | None = None
    act_scale: Literal["per_token", "static"] | None = None
    act_percentile: float | None = None
    calib_steps: int | None = None
    fold: bool | None = None
    embedding_bits: Literal[8, 16] | None = None
    atm: bool | None = None
    ohb: bool | None = None
    seed: int | None = None

    def values(self) -> dict[str, Any]:
        """Return the recipe's fields that were given.

        Raises:
            InputError: `weight_overrides` does not parse.
        """
        given = {key: value for key, value in vars(self).items() if value is not None}
        if self.only_layers is not None:
            given["layers"] = names(given.pop("only_layers"))
        if self.weight_overrides is not None:
            text = given.pop("weight_overrides")
            try:
                given["overrides"] = overrides(text)
            except ValueError as error:
                raise InputError(f"`weight_overrides={text!r}` does not parse: {error}") from error
        return given


NOT_USED = "is not used"


class Resolved(NamedTuple):
    """A recipe, the source of each of its fields, and the options of the run."""

    recipe: Recipe
    sources: dict[str, str]
    options: Options

    @property
    def unused(self) -> list[str]:
        """What was set and has no effect, with the reason."""
        return [source for source in self.sources.values() if NOT_USED in source]


def resolve(
    preset_name: str | None, recipe_file: Path | None, flags: RecipeFlags, environ: Mapping[str, str]
) -> Resolved:
    """Put a recipe together.

    Args:
        preset_name: The preset of that name.
        recipe_file: The file that holds a recipe.
        flags: The flags for single fields.
        environ: The process's environment.

    Raises:
        InputError: No source of a recipe, two that exclude each other, or a value that breaks its rule.
    """
    options = options_from_environment(environ)
    variables = variables_set(environ)
    base, origin = _start(preset_name, recipe_file, variables, options)
    values: dict[str, Any] = {}
    sources = {field.name: origin for field in dataclasses.fields(Recipe)}
    if recipe_file is None and (variables or base is GUIDE):
        values, from_variables = fields_from_environment(environ, None if base is GUIDE else base)
        sources.update(from_variables)
    chosen = flags.values()
    if "overrides" in chosen:
        chosen["overrides"] += values.get("overrides", base.overrides)
    if "act_percentile" in chosen and "act_scale" not in chosen:
        chosen["act_scale"] = "static"
    bits = {"act_bits": base.act_bits, **values, **chosen}["act_bits"]
    if bits == 16 and "act_scale" not in chosen and (base is GUIDE or "act_scale" in values):
        # The guide's scripts set ACT_PCT and its advice is to set ABITS=16: the scale is for what is no longer rounded.
        if values.pop("act_percentile", None) is not None:
            sources["act_percentile"] = f"{PREFIX}ACT_PCT {NOT_USED}: 16-bit activations have no scale"
        values["act_scale"], sources["act_scale"] = "per_token", "16-bit activations have no scale"
    sources.update({field: f"`{field}`" for field in chosen})
    try:
        recipe = dataclasses.replace(base, **{**values, **chosen})
    except InputError as error:
        if error.field is None:
            raise
        raise InputError(f"{error} ({error.field} was set by {sources[error.field]})", field=error.field) from error
    return Resolved(recipe, sources, options)


def _start(
    preset_name: str | None, recipe_file: Path | None, variables: Sequence[str], options: Options
) -> tuple[Recipe, str]:
    """Return the recipe that variables and flags change, and what it is called."""
    if recipe_file is not None and preset_name is not None:
        raise InputError(f"`recipe={str(recipe_file)!r}` and `preset={preset_name!r}` exclude each other: give one")
    if recipe_file is not None and variables:
        raise InputError(
            f"`recipe={str(recipe_file)!r}` stands alone, but these variables are set: {', '.join(variables)}; "
            "unset them, or leave `recipe` out"
        )
    if recipe_file is not None:
        return read_recipe(recipe_file), f"recipe {recipe_file}"
    if preset_name is not None:
        return preset(preset_name), f"preset {preset_name}"
    if variables or options != Options():
        return GUIDE, "the guide's default"
    raise InputError(
        f"no recipe is named: give `preset` ({', '.join(PRESETS)}), `recipe=FILE`, or {PREFIX}SCOPE and the "
        "variables that go with it"
    )
