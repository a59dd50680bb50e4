"""A policy of any architecture without its weights: random ones that cost the same time and memory.

For everyone who wants to know how fast π0.5 would be on a machine before copying gigabytes to it. What it answers means
nothing.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from vlapack.bench.network import synthetic_network
from vlapack.checkpoints import SHIPPED
from vlapack.checkpoints.assets import TOKENIZER_FILE
from vlapack.checkpoints.normalization import Normalization, Statistics
from vlapack.checkpoints.policy_config import PolicyConfig
from vlapack.pi0.savings import Savings
from vlapack.policy.placing import usable
from vlapack.policy.policy import Policy
from vlapack.recipe.recipe import Recipe


def synthetic_policy(
    config: PolicyConfig,
    recipe: Recipe | None = None,
    *,
    dtype: torch.dtype = torch.float32,
    savings: Savings = Savings(),  # noqa: B008 - it is frozen
    compile: bool = False,
    device: str | torch.device = "cpu",
) -> Policy:
    """Build a policy with random weights, float or packed by a recipe; other arguments as in `Policy.from_pretrained`.

    Its float tensors are held as openpi holds them, its prompts are cut by the tokenizer of tiny-libero.

    Raises:
        InputError: the recipe does not fit the architecture.
    """
    model = synthetic_network(
        config.architecture, recipe, dtype=dtype, savings=savings, compile=compile, device=usable(device)
    )
    return Policy(model, config, normalization=_normalization(config), tokenizer=_tokenizer())


def _normalization(config: PolicyConfig) -> Normalization:
    def neutral(size: int) -> Statistics:
        return Statistics(mean=np.zeros(size), std=np.ones(size), q01=-np.ones(size), q99=np.ones(size))

    robot = config.features
    return Normalization(config.normalization, {"state": neutral(robot.state), "actions": neutral(len(robot.actions))})


def _tokenizer() -> Path:
    return SHIPPED["tiny-libero"] / TOKENIZER_FILE
