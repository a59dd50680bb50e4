"""What benchmarks/rivals.py measures: products and layers of π0.5, their float weights and their inputs.

Every worker reads this file in an environment of its own, so it needs nothing but numpy. Weights are normal with
variance 1 / K, inputs are normal. The parent draws them once into a folder. A case's layers, and their copies, are the
same matrices with their rows rolled: different layers, of which nobody can share one.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

Kind = Literal["product", "language", "vision", "expert"]
Arrays = dict[str, np.ndarray]
RMS_EPS = LAYER_EPS = 1e-6
ROPE_BASE = 10_000.0


@dataclass(frozen=True)
class Case:
    """One product, or a stack of layers that one call runs.

    Attributes:
        name: of it.
        part: where it belongs, of `RUNS`.
        kind: what it is.
        rows: M, tokens.
        width: of the stream; K of a product.
        inner: width of the MLP; N of a product.
        heads: of the queries; keys and values have one in Gemma and as many in SigLIP.
        head_dim: of each.
        prefix: keys that the expert attends to besides its own.
        pictures: into which the rows of the vision tower fall.
        layers: one call runs so many.
        times: how many of it a layer has.
    """

    name: str
    part: str
    kind: Kind
    rows: int
    width: int
    inner: int
    heads: int = 0
    head_dim: int = 0
    prefix: int = 0
    pictures: int = 1
    layers: int = 1
    times: int = 1

    @property
    def matrices(self) -> dict[str, tuple[int, int]]:
        """Name → [N, K] of a layer's weights."""
        width, inner, mixed = self.width, self.inner, self.heads * self.head_dim
        if self.kind == "product":
            return {"weight": (inner, width)}
        keys = mixed if self.kind == "vision" else self.head_dim
        attention = {"q": (mixed, width), "k": (keys, width), "v": (keys, width), "o": (width, mixed)}
        if self.kind == "vision":
            return {**attention, "fc1": (inner, width), "fc2": (width, inner)}
        return {**attention, "gate": (inner, width), "up": (inner, width), "down": (width, inner)}

    @property
    def weights(self) -> int:
        """Elements of all layers' matrices."""
        return self.layers * sum(rows * columns for rows, columns in self.matrices.values())

    def copies(self, cold: int) -> int:
        """How many sets of the layers a contender walks through, so that int4 weights fill `cold` bytes."""
        return -(-cold // (self.weights // 2))

    def to_dict(self) -> dict[str, Any]:
        """Return what JSON takes."""
        return asdict(self)


RUNS = {"language": 18, "vision": 27, "expert, 10": 180, "expert, 50": 0}
"""Part → how often a chunk of `pi05_libero` with ten denoise steps runs one of its layers."""
GEMMA = ((2048, 2560, 1), (2048, 2048, 1), (2048, 16384, 2), (16384, 2048, 1))
SIGLIP = ((1152, 3456, 1), (1152, 1152, 1), (1152, 4304, 1), (4304, 1152, 1))
EXPERT = ((1024, 2560, 1), (2048, 1024, 1), (1024, 4096, 2), (4096, 1024, 1))
"""(K, N, how many of them a layer has); q, k and v, which read the same input, are one."""


def products() -> list[Case]:
    """Return π0.5's linears."""
    parts = ((544, GEMMA), (512, SIGLIP), (10, EXPERT), (50, EXPERT))
    return [
        Case(f"{part}: {rows} x {inputs} x {outputs}", part, "product", rows, inputs, outputs, times=times)
        for part, (rows, shapes) in zip(RUNS, parts, strict=True)
        for inputs, outputs, times in shapes
    ]


def layers() -> list[Case]:
    """Return π0.5's layers: Gemma 2B's, SigLIP so400m's of two pictures, the action expert's with both horizons."""
    heads: dict[str, Any] = {"heads": 8, "head_dim": 256}
    expert: dict[str, Any] = {**heads, "prefix": 544, "layers": 18}
    language, vision, *experts = RUNS
    return [
        Case("language layer", language, "language", 544, 2048, 16384, **heads, layers=2),
        Case("vision layer", vision, "vision", 512, 1152, 4304, heads=16, head_dim=72, pictures=2, layers=4),
        *(
            Case(f"expert layer, {rows} actions", part, "expert", rows, 1024, 4096, **expert)
            for part, rows in zip(experts, (10, 50), strict=True)
        ),
    ]


def draw(case: Case, folder: Path) -> None:
    """Write the first layer's weights and the input of a case into a folder, which is made."""
    folder.mkdir(parents=True)
    random = np.random.default_rng(0)

    def normal(*shape: int) -> np.ndarray:
        return random.standard_normal(shape, dtype=np.float32)

    arrays: Arrays = {name: normal(*shape) / np.float32(shape[1] ** 0.5) for name, shape in case.matrices.items()}
    arrays["x"] = normal(case.rows, case.width)
    for norm in ("norm1", "norm2") if case.kind != "product" else ():
        arrays[norm] = 1 + normal(case.width) / 4
        if case.kind == "vision":
            arrays[f"{norm}_shift"] = normal(case.width) / 4
        if case.kind == "expert":
            arrays[f"{norm}_shift"], arrays[f"{norm}_gate"] = normal(case.width) / 4, normal(case.width) / 2
    if case.kind == "vision":
        arrays |= {f"{name}_bias": normal(rows) / 4 for name, (rows, _) in case.matrices.items()}
    if case.kind == "expert":
        arrays["keys"], arrays["values"] = normal(case.prefix, case.head_dim), normal(case.prefix, case.head_dim)
    for name, array in arrays.items():
        np.save(folder / f"{name}.npy", array)


def load(case: Case, folder: Path, index: int = 0) -> Arrays:
    """Read a layer's arrays, and the input `x` [M, width]; the layer of this index has its rows rolled by as many."""
    arrays = {file.stem: np.load(file, mmap_mode="r") for file in folder.glob("*.npy")}
    rolled = {
        name: np.roll(arrays[name], index, axis=0) if index else np.asarray(arrays[name]) for name in case.matrices
    }
    return {name: rolled.get(name, np.asarray(array)) for name, array in arrays.items()}


def rotary(case: Case) -> tuple[np.ndarray, np.ndarray]:
    """Return cosines and sines [M, head_dim / 2] of the tokens' positions, which follow the prefix."""
    exponents = np.arange(0, case.head_dim, 2, dtype=np.float32) / case.head_dim
    angles = np.arange(case.prefix, case.prefix + case.rows, dtype=np.float32)[:, None] * (1 / ROPE_BASE**exponents)
    return np.cos(angles), np.sin(angles)


def rounded(weight: np.ndarray, bits: int, group: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Round [N, K] to nearest with symmetric scales, as the tools' own converters do.

    Returns:
        Integers [N, K] int8, and scales [N, G] fp32.
    """
    rows, columns = weight.shape
    groups = weight.reshape(rows, -1, group or columns)
    most = 2 ** (bits - 1) - 1
    scale = np.maximum(np.abs(groups).max(2, keepdims=True), 1e-12) / most
    integers = np.rint(groups / scale).clip(-most - 1, most).astype(np.int8)
    return integers.reshape(rows, columns), scale[:, :, 0].astype(np.float32)
