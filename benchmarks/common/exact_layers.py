"""The cases of benchmarks/rivals.py in float64, which says how far every contender is off."""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import gelu, layer_norm, linear, scaled_dot_product_attention

sys.path.insert(0, str(Path(__file__).parents[1] / "rival_workers"))
from rival_cases import LAYER_EPS, RMS_EPS, Case, load, rotary

Tensors = dict[str, Tensor]


def exact(case: Case, folder: Path) -> Tensor:
    """Return what a case's first layers compute of its input, [M, N] or [M, width] float64, from the float weights."""
    x = _tensors(case, folder, 0)["x"]
    for index in range(case.layers):
        x = LAYERS[case.kind](x, _tensors(case, folder, index), case)
    return x


def relative_error(found: Tensor, wanted: Tensor, case: Case) -> float:
    """Return ‖found − wanted‖ / ‖wanted‖; of layers, of what a norm without weights makes of the stream."""
    found = found.double()
    if case.kind != "product":
        found, wanted = (x / x.square().mean(1, keepdim=True).sqrt() for x in (found, wanted))
    return float((found - wanted).norm() / wanted.norm())


def _tensors(case: Case, folder: Path, index: int) -> Tensors:
    return {name: torch.tensor(array).double() for name, array in load(case, folder, index).items()}


def _product(x: Tensor, of: Tensors, _case: Case) -> Tensor:
    return linear(x, of["weight"])


def _rotated(x: Tensor, case: Case) -> Tensor:
    cos, sin = (torch.tensor(table).double() for table in rotary(case))
    first, second = x.chunk(2, dim=-1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)


def _gemma(x: Tensor, of: Tensors, case: Case) -> Tensor:
    def normed(x: Tensor, norm: str) -> Tensor:
        y = x * torch.rsqrt(x.square().mean(1, keepdim=True) + RMS_EPS) * of[norm]
        return y + of[f"{norm}_shift"] if case.kind == "expert" else y

    def gate(norm: str) -> Tensor:
        return of[f"{norm}_gate"] if case.kind == "expert" else torch.ones(case.width).double()

    entered = normed(x, "norm1")
    query = linear(entered, of["q"]).view(case.rows, case.heads, -1).transpose(0, 1)
    key, value = _rotated(linear(entered, of["k"]), case), linear(entered, of["v"])
    if case.prefix:
        key, value = torch.cat((of["keys"], key)), torch.cat((of["values"], value))
    mixed = scaled_dot_product_attention(_rotated(query, case), key[None], value[None]).transpose(0, 1).flatten(1)
    x = x + linear(mixed, of["o"]) * gate("norm1")
    entered = normed(x, "norm2")
    inner = gelu(linear(entered, of["gate"]), approximate="tanh") * linear(entered, of["up"])
    return x + linear(inner, of["down"]) * gate("norm2")


def _vision(x: Tensor, of: Tensors, case: Case) -> Tensor:
    def times(x: Tensor, name: str) -> Tensor:
        return linear(x, of[name], of[f"{name}_bias"])

    def normed(x: Tensor, norm: str) -> Tensor:
        return layer_norm(x, (case.width,), of[norm], of[f"{norm}_shift"], LAYER_EPS)

    entered = normed(x, "norm1")
    shape = (case.pictures, case.rows // case.pictures, case.heads, case.head_dim)
    heads = (times(entered, name).view(shape).transpose(1, 2) for name in "qkv")
    x = x + times(scaled_dot_product_attention(*heads).transpose(1, 2).reshape(case.rows, -1), "o")
    return x + times(gelu(times(normed(x, "norm2"), "fc1"), approximate="tanh"), "fc2")


LAYERS = {"product": _product, "language": _gemma, "expert": _gemma, "vision": _vision}
