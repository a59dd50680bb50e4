"""Which linears share an input: data only, by name pattern.

Attention reads one input with q, k and v; a gated MLP reads one input with gate and up. Such linears can share one
transform and one quantization of their activations. The patterns are those of π0's network; a model that we do not
know gets none, since equal names do not prove equal inputs there (cross attention's k and v read another sequence
than its q).
"""

from __future__ import annotations

import re

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
