"""The small files of a pack that are for others: LeRobot's processors, and the model card."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from vlapack.checkpoints.normalization import Normalization
from vlapack.checkpoints.pack.config import features
from vlapack.checkpoints.policy_config import PolicyConfig
from vlapack.plan.selected import Selected
from vlapack.recipe.recipe import Recipe

PALIGEMMA_VOCABULARY = 257152
CARD_FILE = "README.md"
NOTICE_FILE = "NOTICE"
GEMMA_NOTICE = """
The parent derives from Gemma (through PaliGemma), and so does this pack: Gemma is provided under and subject to the
Gemma Terms of Use found at ai.google.dev/gemma/terms. **Modified: quantized.**
"""


def processor_files(policy: PolicyConfig, normalization: Normalization) -> dict[str, bytes]:
    """Return LeRobot's `policy_preprocessor.json` and `policy_postprocessor.json`, their statistics inside."""
    inputs, outputs = features(policy)
    mode = "MEAN_STD" if normalization.kind == "mean_std" else "QUANTILES"
    lerobot_keys = {"observation.state": "state", "action": "actions"}
    statistics = normalization.to_dict()["norm_stats"]
    config = {
        "eps": 1e-6,
        "features": {**inputs, **outputs},
        "norm_map": {"VISUAL": "IDENTITY", "STATE": mode, "ACTION": mode},
        "stats": {
            theirs: {
                name: values[: (inputs | outputs)[theirs]["shape"][0]] for name, values in statistics[ours].items()
            }
            for theirs, ours in lerobot_keys.items()
        },
    }
    to_cpu = {"registry_name": "device_processor", "config": {"device": "cpu", "float_dtype": None}}
    before = [
        {"registry_name": "rename_observations_processor", "config": {"rename_map": dict(policy.rename_map)}},
        {"registry_name": "to_batch_processor", "config": {}},
        {"registry_name": "relative_actions_processor", "config": _relative(policy)},
        {"registry_name": "normalizer_processor", "config": config},
        to_cpu,
    ]
    after = [
        {"registry_name": "unnormalizer_processor", "config": {**config, "features": outputs}},
        {"registry_name": "absolute_actions_processor", "config": {"enabled": bool(policy.delta_mask)}},
        to_cpu,
    ]
    return {
        f"policy_{when}processor.json": (
            json.dumps({"name": f"policy_{when}processor", "steps": steps}, indent=2)
        ).encode()
        for when, steps in (("pre", before), ("post", after))
    }


def _relative(policy: PolicyConfig) -> dict[str, Any]:
    """Say in LeRobot's words, which are names of joints, which actions are differences to the state."""
    names = list(policy.features.actions)
    mask = (*policy.delta_mask, *(False,) * len(names))[: len(names)]
    names = [f"{'relative' if relative else 'absolute'} {name}" for name, relative in zip(names, mask, strict=True)]
    return {"enabled": bool(policy.delta_mask), "exclude_joints": ["absolute"], "action_names": names}


def is_gemma(policy: PolicyConfig) -> bool:
    """Whether a policy derives from Gemma: it has PaliGemma's vocabulary."""
    return policy.architecture.vocab_size == PALIGEMMA_VOCABULARY


def notices(policy: PolicyConfig) -> dict[str, bytes]:
    """Return the files of terms that a pack carries, by name."""
    return {NOTICE_FILE: GEMMA_NOTICE.lstrip().encode()} if is_gemma(policy) else {}


def model_card(
    policy: PolicyConfig,
    recipe: Recipe,
    selected: Sequence[Selected],
    *,
    parts: Mapping[str, tuple[int, int]],
    measured: Mapping[str, Any],
    base_model: str | None = None,
) -> bytes:
    """Return `README.md`.

    Args:
        policy: the parent's.
        recipe: how the layers were packed.
        selected: which layers were packed.
        parts: part of the file → its bytes in the parent's and in the pack's.
        measured: bytes and rounding errors.
        base_model: the parent's repository on Hugging Face's hub, if it came from there.
    """
    gemma = is_gemma(policy)
    error = measured["weight_error"]
    rows = [
        f"| {part} | {sum(layer.part == part for layer in selected)} | {before / 1e6:.3f} | {after / 1e6:.3f} |"
        for part, (before, after) in parts.items()
    ]
    before, after = (sum(column) for column in zip(*parts.values(), strict=True))
    lines = [
        "---",
        "library_name: vlapack",
        "pipeline_tag: robotics",
        f"license: {'gemma' if gemma else 'other'}",
        *([f"base_model: {base_model}", "base_model_relation: quantized"] if base_model else []),
        "tags: [robotics, vision-language-action, quantized]",
        "---",
        "",
        f"# {policy.name}, {_bits(selected)}",
        "",
        f"A {policy.architecture.variant} policy packed by vlapack: {len(selected)} linear layers hold integers "
        f"(method {recipe.method}, rotation {recipe.rotation}, blocks of {recipe.block}, "
        f"{recipe.act_scale} activation scales; the whole recipe stands in `config.json`).",
        "",
        "| part | packed layers | MB in the parent | MB in this file |",
        "|---|---:|---:|---:|",
        *rows,
        f"| **file** | **{len(selected)}** | **{before / 1e6:.3f}** | **{after / 1e6:.3f}** |",
        "",
        f"Relative rounding error of the packed weights: mean {error['mean']:.4f}, largest {error['max']:.4f} "
        f"(`{error['worst_layer']}`). The parent's vocabulary heads, which acting never reads, are not stored.",
        "",
        "```python",
        "from vlapack.policy.policy import Policy",
        "",
        'policy = Policy.from_pretrained("PATH OF THIS FOLDER")',
        'chunk = policy.infer(observation)["actions"]',
        "```",
    ]
    return ("\n".join(lines) + "\n" + (GEMMA_NOTICE if gemma else "")).encode()


def _bits(selected: Sequence[Selected]) -> str:
    kinds = sorted({layer.bits for layer in selected})
    return " and ".join(kinds)
