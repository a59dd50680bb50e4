"""Large products must be the same numbers whichever library makes them, and however their factors lie in memory."""

from __future__ import annotations

import pytest
import torch

from vlapack.methods import product
from vlapack.methods.gptq import hessian_factor
from vlapack.pi0.stored import StoredLinear

M, K, N = 65, 129, 70


@pytest.fixture
def everything_is_large(monkeypatch):
    monkeypatch.setattr(product, "LARGE", 1)


def lying(rows, columns, how):
    """A matrix that lies in rows, in columns, or with gaps between its rows, as a part of a larger one does."""
    if how == "columns":
        return torch.randn(columns, rows).T
    return torch.randn(rows, columns + (3 if how == "gaps" else 0))[:, :columns]


@pytest.mark.usefixtures("everything_is_large")
@pytest.mark.parametrize("of_a", ["rows", "columns", "gaps"])
@pytest.mark.parametrize("of_b", ["rows", "columns", "gaps"])
@pytest.mark.parametrize("of_out", ["rows", "columns", "gaps"])
def test_a_product_is_added_however_its_factors_lie(of_a, of_b, of_out):
    a, b, out = lying(M, K, of_a), lying(K, N, of_b), lying(M, N, of_out)
    expected = out.double() + a.double() @ b.double()
    assert product.add_product(out, a, b) is out
    assert torch.allclose(out.double(), expected, atol=1e-4)


@pytest.mark.usefixtures("everything_is_large")
@pytest.mark.parametrize("bias", [None, torch.randn(N)])
@pytest.mark.parametrize("leading", [(M,), (2, 3, 5), (1,)])
def test_a_linear_layer_equals_torchs(bias, leading):
    x, weight = torch.randn(*leading, K), torch.randn(N, K)
    expected = torch.nn.functional.linear(x, weight, bias)
    assert torch.allclose(product.linear(x, weight, bias), expected, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_other_dtypes_are_multiplied_by_torch(dtype):
    assert not product.by_onednn(torch.zeros(2, 2, dtype=dtype), 2 * product.LARGE)


def test_stored_weights_compile_once_for_sizes_on_both_sides_of_the_limit(monkeypatch):
    from torch import _dynamo as dynamo  # imports Triton: at a module's top, before the kernels' tests can set it up

    monkeypatch.setattr(product, "LARGE", 40 * N * K)
    weight, bias = torch.randn(N, K, dtype=torch.bfloat16), torch.randn(N, dtype=torch.bfloat16)
    layer = StoredLinear(weight, bias)
    torch.compiler.reset()
    compiled = torch.compile(layer, fullgraph=True, dynamic=True)
    with torch.inference_mode(), dynamo.config.patch(error_on_recompile=True):
        for rows in (30, M, 39, 41):
            x = torch.randn(1, rows, K)
            assert torch.allclose(compiled(x), layer(x), atol=1e-4)


@pytest.mark.usefixtures("everything_is_large")
def test_a_factor_that_fails_in_a_later_piece_is_damped_more(monkeypatch):
    monkeypatch.setattr("vlapack.methods.gptq.COLUMNS_OF_TRIANGLE", 64)
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(2000, 1, generator=draw) * torch.rand(1, 300, generator=draw) * 1e5
    assert hessian_factor(x).lower.isfinite().all()


@pytest.mark.usefixtures("everything_is_large")
@pytest.mark.parametrize("channels", [64, 65, 300])
def test_the_factor_is_that_of_double_precision(channels, monkeypatch):
    monkeypatch.setattr("vlapack.methods.gptq.COLUMNS_OF_TRIANGLE", 64)
    x = torch.randn(3 * channels, channels)
    single, double = hessian_factor(x), hessian_factor(x.double())
    assert torch.equal(single.order, double.order)
    assert torch.allclose(single.lower.double(), double.lower, atol=1e-4)
