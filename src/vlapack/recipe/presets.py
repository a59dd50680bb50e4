"""The named recipes. Each one states what it touches; how it quantizes are `Recipe`'s defaults."""

from __future__ import annotations

from vlapack.errors import InputError
from vlapack.recipe.recipe import DEFAULT_INCLUDE, Recipe
from vlapack.recipe.rules import nearest

_ALL = "paligemma_with_expert."
_EXPERT = "paligemma_with_expert.gemma_expert.model."
_LLM = "paligemma_with_expert.paligemma.model.language_model."
_VISION = "paligemma_with_expert.paligemma.model.vision_tower."

# adaRMS (π0.5), the action and time projections of both variants, and π0's state projection.
_SMALL_PARTS = r"(norm\.dense|(^|\.)(action_in_proj|action_out_proj|state_proj|(action_)?time_mlp_(in|out)))$"

# Where 8 bits earn their bytes (docs/fidelity.md): everything reads the first layers' errors, all queries and the
# expert read the few keys and values, and nothing dampens the errors of the expert's last layers.
_LLM_8 = (
    (r"language_model\.layers\.0\.", 8),
    (r"language_model\.layers\.\d+\.self_attn\.[kv]_proj$", 8),
    (r"language_model\.layers\.[12]\.self_attn\.", 8),
)
_EXPERT_8 = ((r"gemma_expert\.model\.layers\.-[12]\.", 8),)

PRESETS: dict[str, Recipe] = {
    "dit-fast": Recipe(preset="dit-fast", scope=_EXPERT, permute=False, rotation="none", rounding="rtn"),
    "dit": Recipe(preset="dit", scope=_EXPERT, overrides=_EXPERT_8),
    "dit-w4": Recipe(preset="dit-w4", scope=_EXPERT),
    "llm": Recipe(preset="llm", scope=_LLM, overrides=_LLM_8),
    "llm-w4": Recipe(preset="llm-w4", scope=_LLM),
    "full": Recipe(preset="full", scope=_ALL, overrides=_LLM_8 + _EXPERT_8),
    "full-w4": Recipe(preset="full-w4", scope=_ALL),
    "vision": Recipe(preset="vision", scope=_VISION),
    "llm-dit": Recipe(preset="llm-dit", scope=_ALL, exclude="vision_tower", overrides=_LLM_8 + _EXPERT_8),
    "attention": Recipe(preset="attention", scope=_ALL, include=r"(q_proj|k_proj|v_proj|o_proj|out_proj)$"),
    "mlp": Recipe(preset="mlp", scope=_ALL, include=r"(fc1|fc2|gate_proj|up_proj|down_proj)$"),
    # QuantVLA (arXiv 2602.20309): the LLM and the expert's MLP; the expert's attention stays float.
    "quantvla": Recipe(
        preset="quantvla",
        scope=_ALL,
        include=r"language_model\..*_proj$|gemma_expert\..*\.mlp\.(gate_proj|up_proj|down_proj)$",
        atm=True,
        ohb=True,
    ),
    "everything": Recipe(
        preset="everything",
        scope="",
        include=f"{DEFAULT_INCLUDE}|{_SMALL_PARTS}",
        overrides=((_SMALL_PARTS, 8), *_LLM_8, *_EXPERT_8),
        embedding_bits=8,
    ),
}

SUMMARIES: dict[str, str] = {
    "dit-fast": "the action expert, rounded as it is: no permutation, rotation or calibration (run_simple_w4a8.sh)",
    "dit": "the action expert, its last two layers at 8 bits",
    "dit-w4": "the action expert at 4 bits throughout (run_optimized_duquant.sh)",
    "llm": "the language model, the largest saving of one part; first layer, keys and values at 8 bits",
    "llm-w4": "the language model at 4 bits throughout (run_llm_w4a8.sh)",
    "full": "vision tower, projector, language model and expert, with the 8-bit layers of `llm` and `dit`",
    "full-w4": "the same at 4 bits throughout (run_full_quantize.sh)",
    "vision": "the vision tower",
    "llm-dit": "all but the vision tower: language model, expert and the projector between",
    "attention": "the attention projections of every part",
    "mlp": "the MLPs of every part",
    "quantvla": "QuantVLA's choice: the language model and the expert's MLPs, with ATM and OHB",
    "everything": "full, and at 8 bits adaRMS, action and time projections and the embedding's rows",
}
"""One line per preset."""


def preset(name: str) -> Recipe:
    """Return the preset called `name`.

    Raises:
        InputError: There is none of this name; the message lists them.
    """
    if name not in PRESETS:
        raise InputError(f"there is no preset {name!r}{nearest(name, list(PRESETS))}; presets: {', '.join(PRESETS)}")
    return PRESETS[name]


GUIDE_SCOPES = {
    "DiT (action expert)": "paligemma_with_expert.gemma_expert.model.",
    "LLM": "paligemma_with_expert.paligemma.model.language_model.",
    "vision": "paligemma_with_expert.paligemma.model.vision_tower.",
    "everything": "paligemma_with_expert.",
}
"""The four places that the guide names."""
