"""The whole quantization of one input's layers once more: slow, in numpy's float64, from the definitions alone.

Nothing here comes from vlapack. Every step is written as the formula is printed: dense matrices, loops over rows, a
matrix inverse where the library has a triangular factor.
"""

from __future__ import annotations

from typing import Any

import numpy as np

Array = np.ndarray
COARSE = [1 - i / 20 for i in range(19)]
FINE = [0.0, 0.01, -0.01, 0.02, -0.02, 0.03, -0.03, 0.04, -0.04]


def quantize(weights: list[Array], x: Array, recipe: dict[str, Any]) -> tuple[list[Array], list[Array]]:
    """Return every layer's integers and scales.

    Args:
        weights: [N, K] each.
        x: the inputs of all of them [T, K].
        recipe: `smooth`, `order`, `rotation`, `block`, `shared`, `permute`, `noise` (greedy's random block),
            `act_bits`, `static` (a percentile or None), `weight_bits`, `group_size`, `rounding`.
    """
    stacked = np.concatenate(weights).astype(np.float64)
    x = x.astype(np.float64)
    if recipe["smooth"]:
        reach, width = np.abs(x).max(0), np.abs(stacked).max(0)
        d = np.float32(reach ** recipe["smooth"] / width ** (1 - recipe["smooth"]))
        x, stacked = x / d, stacked * d
    if recipe["order"] == "rotate_permute_rotate":
        first = np.float32(rotation(recipe, stacked, x))
        x, stacked = x @ first, stacked @ first
    if recipe["permute"]:
        order = dealt(np.abs(x).max(0), recipe["block"])
        x, stacked = x[:, order], stacked[:, order]
    last = np.float32(rotation(recipe, stacked, x))
    x, stacked = x @ last, stacked @ last
    x = rounded_inputs(x, recipe["act_bits"], recipe["static"])
    integers, scales, row = [], [], 0
    for weight in weights:
        part = np.float32(stacked[row : row + len(weight)]).astype(np.float64)
        row += len(weight)
        wide, stored = weight_scales(part, recipe["weight_bits"], recipe["group_size"])
        low = -(2 ** (recipe["weight_bits"] - 1))
        if recipe["rounding"] == "gptq":
            integers.append(eliminated(part, x, wide, low))
        else:
            integers.append(np.clip(np.rint(part / wide), low, -low - 1))
        scales.append(stored)
    return integers, scales


def dealt(importance: Array, block: int) -> Array:
    """Deal the channels over the blocks, back and forth."""
    blocks: list[list[int]] = [[] for _ in range(len(importance) // block)]
    path = [*range(len(blocks)), *reversed(range(len(blocks)))]
    for place, channel in enumerate(np.argsort(-importance, kind="stable")):
        blocks[path[place % len(path)]].append(int(channel))
    return np.concatenate(blocks)


def rotation(recipe: dict[str, Any], weight: Array, x: Array) -> Array:
    """Return the dense K x K rotation."""
    kind, block, channels = recipe["rotation"], recipe["block"], weight.shape[1]
    count = channels // block
    hadamard = np.array([[(-1.0) ** (i & j).bit_count() for j in range(block)] for i in range(block)]) / block**0.5
    if kind == "none":
        return np.eye(channels)
    if kind == "hadamard":
        return np.kron(np.eye(count), hadamard)
    if kind == "greedy":
        return np.kron(np.eye(count), greedy(x.reshape(-1, block), recipe["noise"]))
    parts = [weight[:, i * block : (i + 1) * block] for i in range(count)]
    if recipe["shared"]:
        parts = [np.concatenate(parts)] * count
    dense = np.zeros((channels, channels))
    for i, part in enumerate(parts):
        basis = np.linalg.svd(part, full_matrices=True)[2].T
        basis = basis * np.sign(basis[np.abs(basis).argmax(0), range(block)])
        dense[i * block : (i + 1) * block, i * block : (i + 1) * block] = (
            basis @ hadamard if kind == "svd_hadamard" else basis
        )
    return dense


def greedy(x: Array, noise: Array) -> Array:
    """DuQuant's search: spread the largest column, again and again, and keep the product that was best."""
    block = x.shape[1]
    uniform = np.full(block, block**-0.5)
    axis = np.eye(block)[0] - uniform
    base = np.eye(block) - 2 * np.outer(axis, axis) / (axis @ axis)
    q, r = np.linalg.qr(noise)
    inner = np.eye(block)
    inner[1:, 1:] = q * np.sign(np.diag(r))
    product = best = np.eye(block)
    least = x.max() - x.min()
    for _ in range(256):
        column = np.unravel_index(np.abs(x).argmax(), x.shape)[1]
        swap = np.eye(block)
        swap[[0, column]] = swap[[column, 0]]
        step = swap @ base @ inner @ swap
        x, product = x @ step, product @ step
        if x.max() - x.min() < least:
            best, least = product, x.max() - x.min()
    return best


def rounded_inputs(x: Array, bits: int, static: float | None) -> Array:
    """Return the activations as the layer will multiply them."""
    if bits == 16:
        return x
    largest = 2 ** (bits - 1) - 1
    if static is None:
        peak = np.abs(x).max(1, keepdims=True)
        step = np.where(peak == 0, 1, peak / largest)
    else:
        step = np.percentile(np.abs(x), static, method="inverted_cdf") / largest
    return np.clip(np.rint(x / step), -largest, largest) * step


def weight_scales(weight: Array, bits: int, group_size: int | None) -> tuple[Array, Array]:
    """Return the scale of every weight [N, K], and those that are stored [N, groups]."""
    columns = weight.shape[1]
    size = group_size or columns
    stored = np.array(
        [[best_scale(row[start : start + size], bits) for start in range(0, columns, size)] for row in weight]
    )
    stored = np.float32(stored) if group_size is None else bfloat16(stored)
    return np.repeat(stored, size, axis=1)[:, :columns].astype(np.float64), stored


def best_scale(w: Array, bits: int) -> float:
    """Return the clip that loses least, first among the coarse ones and then around the best."""
    low, high = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
    widest = np.abs(w).max() / high
    if widest == 0:
        return 1.0

    def lost(clip: float) -> float:
        return float(np.square(np.clip(np.rint(w / (clip * widest)), low, high) * clip * widest - w).sum())

    coarse = min(COARSE, key=lost)
    return min((coarse + step for step in FINE), key=lost) * widest


def bfloat16(values: Array) -> Array:
    """Round to bf16, half to even, and return fp32."""
    bits = values.astype(np.float32).view(np.uint32).astype(np.uint64)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16 << 16).astype(np.uint32).view(np.float32)


def eliminated(weight: Array, x: Array, scale: Array, low: int) -> Array:
    """GPTQ as optimal brain quantization: after each column, take it out of the inverse."""
    w, hessian = weight.copy(), x.T @ x
    diagonal = hessian.diagonal().copy()
    mean = diagonal[diagonal > 0].mean() if diagonal.any() else 1.0
    hessian[np.diag_indices(len(hessian))] += np.where(diagonal > 0, 0.01 * mean, mean)
    inverse = np.linalg.inv(hessian)
    q = np.zeros(w.shape)
    for j in np.argsort(-diagonal, kind="stable"):
        q[:, j] = np.clip(np.rint(w[:, j] / scale[:, j]), low, -low - 1)
        w -= np.outer((w[:, j] - q[:, j] * scale[:, j]) / inverse[j, j], inverse[j])
        inverse -= np.outer(inverse[:, j], inverse[j]) / inverse[j, j]
        w[:, j] = 0
    return q
