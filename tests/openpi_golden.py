"""What openpi's real class computed (scripts/make_golden_pi0.py), read for the tests of our network."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor

from vlapack.pi0.config import Pi0Config
from vlapack.pi0.flow import Pi0
from vlapack.pi0.load import build, load_weights
from vlapack.pi0.savings import Savings

FOLDER = Path(__file__).parent / "golden"
TOLERANCE = 1e-5
PREFIX_INPUTS = ("images", "image_masks", "tokens", "token_masks")


@dataclass(frozen=True)
class Golden:
    """Config and weights of one variant, and the tensors of each batch, `mixed` and `libero`."""

    config: Pi0Config
    weights: dict[str, Tensor]
    batches: dict[str, dict[str, Tensor]]

    def load(self, dtype: torch.dtype = torch.float32, savings: Savings = Savings()) -> Pi0:  # noqa: B008
        """Our network with openpi's weights."""
        model = build(self.config, savings)
        load_weights(model, self.weights.__getitem__, self.weights, dtype, rows=self.weights.__getitem__)
        if savings.time_table:
            model.tabulate()
        return model


def read_golden(variant: str) -> Golden:
    weights: dict[str, Tensor] = {}
    batches: dict[str, dict[str, Tensor]] = {"mixed": {}, "libero": {}}
    with safe_open(FOLDER / f"{variant}.safetensors", "pt") as file:
        config = Pi0Config.from_dict(json.loads(file.metadata()["config"]))
        for key in file.keys():  # noqa: SIM118 - safe_open is no dict
            group, _, name = key.partition("/")
            (weights if group == "weights" else batches[group])[name] = file.get_tensor(key)
    return Golden(config, weights, batches)


def sample(model: Pi0, batch: dict[str, Tensor]) -> Tensor:
    """One action chunk of a batch."""
    return model.sample_actions(*(batch[name] for name in PREFIX_INPUTS), batch["state"], batch["noise"])
