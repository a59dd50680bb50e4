"""ggml as a contender of benchmarks/rivals.py: graphs as llama.cpp builds them, through the package ggml-python.

Q4_0 and Q8_0 are groups of 32 weights with an fp16 scale; ggml rounds activations to int8 in groups of 32. Q4_0 weights
lie in the buffer that repacks them for this CPU, as llama.cpp has them. Keys and values are fp16.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Mapping
from importlib.metadata import version
from typing import Any

import numpy as np
from ggml import ggml as g
from rival_cases import LAYER_EPS, RMS_EPS, ROPE_BASE, Arrays, Case, load
from rival_serving import Contender, Task, serve

GROUP = 32
TYPES = {"Q4_0": g.GGML_TYPE_Q4_0, "Q8_0": g.GGML_TYPE_Q8_0}
NEOX = 2
"""Rotary positions in the half-split layout."""
NODES = 4096
Node = Any
"""A pointer to a tensor."""


def make(task: Task) -> Mapping[str, Callable[[], Contender]]:
    return {f"ggml {kind}": lambda kind=kind: Stacks(task, kind).contender() for kind in TYPES}


class Weights:
    """Tensors that outlive a run: two contexts, one of them of weights that are repacked."""

    def __init__(self, kind: str, repacks: bool) -> None:
        self._kind = TYPES[kind]
        self.context, self._repacked = (_context() for _ in range(2))
        self._values: list[tuple[Node, np.ndarray]] = []
        self._where = self._repacked if repacks else self.context

    def plain(self, array: np.ndarray, kind: int = g.GGML_TYPE_F32) -> Node:
        """Hold an array, its last dimension first, as ggml counts."""
        sizes = (ctypes.c_int64 * array.ndim)(*reversed(array.shape))
        node = g.ggml_new_tensor(self.context, kind, array.ndim, sizes)
        self._values.append((node, np.ascontiguousarray(array)))
        return node

    def weight(self, array: np.ndarray) -> Node:
        """Round [N, K]; channels that do not fill a group are filled up with zeros, and so are a layer's rows."""
        rows, columns = (-size % GROUP for size in array.shape)
        padded = np.ascontiguousarray(np.pad(array, ((0, rows), (0, columns))))
        count, width = padded.shape
        node = g.ggml_new_tensor_2d(self._where, self._kind, width, count)
        blocks = np.empty(g.ggml_row_size(self._kind, width) * count, np.uint8)
        source = padded.ctypes.data_as(ctypes.POINTER(ctypes.c_float))
        g.ggml_quantize_chunk(self._kind, source, blocks.ctypes.data, 0, count, width, None)
        self._values.append((node, blocks))
        return node

    def place(self, backend: Any) -> None:
        """Allocate everything and copy the values there."""
        g.ggml_backend_alloc_ctx_tensors(self.context, backend)
        if self._where is self._repacked:
            g.ggml_backend_alloc_ctx_tensors_from_buft(self._repacked, _repacking(backend))
        for node, array in self._values:
            g.ggml_backend_tensor_set(node, array.ctypes.data, 0, array.nbytes)
        self._values.clear()


def _context() -> Any:
    size = g.ggml_tensor_overhead() * NODES + g.ggml_graph_overhead_custom(NODES, False)
    return g.ggml_init(g.ggml_init_params(mem_size=size, mem_buffer=None, no_alloc=True))


def _repacking(backend: Any) -> Any:
    """The CPU's buffer type that lays weights out for its kernels."""
    device = g.ggml_backend_get_device(backend)
    registry = g.ggml_backend_dev_backend_reg(device)
    found = g.ggml_backend_reg_get_proc_address(registry, b"ggml_backend_dev_get_extra_bufts")
    of_device = ctypes.CFUNCTYPE(ctypes.POINTER(ctypes.c_void_p), ctypes.c_void_p)(found)(device)
    index = 0
    while of_device[index]:
        if b"REPACK" in g.ggml_backend_buft_name(of_device[index]):
            return of_device[index]
        index += 1
    raise RuntimeError("this build of ggml repacks no weights")


