"""A layer of the action expert at a denoise step, from ops: ten kernels, and what the definitions give."""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor
from triton.runtime.interpreter import GridExecutor

from vlapack.methods.rotate import hadamard
from vlapack.ops import attention_reference, fused, fused_reference
from vlapack.ops.int4 import pack_int4
from vlapack.ops.triton import layout, tiles
from vlapack.pi0.positions import rotary_table

PREFIX, TOKENS, HEADS, HEAD_DIM, K, F = 20, 5, 2, 16, 512, 528


@dataclass
class Linear:
    """A packed layer in both forms, and the steps of its input."""

    stored: Tensor
    prepared: Tensor
    scale: Tensor
    steps: dict[str, Tensor]

    @classmethod
    def random(cls, n: int, k: int) -> Linear:
        stored = pack_int4(torch.randint(-8, 8, (n, k), dtype=torch.int8))
        steps = {"permutation": torch.randperm(k).to(torch.uint16), "rotation": hadamard(16).float()}
        return cls(stored, layout.prepare(stored, 4, k), torch.rand(n, 1) / k, steps)


def inputs(batch):
    """Activations before a layer: the product that the layer before it left, and everything constant."""
    m = batch * TOKENS
    cos, sin = rotary_table(torch.arange(PREFIX, PREFIX + TOKENS)[None], HEAD_DIM, torch.bfloat16)
    return {
        "x": torch.randn(m, K).bfloat16(),
        "update": torch.randint(-(2**16), 2**16, (3, m, K), dtype=torch.int32),
        "s": torch.rand(m, 1) / 2**16,
        "down": Linear.random(K, F),
        "qkv": Linear.random((HEADS + 2) * HEAD_DIM, K),
        "o": Linear.random(K, HEADS * HEAD_DIM),
        "gate_up": Linear.random(2 * F, K),
        "modulations": torch.randn(batch, 3, 3, K) * 0.3,
        "cache": torch.randn(2, batch, 1, PREFIX + TOKENS, HEAD_DIM).bfloat16(),
        "exists": torch.rand(batch, PREFIX) < 0.7,
        "cos": cos,
        "sin": sin,
    }


def layer(ops, weight_of, given):
    """Return the stream and the last product's sums with their steps; `weight_of` chooses a linear's form."""
    batch = len(given["exists"])
    keys, values = given["cache"].clone()
    qkv, o, gate_up, down = (given[name] for name in ("qkv", "o", "gate_up", "down"))

    def normed(x, update, s, linear, norm, steps):  # noqa: PLR0917
        gate, (factor, shift, _) = given["modulations"][:, norm, 2], given["modulations"][:, norm + 1].unbind(1)
        return ops.norm_quantize(
            x, "adaptive", factor, shift, 1e-6, TOKENS, update, s, linear.scale, None, gate, **steps
        )

    stream, q, s = normed(given["x"], given["update"], given["s"], down, 0, qkv.steps)
    sums = ops.int_sums(q, weight_of(qkv), len(qkv.scale))
    query = ops.turn_and_keep(sums, given["cos"], given["sin"], keys, values, PREFIX, s, qkv.scale, heads=HEADS)
    q, s = ops.attend_quantize(
        query.view(batch, 1, TOKENS * HEADS, HEAD_DIM), keys, values, given["exists"], **o.steps,
        shared=HEADS, prefix=PREFIX, state_token=False,
    )  # fmt: skip
    sums = ops.int_sums(q, weight_of(o), len(o.scale))
    stream, q, s = normed(stream, sums, s, o, 1, gate_up.steps)
    sums = ops.int_sums(q, weight_of(gate_up), len(gate_up.scale))
    q, s = ops.gelu_quantize(sums, None, s, gate_up.scale, None, **down.steps, gated=True, dtype=torch.bfloat16)
    return stream, ops.int_sums(q, weight_of(down), len(down.scale)), s


@pytest.fixture
def launched(monkeypatch):
    """Count the launches of the interpreter."""
    found = []
    run = GridExecutor.__call__

    def counting(self, *arguments, **options):
        found.append(self.fn.__name__)
        return run(self, *arguments, **options)

    monkeypatch.setattr(GridExecutor, "__call__", counting)
    return found


def test_a_layer_of_ten_kernels_gives_what_its_definition_gives(launched, monkeypatch):
    """Integers that differ by one, where the last bits of exp and of a norm do, change the outputs a little (0.4 %)."""
    monkeypatch.setenv("VLAPACK_ENGINE", "triton")
    monkeypatch.setattr(tiles, "processors", lambda device: 64)
    given = inputs(batch=2)
    stream, sums, s = layer(fused, lambda linear: linear.prepared, given)
    assert len(launched) == 10
    assert len(sums) == 2
    definitions = SimpleNamespace(**vars(fused_reference) | vars(attention_reference))
    expected_stream, expected, expected_s = layer(definitions, lambda linear: linear.stored, given)
    assert torch.allclose(stream.float(), expected_stream.float(), rtol=2**-6, atol=2**-6)
    found, wanted = sums.sum(0) * s, expected.sum(0) * expected_s
    assert (found - wanted).norm() < 0.02 * wanted.norm()
