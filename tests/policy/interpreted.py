"""Act once with a pack by Triton's kernels, interpreted, and hold every call against the reference; print what differs.

A program of its own, for Triton decides on interpreting when a kernel is defined: python interpreted.py FOLDER PACK
"""

from __future__ import annotations

import json
import os
import sys
from collections import Counter
from importlib import import_module
from typing import Any

os.environ["TRITON_INTERPRET"] = "1"

import torch

from vlapack import Policy
from vlapack.ops import layouts, reference
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
    activation = import_module("vlapack.ops.triton.activation")
    product = import_module("vlapack.ops.triton.product")
    quantize, linear = activation.quantize_activation, product.int_linear

    def quantize_activation(*arguments: Any) -> Any:
        found, expected = quantize(*arguments), reference.quantize_activation(*arguments)
        counted["integers"] += found[0].numel()
        counted["flipped"] += int((found[0] != expected[0]).sum())
        return found

    def int_linear(q: Any, s: Any, weight: Any, scale: Any, *rest: Any, **options: Any) -> Any:
        found = linear(q, s, weight, scale, *rest, **options)
        stored = layouts.restore(weight, len(scale), q.shape[1])
        counted["products"] += 1
        counted["wrong"] += not torch.equal(found, reference.int_linear(q, s, stored, scale, *rest, **options))
        return found

    activation.quantize_activation, product.int_linear = quantize_activation, int_linear


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
