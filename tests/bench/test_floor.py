"""The operations of a chunk, against those that hooks see the network do."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from small import SMALL, random_observations, small_policy, write_random_checkpoint

from vlapack.bench.floor import operations, peak
from vlapack.linear import PackedLinear
from vlapack.pi0.config import CONFIGS
from vlapack.pi0.stored import StoredLinear
from vlapack.policy.policy import Policy


@pytest.mark.parametrize("variant", ["pi0", "pi05"])
def test_they_are_those_that_a_chunk_does(variant: str, tmp_path: Any) -> None:
    architecture = replace(SMALL, variant=variant)
    config = small_policy(architecture=architecture, discrete_state_input=variant == "pi05")
    policy = Policy.from_pretrained(write_random_checkpoint(tmp_path / variant, config))
    inputs = policy.observe(random_observations(1)[0])
    done = 0

    def count(module: torch.nn.Module, args: tuple[torch.Tensor], output: torch.Tensor) -> None:
        nonlocal done
        done += 2 * (args[0].numel() // args[0].shape[-1]) * module.weight.numel()

    for module in policy.model.modules():
        if isinstance(module, torch.nn.Linear | StoredLinear | PackedLinear):
            module.register_forward_hook(count)
    policy.model.sample_actions(*inputs.network, torch.zeros(1, 4, 32))
    assert operations(architecture, 2, int(inputs.token_masks.sum())) == done


def test_liberos_chunk_needs_the_two_and_a_half_tera_that_the_design_counted() -> None:
    assert operations(CONFIGS["pi05_libero"], 2, 20) == pytest.approx(2.4e12, rel=0.05)


def test_a_peak_is_measured_and_named() -> None:
    reached, with_what = peak(torch.float32, 1)
    assert reached > 1e8
    assert with_what == "float32, torch.mm"
