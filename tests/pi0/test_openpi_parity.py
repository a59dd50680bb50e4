"""Our network against openpi's real class: same weights, same noise, the numbers openpi computed (golden files)."""

from __future__ import annotations

import json

import pytest
import torch
from openpi_golden import FOLDER, PREFIX_INPUTS, TOLERANCE, Golden, sample

from vlapack.pi0.config import CONFIGS
from vlapack.pi0.flow import Pi0
from vlapack.pi0.names import EMBEDDING, openpi_tensors
from vlapack.pi0.savings import Savings


@pytest.fixture
def model(golden: Golden) -> Pi0:
    """Without a table of times, which knows those of the denoise steps only."""
    return golden.load(savings=Savings(time_table=False))


@pytest.mark.parametrize("batch_name", ["mixed", "libero"])
def test_actions_equal_openpi(golden, model, batch_name):
    batch = golden.batches[batch_name]
    assert (sample(model, batch) - batch["actions"]).abs().max() <= TOLERANCE


@pytest.mark.parametrize("batch_name", ["mixed", "libero"])
def test_every_denoise_step_equals_openpi_at_its_own_point(golden, model, batch_name):
    batch = golden.batches[batch_name]
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
    batch = golden.batches[batch_name]
    prefix_inputs = (batch[name] for name in PREFIX_INPUTS)
    loss = model.flow_matching_loss(
        *prefix_inputs, batch["state"], batch["target"], batch["loss_noise"], batch["loss_time"]
    )
    assert loss.shape == batch["loss"].shape
    torch.testing.assert_close(loss, batch["loss"], rtol=TOLERANCE, atol=TOLERANCE)


@pytest.mark.parametrize("batch_name", ["mixed", "libero"])
def test_bf16_is_no_further_from_openpi_bf16_than_two_roundings_are(golden, batch_name):
    """openpi's were recorded on a CPU without AMX, which adds in another order: errors of one size, not of one sign."""
    batch = golden.batches[batch_name]
    actions = sample(golden.load(torch.bfloat16), batch)
    rounding = (batch["actions_bf16"] - batch["actions"]).norm()
    assert actions.dtype == torch.float32
    assert (actions - batch["actions_bf16"]).norm() <= 2**0.5 * rounding
    assert (actions - batch["actions"]).norm() <= 1.5 * rounding


def test_names_shapes_and_dtypes_are_those_of_openpi_at_full_size():
    listed = json.loads((FOLDER / "openpi_pi05_tensors.json").read_text())
    # safetensors' save_model keeps one of two tied names: the lm_head's.
    del listed[EMBEDDING]
    ours = {name: [list(shape), dtype] for name, (shape, dtype) in openpi_tensors(CONFIGS["pi05_libero"]).items()}
    assert ours == listed


def test_full_size_has_the_bytes_that_openpi_holds():
    size = {"bfloat16": 2, "float32": 4}
    tensors = openpi_tensors(CONFIGS["pi05_libero"]).values()
    assert sum(torch.Size(shape).numel() * size[dtype] for shape, dtype in tensors) == pytest.approx(7.473e9, abs=1e6)
