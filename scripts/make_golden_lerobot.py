"""Write small policies with LeRobot's own code and keep what they computed: tests/golden/lerobot.

How to install LeRobot: see scripts/lerobot_reference.py. Then, from the repository's root:

    PYTHONPATH=src:scripts lerobot-env/bin/python scripts/make_golden_lerobot.py tests/golden/lerobot

`pi05` is a LIBERO policy with quantiles; `pi0` one of a robot of its own, with mean and standard deviation and with
relative actions; `pi05-peft` a LoRA of the first. Each folder is as LeRobot saves it, less `model.safetensors`: its
tensors are `seeded.seeded_tensor`s. `golden.safetensors` lists their names and shapes, and holds one observation, the
noise, what the processors made of the state, and the actions (of the LoRA: the merged weights too).
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any
from unittest import mock

import sentencepiece
import torch
from lerobot.policies.factory import make_pre_post_processors
from lerobot.policies.pretrained import PreTrainedPolicy
from lerobot.processor import TokenizerProcessorStep
from lerobot.utils.constants import OBS_LANGUAGE_ATTENTION_MASK, OBS_LANGUAGE_TOKENS
from lerobot_reference import VISUAL, mapping, reference_config, reference_policy
from peft import LoraConfig
from safetensors.torch import save_file
from seeded import seeded_tensor
from torch import Tensor

from vlapack.pi0.config import GemmaConfig, Pi0Config, VisionConfig

SEED = 6
# π0.5 cleans its text; π0, in LeRobot, does not.
TASKS = {"pi05": "put_the bowl\non the plate", "pi0": "put the bowl on the plate"}
TOKENIZER = Path(__file__).parents[1] / "src/vlapack/assets/tiny-libero/tokenizer.model"


def sizes(variant: str) -> Pi0Config:
    """Return odd widths, and two layers; LeRobot's class fixes eight heads."""
    return Pi0Config(
        variant=variant,  # type: ignore[arg-type]
        vision=VisionConfig(width=24, depth=2, mlp_dim=38, num_heads=2, patch_size=14, image_size=28),
        llm=GemmaConfig(width=32, depth=2, mlp_dim=50, num_heads=8, num_kv_heads=1, head_dim=8),
        expert=GemmaConfig(width=16, depth=2, mlp_dim=34, num_heads=8, num_kv_heads=1, head_dim=8),
        vocab_size=512,
        action_dim=32,
        action_horizon=4,
        max_token_len=120,
        num_cameras=3,
    )


def statistics(dims: int, seed: int) -> dict[str, Tensor]:
    draw = torch.Generator().manual_seed(seed)
    low, width = torch.randn(dims, generator=draw), torch.rand(dims, generator=draw) + 0.1
    return {"mean": low, "std": width, "min": low - 1, "max": low + 1, "q01": low - width, "q99": low + width}


def observation(cameras: tuple[str, ...], state: int) -> dict[str, Any]:
    draw = torch.Generator().manual_seed(SEED)
    pictures = {c: torch.randint(0, 256, (28, 28, 3), generator=draw, dtype=torch.uint8) for c in cameras}
    return {**pictures, "observation.state": torch.randn(state, generator=draw)}


@torch.no_grad()
def golden(policy: PreTrainedPolicy, folder: Path, stats: dict[str, dict[str, Tensor]]) -> dict[str, Tensor]:
    """Save the processors and act once, by LeRobot's code from the processors to the robot's actions."""
    config = policy.config
    with mock.patch("transformers.AutoTokenizer.from_pretrained"):  # it comes from the hub, and is not called here
        before, after = make_pre_post_processors(config, dataset_stats=stats)
    before.save_pretrained(folder)
    after.save_pretrained(folder)
    cameras = tuple(name for name in config.input_features if name.startswith(VISUAL) and "empty" not in name)
    seen = observation(cameras, config.input_features["observation.state"].shape[0])

    # Our tokenizer reads the text in the place of LeRobot's.
    before.steps = [s for s in before.steps if not isinstance(s, TokenizerProcessorStep)]
    floats = {name: seen[name].permute(2, 0, 1).float() / 255 for name in cameras}
    batch = before({**floats, "observation.state": seen["observation.state"], "task": [TASKS[config.type]]})
    text = batch["task"][0]
    model = sentencepiece.SentencePieceProcessor(model_proto=TOKENIZER.read_bytes())
    tokens = torch.tensor([model.encode(text, add_bos=True)])
    batch |= {OBS_LANGUAGE_TOKENS: tokens, OBS_LANGUAGE_ATTENTION_MASK: torch.ones_like(tokens, dtype=torch.bool)}
    noise = torch.randn(1, config.chunk_size, config.max_action_dim, generator=torch.Generator().manual_seed(SEED))
    chunk = policy.predict_action_chunk(batch, noise=noise)
    return {
        **seen,
        "noise": noise[0],
        "normalized_state": batch["observation.state"][0],
        "text": torch.tensor(list(text.encode()), dtype=torch.uint8),
        "actions": after(chunk[0][None])[0],
    }


