"""A weight that is laid out for GPUs has the same derivative: it is dequantized there, and multiplied by torch."""

from __future__ import annotations

import pytest
import torch
from dequantized import Dequantized

from vlapack.linear import PackedLinear
from vlapack.ops import layouts
from vlapack.ops.int4 import pack_int4


@pytest.fixture(autouse=True)
def _triton(monkeypatch):
    monkeypatch.setenv("VLAPACK_ENGINE", "triton")
    torch.manual_seed(0)


@pytest.mark.parametrize("group_size", [None, 32])
@pytest.mark.parametrize("act_bits", [8, 16])
@pytest.mark.parametrize("bits", [4, 8])
def test_a_layer_of_gpus_has_the_dequantized_ones_derivative(bits, act_bits, group_size):
    n, k, low = 33, 72, -(2 ** (bits - 1))
    w = torch.randint(low, -low, (n, k), dtype=torch.int8)
    tensors = {
        **({"weight_packed": pack_int4(w), "weight_shape": torch.tensor([n, k])} if bits == 4 else {"weight": w}),
        "weight_scale": torch.rand(n, 1) if group_size is None else torch.rand(n, 3).bfloat16(),
        "rotation": torch.linalg.qr(torch.randn(1, 8, 8))[0].contiguous(),
        "row_rotation": torch.linalg.qr(torch.randn(3, 11, 11))[0].contiguous(),
    }
    packed = PackedLinear.from_tensors(tensors, weight_bits=bits, group_size=group_size, act_bits=act_bits)
    assert layouts.engine_of(packed.weight_prepared) == "triton"
    x, way = torch.randn(5, k), torch.randn(5, n)
    ours, theirs = x.clone().requires_grad_(), x.double().requires_grad_()
    (found,) = torch.autograd.grad(packed(ours), ours, way)
    (expected,) = torch.autograd.grad(Dequantized(packed)(theirs), theirs, way.double())
    assert float((found - expected).norm() / expected.norm()) <= 1e-5
