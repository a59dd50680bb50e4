"""OpenVINO as a contender of benchmarks/rivals.py: compressed weights, activations rounded by its CPU plugin.

The graphs are those that NNCF's `compress_weights` leaves behind a converted model: integers, a scale, a MatMul in
float, which the plugin computes in integers where `DYNAMIC_QUANTIZATION_GROUP_SIZE` lets it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib.metadata import version

import numpy as np
import openvino as ov
from openvino import opset15 as op
from rival_cases import LAYER_EPS, RMS_EPS, Arrays, Case, load, rotary, rounded
from rival_serving import Contender, Task, serve

GROUP = 128
"""Of int4 weights, as NNCF's default, and of the activations: the fastest of 32, 128 and whole rows."""


def make(task: Task) -> Mapping[str, Callable[[], Contender]]:
    return {f"OpenVINO int{bits}": lambda bits=bits: _contender(task, bits) for bits in (8, 4)}


def _contender(task: Task, bits: int) -> Contender:
    core = ov.Core()
    settings = {
        "INFERENCE_NUM_THREADS": task.threads,
        "PERFORMANCE_HINT": "LATENCY",
        "DYNAMIC_QUANTIZATION_GROUP_SIZE": GROUP,
        # A layer computes attention and what is elementwise in bf16, as our layers do; a product alone has neither.
        "INFERENCE_PRECISION_HINT": "f32" if task.case.kind == "product" else "bf16",
    }
    requests = []
    for copy in range(task.copies):
        model = _model(task, bits, copy * task.case.layers)
        requests.append(core.compile_model(model, "CPU", settings).create_infer_request())
        requests[-1].set_input_tensor(ov.Tensor(np.array(load(task.case, task.folder)["x"])))

    def output() -> np.ndarray:
        requests[0].infer()
        return np.array(requests[0].get_output_tensor().data)

    weights = "int8, a scale per output" if bits == 8 else f"int4, groups of {GROUP}"
    return Contender(
        lambda turn: requests[turn % len(requests)].infer(), output, f"{weights}; activations int8, groups of {GROUP}"
    )


def _model(task: Task, bits: int, first: int) -> ov.Model:
    case = task.case
    x = entry = op.parameter([case.rows, case.width], np.float32)
    for index in range(first, first + case.layers):
        arrays = load(case, task.folder, index)
        x = LAYERS[case.kind](x, arrays, case, bits)
    return ov.Model([x], [entry], case.name)


