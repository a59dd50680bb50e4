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

PRESETS: dict[str, Recipe] = {
    "dit-fast": Recipe(preset="dit-fast", scope=_EXPERT, permute=False, rotation="none", rounding="rtn"),
    "dit": Recipe(preset="dit", scope=_EXPERT),
    "llm": Recipe(preset="llm", scope=_LLM),
    "full": Recipe(preset="full", scope=_ALL),
    "vision": Recipe(preset="vision", scope=_VISION),
    "llm-dit": Recipe(preset="llm-dit", scope=_ALL, exclude="vision_tower"),
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
        overrides=((_SMALL_PARTS, 8),),
        embedding_bits=8,
    ),
}

SUMMARIES: dict[str, str] = {
    "dit-fast": "the action expert, rounded as it is: no permutation, rotation or calibration (run_simple_w4a8.sh)",
    "dit": "the action expert (run_optimized_duquant.sh)",
    "llm": "the language model: the largest saving of one part (run_llm_w4a8.sh)",
    "full": "vision tower, projector, language model and expert (run_full_quantize.sh)",
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
