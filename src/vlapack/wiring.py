"""Which linears share an input, and which tensors make it: data only, by name pattern.

Attention reads one input with q, k and v; a gated MLP reads one input with gate and up. Such linears can share one
transform and one quantization of their activations. And what makes an input can take the first steps of that
transform upon itself. The patterns are those of π0's network; a model that we do not know gets none, since equal names
do not prove equal inputs there (cross attention's k and v read another sequence than its q).
"""

from __future__ import annotations

import re
from dataclasses import dataclass

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
class Source:
    """What makes the channels that a layer reads."""

    tensors: tuple[str, ...]
    """The parameters in which every channel has its place, by full name."""
    steps: frozenset[str]
    """The steps of a transform that they can take: `smooth`, `permutation`."""


# The pattern of a reader, the tensors beside it, and the steps that go through what lies between. A gated MLP's
# product lets a factor of its channels pass into up alone; GELU stops every factor.
_STACK = r"(?:^|\.)paligemma_with_expert\..+\.layers\.\d+\."
_SOURCES = (
    (rf"{_STACK}mlp\.down_proj$", ("gate_proj.weight", "up_proj.weight"), ("permutation",)),
    (rf"{_STACK}mlp\.fc2$", ("fc1.weight", "fc1.bias"), ("permutation",)),
)


def source(name: str) -> Source | None:
    """Return what makes the input of the linear `name`, None where that is unknown or can take no step."""
    for pattern, tensors, steps in _SOURCES:
        if re.search(pattern, name):
            beside = name.rpartition(".")[0]
            return Source(tuple(f"{beside}.{tensor}" for tensor in tensors), frozenset(steps))
    return None
