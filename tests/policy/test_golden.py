"""The policy's two ends against openpi's own transforms, recorded by scripts/make_golden_policy.py."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from vlapack.checkpoints.configs import LIBERO_DELTA, POLICIES
from vlapack.checkpoints.normalization import Normalization, Statistics
from vlapack.policy.policy import Policy

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "policy.npz")
TOKENIZER = Path(__file__).parents[2] / "src/vlapack/assets/tiny-libero/tokenizer.model"


class Recorder:
    """Stands for the network: keeps what it was given, answers with a recorded chunk."""

    device = torch.device("cpu")

    def __init__(self, chunk: np.ndarray) -> None:
        self.chunk = torch.from_numpy(chunk)[None]
        self.seen: tuple[torch.Tensor, ...] = ()

    def sample_actions(self, *inputs: torch.Tensor, **options: object) -> torch.Tensor:
        self.seen = inputs
        return self.chunk


def policy(case: str, model: Any) -> Policy:
    tiny = POLICIES["tiny_libero"]
    architecture = replace(
        tiny.architecture,
        vision=replace(tiny.architecture.vision, image_size=28, patch_size=14),
        action_horizon=5,
        variant="pi0" if case == "pi0" else "pi05",
    )
    config = replace(
        tiny,
        architecture=architecture,
        discrete_state_input=case == "tiny",
        normalization="mean_std" if case == "pi0" else "quantile",
        delta_mask=LIBERO_DELTA if case == "pi0" else (),
    )
    stats = {
        key: Statistics(**{name: GOLDEN[f"stats/{key}/{name}"] for name in ("mean", "std", "q01", "q99")})
        for key in ("state", "actions")
    }
    return Policy(model, config, normalization=Normalization(config.normalization, stats), tokenizer=TOKENIZER)


def observation(number: int) -> dict[str, Any]:
    keys = ("observation/image", "observation/wrist_image", "observation/state", "prompt")
    return {key: GOLDEN[f"{number}/{key}"] for key in keys}


@pytest.mark.parametrize("case", ["pi0", "pi05", "tiny"])
@pytest.mark.parametrize("number", [0, 1, 2])
def test_inputs_and_actions_are_openpis(case: str, number: int) -> None:
    model = Recorder(GOLDEN[f"{number}/chunk"])
    actions = policy(case, model).infer(observation(number))["actions"]
    images, image_masks, tokens, token_masks, state, _noise = model.seen

    expected = GOLDEN[f"{number}/images"].astype(np.float32) / 255.0 * 2.0 - 1.0
    np.testing.assert_array_equal(images[0].numpy(), expected.transpose(0, 3, 1, 2))
    golden = {key: GOLDEN[f"{number}/{case}/{key}"] for key in ("image_masks", "tokens", "token_masks", "state")}
    np.testing.assert_array_equal(image_masks[0], golden["image_masks"])
    np.testing.assert_array_equal(tokens[0], golden["tokens"])
    np.testing.assert_array_equal(token_masks[0], golden["token_masks"])
    np.testing.assert_array_equal(state[0], golden["state"].astype(np.float32))
    np.testing.assert_allclose(actions, GOLDEN[f"{number}/{case}/actions"], rtol=0, atol=1e-12)
