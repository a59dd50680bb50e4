"""torch's own checks of the ops: schema, fakes, tracing with dynamic shapes; and no silent derivative."""

from __future__ import annotations

import pytest
import torch

from vlapack.ops import fused, library

BLOCKS = torch.eye(8).unsqueeze(0)
PERMUTATION = torch.randperm(24).to(torch.uint16)
LAYERS = {
    4: (torch.zeros(16, 3, dtype=torch.int32), torch.ones(16, 1)),
    8: (torch.ones(16, 24, dtype=torch.int8), torch.ones(16, 1)),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("rows", [0, 5])
@pytest.mark.parametrize("scale", [None, torch.tensor([0.1])])
def test_quantize_activation_passes_opcheck(rows, dtype, scale):
    x = torch.randn(rows, 24).to(dtype)
    torch.library.opcheck(library.quantize_activation, (x, torch.ones(24), PERMUTATION, BLOCKS, scale))
    torch.library.opcheck(library.quantize_activation, (x, None, None, None, scale, 4))
    torch.library.opcheck(library.transform_activation, (x, None, PERMUTATION, None, BLOCKS))
    torch.library.opcheck(library.transform_activation, (x,))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("bits", [4, 8])
def test_linears_pass_opcheck(bits, dtype):
    q, s, x = torch.zeros(5, 24, dtype=torch.int8), torch.ones(5, 1), torch.randn(5, 24)
    options = {"dtype": dtype}
    torch.library.opcheck(library.int_linear, (q, s, *LAYERS[bits], BLOCKS, torch.ones(16)), options)
    torch.library.opcheck(library.int_linear, (q[:0], s[:0], *LAYERS[bits]), options)
    torch.library.opcheck(library.float_linear, (x, *LAYERS[bits], None, torch.ones(16)), options)
    grouped, options = (LAYERS[bits][0], torch.ones(16, 2).bfloat16()), {**options, "group_size": 16}
    torch.library.opcheck(library.int_linear, (q, s, *grouped), options)
    torch.library.opcheck(library.float_linear, (x, *grouped), options)


@pytest.mark.filterwarnings("ignore:vlapack..*an autograd kernel was not registered")
def test_differentiating_is_an_error_rather_than_zero():
    query, keys = torch.randn(1, 1, 2, 8, requires_grad=True), torch.randn(1, 1, 3, 8)
    y = fused.attend(query, keys, keys)
    with pytest.raises(RuntimeError, match="no autograd formula"):
        y.sum().backward()


@pytest.mark.filterwarnings("ignore:vlapack..*an autograd kernel was not registered")
def test_rounding_activations_is_no_way_around_that_error():
    x = torch.randn(2, 24, requires_grad=True)
    q, s = library.quantize_activation(x)
    assert torch.equal(q, library.quantize_activation(x.detach())[0])
    with pytest.raises(RuntimeError, match="no autograd formula"):
        library.int_linear(q, s, *LAYERS[8], dtype=torch.float32).sum().backward()
