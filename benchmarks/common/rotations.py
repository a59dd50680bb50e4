"""The block of a layer's rotation learned from its own weights and inputs, in place of a Hadamard matrix."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from unittest.mock import patch

import torch
from torch import Tensor

from vlapack import Recipe
from vlapack.methods.gptq import DAMPING, gptq_weight
from vlapack.plan.selected import Group
from vlapack.quantize.calibration import LayerInputs
from vlapack.quantize.groups import Prepared, Read, prepare

STEPS = 150
RATE = 0.01
NORM = 8
"""The scale of a row goes by this norm: between the largest weight, which clipping cuts, and the mean square."""


def with_learned_block(
    read: Read, group: Group, weights: Sequence[Tensor], recipe: Recipe, inputs: LayerInputs | None
) -> Prepared:
    """Learn the block that a group's channels share by 150 Cayley steps from Hadamard, where that lowers the loss."""
    found = prepare(read, group, weights, recipe, inputs)
    start = found.transform.rotation
    # What is folded must serve other layers, too.
    if inputs is None or found.factor is None or start is None or "rotation" in group[0].folded:
        return found
    unturned = replace(found.transform, rotation=None)
    x = unturned.inputs(inputs.sample.float())
    block = learned_block(torch.cat([unturned.weight(weight) for weight in weights]), x.T @ x, start.float())
    turned = replace(found.transform, rotation=block)
    with patch("vlapack.quantize.groups.build_transform", lambda *_: turned):
        other = prepare(read, group, weights, recipe, inputs)
    bits = group[0].weight_bits
    return min(found, other, key=lambda one: lost(one, weights, inputs, bits))


def lost(prepared: Prepared, weights: Sequence[Tensor], inputs: LayerInputs, bits: int) -> float:
    """Return Σ e H eᵀ of the weights, rounded by GPTQ."""
    assert prepared.factor is not None
    x = prepared.transform.inputs(inputs.sample.float())
    total = 0.0
    for weight in weights:
        turned = prepared.transform.weight(weight)
        integers, scales = gptq_weight(turned, prepared.factor, bits)
        total += float((x @ (turned - integers * scales).T).square().sum())
    return total


def learned_block(weight: Tensor, hessian: Tensor, start: Tensor, steps: int = STEPS) -> Tensor:
    """Return the orthogonal block [1, B, B] to which `steps` lead that lower `expected`.

    Args:
        weight: [N, K], as it is before the rotation.
        hessian: xᵀx [K, K] of inputs before the rotation.
        start: [1, B, B].
        steps: of Adam on the skew matrix of which Cayley's formula makes a rotation.
    """
    one = torch.eye(start.shape[-1])
    free = torch.zeros_like(one, requires_grad=True)
    optimizer = torch.optim.Adam([free], RATE)

    def block() -> Tensor:
        skew = free - free.T
        return start[0] @ torch.linalg.solve(one + skew, one - skew)

    with torch.enable_grad():
        for _ in range(steps):
            optimizer.zero_grad()
            expected(weight, hessian, block()).backward()
            optimizer.step()
    return block().detach()[None]


def expected(weight: Tensor, hessian: Tensor, block: Tensor) -> Tensor:
    """Return the logarithm of what GPTQ is expected to lose, but for a constant.

    With H = U D Uᵀ the loss of a row is Σ D_i r_i², with r_i the rounding of one number: evenly spread over the row's
    step, it is a twelfth of its square. So the loss goes by Σ steps² · tr D.
    """
    turned, channels = _turned(weight, block), len(hessian)
    h = _turned(_turned(hessian, block).T, block)
    order = torch.argsort(h.diagonal().detach())
    damped = h + DAMPING[0] * h.diagonal().mean() * torch.eye(channels)
    d = torch.linalg.cholesky(damped[order][:, order]).diagonal().square()
    steps = turned.abs().pow(NORM).mean(1).pow(2 / NORM)
    return steps.sum().log() + d.sum().log()


def _turned(x: Tensor, block: Tensor) -> Tensor:
    return (x.reshape(len(x), -1, len(block)) @ block).reshape(x.shape)
