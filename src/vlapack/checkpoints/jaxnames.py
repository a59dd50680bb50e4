"""Where each of openpi's PyTorch tensors lies in its JAX parameters, and how its axes are turned.

JAX keeps the layers of a stack in one array, their number first; projections are einsum operands with an axis of their
own for heads. LoRA's factors (`lora_a`, `lora_b`) lie beside the arrays that they change, and are merged here: along
the way that openpi's einsums take, which for the output projection sums the second factor over the heads.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from torch import Tensor

from vlapack.errors import InputError
from vlapack.pi0.names import EMBEDDING, EXPERT, LLM, PROJECTOR, VISION

Turn = Callable[[Tensor], Tensor]

# openpi's LoRA variants: the rank of each stack; alpha equals it, so the factors' product is added as it is.
LORA_RANKS = {"gemma_2b_lora": 16, "gemma_300m_lora": 32}


@dataclass(frozen=True)
class Place:
    """One PyTorch tensor in the JAX parameters.

    Attributes:
        path: of the array, dots between its parts.
        layer: which of the array's first axis; None: all of it.
        turn: takes that part to the PyTorch tensor.
    """

    path: str
    layer: int | None
    turn: Turn


def same(x: Tensor) -> Tensor:
    """No change."""
    return x


def transposed(x: Tensor) -> Tensor:
    """[in, out] → [out, in]."""
    return x.T


def heads_in(x: Tensor) -> Tensor:
    """[heads, in, head_dim] → [heads · head_dim, in]."""
    return x.transpose(1, 2).flatten(0, 1)


def heads_out(x: Tensor) -> Tensor:
    """[heads, head_dim, out] → [out, heads · head_dim]."""
    return x.flatten(0, 1).T


def _part(index: int, turn: Turn) -> Turn:
    return lambda x: turn(x[index])


_BLOCK = "PaliGemma.img.Transformer.encoderblock"
_ATTENTION = f"{_BLOCK}.MultiHeadDotProductAttention_0"

# PyTorch tensor (`{}` is the layer's number) → JAX array, and the turn. `@` is the stack's mark: "" or "_1".
_VISION: Mapping[str, tuple[str, Turn]] = {
    f"{VISION}.embeddings.patch_embedding.weight": (
        "PaliGemma.img.embedding.kernel",
        lambda x: x.permute(3, 2, 0, 1),
    ),
    f"{VISION}.embeddings.patch_embedding.bias": ("PaliGemma.img.embedding.bias", same),
    f"{VISION}.embeddings.position_embedding.weight": ("PaliGemma.img.pos_embedding", lambda x: x[0]),
    f"{VISION}.encoder.layers.{{}}.layer_norm1.weight": (f"{_BLOCK}.LayerNorm_0.scale", same),
    f"{VISION}.encoder.layers.{{}}.layer_norm1.bias": (f"{_BLOCK}.LayerNorm_0.bias", same),
    f"{VISION}.encoder.layers.{{}}.layer_norm2.weight": (f"{_BLOCK}.LayerNorm_1.scale", same),
    f"{VISION}.encoder.layers.{{}}.layer_norm2.bias": (f"{_BLOCK}.LayerNorm_1.bias", same),
    f"{VISION}.encoder.layers.{{}}.mlp.fc1.weight": (f"{_BLOCK}.MlpBlock_0.Dense_0.kernel", transposed),
    f"{VISION}.encoder.layers.{{}}.mlp.fc1.bias": (f"{_BLOCK}.MlpBlock_0.Dense_0.bias", same),
    f"{VISION}.encoder.layers.{{}}.mlp.fc2.weight": (f"{_BLOCK}.MlpBlock_0.Dense_1.kernel", transposed),
    f"{VISION}.encoder.layers.{{}}.mlp.fc2.bias": (f"{_BLOCK}.MlpBlock_0.Dense_1.bias", same),
    **{
        f"{VISION}.encoder.layers.{{}}.self_attn.{ours}.weight": (
            f"{_ATTENTION}.{theirs}.kernel",
            lambda x: x.flatten(1).T,
        )
        for ours, theirs in (("q_proj", "query"), ("k_proj", "key"), ("v_proj", "value"))
    },
    **{
        f"{VISION}.encoder.layers.{{}}.self_attn.{ours}.bias": (f"{_ATTENTION}.{theirs}.bias", lambda x: x.flatten())
        for ours, theirs in (("q_proj", "query"), ("k_proj", "key"), ("v_proj", "value"))
    },
    f"{VISION}.encoder.layers.{{}}.self_attn.out_proj.weight": (f"{_ATTENTION}.out.kernel", heads_out),
    f"{VISION}.encoder.layers.{{}}.self_attn.out_proj.bias": (f"{_ATTENTION}.out.bias", same),
    f"{VISION}.post_layernorm.weight": ("PaliGemma.img.Transformer.encoder_norm.scale", same),
    f"{VISION}.post_layernorm.bias": ("PaliGemma.img.Transformer.encoder_norm.bias", same),
    f"{PROJECTOR}.linear.weight": ("PaliGemma.img.head.kernel", transposed),
    f"{PROJECTOR}.linear.bias": ("PaliGemma.img.head.bias", same),
    EMBEDDING: ("PaliGemma.llm.embedder.input_embedding", same),
}

_STACK: Mapping[str, tuple[str, Turn]] = {
    "layers.{}.self_attn.q_proj.weight": ("layers.attn.q_einsum@.w", heads_in),
    "layers.{}.self_attn.k_proj.weight": ("layers.attn.kv_einsum@.w", _part(0, heads_in)),
    "layers.{}.self_attn.v_proj.weight": ("layers.attn.kv_einsum@.w", _part(1, heads_in)),
    "layers.{}.self_attn.o_proj.weight": ("layers.attn.attn_vec_einsum@.w", heads_out),
    "layers.{}.mlp.gate_proj.weight": ("layers.mlp@.gating_einsum", _part(0, transposed)),
    "layers.{}.mlp.up_proj.weight": ("layers.mlp@.gating_einsum", _part(1, transposed)),
    "layers.{}.mlp.down_proj.weight": ("layers.mlp@.linear", transposed),
    "layers.{}.input_layernorm.weight": ("layers.pre_attention_norm@.scale", same),
    "layers.{}.input_layernorm.dense.weight": ("layers.pre_attention_norm@.Dense_0.kernel", transposed),
    "layers.{}.input_layernorm.dense.bias": ("layers.pre_attention_norm@.Dense_0.bias", same),
    "layers.{}.post_attention_layernorm.weight": ("layers.pre_ffw_norm@.scale", same),
    "layers.{}.post_attention_layernorm.dense.weight": ("layers.pre_ffw_norm@.Dense_0.kernel", transposed),
    "layers.{}.post_attention_layernorm.dense.bias": ("layers.pre_ffw_norm@.Dense_0.bias", same),
    "norm.weight": ("final_norm@.scale", same),
    "norm.dense.weight": ("final_norm@.Dense_0.kernel", transposed),
    "norm.dense.bias": ("final_norm@.Dense_0.bias", same),
}

_HEADS = (
    *("action_in_proj", "action_out_proj"),
    *("time_mlp_in", "time_mlp_out"),
    *("state_proj", "action_time_mlp_in", "action_time_mlp_out"),
)


def _rules() -> Iterator[tuple[str, str, Turn]]:
    for name, (path, turn) in _VISION.items():
        yield name, path, turn
    for stack, mark in ((LLM, ""), (EXPERT, "_1")):
        for name, (path, turn) in _STACK.items():
            yield f"{stack}.{name}", f"PaliGemma.llm.{path.replace('@', mark)}", turn
    for head in _HEADS:
        yield f"{head}.weight", f"{head}.kernel", transposed
        yield f"{head}.bias", f"{head}.bias", same


def places(shapes: Mapping[str, tuple[int, ...]], where: str) -> dict[str, Place]:
    """Return where every PyTorch tensor lies, ordered by array, so that reading all of them reads each array once.

    Args:
        shapes: of every JAX array, by its path.
        where: the folder, for messages.

    Raises:
        InputError: an array is none of π0's or π0.5's, or a LoRA of another rank than openpi's variants.
    """
    found: dict[str, Place] = {}
    for name, path, turn in _rules():
        if path in shapes and "{}" in name:
            found |= {name.format(layer): Place(path, layer, turn) for layer in range(shapes[path][0])}
        elif path in shapes:
            found[name] = Place(path, None, turn)
    used = {place.path for place in found.values()}
    factors = {factor for path in used for factor in lora_factors(path) if factor in shapes}
    if left := sorted(shapes.keys() - used - factors):
        raise InputError(
            f"{where}: {len(left)} arrays have no place in π0's or π0.5's network, the first is {left[0]}; π0-FAST and "
            "other models are not supported"
        )
    for path in sorted(used):
        _check_lora(path, shapes, where)
    return dict(sorted(found.items(), key=lambda item: item[1].path))


def lora_factors(path: str) -> tuple[str, str]:
    """Return the paths of the two factors that change an array, if it has any."""
    stem = f"{path.removesuffix('.w')}." if path.endswith(".w") else f"{path}_"
    return f"{stem}lora_a", f"{stem}lora_b"


def merge(path: str, weight: Tensor, down: Tensor, up: Tensor) -> Tensor:
    """Add LoRA's product to one layer's array: fp32, as openpi's einsums compute it.

    Args:
        path: of the array.
        weight: [..., in, out], heads first.
        down: [..., in, rank].
        up: [..., rank, out].
    """
    if ".attn_vec_einsum" in path:
        # "BTNH,NHL->BTL" and "BTL,NLD->BTD": between the factors the heads are summed away.
        up = up.sum(dim=0)
    return weight.float() + down.float() @ up.float()


def _check_lora(path: str, shapes: Mapping[str, tuple[int, ...]], where: str) -> None:
    there = [factor for factor in lora_factors(path) if factor in shapes]
    if not there:
        return
    variant = "gemma_300m_lora" if re.search(r"_1\b", path) else "gemma_2b_lora"
    *lead, inner, outer = shapes[path]
    rank = LORA_RANKS[variant]
    expected = dict(zip(lora_factors(path), ((*lead, inner, rank), (*lead, rank, outer)), strict=True))
    for factor, shape in expected.items():
        if shapes.get(factor) != shape:
            found = list(shapes[factor]) if factor in shapes else "nothing"
            raise InputError(
                f"{where}: {factor}: {found} instead of {list(shape)}, as openpi's {variant} has it (rank {rank}); the "
                "scale of any other is not in the checkpoint: merge it in openpi"
            )
