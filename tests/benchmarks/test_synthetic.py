"""The synthetic checkpoint is openpi's file to the tensor, acts, and has what quantization has to cope with."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open
from small import random_observations

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
import synthetic_pi05

from vlapack.checkpoints.configs import policy_config
from vlapack.errors import InputError
from vlapack.pi0.names import openpi_tensors
from vlapack.policy.policy import Policy


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("synthetic") / "checkpoint"
    synthetic_pi05.main(out, config="tiny_libero")
    return out


def test_every_tensor_of_openpis_file_is_there_in_its_shape_and_dtype(folder: Path) -> None:
    names = {"bfloat16": "BF16", "float32": "F32"}
    wanted = openpi_tensors(policy_config("tiny_libero").architecture)
    with safe_open(folder / "model.safetensors", "pt") as file:
        slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118 - no mapping
        found = {name: (tuple(part.get_shape()), part.get_dtype()) for name, part in slices.items()}
    assert found == {name: (shape, names[dtype]) for name, (shape, dtype) in wanted.items()}


def test_it_acts_and_its_actions_are_no_constants(folder: Path) -> None:
    policy = Policy.from_pretrained(folder, config="tiny_libero")
    first, second = (policy.infer(observation)["actions"] for observation in random_observations(2))
    assert np.isfinite(first).all()
    assert np.abs(first - second).max() > 1e-3


def test_weights_are_anisotropic_with_a_few_outlier_channels() -> None:
    name = "paligemma_with_expert.paligemma.model.language_model.layers.1.mlp.down_proj.weight"
    weight = synthetic_pi05.drawn(name, (192, 768), policy_config("tiny_libero"), 0)
    columns = weight.square().mean(0).sqrt()
    assert int((columns > 3 * columns.median()).sum()) == synthetic_pi05.OUTLIERS
    mixed = weight[:, columns <= 3 * columns.median()].double()
    energies = (mixed.T @ mixed).diag().sort(descending=True).values
    spectrum = np.linalg.svd(mixed.numpy(), compute_uv=False) ** 2
    assert spectrum[:19].sum() > 1.5 * float(energies[:19].sum())  # strong directions, which no channel shows


def test_an_existing_folder_is_left_alone(folder: Path) -> None:
    with pytest.raises(InputError, match="exists already"):
        synthetic_pi05.main(folder, config="tiny_libero")
