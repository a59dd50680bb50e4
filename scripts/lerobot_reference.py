"""LeRobot's real π0 and π0.5 policies at any size, seeded and saved: the folders that `checkpoints.lerobot` must read.

Runs in an environment of its own (Python ≥ 3.12):

    python3.12 -m venv lerobot-env
    lerobot-env/bin/pip install 'lerobot[pi]==0.6.1' peft

LeRobot's classes hard-code their vision tower and 257152 tokens; `reference_policy` patches those where they are read,
and nothing else.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any
from unittest import mock

import torch
from lerobot.configs import FeatureType, NormalizationMode, PolicyFeature
from lerobot.policies.pi0 import modeling_pi0
from lerobot.policies.pi0.configuration_pi0 import PI0Config
from lerobot.policies.pi05 import modeling_pi05
from lerobot.policies.pi05.configuration_pi05 import PI05Config
from lerobot.policies.pretrained import PreTrainedPolicy
from seeded import seeded_tensor

from vlapack.pi0.config import Pi0Config

VISUAL = "observation.images."


def reference_config(
    sizes: Pi0Config, *, cameras: tuple[str, ...] = ("image", "image2"), state: int = 8, actions: int = 7, **fields: Any
) -> Any:
    """Return LeRobot's configuration of a policy of these sizes for a robot of these features."""
    chosen = PI05Config if sizes.variant == "pi05" else PI0Config
    size = sizes.vision.image_size
    return chosen(
        input_features={
            **{f"{VISUAL}{camera}": PolicyFeature(FeatureType.VISUAL, (3, size, size)) for camera in cameras},
            "observation.state": PolicyFeature(FeatureType.STATE, (state,)),
        },
        output_features={"action": PolicyFeature(FeatureType.ACTION, (actions,))},
        chunk_size=sizes.action_horizon,
        n_action_steps=sizes.action_horizon,
        max_action_dim=sizes.action_dim,
        max_state_dim=sizes.action_dim,
        tokenizer_max_length=sizes.max_token_len,
        image_resolution=(size, size),
        device="cpu",
        **{"normalization_mapping": mapping("QUANTILES"), **fields},
    )


def mapping(mode: str) -> dict[str, NormalizationMode]:
    """Return LeRobot's normalization of state and actions by one mode."""
    return {"VISUAL": NormalizationMode.IDENTITY, **dict.fromkeys(("STATE", "ACTION"), NormalizationMode[mode])}


@contextmanager
def patched_sizes(sizes: Pi0Config) -> Iterator[None]:
    """Let LeRobot's classes be built at these sizes while the context lasts."""
    module: ModuleType = modeling_pi05 if sizes.variant == "pi05" else modeling_pi0
    real_paligemma, real_expert = module.PaliGemmaForConditionalGenerationWithPiGemma, module.PiGemmaForCausalLM
    gemma = {"gemma_2b": sizes.llm, "gemma_300m": sizes.expert}

    def paligemma(config: Any) -> torch.nn.Module:
        vision, tower = config.vision_config, sizes.vision
        vision.hidden_size, vision.intermediate_size = tower.width, tower.mlp_dim
        vision.num_hidden_layers, vision.num_attention_heads = tower.depth, tower.num_heads
        vision.patch_size, vision.image_size, vision.projection_dim = (
            tower.patch_size,
            tower.image_size,
            sizes.llm.width,
        )
        config.projection_dim = sizes.llm.width
        config.text_config.vocab_size = config._vocab_size = sizes.vocab_size
        return real_paligemma(config=config)

    def expert(config: Any) -> torch.nn.Module:
        config.vocab_size = sizes.vocab_size
        return real_expert(config=config)

    with (
        mock.patch.object(module, "get_gemma_config", lambda name: gemma[name]),
        mock.patch.object(module, "PaliGemmaForConditionalGenerationWithPiGemma", paligemma),
        mock.patch.object(module, "PiGemmaForCausalLM", expert),
    ):
        yield


@torch.no_grad()
def reference_policy(sizes: Pi0Config, config: Any, seed: int = 0) -> PreTrainedPolicy:
    """Build LeRobot's policy at these sizes and give every parameter its `seeded_tensor`, by openpi's name."""
    with patched_sizes(sizes):
        policy = (modeling_pi05.PI05Policy if sizes.variant == "pi05" else modeling_pi0.PI0Policy)(config)
    for name, parameter in policy.model.named_parameters(remove_duplicate=False):
        if not name.endswith("embed_tokens.weight"):
            parameter.copy_(seeded_tensor(name, tuple(parameter.shape), seed))
    head = policy.model.paligemma_with_expert.paligemma.lm_head.weight
    policy.model.paligemma_with_expert.paligemma.model.language_model.embed_tokens.weight.copy_(head)
    return policy.eval()
