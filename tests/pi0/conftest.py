from __future__ import annotations

from typing import Any

import pytest
import torch
from openpi_golden import Golden, read_golden

from vlapack.pi0.config import GemmaConfig, Pi0Config, VisionConfig
from vlapack.pi0.flow import Pi0
from vlapack.pi0.init import init_weights


@pytest.fixture(scope="module", params=["pi0", "pi05"])
def golden(request: pytest.FixtureRequest) -> Golden:
    return read_golden(request.param)


@pytest.fixture(scope="module")
def pi05() -> Golden:
    return read_golden("pi05")


@pytest.fixture(params=["pi0", "pi05"])
def config(request: pytest.FixtureRequest) -> Pi0Config:
    """Two kv heads here, which openpi never has, so that the grouping of heads is exercised."""
    return Pi0Config(
        variant=request.param,
        vision=VisionConfig(width=12, depth=1, mlp_dim=18, num_heads=3, patch_size=7, image_size=14),
        llm=GemmaConfig(width=20, depth=2, mlp_dim=22, num_heads=6, num_kv_heads=2, head_dim=4),
        expert=GemmaConfig(width=12, depth=2, mlp_dim=14, num_heads=6, num_kv_heads=2, head_dim=4),
        vocab_size=30,
        action_dim=5,
        action_horizon=3,
        max_token_len=7,
        num_cameras=2,
    )


@pytest.fixture
def model(config: Pi0Config) -> Pi0:
    model = Pi0(config)
    init_weights(model, torch.Generator().manual_seed(1))
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return model.requires_grad_(True)


@pytest.fixture
def batch(config: Pi0Config) -> dict[str, Any]:
    """Two observations, each with both cameras and a full prompt."""
    generator = torch.Generator().manual_seed(3)
    size = config.vision.image_size
    return {
        "images": torch.rand(2, config.num_cameras, 3, size, size, generator=generator) * 2 - 1,
        "image_masks": torch.ones(2, config.num_cameras, dtype=torch.bool),
        "tokens": torch.randint(0, config.vocab_size, (2, config.max_token_len), generator=generator),
        "token_masks": torch.ones(2, config.max_token_len, dtype=torch.bool),
        "state": torch.randn(2, config.action_dim, generator=generator),
        "noise": torch.randn(2, config.action_horizon, config.action_dim, generator=generator),
    }
