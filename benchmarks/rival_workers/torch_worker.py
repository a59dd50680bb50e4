"""oneDNN and zentorch as contenders of benchmarks/rivals.py, both through torch: the one named is given as an argument.

oneDNN computes what torch's dynamic quantization calls (`quantized.linear_dynamic`, in fp32, one scale for all
activations). zentorch's `dynamic_qlinear` has a scale per row and computes around it in bf16. Layers run eagerly.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from importlib.metadata import version

import numpy as np
import torch
from rival_cases import LAYER_EPS, RMS_EPS, Arrays, Case, load, rotary, rounded
from rival_serving import Contender, Task, serve
from torch import Tensor
from torch.nn.functional import gelu, layer_norm, rms_norm, scaled_dot_product_attention

Linear = Callable[[Tensor], Tensor]
MakeLinear = Callable[[np.ndarray, "np.ndarray | None"], Linear]


def onednn_linear(weight: np.ndarray, bias: np.ndarray | None = None) -> Linear:
    """In fp32."""
    integers, scale = rounded(weight, 8)
    zeros = torch.zeros(len(weight), dtype=torch.int64)
    scales = torch.tensor(scale[:, 0]).double()
    quantized = torch._make_per_channel_quantized_tensor(torch.tensor(integers), scales, zeros, 0)
    packed = torch.ops.quantized.linear_prepack(quantized, None if bias is None else torch.tensor(bias))
    return lambda x: torch.ops.quantized.linear_dynamic(x, packed)


def zentorch_linear(weight: np.ndarray, bias: np.ndarray | None = None) -> Linear:
    """In bf16. The integers stay: zentorch remembers by their address what it made of them."""
    rows_columns, scale = rounded(weight, 8)
    integers, scales = torch.tensor(rows_columns), torch.tensor(scale[:, 0])
    added = None if bias is None else torch.tensor(bias).bfloat16()
    # Weights that were packed before give wrong results with 4096 channels or more (2.13.0.2).
    ahead = weight.shape[1] < 4096
    prepack = torch.ops.zentorch.zentorch_weight_prepack_for_dynamic_qlinear
    packed = prepack(integers) if ahead else integers
    kept = (integers, packed)
    return lambda x: torch.ops.zentorch.zentorch_dynamic_qlinear(x, kept[1], scales, added, is_weight_prepacked=ahead)


def onednn_alone(task: Task) -> Contender:
    """The product of integers that are there already: one scale, and a zero point, since oneDNN reads u8."""
    arrays = load(task.case, task.folder)
    integers, scale = rounded(arrays["weight"], 8)
    x = torch.tensor(arrays["x"])
    step = float(x.abs().max()) / 127
    ready = ((x / step).round() + 128).clamp(0, 255).to(torch.uint8)
    packed = [torch.ops.onednn.qlinear_prepack(torch.tensor(integers), list(x.shape)) for _ in range(task.copies)]
    scales, zeros = torch.tensor(scale[:, 0]), torch.zeros(len(scale), dtype=torch.int32)

    @torch.inference_mode()
    def run(turn: int) -> Tensor:
        arguments = (ready, step, 128, packed[turn % len(packed)], scales, zeros, None)
        return torch.ops.onednn.qlinear_pointwise(*arguments, 1.0, 0, torch.bfloat16, "none", [], "")

    says = "int8, a scale per output; activations int8 as they are, without the activation step"
    return Contender(run, lambda: run(0).float().numpy(), says)


def make_onednn(task: Task) -> Mapping[str, Callable[[], Contender]]:
    says = "int8, a scale per output; activations int8, one scale"
    found = {"oneDNN int8": lambda: _contender(task, onednn_linear, torch.float32, says)}
    if task.case.kind == "product":
        found["oneDNN int8, product alone"] = lambda: onednn_alone(task)
    return found


def make_zentorch(task: Task) -> Mapping[str, Callable[[], Contender]]:
    says = "int8, a scale per output; activations int8, a scale per row"
    return {"zentorch int8": lambda: _contender(task, zentorch_linear, torch.bfloat16, says)}


def _contender(task: Task, linear: MakeLinear, dtype: torch.dtype, says: str) -> Contender:
    case = task.case
    arrays = [load(case, task.folder, index) for index in range(task.copies * case.layers)]
    layers = [LAYERS[case.kind](of_layer, case, linear, dtype) for of_layer in arrays]
    x = torch.tensor(arrays[0]["x"]).to(dtype)

    @torch.inference_mode()
    def run(turn: int) -> Tensor:
        first = turn % task.copies * case.layers
        y = x
        for layer in layers[first : first + case.layers]:
            y = layer(y)
        return y

    return Contender(run, lambda: run(0).float().numpy(), says)


def _product(arrays: Arrays, _case: Case, linear: MakeLinear, _dtype: torch.dtype) -> Linear:
    return linear(arrays["weight"], None)


def _gemma(arrays: Arrays, case: Case, linear: MakeLinear, dtype: torch.dtype) -> Linear:
    entry = linear(np.concatenate([arrays[name] for name in "qkv"]), None)
    mixing, gate, up, down = (linear(arrays[name], None) for name in ("o", "gate", "up", "down"))
    of = {name: torch.tensor(array).to(dtype) for name, array in arrays.items() if name not in case.matrices}
    cos, sin = (torch.tensor(table).to(dtype)[:, None] for table in rotary(case))
    sizes = [case.heads * case.head_dim, case.head_dim, case.head_dim]

    def rotated(x: Tensor) -> Tensor:
        first, second = x.view(case.rows, -1, case.head_dim).chunk(2, dim=-1)
        return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)

    def normed(x: Tensor, norm: str) -> Tensor:
        y = rms_norm(x, (case.width,), of[norm], RMS_EPS)
        return y + of[f"{norm}_shift"] if case.kind == "expert" else y

    def added(x: Tensor, y: Tensor, norm: str) -> Tensor:
        return torch.addcmul(x, y, of[f"{norm}_gate"]) if case.kind == "expert" else x + y

    def run(x: Tensor) -> Tensor:
        query, key, value = entry(normed(x, "norm1")).split(sizes, dim=1)
        # Queries that share a key are rows of one product.
        rows, key = rotated(query).view(1, 1, -1, case.head_dim), rotated(key).flatten(1)
        if case.prefix:
            key, value = torch.cat((of["keys"], key)), torch.cat((of["values"], value))
        mixed = scaled_dot_product_attention(rows, key[None, None], value[None, None])
        x = added(x, mixing(mixed.view(case.rows, -1)), "norm1")
        entered = normed(x, "norm2")
        return added(x, down(gelu(gate(entered), approximate="tanh") * up(entered)), "norm2")

    return run


def _vision(arrays: Arrays, case: Case, linear: MakeLinear, dtype: torch.dtype) -> Linear:
    entry = linear(*(np.concatenate([arrays[f"{name}{end}"] for name in "qkv"]) for end in ("", "_bias")))
    mixing, first, second = (linear(arrays[name], arrays[f"{name}_bias"]) for name in ("o", "fc1", "fc2"))
    of = {name: torch.tensor(array).to(dtype) for name, array in arrays.items() if name.startswith("norm")}
    shape = (case.pictures, case.rows // case.pictures, case.heads, case.head_dim)

    def normed(x: Tensor, norm: str) -> Tensor:
        return layer_norm(x, (case.width,), of[norm], of[f"{norm}_shift"], LAYER_EPS)

    def run(x: Tensor) -> Tensor:
        heads = (part.view(shape).transpose(1, 2) for part in entry(normed(x, "norm1")).chunk(3, dim=1))
        mixed = scaled_dot_product_attention(*heads).transpose(1, 2).reshape(case.rows, -1)
        x = x + mixing(mixed)
        return x + second(gelu(first(normed(x, "norm2")), approximate="tanh"))

    return run


LAYERS = {"product": _product, "language": _gemma, "expert": _gemma, "vision": _vision}

if __name__ == "__main__":
    tool = sys.argv[1]
    if tool == "zentorch":
        import zentorch  # noqa: F401  registers its operators
    else:
        torch.backends.quantized.engine = "onednn"
    packages = ("torch", "zentorch") if tool == "zentorch" else ("torch",)
    serve(make_zentorch if tool == "zentorch" else make_onednn, {name: version(name) for name in packages})
