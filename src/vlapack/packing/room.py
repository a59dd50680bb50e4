"""What making a pack takes of a GPU's memory: one stage of the network, what has come to it, and one group's work."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from vlapack.methods.round import ELEMENTS_AT_ONCE_ON_GPUS
from vlapack.packing.parent import Parent
from vlapack.packing.stages import stages
from vlapack.packing.streaming import compute_dtype
from vlapack.pi0.config import Pi0Config
from vlapack.pi0.load import arithmetic, build, executed_parameters
from vlapack.pi0.names import EMBEDDING, EXPERT, VISION
from vlapack.plan.selected import Group
from vlapack.policy.adapter import Adapter
from vlapack.quantize.calibration import MAX_TOKENS
from vlapack.quantize.room import FP32, group_bytes, require_free
from vlapack.recipe.recipe import Recipe

WIDTHS, MLP_WIDTHS = 8, 3
"""Tensors as wide as the network, and as its MLP, that one observation takes inside a layer, about."""


@dataclass(frozen=True)
class Load:
    """What runs through the network.

    Attributes:
        observations: how many.
        patches: tokens of pictures that one of them has at most.
        prompt: tokens of text that one of them has at most.
    """

    observations: int = 0
    patches: int = 0
    prompt: int = 0

    @classmethod
    def of(cls, parent: Parent, observations: Sequence[Mapping[str, Any]]) -> Load:
        """Prepare the observations and count.

        Raises:
            InputError: one that the policy cannot use.
        """
        config = parent.config
        adapter = Adapter(config, parent.normalization, parent.tokenizer)
        inputs = [adapter.inputs(observation, config) for observation in observations]
        pictures = max((int(one.image_masks.sum()) for one in inputs), default=0)
        prompt = max((int(one.token_masks.sum()) for one in inputs), default=0)
        return cls(len(inputs), pictures * config.architecture.vision.num_patches, prompt)

    @property
    def prefix(self) -> int:
        """Tokens that one observation gives the language model at most."""
        return self.patches + self.prompt


def require_room(
    parent: Parent,
    groups: Sequence[Group],
    recipe: Recipe,
    observations: Sequence[Mapping[str, Any]],
    device: torch.device,
) -> None:
    """Refuse a pack that a GPU has no memory for, before a weight is read.

    Args:
        parent: the float checkpoint.
        groups: what is to be packed.
        recipe: how.
        observations: that calibrate, possibly none.
        device: where.

    Raises:
        InputError: as in `quantize.room.require_free`; or an observation that the policy cannot use.
    """
    if device.type != "cuda":
        return
    needed = packing_bytes(parent, groups, recipe, Load.of(parent, observations), compute_dtype(parent, device))
    require_free(device, needed, f"packing {parent.checkpoint.path}", "calibrate on fewer observations, or give cpu")


def packing_bytes(parent: Parent, groups: Sequence[Group], recipe: Recipe, load: Load, dtype: torch.dtype) -> int:
    """Return the bytes that `layers.pack_layers` takes on a device at most at once, about."""
    architecture = parent.config.architecture
    model = build(architecture)
    waiting = load.observations * state_bytes(architecture, load, dtype)
    parameters = {
        name: math.prod(tensor.shape) * arithmetic(name, dtype).itemsize
        for name, tensor in executed_parameters(model).items()
        if name != EMBEDDING
    }
    most = 0
    if recipe.embedding_bits == 8:
        shape, stored = parent.tensors[EMBEDDING]
        most = math.prod(shape) * (stored.itemsize + 1) + 4 * FP32 * ELEMENTS_AT_ONCE_ON_GPUS
    for stage in stages(model, dtype):
        part = [group for group in groups if stage.holds(group[0].name)]
        if stage.holds(EXPERT):
            rows = architecture.num_steps * architecture.suffix_length
        else:
            rows = load.patches if stage.modules[0].startswith(VISION) else load.prefix
        sampled = min(MAX_TOKENS, rows * load.observations)
        room = min(MAX_TOKENS, 2 * sampled)  # which grows by doubling
        samples = sum(room * group[0].in_features * dtype.itemsize for group in part if group[0].executed)
        weights = sum(size for name, size in parameters.items() if stage.holds(name.rpartition(".")[0]))
        running = weights + passing_bytes(architecture, load, dtype) if load.observations else 0
        work = max((group_bytes(group, recipe, sampled) for group in part), default=0)
        most = max(most, waiting + samples + max(running, work))
    return most


def state_bytes(config: Pi0Config, load: Load, dtype: torch.dtype) -> int:
    """Return the bytes of what one observation is between two stages: its hidden state, its keys and values."""
    llm, side = config.llm, config.vision.image_size
    pictures = load.patches // config.vision.num_patches * 3 * side**2 * FP32
    hidden = max(load.prefix * llm.width, load.patches * config.vision.width) * dtype.itemsize
    return max(pictures, hidden + 2 * llm.depth * load.prefix * llm.num_kv_heads * llm.head_dim * dtype.itemsize)


def passing_bytes(config: Pi0Config, load: Load, dtype: torch.dtype) -> int:
    """Return the bytes that one observation takes inside a layer, about."""
    stacks = ((load.prefix, config.llm), (load.patches, config.vision))
    return max(tokens * (WIDTHS * one.width + MLP_WIDTHS * one.mlp_dim) * dtype.itemsize for tokens, one in stacks)
