"""What the tensors of a π0 / π0.5 checkpoint are called, and which of them acting never reads."""

from __future__ import annotations

import re
from functools import cache

import torch
from torch import nn

from vlapack.pi0.config import Pi0Config
from vlapack.pi0.flow import Pi0

VISION = "paligemma_with_expert.paligemma.model.vision_tower.vision_model"
PROJECTOR = "paligemma_with_expert.paligemma.model.multi_modal_projector"
LLM = "paligemma_with_expert.paligemma.model.language_model"
EXPERT = "paligemma_with_expert.gemma_expert.model"
EMBEDDING_MODULE = f"{LLM}.embed_tokens"
EMBEDDING = f"{EMBEDDING_MODULE}.weight"
TIED_EMBEDDING = "paligemma_with_expert.paligemma.lm_head.weight"
"""Where openpi's files keep the token embedding: `save_model` drops the second name of tied weights."""

EXPERT_HEAD = "paligemma_with_expert.gemma_expert.lm_head.weight"
"""The expert's vocabulary head, which nothing ever calls."""

_WITHOUT_MODEL = re.compile(r"\bpaligemma\.(?=(?:language_model|vision_tower|multi_modal_projector)\b)")

# The parts that openpi's class keeps in fp32 when the rest is bf16 (`to_bfloat16_for_selected_params`), and the
# action and time projections, which it makes outside of that rule.
_KEPT_IN_FP32 = re.compile(
    r"embeddings\.(patch_embedding|position_embedding)\.|input_layernorm|post_attention_layernorm|model\.norm\.|"
    r"^(action|time|state)_"
)


def canonical_name(name: str) -> str:
    """Return the spelling with `.model.` inside paligemma: `paligemma.language_model.` means the same place.

    Works on whole names and on prefixes of them; everything else stays as it is.
    """
    return _WITHOUT_MODEL.sub("paligemma.model.", name)


def kept_in_fp32(name: str) -> bool:
    """Whether openpi holds this tensor in fp32 when the network is bf16: norms, embeddings of patches, heads."""
    return _KEPT_IN_FP32.search(canonical_name(name)) is not None


def never_executed(config: Pi0Config) -> frozenset[str]:
    """Return the modules whose output acting never reads: all of the last language layer but its keys and values.

    Returns:
        Module names: q, o, gate, up and down projection and the second norm of that layer, and the final norm.
    """
    last = f"{LLM}.layers.{config.llm.depth - 1}"
    inside = ("self_attn.q_proj", "self_attn.o_proj", "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj")
    return frozenset({*(f"{last}.{name}" for name in inside), f"{last}.post_attention_layernorm", f"{LLM}.norm"})


def time_table(config: Pi0Config) -> tuple[frozenset[str], int]:
    """Return the modules of which a loaded policy keeps a table only (`Pi0.tabulate`), and the table's bytes."""
    model = _meta(config)
    adaptive = 2 * config.expert.depth + 1
    width = 3 * adaptive * config.expert.width if config.adaptive_norms else config.expert.width
    return frozenset(model.time_modules), (config.num_steps + bool(config.max_delay)) * width * torch.float32.itemsize


def linears(config: Pi0Config) -> dict[str, tuple[int, int]]:
    """Every nn.Linear of the network, name → (out_features, in_features), in the order of the modules."""
    return {
        name: (module.out_features, module.in_features)
        for name, module in _meta(config).named_modules()
        if isinstance(module, nn.Linear)
    }


def openpi_tensors(config: Pi0Config) -> dict[str, tuple[tuple[int, ...], str]]:
    """Every tensor of the file that openpi writes for this network, both lm_heads included.

    Returns:
        Name → (shape, dtype), dtype "bfloat16" or "float32" as openpi's class holds it in memory.
    """
    shapes = {name: tuple(value.shape) for name, value in _meta(config).state_dict().items()}
    shapes[TIED_EMBEDDING] = shapes.pop(EMBEDDING)
    shapes[EXPERT_HEAD] = (config.vocab_size, config.expert.width)
    return {name: (shape, "float32" if kept_in_fp32(name) else "bfloat16") for name, shape in shapes.items()}


@cache
def _meta(config: Pi0Config) -> Pi0:
    with torch.device("meta"):
        return Pi0(config)
