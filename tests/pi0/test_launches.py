"""The count of kernels sees what a layer launches, and nothing that launches nothing."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from small import SMALL

from vlapack.pi0.buffers import Shape
from vlapack.pi0.launches import Launches, launches
from vlapack.pi0.load import build

SHAPE = Shape(batch=1, cameras=2, prompt=16, pixels=torch.float32)


def counted(depth: int, variant: str = "pi05", dtype: torch.dtype = torch.float32) -> Launches:
    parts = {name: replace(getattr(SMALL, name), depth=depth) for name in ("vision", "llm", "expert")}
    model = build(replace(SMALL, variant=variant, num_steps=3, **parts)).to(dtype)
    return launches(model, SHAPE)


def test_a_layer_of_the_expert_launches_what_it_writes_out() -> None:
    layer = counted(2).step - counted(1).step
    assert layer == {
        "mm": 7,  # q, k, v, o, gate, up, down
        "rms_norm": 2,
        "addcmul": 4,  # each norm's scale and shift, and each gated sum
        "mul": 2 * 2 + 1,  # two rotations, gate · up
        "cat": 2,
        "add": 2,
        "copy_": 2,  # keys and values behind the prefix's
        "scaled_dot_product_attention": 1,
        "gelu": 1,
    }


@pytest.mark.parametrize("variant", ["pi0", "pi05"])
def test_a_chunk_is_one_prefix_and_its_steps(variant: str) -> None:
    found = counted(1, variant)
    assert found.chunk == found.encode.total() + 3 * found.step.total()
    assert not {"view", "slice", "transpose", "empty"} & (found.encode.keys() | found.step.keys())


def test_an_arithmetic_of_two_dtypes_launches_their_casts() -> None:
    assert (counted(2, dtype=torch.bfloat16).step - counted(1, dtype=torch.bfloat16).step)[
        "_to_copy"
    ] == 4  # into each norm and out of it
