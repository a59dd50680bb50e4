"""Weights held as a file stores them: the same products and gradients, and nothing wide is kept for the way back."""

from __future__ import annotations

import torch
from torch.nn.functional import linear

from vlapack.pi0.stored import StoredLinear


def test_a_gradient_passes_and_only_the_narrow_weight_is_kept() -> None:
    draw = torch.Generator().manual_seed(0)
    weight, bias = torch.randn(7, 5, generator=draw).bfloat16(), torch.randn(7, generator=draw).bfloat16()
    x = torch.randn(2, 3, 5, generator=draw, requires_grad=True)
    again = x.detach().clone().requires_grad_()
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor.dtype) or tensor, lambda t: t):
        y = StoredLinear(weight, bias)(x)
    expected = linear(again, weight.float(), bias.float())
    torch.testing.assert_close(y, expected, rtol=0, atol=0)  # calibration runs the wide one, a policy this one
    assert set(kept) == {torch.bfloat16}
    gradient = torch.randn(y.shape, generator=draw)
    y.backward(gradient)
    expected.backward(gradient)
    torch.testing.assert_close(x.grad, again.grad)


def test_a_narrow_gradient_is_that_of_bf16() -> None:
    draw = torch.Generator().manual_seed(1)
    layer = StoredLinear(torch.randn(7, 5, generator=draw).bfloat16(), None)
    layer.narrow_gradient = True
    x, gradient = torch.randn(2, 3, 5, generator=draw, requires_grad=True), torch.randn(2, 3, 7, generator=draw)
    layer(x).backward(gradient)
    torch.testing.assert_close(x.grad, (gradient.bfloat16() @ layer.weight).float(), rtol=0, atol=0)


def test_layers_of_one_workspace_do_not_disturb_each_other_on_the_way_back_of_many_directions() -> None:
    draw = torch.Generator().manual_seed(2)
    weights = [torch.randn(shape, generator=draw).bfloat16() for shape in ((7, 5), (4, 7))]
    apart, sharing = ([StoredLinear(weight, None) for weight in weights] for _ in range(2))
    workspace = torch.full((40,), torch.nan)
    for layer in sharing:
        layer.workspace = workspace
    x, directions = torch.randn(3, 5, generator=draw, requires_grad=True), torch.randn(2, 3, 4, generator=draw)
    found = []
    for first, second in (apart, sharing):
        y = second(torch.tanh(first(x)))
        found.append((y, *torch.func.vmap(lambda v, y=y: torch.autograd.grad(y, x, v, retain_graph=True))(directions)))
    torch.testing.assert_close(found[0], found[1], rtol=0, atol=0)
