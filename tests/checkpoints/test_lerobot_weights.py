"""LeRobot's weights under the names that wrappers, versions and a missing configuration leave them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lerobot_policy import example, folder_of, use_small_sizes
from safetensors.torch import load_file, save_file

from vlapack.checkpoints import open_checkpoint
from vlapack.errors import InputError
from vlapack.policy.policy import Policy


@pytest.fixture(autouse=True)
def small_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    use_small_sizes(monkeypatch)


def chunk(folder: Path, noise: torch.Tensor | None = None, **changes: Any) -> np.ndarray:
    policy = Policy.from_pretrained(folder)
    noise = torch.ones(policy.noise_shape) if noise is None else noise
    return policy.infer({**example(policy), **changes}, noise=noise)["actions"]


@pytest.mark.parametrize("prefix", ["module.model.", "_orig_mod.model.", "model._orig_mod.", "module._orig_mod.", ""])
def test_weights_under_the_names_of_wrappers_are_read(tmp_path: Path, prefix: str) -> None:
    folder = folder_of("pi05", tmp_path)
    before = chunk(folder)
    tensors = load_file(folder / "model.safetensors")
    save_file({name.replace("model.", prefix, 1): t for name, t in tensors.items()}, folder / "model.safetensors")
    np.testing.assert_array_equal(chunk(folder), before)


def test_one_tensor_under_two_wrappers_names_is_refused(tmp_path: Path) -> None:
    folder = folder_of("pi05", tmp_path)
    tensors = load_file(folder / "model.safetensors")
    save_file(tensors | {"module.model.action_in_proj.bias": torch.zeros(16)}, folder / "model.safetensors")
    with pytest.raises(
        InputError, match=r"action_in_proj\.bias are the same tensor\'s names with and without a prefix"
    ):
        open_checkpoint(folder)


def test_an_embedding_without_a_head_is_enough(tmp_path: Path) -> None:
    folder = folder_of("pi05", tmp_path)
    before = chunk(folder)
    tensors = load_file(folder / "model.safetensors")
    del tensors["model.paligemma_with_expert.paligemma.lm_head.weight"]
    save_file(tensors, folder / "model.safetensors")
    np.testing.assert_array_equal(chunk(folder), before)


def test_lerobots_names_without_its_configuration_are_told_apart(tmp_path: Path) -> None:
    folder = folder_of("pi05", tmp_path)
    own = open_checkpoint(folder)
    config = tmp_path / "mine.json"
    config.write_text(json.dumps(own.config.to_dict()))
    (folder / "config.json").unlink()
    with pytest.raises(InputError, match=r"begin with 'model\.'; LeRobot's folders have that, and say in config\.json"):
        open_checkpoint(folder, config=config)
