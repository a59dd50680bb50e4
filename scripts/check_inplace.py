"""Quantize openpi's real `PI0Pytorch` and LeRobot's real policies in place, at small sizes, and act with them.

In the environment of scripts/openpi_reference.py, or in that of scripts/lerobot_reference.py:

    PYTHONPATH=src:scripts openpi-env/bin/python scripts/check_inplace.py openpi
    PYTHONPATH=src:scripts lerobot-env/bin/python scripts/check_inplace.py lerobot

Checks what their code relies on: the dtype that layer 0's q_proj reports, scales that survive `.to(bfloat16)`, an
action chunk near the float one where rounding is fine (8-bit weights, activations as they are), the guide's line, and
`torch.compile` of what was quantized.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import torch
from seeded import random_inputs
from torch import Tensor, nn

from vlapack import Recipe, quantize_
from vlapack.openpi import enable_duquant_if_configured
from vlapack.pi0.config import GemmaConfig, Pi0Config, VisionConfig
from vlapack.quantize.inplace import policy_network
from vlapack.quantize.quantized_linear import QuantizedLinear

SMALL = Pi0Config(
    variant="pi05",
    vision=VisionConfig(width=36, depth=2, mlp_dim=74, num_heads=3, patch_size=7, image_size=28),
    llm=GemmaConfig(width=40, depth=3, mlp_dim=80, num_heads=8, num_kv_heads=1, head_dim=16),
    expert=GemmaConfig(width=24, depth=3, mlp_dim=56, num_heads=8, num_kv_heads=1, head_dim=16),
    vocab_size=64,
    action_dim=32,
    action_horizon=10,
    max_token_len=12,
    num_cameras=3,
)
SCOPE = "paligemma_with_expert."
FINE = Recipe(scope=SCOPE, weight_bits=8, act_bits=16, block=8, rotation="none", rounding="rtn", permute=False)
COARSE = Recipe(scope=SCOPE, block=8, rotation="none", rounding="rtn", smooth=0.15)
GUIDE = {
    "OPENPI_DUQUANT_SCOPE": f"{SCOPE}gemma_expert.model.",
    "OPENPI_DUQUANT_CALIB_STEPS": "2",
    "OPENPI_DUQUANT_EXCLUDE": r"down_proj|gate_proj|up_proj",
    "OPENPI_DUQUANT_BLOCK": "8",
}


def check(model: nn.Module, act: Callable[[], Tensor], batches: list[Any], forward: Callable[[Any], object]) -> None:
    """Go through what a user does with one model."""
    network = policy_network(model)
    query = "paligemma_with_expert.paligemma.model.language_model.layers.0.self_attn.q_proj"
    dtype = network.get_submodule(query).weight.dtype
    expected = act()
    with torch.no_grad():
        quantize_(model, FINE, batches, lambda _, name: "vision_tower" not in name, forward=forward)
    layer = network.get_submodule(query)
    assert isinstance(layer, QuantizedLinear)
    assert layer.weight.dtype == dtype
    difference = float((act() - expected).norm() / expected.norm())
    print(f"8-bit weights: actions differ by {difference:.4f}, {count(model)} layers")
    assert difference < 0.05
    scale = layer.packed.weight_scale.clone()
    model.to(torch.bfloat16)
    assert layer.weight.dtype == torch.bfloat16
    assert torch.equal(layer.packed.weight_scale, scale)
    compiled = torch.compile(layer, backend="aot_eager", fullgraph=True)
    x = torch.randn(3, layer.in_features, dtype=torch.bfloat16)
    assert torch.equal(compiled(x), layer(x))
    print("cast and compiled")


def count(model: nn.Module) -> int:
    return sum(isinstance(module, QuantizedLinear) for module in model.modules())


def openpi() -> None:
    import openpi_reference as reference

    inputs = random_inputs(SMALL, [[True, True, False]], [7], 3)

    def fresh() -> nn.Module:
        model = reference.reference_model(SMALL)
        reference.fill(model, 20)
        return model

    observation = reference.observation(inputs)
    model = fresh()

    def act() -> Tensor:
        return type(model).sample_actions(model, "cpu", observation, noise=inputs.noise)

    check(model, act, [observation], lambda item: type(model).sample_actions(model, "cpu", item))
    model = fresh()
    quantize_(model, COARSE, [observation], lambda _, name: "vision_tower" not in name)
    print(f"4-bit weights, 8-bit activations: {count(model)} layers, finite: {bool(act().isfinite().all())}")
    model = fresh()
    compiled = model.sample_actions
    assert enable_duquant_if_configured(model, environ=GUIDE)
    for _ in range(2):
        assert not count(model)
        model.sample_actions("cpu", observation)
    assert count(model) == 4 * SMALL.expert.depth
    assert model.sample_actions is compiled
    print(f"the guide's line: {count(model)} layers, finite: {bool(act().isfinite().all())}")


def lerobot() -> None:
    import lerobot_reference as reference
    from lerobot.utils.constants import OBS_LANGUAGE_ATTENTION_MASK, OBS_LANGUAGE_TOKENS

    inputs = random_inputs(SMALL, [[True, True, False]], [7], 3)
    policy = reference.reference_policy(SMALL, reference.reference_config(SMALL), 20)
    batch = {
        "observation.images.image": inputs.images[:, 0] / 2 + 0.5,
        "observation.images.image2": inputs.images[:, 1] / 2 + 0.5,
        "observation.state": inputs.state[:, :8],
        OBS_LANGUAGE_TOKENS: inputs.tokens,
        OBS_LANGUAGE_ATTENTION_MASK: inputs.token_masks,
    }

    def act() -> Tensor:
        return policy.predict_action_chunk(batch, noise=inputs.noise)

    check(policy, act, [batch], policy.predict_action_chunk)
    policy = reference.reference_policy(SMALL, reference.reference_config(SMALL), 20)
    quantize_(policy, COARSE, [batch], lambda _, name: "vision_tower" not in name)
    print(f"4-bit weights, 8-bit activations: {count(policy)} layers, finite: {bool(act().isfinite().all())}")


if __name__ == "__main__":
    {"openpi": openpi, "lerobot": lerobot}[sys.argv[1]]()