class Stacks:
    """The graphs of a case, one for each set of weights, with one buffer between products for all of them."""

    def __init__(self, task: Task, kind: str) -> None:
        case = self._case = task.case
        self._says = f"{kind}: int{kind[1]}, groups of {GROUP}; activations int8, groups of {GROUP}"
        self._backend = g.ggml_backend_cpu_init()
        g.ggml_backend_cpu_set_n_threads(self._backend, task.threads)
        self._buffer = g.ggml_gallocr_new(g.ggml_backend_get_default_buffer_type(self._backend))
        self._graphs, self._weights = [], []
        for copy in range(task.copies):
            weights = Weights(kind, repacks=kind == "Q4_0")
            context = _context()
            graph = g.ggml_new_graph_custom(context, NODES, False)
            build = Build(context, graph, weights, case)
            first = load(case, task.folder)
            y = build.entry(first)
            for index in range(case.layers):
                y = build.layer(y, load(case, task.folder, copy * case.layers + index))
            g.ggml_set_output(y)
            g.ggml_build_forward_expand(graph, y)
            weights.place(self._backend)
            if not g.ggml_gallocr_alloc_graph(self._buffer, graph):
                raise RuntimeError("ggml has no memory for the graph")
            self._graphs.append((graph, y))
            self._weights.append((weights, context))

    def run(self, turn: int) -> None:
        graph, _ = self._graphs[turn % len(self._graphs)]
        if g.ggml_backend_graph_compute(self._backend, graph) != g.GGML_STATUS_SUCCESS:
            raise RuntimeError("ggml could not compute the graph")

    def contender(self) -> Contender:
        def output() -> np.ndarray:
            self.run(0)
            node = self._graphs[0][1]
            found = np.empty((self._case.rows, node.contents.ne[0]), np.float32)
            g.ggml_backend_tensor_get(node, found.ctypes.data, 0, found.nbytes)
            return found[:, : self._case.inner if self._case.kind == "product" else self._case.width]

        return Contender(self.run, output, self._says)


