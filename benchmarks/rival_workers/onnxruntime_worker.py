"""onnxruntime as a contender of benchmarks/rivals.py: what `quantize_dynamic` and its 4-bit converter leave in a graph.

int8 is DynamicQuantizeLinear and MatMulInteger, which onnxruntime fuses; int4 is MatMulNBits, whose accuracy level 4
rounds activations to int8. All sessions share one thread pool, so that no idle pool of another copy spins.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib.metadata import version

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper
from rival_cases import LAYER_EPS, RMS_EPS, Arrays, Case, load, rotary, rounded
from rival_serving import Contender, Task, serve

GROUP = 128
"""Faster than 32, onnxruntime's default."""


class Graph:
    """An ONNX graph under construction; weights are read by its methods and outputs are names."""

    def __init__(self, bits: int) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []
        self._bits = bits

    def op(self, kind: str, *inputs: str, count: int = 1, domain: str = "", **attributes: object) -> list[str]:
        outputs = [f"t{len(self.nodes)}_{index}" for index in range(count)]
        self.nodes.append(helper.make_node(kind, list(inputs), outputs, domain=domain, **attributes))
        return outputs

    def one(self, kind: str, *inputs: str, domain: str = "", **attributes: object) -> str:
        return self.op(kind, *inputs, domain=domain, **attributes)[0]

    def constant(self, array: np.ndarray) -> str:
        self.constants.append(numpy_helper.from_array(np.ascontiguousarray(array), f"c{len(self.constants)}"))
        return self.constants[-1].name

    def times(self, x: str, weight: np.ndarray, bias: np.ndarray | None = None) -> str:
        """x Wᵀ + bias."""
        rows, columns = weight.shape
        if self._bits == 8:
            integers, scale = rounded(weight, 8)
            q, s, zero = self.op("DynamicQuantizeLinear", x, count=3)
            sums = self.one("Cast", self.one("MatMulInteger", q, self.constant(integers.T), zero), to=TensorProto.FLOAT)
            y = self.one("Mul", sums, self.one("Mul", s, self.constant(scale[:, 0])))
        else:
            padded = np.pad(weight, ((0, 0), (0, -columns % GROUP)))
            integers, scale = rounded(padded, 4, GROUP)
            unsigned = (integers + 8).astype(np.uint8).reshape(rows, -1, GROUP)
            nibbles, scales = unsigned[..., 0::2] | unsigned[..., 1::2] << 4, scale.ravel()
            sizes = {"K": columns, "N": rows, "bits": 4, "block_size": GROUP, "accuracy_level": 4}
            arguments = (self.constant(nibbles), self.constant(scales))
            y = self.one("MatMulNBits", x, *arguments, domain="com.microsoft", **sizes)
        return y if bias is None else self.one("Add", y, self.constant(bias))

    def shaped(self, x: str, *shape: int) -> str:
        return self.one("Reshape", x, self.constant(np.array(shape, np.int64)))

    def session(self, x: str, y: str, case: Case) -> onnxruntime.InferenceSession:
        columns = case.inner if case.kind == "product" else case.width
        inputs, outputs = (
            [helper.make_tensor_value_info(name, TensorProto.FLOAT, [case.rows, count])]
            for name, count in ((x, case.width), (y, columns))
        )
        graph = helper.make_graph(self.nodes, "case", inputs, outputs, self.constants)
        sets = [helper.make_opsetid("", 23), helper.make_opsetid("com.microsoft", 1)]
        options = onnxruntime.SessionOptions()
        options.use_per_session_threads = False
        model = helper.make_model(graph, opset_imports=sets, ir_version=11).SerializeToString()
        return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def make(task: Task) -> Mapping[str, Callable[[], Contender]]:
    return {f"onnxruntime int{bits}": lambda bits=bits: _contender(task, bits) for bits in (8, 4)}


def _contender(task: Task, bits: int) -> Contender:
    sessions = [_session(task, bits, copy * task.case.layers) for copy in range(task.copies)]
    feed = {"x": np.array(load(task.case, task.folder)["x"])}

    def run(turn: int) -> list[np.ndarray]:
        return sessions[turn % len(sessions)].run(None, feed)

    says = (
        "int8, a scale per output; activations int8, one scale"
        if bits == 8
        else f"int4, groups of {GROUP}; activations int8, groups of {GROUP}"
    )
    return Contender(run, lambda: run(0)[0], says)


