"""Our network against openpi's real class: same weights, same noise, the numbers openpi computed (golden files)."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from torch import Tensor

from vlapack.pi0.config import CONFIGS, Pi0Config
from vlapack.pi0.flow import Pi0
from vlapack.pi0.load import build, load_weights
from vlapack.pi0.names import EMBEDDING, openpi_tensors

GOLDEN = Path(__file__).parents[1] / "golden"
TOLERANCE = 1e-5
PREFIX_INPUTS = ("images", "image_masks", "tokens", "token_masks")


@pytest.fixture(scope="module", params=["pi0", "pi05"])
def golden(request: pytest.FixtureRequest) -> tuple[Pi0Config, dict[str, Tensor], dict[str, dict[str, Tensor]]]:
    """Return config, weights, and the tensors of each batch."""
    weights: dict[str, Tensor] = {}
    batches: dict[str, dict[str, Tensor]] = {"mixed": {}, "libero": {}}
    with safe_open(GOLDEN / f"{request.param}.safetensors", "pt") as file:
        config = Pi0Config.from_dict(json.loads(file.metadata()["config"]))
        for key in file.keys():  # noqa: SIM118 - safe_open is no dict
            group, _, name = key.partition("/")
            (weights if group == "weights" else batches[group])[name] = file.get_tensor(key)
    return config, weights, batches


@pytest.fixture
def model(golden) -> Pi0:
    return load(golden, torch.float32)


def load(golden, dtype: torch.dtype) -> Pi0:
    config, weights, _ = golden
    model = build(config)
    load_weights(model, weights.__getitem__, weights, dtype)
    return model


def sample(model: Pi0, batch: dict[str, Tensor]) -> Tensor:
    return model.sample_actions(*(batch[name] for name in PREFIX_INPUTS), batch["state"], batch["noise"])


@pytest.mark.parametrize("batch_name", ["mixed", "libero"])
def test_actions_equal_openpi(golden, model, batch_name):
    batch = golden[2][batch_name]
    assert (sample(model, batch) - batch["actions"]).abs().max() <= TOLERANCE


@pytest.mark.parametrize("batch_name", ["mixed", "libero"])
def test_every_denoise_step_equals_openpi_at_its_own_point(golden, model, batch_name):
    batch = golden[2][batch_name]
    prefix = model.embed_prefix(*(batch[name] for name in PREFIX_INPUTS))
    t = torch.ones(len(batch["state"]))
    dt = torch.tensor(-0.1)
    for x_t, expected in zip(batch["x_t"], batch["v_t"], strict=True):
        with torch.no_grad():
            velocity = model.denoise_step(prefix, batch["state"], x_t, t)
        assert (velocity - expected).abs().max() <= TOLERANCE
        t = t + dt


@pytest.mark.parametrize("batch_name", ["mixed", "libero"])
def test_training_loss_equals_openpi_where_samples_share_a_prefix(golden, model, batch_name):
    batch = golden[2][batch_name]
    prefix_inputs = (batch[name] for name in PREFIX_INPUTS)
    loss = model.flow_matching_loss(
        *prefix_inputs, batch["state"], batch["target"], batch["loss_noise"], batch["loss_time"]
    )
    assert loss.shape == batch["loss"].shape
    torch.testing.assert_close(loss, batch["loss"], rtol=TOLERANCE, atol=TOLERANCE)


@pytest.mark.parametrize("batch_name", ["mixed", "libero"])
def test_bf16_is_no_further_from_openpi_bf16_than_bf16_is_from_fp32(golden, batch_name):
    batch = golden[2][batch_name]
    actions = sample(load(golden, torch.bfloat16), batch)
    rounding = (batch["actions_bf16"] - batch["actions"]).norm()
    assert actions.dtype == torch.float32
    assert (actions - batch["actions_bf16"]).norm() <= rounding


def test_names_shapes_and_dtypes_are_those_of_openpi_at_full_size():
    listed = json.loads((GOLDEN / "openpi_pi05_tensors.json").read_text())
    # safetensors' save_model keeps one of two tied names: the lm_head's.
    del listed[EMBEDDING]
    ours = {name: [list(shape), dtype] for name, (shape, dtype) in openpi_tensors(CONFIGS["pi05_libero"]).items()}
    assert ours == listed


def test_full_size_has_the_bytes_that_openpi_holds():
    size = {"bfloat16": 2, "float32": 4}
    tensors = openpi_tensors(CONFIGS["pi05_libero"]).values()
    assert sum(torch.Size(shape).numel() * size[dtype] for shape, dtype in tensors) == pytest.approx(7.473e9, abs=1e6)
