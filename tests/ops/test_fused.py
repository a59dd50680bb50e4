"""torch's own checks of the fused ops: schema, fakes, what is written to, tracing; and what their definition says."""

from __future__ import annotations

import pytest
import torch

from vlapack.methods.rotate import hadamard
from vlapack.ops import fused, reference
from vlapack.ops import fused_reference as definition
from vlapack.ops.int4 import pack_int4

FLOATS = [torch.float32, torch.bfloat16]
STEPS = (torch.ones(16), torch.randperm(16).to(torch.uint16), hadamard(8).float())
SUMS = torch.randint(-9, 9, (2, 6, 16), dtype=torch.int32)
ENDING = (torch.ones(6, 1), torch.ones(16, 1))
WEIGHT = pack_int4(torch.randint(-8, 8, (16, 24), dtype=torch.int8))


def check(op, *arguments, **options):
    torch.library.opcheck(op, arguments, options)


@pytest.mark.parametrize("rows", [0, 5])
def test_products_of_integers_pass_opcheck(rows):
    q, s = torch.zeros(rows, 24, dtype=torch.int8), torch.ones(rows, 1)
    check(fused.int_sums, q, WEIGHT, 16)
    check(fused.gated_product, q, s, WEIGHT, torch.ones(16, 1), torch.ones(16), dtype=torch.bfloat16)
    grouped = torch.ones(16, 2).bfloat16()
    check(fused.gated_product, q, s, WEIGHT, grouped, dtype=torch.float32, group_size=16)


def test_norms_pass_opcheck():
    dtype = torch.bfloat16
    x, update, vector = torch.randn(6, 16).to(dtype), torch.randn(6, 16).to(dtype), torch.randn(16).to(dtype)
    modulation = torch.randn(2, 3, 16)
    for norm in (
        (x, "rms", vector, None, 1e-6, 6),
        (x, "layer", vector, vector, 1e-6, 6, update),
        (x, "adaptive", modulation[:, 0], modulation[:, 1], 1e-6, 3, SUMS, *ENDING, None, modulation[:, 2]),
    ):
        rest = (None,) * (11 - len(norm))
        check(fused.norm_quantize, *norm, *rest, *STEPS, None, 4, STEPS[2])
        check(fused.norm_quantize, *norm)
        check(fused.norm_transform, *norm, *rest, *STEPS, dtype=torch.float32)
        check(fused.norm_transform, *norm, dtype=dtype)


@pytest.mark.parametrize("gated", [False, True])
def test_activations_pass_opcheck(gated):
    dtype = torch.bfloat16
    both = torch.randn(6, 32).to(dtype)
    dense = (both[:, :16], both[:, 16:] if gated else None)
    steps = (None, torch.arange(8), None) if gated else STEPS
    for gate, its_steps in ((dense, STEPS), ((SUMS, None, *ENDING, torch.ones(16)), steps)):
        rest = (None,) * (5 - len(gate))
        options = {"gated": gated, "dtype": dtype}
        check(fused.gelu_quantize, *gate, *rest, *its_steps, torch.ones(1), 4, **options)
        check(fused.gelu_quantize, *gate, **options)
        check(fused.gelu_transform, *gate, *rest, *its_steps, **options, out_dtype=torch.float16)
        check(fused.gelu_transform, *gate, **options, out_dtype=dtype)


@pytest.mark.parametrize("heads", [0, 2])
def test_turning_passes_opcheck_and_writes_only_into_the_cache(heads):
    table, cache = torch.randn(2, 1, 3, 1, 4).unbind(0), torch.randn(2, 2, 1, 7, 4).unbind(0)
    width = (heads + 2) * 4
    check(fused.turn_and_keep, torch.randn(6, width), *table, *cache, 2, heads=heads)
    sums = torch.randint(-9, 9, (3, 6, width), dtype=torch.int32)
    ending = (torch.ones(6, 1), torch.ones(width, 1), torch.ones(width))
    check(fused.turn_and_keep, sums, *table, *cache, 0, *ending, heads=heads)
    rest = torch.randn(6, 4)
    check(fused.turn_and_keep, torch.randn(6, width - 4), *table, *cache, 0, None, None, None, rest, heads=heads)


@pytest.mark.parametrize(("dtype", "masked"), [(torch.float32, True), (torch.bfloat16, False), (torch.bfloat16, True)])
def test_attention_passes_opcheck(dtype, masked):
    query = torch.randn(2, 1, 6, 8).to(dtype)
    key, value = torch.randn(2, 2, 1, 9, 8).to(dtype)
    mask = torch.tensor([[True] * 6, [True] * 3 + [False] * 3]) if masked else None
    options = {"shared": 2, "prefix": 6, "state_token": masked}
    check(fused.attend_few, query, key, value, mask, **options)
    check(fused.attend_quantize, query, key, value, mask, *STEPS, **options)
    check(fused.attend, query, key, value, torch.rand(2, 1, 1, 9) < 0.9 if masked else None)


def test_sums_end_as_the_product_of_integers_does():
    q, s, scale = torch.randint(-128, 128, (5, 24), dtype=torch.int8), torch.rand(5, 1), torch.rand(16, 1)
    bias = torch.randn(16)
    for dtype in FLOATS:
        found = definition.ended(fused.int_sums(q, WEIGHT, 16), s, scale, bias, dtype)
        assert torch.equal(found, reference.int_linear(q, s, WEIGHT, scale, None, bias, dtype=dtype))


def test_gate_and_up_in_turns_are_those_of_two_products():
    gate, up = (torch.randint(-99, 99, (1, 6, 8), dtype=torch.int32) for _ in range(2))
    both = torch.stack((gate, up), -1).flatten(2)
    scale, ending = torch.rand(8, 2) / 50, torch.ones(6, 1)
    options = {"gated": True, "dtype": torch.bfloat16}
    ended = [definition.ended(one, ending, scale[:, [i]], None, torch.bfloat16) for i, one in enumerate((gate, up))]
    expected = fused.gelu_quantize(*ended, **options)
    found = fused.gelu_quantize(both, None, ending, scale.flatten()[:, None], None, **options)
    for one, other in zip(found, expected, strict=True):
        assert torch.equal(one, other)