def _session(task: Task, bits: int, first: int) -> onnxruntime.InferenceSession:
    graph, y = Graph(bits), "x"
    for index in range(first, first + task.case.layers):
        y = LAYERS[task.case.kind](graph, y, load(task.case, task.folder, index), task.case)
    return graph.session("x", y, task.case)


def _gemma(graph: Graph, x: str, arrays: Arrays, case: Case) -> str:
    rows, heads, width = case.rows, case.heads, case.head_dim

    def normed(x: str, norm: str) -> str:
        y = graph.one("RMSNormalization", x, graph.constant(arrays[norm]), epsilon=RMS_EPS)
        return graph.one("Add", y, graph.constant(arrays[f"{norm}_shift"])) if case.kind == "expert" else y

    def added(x: str, y: str, norm: str) -> str:
        gated = graph.one("Mul", y, graph.constant(arrays[f"{norm}_gate"])) if case.kind == "expert" else y
        return graph.one("Add", x, gated)

    def rotated(x: str, count: int) -> str:
        cos, sin = (graph.constant(table[None]) for table in rotary(case))
        return graph.one("RotaryEmbedding", graph.shaped(x, 1, rows, count * width), cos, sin, num_heads=count)

    merged = np.concatenate([arrays[name] for name in "qkv"])
    sizes = graph.constant(np.array([heads * width, width, width]))
    query, key, value = graph.op("Split", graph.times(normed(x, "norm1"), merged), sizes, count=3, axis=1)
    query = graph.shaped(rotated(query, heads), rows * heads, width)
    key, value = graph.shaped(rotated(key, 1), rows, width), graph.shaped(value, rows, width)
    if case.prefix:
        key, value = (
            graph.one("Concat", graph.constant(arrays[name]), own, axis=0)
            for name, own in (("keys", key), ("values", value))
        )
    # Queries that share a key are rows of one product; the operator Attention would repeat the keys.
    scaled = graph.one("Mul", query, graph.constant(np.float32(width**-0.5)))
    logits = graph.one("MatMul", scaled, graph.one("Transpose", key, perm=[1, 0]))
    mixed = graph.shaped(graph.one("MatMul", graph.one("Softmax", logits, axis=-1), value), rows, heads * width)
    x = added(x, graph.times(mixed, arrays["o"]), "norm1")
    entered = normed(x, "norm2")
    gate, up = (graph.times(entered, arrays[name]) for name in ("gate", "up"))
    inner = graph.one("Mul", graph.one("Gelu", gate, approximate="tanh"), up)
    return added(x, graph.times(inner, arrays["down"]), "norm2")


def _vision(graph: Graph, x: str, arrays: Arrays, case: Case) -> str:
    def normed(x: str, norm: str) -> str:
        weight, shift = graph.constant(arrays[norm]), graph.constant(arrays[f"{norm}_shift"])
        return graph.one("LayerNormalization", x, weight, shift, epsilon=LAYER_EPS)

    weight, bias = (np.concatenate([arrays[f"{name}{end}"] for name in "qkv"]) for end in ("", "_bias"))
    parts = graph.op("Split", graph.times(normed(x, "norm1"), weight, bias), count=3, axis=1, num_outputs=3)
    shaped = [graph.shaped(part, case.pictures, -1, case.width) for part in parts]
    mixed = graph.one("MultiHeadAttention", *shaped, domain="com.microsoft", num_heads=case.heads)
    x = graph.one("Add", x, graph.times(graph.shaped(mixed, case.rows, case.width), arrays["o"], arrays["o_bias"]))
    inner = graph.times(normed(x, "norm2"), arrays["fc1"], arrays["fc1_bias"])
    inner = graph.one("Gelu", inner, approximate="tanh")
    return graph.one("Add", x, graph.times(inner, arrays["fc2"], arrays["fc2_bias"]))


LAYERS = {
    "product": lambda graph, x, arrays, case: graph.times(x, arrays["weight"]),
    "language": _gemma,
    "expert": _gemma,
    "vision": _vision,
}

if __name__ == "__main__":
    import os

    onnxruntime.set_global_thread_pool_sizes(int(os.environ["OMP_NUM_THREADS"]), 1)
    serve(make, {"onnxruntime": version("onnxruntime"), "onnx": version("onnx")})
