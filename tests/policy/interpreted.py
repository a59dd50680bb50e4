"""Act once with a pack by Triton's kernels, interpreted, and hold every call against the reference; print what differs.

A program of its own, for Triton decides on interpreting when a kernel is defined: python interpreted.py FOLDER PACK
"""

from __future__ import annotations

import json
import os
import sys
from collections import Counter
from collections.abc import Callable
from importlib import import_module
from typing import Any

os.environ["TRITON_INTERPRET"] = "1"

import torch

from vlapack import Policy
from vlapack.ops import attention_reference, fused_reference, layouts, reference
from vlapack.pi0.savings import Savings

SAVINGS = Savings(time_table=False)  # which would refuse another number of steps
counted: Counter[str] = Counter()


def chunk(folder: str, engine: str) -> torch.Tensor:
    os.environ["VLAPACK_ENGINE"] = engine
    policy = Policy.from_pretrained(folder, savings=SAVINGS)
    noise = torch.randn((1, *policy.noise_shape), generator=torch.Generator().manual_seed(0))
    return policy.model.sample_actions(*policy.observe(policy.example()).network, noise, num_steps=1)


def watched() -> None:
    """Compare what every call of the kernels returns with what the reference makes of the same input."""
    for module, name, definition, place in (
        ("activation", "quantize_activation", reference.quantize_activation, 0),
        ("fused", "norm_quantize", fused_reference.norm_quantize, 1),
        ("fused", "gelu_quantize", fused_reference.gelu_quantize, 0),
        ("attention_step", "attend_quantize", attention_reference.attend_quantize, 0),
    ):
        watch_integers(import_module(f"vlapack.ops.triton.{module}"), name, definition, place)
    product = import_module("vlapack.ops.triton.product")
    linear, sums = product.int_linear, product.int_sums

    def int_linear(q: Any, s: Any, weight: Any, scale: Any, *rest: Any, **options: Any) -> Any:
        found = linear(q, s, weight, scale, *rest, **options)
        stored = layouts.restore(weight, len(scale), q.shape[1])
        counted["products"] += 1
        counted["wrong"] += not torch.equal(found, reference.int_linear(q, s, stored, scale, *rest, **options))
        return found

    def int_sums(q: Any, weight: Any, outputs: int) -> Any:
        found = sums(q, weight, outputs)
        expected = fused_reference.int_sums(q, layouts.restore(weight, outputs, q.shape[1]), outputs)
        counted["products"] += 1
        counted["wrong"] += not torch.equal(found.sum(0), expected.sum(0))
        return found

    product.int_linear, product.int_sums = int_linear, int_sums


def watch_integers(module: Any, name: str, definition: Callable[..., Any], place: int) -> None:
    kernel = getattr(module, name)

    def run(*arguments: Any, **options: Any) -> Any:
        found, expected = kernel(*arguments, **options), definition(*arguments, **options)
        counted["integers"] += found[place].numel()
        counted["flipped"] += int((found[place] != expected[place]).sum())
        return found

    setattr(module, name, run)


def apart(one: torch.Tensor, other: torch.Tensor) -> float:
    return float((one - other).norm() / other.norm())


if __name__ == "__main__":
    torch.set_num_threads(1)
    parent, pack = sys.argv[1:]
    expected = chunk(pack, "reference")
    rounding = apart(expected, chunk(parent, "reference"))
    watched()
    found = apart(chunk(pack, "triton"), expected)
    sys.stdout.write(json.dumps({**counted, "from_reference": found, "from_float": rounding}))