class Build:
    """Puts a case's layers into a graph."""

    def __init__(self, context: Any, graph: Any, weights: Weights, case: Case) -> None:
        self._c, self._graph, self._weights, self._case = context, graph, weights, case

    def entry(self, arrays: Arrays) -> Node:
        case = self._case
        # A product's input is filled up like its weight; the stream's width always fills its groups.
        self._positions = self._weights.plain(
            np.arange(case.prefix, case.prefix + case.rows, dtype=np.int32), g.GGML_TYPE_I32
        )
        return self._weights.plain(np.pad(arrays["x"], ((0, 0), (0, -case.width % GROUP))))

    def layer(self, x: Node, arrays: Arrays) -> Node:
        if self._case.kind == "product":
            return g.ggml_mul_mat(self._c, self._weights.weight(arrays["weight"]), x)
        return self._vision(x, arrays) if self._case.kind == "vision" else self._gemma(x, arrays)

    def _times(self, x: Node, arrays: Arrays, *names: str) -> Node:
        weight = np.concatenate([arrays[name] for name in names])
        y = g.ggml_mul_mat(self._c, self._weights.weight(weight), x)
        if f"{names[0]}_bias" not in arrays:
            return y
        bias = np.concatenate([arrays[f"{name}_bias"] for name in names])
        return g.ggml_add(self._c, y, self._weights.plain(np.pad(bias, (0, -len(bias) % GROUP))))

    def _scaled(self, x: Node, arrays: Arrays, norm: str) -> Node:
        y = g.ggml_mul(self._c, x, self._weights.plain(arrays[norm]))
        shift = arrays.get(f"{norm}_shift")
        return y if shift is None else g.ggml_add(self._c, y, self._weights.plain(shift))

    def _part(self, x: Node, first: int, heads: int, width: int) -> Node:
        """Look at some heads of [M, …] as [M, heads, width]."""
        size = ctypes.sizeof(ctypes.c_float)
        rows = x.contents.ne[1]
        return g.ggml_view_3d(self._c, x, width, heads, rows, width * size, x.contents.nb[1], first * width * size)

    def _gemma(self, x: Node, arrays: Arrays) -> Node:
        c, case = self._c, self._case
        rows, heads, width = case.rows, case.heads, case.head_dim

        def normed(x: Node, norm: str) -> Node:
            return self._scaled(g.ggml_rms_norm(c, x, RMS_EPS), arrays, norm)

        def added(x: Node, y: Node, norm: str) -> Node:
            gate = arrays.get(f"{norm}_gate")
            return g.ggml_add(c, x, y if gate is None else g.ggml_mul(c, y, self._weights.plain(gate)))

        def turned(x: Node) -> Node:
            options = (width, NEOX, 0, ROPE_BASE, 1.0, 0.0, 1.0, 0.0, 0.0)
            return g.ggml_rope_ext(c, x, self._positions, None, *options)

        merged = self._times(normed(x, "norm1"), arrays, "q", "k", "v")
        query = turned(self._part(merged, 0, heads, width))
        own = turned(self._part(merged, heads, 1, width)), self._part(merged, heads + 1, 1, width)
        caches = [self._kept(arrays.get(name), part) for name, part in zip(("keys", "values"), own, strict=True)]
        mixed = self._attended(g.ggml_permute(c, query, 0, 2, 1, 3), *caches)
        x = added(x, self._times(g.ggml_reshape_2d(c, mixed, heads * width, rows), arrays, "o"), "norm1")
        entered = normed(x, "norm2")
        gate, up = (self._times(entered, arrays, name) for name in ("gate", "up"))
        return added(x, self._times(g.ggml_geglu_split(c, gate, up), arrays, "down"), "norm2")

    def _kept(self, before: np.ndarray | None, own: Node) -> Node:
        """Write own keys or values [M, 1, width] behind those of the prefix, in fp16."""
        c, case = self._c, self._case
        whole = np.zeros((1, case.prefix + case.rows, case.head_dim), np.float16)
        if before is not None:
            whole[0, : case.prefix] = before
        cache = self._weights.plain(whole, g.GGML_TYPE_F16)
        size = ctypes.sizeof(ctypes.c_uint16) * case.head_dim
        behind = g.ggml_view_3d(c, cache, case.head_dim, 1, case.rows, size, size, size * case.prefix)
        g.ggml_build_forward_expand(self._graph, g.ggml_cpy(c, own, behind))
        return cache

    def _attended(self, query: Node, key: Node, value: Node) -> Node:
        """Attend from [heads, M, width] to keys and values, into [M, heads, width]: the faster of ggml's two ways."""
        c, scale = self._c, self._case.head_dim**-0.5
        if self._case.kind != "vision":
            return g.ggml_flash_attn_ext(c, query, key, value, None, scale, 0.0, 0.0)
        weights = g.ggml_soft_max_ext(c, g.ggml_mul_mat(c, key, query), None, scale, 0.0)
        mixed = g.ggml_mul_mat(c, g.ggml_cont(c, g.ggml_transpose(c, value)), weights)
        return g.ggml_cont(c, g.ggml_permute(c, mixed, 0, 2, 1, 3))

    def _vision(self, x: Node, arrays: Arrays) -> Node:
        c, case = self._c, self._case
        heads, width, pictures = case.heads, case.head_dim, case.pictures

        def normed(x: Node, norm: str) -> Node:
            return self._scaled(g.ggml_norm(c, x, LAYER_EPS), arrays, norm)

        merged = self._times(normed(x, "norm1"), arrays, "q", "k", "v")
        size, row = ctypes.sizeof(ctypes.c_float), merged.contents.nb[1]
        tokens = case.rows // pictures

        def part(number: int) -> Node:
            shape = (width, heads, tokens, pictures, width * size, row, row * tokens)
            seen = g.ggml_view_4d(c, merged, *shape, number * heads * width * size)
            return g.ggml_permute(c, seen, 0, 2, 1, 3)

        key, value = (g.ggml_cast(c, part(number), g.GGML_TYPE_F16) for number in (1, 2))
        mixed = g.ggml_reshape_2d(c, self._attended(part(0), key, value), heads * width, case.rows)
        x = g.ggml_add(c, x, self._times(mixed, arrays, "o"))
        inner = g.ggml_gelu(c, self._times(normed(x, "norm2"), arrays, "fc1"))
        return g.ggml_add(c, x, self._times(inner, arrays, "fc2"))


if __name__ == "__main__":
    serve(make, {"ggml-python": version("ggml-python"), "ggml": g.ggml_version().decode()})
