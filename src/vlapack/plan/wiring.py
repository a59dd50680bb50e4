"""Which linears share an input, and which tensors make it: data only, by name pattern.

Attention reads one input with q, k and v; a gated MLP reads one input with gate and up. Such linears can share one
transform and one quantization of their activations. And what makes an input can take the first steps of that
transform upon itself. The patterns are those of π0's network; a model that we do not know gets none, since equal names
do not prove equal inputs there (cross attention's k and v read another sequence than its q).
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from typing import Literal

_GROUPS = (
    (re.compile(r"(?:^|\.)paligemma_with_expert\..+\.self_attn\.(q_proj|k_proj|v_proj)$"), "qkv"),
    (re.compile(r"(?:^|\.)paligemma_with_expert\..+\.mlp\.(gate_proj|up_proj)$"), "gate_up"),
)


def shared_inputs(name: str) -> str:
    """Return the key of the input that the linear `name` reads; equal keys mean the same input.

    The key of q, k and v is `….self_attn.qkv`, that of gate and up `….mlp.gate_up`; any other layer's is its own name.
    """
    for pattern, group in _GROUPS:
        if pattern.search(name):
            return f"{name.rpartition('.')[0]}.{group}"
    return name


@dataclass(frozen=True)
class Producer:
    """What makes the channels that a layer reads, and which steps of a transform can be taken there."""

    tensors: tuple[str, ...]
    """The parameters in which every channel has its place."""
    steps: tuple[str, ...]
    """Of `smooth`, `permutation`, `rotation`: those that go through what lies between."""
    together: tuple[str, ...]
    """Layers that must be packed too (unless they never run) for anything but a reordering to be taken there: the
    others that read these channels, and the ones whose float weights would otherwise be rounded once more."""
    limit: str
    """Why the other steps cannot be taken there."""
    rotated_alike: tuple[str, ...] = ()
    """Layers that read these channels, or others in the same basis, so that one rotation must serve them all."""


_QKV = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")
_NORM = "a norm's channels are the residual stream's: they can be scaled there, and neither reordered nor rotated"
_GEMMA = (
    r"(?P<at>(?:.*\.)?paligemma_with_expert\.(?:paligemma\.(?:model\.)?language_model|gemma_expert\.model)"
    r"\.layers\.\d+)\."
)
_VISION = (
    r"(?P<at>(?:.*\.)?paligemma_with_expert\.paligemma\.(?:model\.)?vision_tower\.vision_model\.encoder\.layers\.\d+)\."
)

# Where the language model's layer and the expert's of the same number stand: the expert attends to both one's values.
_STACKS = ("paligemma.model.language_model", "gemma_expert.model")

# A layer's pattern → its source. Names are relative to the place that the pattern calls `at`; those that begin with a
# colon are meant in both stacks.
_PRODUCERS: tuple[tuple[str, Producer], ...] = (
    (
        _GEMMA + r"self_attn\.[qkv]_proj",
        Producer(("input_layernorm.weight",), ("smooth",), _QKV, _NORM),
    ),
    (
        _GEMMA + r"mlp\.(?:gate|up)_proj",
        Producer(("post_attention_layernorm.weight",), ("smooth",), ("mlp.gate_proj", "mlp.up_proj"), _NORM),
    ),
    (
        _GEMMA + r"mlp\.down_proj",
        Producer(
            ("mlp.gate_proj.weight", "mlp.up_proj.weight"),
            ("smooth", "permutation"),
            ("mlp.up_proj",),
            "a product of two layers' outputs lets no rotation through",
        ),
    ),
    (
        _GEMMA + r"self_attn\.o_proj",
        Producer(
            ("self_attn.v_proj.weight",),
            ("rotation",),
            (":self_attn.v_proj", ":self_attn.o_proj"),
            "all heads of both stacks share the values, which takes one rotation for all of them and no other step",
            (":self_attn.o_proj",),
        ),
    ),
    (
        _VISION + r"self_attn\.[qkv]_proj",
        Producer(("layer_norm1.weight", "layer_norm1.bias"), ("smooth",), _QKV, _NORM),
    ),
    (
        _VISION + r"self_attn\.out_proj",
        Producer(
            ("self_attn.v_proj.weight", "self_attn.v_proj.bias"),
            ("smooth",),
            ("self_attn.v_proj",),
            "every head mixes tokens by weights of its own, so no step may cross from head to head",
        ),
    ),
    (
        _VISION + r"mlp\.fc1",
        Producer(("layer_norm2.weight", "layer_norm2.bias"), ("smooth",), ("mlp.fc1",), _NORM),
    ),
    (
        _VISION + r"mlp\.fc2",
        Producer(
            ("mlp.fc1.weight", "mlp.fc1.bias"),
            ("permutation",),
            (),
            "GELU lets neither a factor nor a rotation through",
        ),
    ),
    (
        r"(?P<at>(?:.*\.)?paligemma_with_expert\.paligemma(?:\.model)?)\.multi_modal_projector\.linear",
        Producer(
            ("vision_tower.vision_model.post_layernorm.weight", "vision_tower.vision_model.post_layernorm.bias"),
            ("smooth",),
            ("multi_modal_projector.linear",),
            _NORM,
        ),
    ),
)


def producer_of(name: str, linears: Collection[str]) -> Producer | None:
    """Return what makes the input of the linear `name`, None where that is unknown or takes no step.

    Args:
        name: full name.
        linears: the names of every linear of the network: an adaptive norm holds one, in place of its weight.
    """
    for pattern, found in _PRODUCERS:
        if match := re.fullmatch(pattern, name):
            at = match["at"]
            return replace(
                found,
                tensors=tuple(t for relative in found.tensors for t in _parameters(f"{at}.{relative}", linears)),
                together=tuple(layer for relative in found.together for layer in _layers(at, relative)),
                rotated_alike=tuple(layer for relative in found.rotated_alike for layer in _layers(at, relative)),
            )
    return None


def _layers(at: str, relative: str) -> Iterator[str]:
    if not relative.startswith(":"):
        yield f"{at}.{relative}"
        return
    network, _, layer = at.partition("paligemma_with_expert.")
    number = layer.rpartition(".layers.")[2]
    for stack in _STACKS:
        yield f"{network}paligemma_with_expert.{stack}.layers.{number}.{relative[1:]}"


def _parameters(tensor: str, linears: Collection[str]) -> Iterator[str]:
    dense = f"{tensor.rpartition('.')[0]}.dense"
    yield from (f"{dense}.weight", f"{dense}.bias") if dense in linears else (tensor,)


Role = Literal["made", "factor", "one_plus", "modulation"]

_ROLES: tuple[tuple[str, Role], ...] = (
    (r"\.mlp\.gate_proj\.weight$", "factor"),
    (r"\.(?:input|post_attention)_layernorm\.weight$", "one_plus"),
    (r"\.(?:input|post_attention)_layernorm\.dense\.(?:weight|bias)$", "modulation"),
)


def role(tensor: str) -> Role:
    """Say how a source's `tensor` makes the channels.

    Returns:
        `made`: its rows are the channels, up to what treats all alike (a linear, a LayerNorm); `factor`: its rows,
        through a nonlinearity, are one factor of the channels, which another one shares; `one_plus`: an RMSNorm's
        weight, to which 1 is added; `modulation`: adaRMS's linear of scale (to which 1 is added), shift and gate.
    """
    return next((role for pattern, role in _ROLES if re.search(pattern, tensor)), "made")