def _times(x: ov.Output, weight: np.ndarray, bits: int, bias: np.ndarray | None = None) -> ov.Output:
    """x Wᵀ + bias with a compressed weight; int8 where groups do not divide the channels, as NNCF falls back."""
    rows, columns = weight.shape
    if bits == 8 or columns % GROUP:
        integers, scale = rounded(weight, 8)
        wide = op.multiply(op.convert(op.constant(integers), "f16"), op.constant(scale.astype(np.float16)))
    else:
        integers, scale = rounded(weight, 4, GROUP)
        unsigned = (integers + 8).astype(np.uint8).ravel()
        shape = [rows, columns // GROUP, GROUP]
        nibbles = ov.Tensor(unsigned[0::2] | unsigned[1::2] << 4, ov.Shape(shape), ov.Type.u4)
        eight = ov.Tensor(np.array([8], np.uint8), ov.Shape([1, 1, 1]), ov.Type.u4)
        integers4, zero = (op.constant(tensor, shared_memory=False) for tensor in (nibbles, eight))
        centered = op.subtract(op.convert(integers4, "f16"), op.convert(zero, "f16"))
        scaled = op.multiply(centered, op.constant(scale[:, :, None].astype(np.float16)))
        wide = op.reshape(scaled, op.constant(np.array([rows, columns])), False)
    y = op.matmul(x, op.convert(wide, "f32"), False, True)
    return y if bias is None else op.add(y, op.constant(bias))


def _shaped(x: ov.Output, *shape: int) -> ov.Output:
    return op.reshape(x, op.constant(np.array(shape)), False)


def _turned(x: ov.Output, *order: int) -> ov.Output:
    return op.transpose(x, op.constant(np.array(order)))


def _mean(x: ov.Output) -> ov.Output:
    return op.reduce_mean(x, op.constant(np.array([-1])), True)


def _rms(x: ov.Output, weight: np.ndarray) -> ov.Output:
    size = op.sqrt(op.add(_mean(op.power(x, np.float32(2))), np.float32(RMS_EPS)))
    return op.multiply(op.multiply(x, op.divide(np.float32(1), size)), op.constant(weight[None]))


def _rotated(x: ov.Output, case: Case) -> ov.Output:
    """Turn [M, heads, D]."""
    cos, sin = (np.concatenate([table, table], 1)[:, None] for table in rotary(case))
    first, second = op.split(x, op.constant(np.int64(2)), 2).outputs()
    swapped = op.concat([op.multiply(second, np.float32(-1)), first], 2)
    return op.add(op.multiply(x, op.constant(cos)), op.multiply(swapped, op.constant(sin)))


def _gemma(x: ov.Output, arrays: Arrays, case: Case, bits: int) -> ov.Output:
    rows, heads, width = case.rows, case.heads, case.head_dim

    def normed(x: ov.Output, norm: str) -> ov.Output:
        y = _rms(x, arrays[norm])
        return op.add(y, op.constant(arrays[f"{norm}_shift"][None])) if case.kind == "expert" else y

    def added(x: ov.Output, y: ov.Output, norm: str) -> ov.Output:
        gated = op.multiply(y, op.constant(arrays[f"{norm}_gate"][None])) if case.kind == "expert" else y
        return op.add(x, gated)

    entered = normed(x, "norm1")
    merged = np.concatenate([arrays[name] for name in "qkv"])
    sizes = op.constant(np.array([heads * width, width, width]))
    query, key, value = op.variadic_split(_times(entered, merged, bits), op.constant(np.int64(1)), sizes).outputs()
    query = _shaped(_rotated(_shaped(query, rows, heads, width), case), 1, 1, rows * heads, width)
    key = _shaped(_rotated(_shaped(key, rows, 1, width), case), 1, 1, rows, width)
    value = _shaped(value, 1, 1, rows, width)
    if case.prefix:
        before = (op.constant(arrays[name][None, None]) for name in ("keys", "values"))
        key, value = (op.concat([past, own], 2) for past, own in zip(before, (key, value), strict=True))
    mixed = _shaped(op.scaled_dot_product_attention(query, key, value), rows, heads * width)
    x = added(x, _times(mixed, arrays["o"], bits), "norm1")
    entered = normed(x, "norm2")
    gate, up = (_times(entered, arrays[name], bits) for name in ("gate", "up"))
    return added(x, _times(op.multiply(op.gelu(gate, "tanh"), up), arrays["down"], bits), "norm2")


def _vision(x: ov.Output, arrays: Arrays, case: Case, bits: int) -> ov.Output:
    pictures, heads, width = case.pictures, case.heads, case.head_dim

    def normed(x: ov.Output, norm: str) -> ov.Output:
        y = op.mvn(x, op.constant(np.array([-1])), True, LAYER_EPS, "inside_sqrt")
        scaled = op.multiply(y, op.constant(arrays[norm][None]))
        return op.add(scaled, op.constant(arrays[f"{norm}_shift"][None]))

    merged = (np.concatenate([arrays[f"{name}{end}"] for name in "qkv"]) for end in ("", "_bias"))
    weight, bias = merged
    parts = op.split(_times(normed(x, "norm1"), weight, bits, bias[None]), op.constant(np.int64(1)), 3).outputs()
    shaped = (_turned(_shaped(part, pictures, -1, heads, width), 0, 2, 1, 3) for part in parts)
    mixed = _shaped(_turned(op.scaled_dot_product_attention(*shaped), 0, 2, 1, 3), case.rows, heads * width)
    x = op.add(x, _times(mixed, arrays["o"], bits, arrays["o_bias"][None]))
    inner = op.gelu(_times(normed(x, "norm2"), arrays["fc1"], bits, arrays["fc1_bias"][None]), "tanh")
    return op.add(x, _times(inner, arrays["fc2"], bits, arrays["fc2_bias"][None]))


LAYERS = {
    "product": lambda x, arrays, case, bits: _times(x, arrays["weight"], bits),
    "language": _gemma,
    "expert": _gemma,
    "vision": _vision,
}

if __name__ == "__main__":
    serve(make, {"openvino": version("openvino")})
