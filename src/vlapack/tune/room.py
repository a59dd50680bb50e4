"""What a tuning takes of a GPU's memory: the float policy, every layer at every choice, and one way there and back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from vlapack.packing.room import Load, packing_bytes
from vlapack.packing.streaming import compute_dtype
from vlapack.pi0.names import EMBEDDING
from vlapack.plan.sizes import layer_bytes, total_bytes
from vlapack.quantize.room import FP32, require_free
from vlapack.tune.space import EMBEDDING_BITS, Space

BF16 = 2
SAVED_WIDTHS, SAVED_MLP_WIDTHS = 12, 4
"""fp32 tensors as wide as a network, and as its MLP, that the way back through a layer needs, about."""
OUT_WIDTHS, OUT_MLP_WIDTHS = 4, 2
"""Of a layer's outputs; of each, every choice leaves its error behind."""


def require_room(space: Space, observations: Sequence[Mapping[str, Any]], device: torch.device) -> None:
    """Refuse a tuning that a GPU has no memory for, before a weight is read.

    Args:
        space: about which is decided.
        observations: in the layout's keys.
        device: where.

    Raises:
        InputError: as in `quantize.room.require_free`; or an observation that the policy cannot use.
    """
    if device.type != "cuda":
        return
    load = Load.of(space.parent, observations)
    packing = packing_bytes(space.parent, space.groups, space.base, load, compute_dtype(space.parent, device))
    needed = max(packing, measuring_bytes(space, load))
    require_free(device, needed, f"tuning {space.parent.checkpoint.path}", "tune fewer layers (`preset`), or give cpu")


def measuring_bytes(space: Space, load: Load) -> int:
    """Return the bytes that measuring takes on a device at most at once, about."""
    tensors = space.parent.tensors
    matrices = [shape for name, (shape, _) in tensors.items() if len(shape) == 2 and name != EMBEDDING]
    widened = FP32 * max(rows * columns for rows, columns in matrices)
    choices = sum(layer_bytes(space.at(layer, choice), space.base) for choice in space.packed for layer in space.layers)
    if space.embedding:
        (rows, width), _ = tensors[EMBEDDING]
        choices += rows * (width * EMBEDDING_BITS // 8 + FP32)
    return total_bytes(tensors.values()) + widened + choices + _kept_bytes(space, load)


def _kept_bytes(space: Space, load: Load) -> int:
    """What one observation leaves for its way back."""
    config, errors = space.parent.config.architecture, len(space.packed) * BF16
    stacks = (
        (load.patches, config.vision),
        (load.prefix, config.llm),
        (config.num_steps * config.suffix_length, config.expert),
    )
    return sum(
        one.depth
        * tokens
        * (
            one.width * (SAVED_WIDTHS * FP32 + OUT_WIDTHS * errors)
            + one.mlp_dim * (SAVED_MLP_WIDTHS * FP32 + OUT_MLP_WIDTHS * errors)
        )
        for tokens, one in stacks
    )
