"""The transform that a recipe chooses for one input, from the weights that read it and from what it was."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from vlapack.errors import InputError
from vlapack.methods.permute import zigzag
from vlapack.methods.rotate import greedy, hadamard, rotation
from vlapack.methods.smooth import smoothing_scale
from vlapack.methods.transform import Transform
from vlapack.plan.selected import Selected
from vlapack.quantize.calibration import LayerInputs
from vlapack.recipe.recipe import Recipe


def build_transform(
    layer: Selected, weights: Sequence[Tensor], recipe: Recipe, inputs: LayerInputs | None
) -> Transform:
    """Choose the steps, each from weights and inputs as the steps before have made them.

    Args:
        layer: one of the layers that read the input; their K and hence their blocks are equal.
        weights: the weights [N, K] of all of them, float32; for a rotation that is folded, of all that it must serve.
        recipe: which steps.
        inputs: the input; None without calibration, when channels are ordered by their weights' energy, and for layers
            that never run, which are not smoothed and get a Hadamard in place of a greedy rotation.

    Returns:
        The transform in the precision of the pack, so that weights and inputs see the numbers that are stored; a folded
        rotation, which is not, in float64.

    Raises:
        InputError: the recipe smooths or rotates greedily, the layers run, and there are no `inputs`.
    """
    stacked = torch.cat(list(weights))
    steps = Transform()
    if recipe.smoothing and layer.executed:
        seen = required(inputs, f"smoothing (smooth = {recipe.smooth})", "`smooth=0`")
        scale = smoothing_scale(seen.absmax, stacked.abs().amax(0), recipe.smoothing)
        steps = replace(steps, scale=None if scale is None else scale.float())
    if recipe.rotates_first:
        steps = replace(steps, pre_rotation=_rotation(layer, stacked, recipe, inputs, steps))
    if layer.permute:
        steps = replace(steps, permutation=zigzag(_importance(stacked, inputs, steps), layer.block))
    return replace(steps, rotation=_rotation(layer, stacked, recipe, inputs, steps))


def required(inputs: LayerInputs | None, what: str, remedy: str) -> LayerInputs:
    """Return the inputs that `what` cannot do without.

    Raises:
        InputError: there are none.
    """
    if inputs is None:
        raise InputError(f"{what} needs calibration, and this layer has none: give `calib=DIR`, or {remedy}")
    return inputs


def _rotation(
    layer: Selected, weight: Tensor, recipe: Recipe, inputs: LayerInputs | None, steps: Transform
) -> Tensor | None:
    """Build the rotation that follows on `steps`, as the pack stores it."""
    if "rotation" in layer.folded:
        return rotation(recipe.rotation, weight, layer.block, shared=True)
    if recipe.rotation != "greedy":
        blocks = rotation(recipe.rotation, steps.weight(weight), layer.block, shared=not recipe.distinct_blocks)
    elif not layer.executed:
        blocks = hadamard(layer.block).to(weight.device)
    else:
        seen = required(inputs, "a greedy rotation", "`rotation='hadamard'`")
        blocks = greedy(steps.inputs(seen.sample.float()), layer.block, recipe.seed)
    return None if blocks is None else blocks.float()


def _importance(weight: Tensor, inputs: LayerInputs | None, steps: Transform) -> Tensor:
    """Return what channels are ordered by [K]: their largest magnitude, else their weights' norm."""
    if inputs is None:
        norms: Tensor = torch.linalg.vector_norm(steps.weight(weight), dim=0)
        return norms
    if steps.pre_rotation is not None:
        return steps.inputs(inputs.sample.float()).abs().amax(0)
    return inputs.absmax if steps.scale is None else inputs.absmax / steps.scale