def robot(variant: str) -> dict[str, Any]:
    """Return what makes the two policies' robots differ."""
    if variant == "pi05":
        return {"empty_cameras": 1}
    return {
        "cameras": ("front", "wrist"),
        "state": 6,
        "actions": 6,
        "normalization_mapping": mapping("MEAN_STD"),
        "use_relative_actions": True,
        "action_feature_names": [*(f"joint_{index}.pos" for index in range(5)), "gripper.pos"],
    }


def save(folder: Path, policy: PreTrainedPolicy, tensors: dict[str, Tensor], weights: dict[str, Tensor]) -> None:
    """Keep what was computed, and the names and shapes of the policy's weights."""
    shapes = {name: list(tensor.shape) for name, tensor in weights.items()}
    header = {"sizes": json.dumps(sizes(policy.config.type).to_dict()), "weights": json.dumps(shapes)}
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, folder / "golden.safetensors", header)


def main(out: Path) -> None:
    torch.set_num_threads(1)
    shutil.rmtree(out, ignore_errors=True)
    for variant in ("pi05", "pi0"):
        folder = out / variant
        policy = reference_policy(sizes(variant), reference_config(sizes(variant), **robot(variant)), SEED)
        policy.save_pretrained(folder)
        (folder / "model.safetensors").unlink()
        dims = (policy.config.input_features["observation.state"], policy.config.output_features["action"])
        stats = {
            key: statistics(feature.shape[0], seed)
            for seed, (key, feature) in enumerate(zip(("observation.state", "action"), dims, strict=True))
        }
        save(folder, policy, golden(policy, folder, stats), policy.state_dict())
        if variant == "pi05":
            adapt(policy, out / "pi05-peft", stats)


@torch.no_grad()
def adapt(policy: PreTrainedPolicy, folder: Path, stats: dict[str, dict[str, Tensor]]) -> None:
    """Put a LoRA on a policy as LeRobot's training does, draw its numbers, and save it as LeRobot does."""
    before = {name: tensor.clone() for name, tensor in policy.state_dict().items()}
    policy.config.pretrained_path = "BASE"
    lora = LoraConfig(
        r=3,
        lora_alpha=5,
        target_modules=r"(.*\.gemma_expert\..*\.self_attn\.(q|v)_proj|.*\.mlp\.down_proj|model\.action_in_proj)",
        modules_to_save=["action_out_proj"],
        alpha_pattern={"down_proj": 7},
        rank_pattern={"down_proj": 2},
        use_rslora=True,
    )
    adapted = policy.wrap_with_peft(peft_config=lora)
    for name, parameter in adapted.named_parameters():
        if "lora_" in name or "modules_to_save" in name:
            parameter.copy_(seeded_tensor(name, tuple(parameter.shape), SEED))
    adapted.save_pretrained(folder)
    policy.config.save_pretrained(folder)
    tensors = golden(policy, folder, stats)
    merged = adapted.merge_and_unload().state_dict()
    changed = {name: tensor for name, tensor in merged.items() if not torch.equal(tensor, before[name])}
    (folder / "README.md").unlink()
    save(folder, policy, {**tensors, **{f"merged/{name}": tensor for name, tensor in changed.items()}}, {})


if __name__ == "__main__":
    main(Path(sys.argv[1]))
