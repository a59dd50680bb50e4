"""Milliseconds of a layer's product, by its shape, its rows and its bits: measured once per machine.

The table is in the user's cache folder, one file for all that decides a time: CPU, instructions, engine, threads, torch
and vlapack. What it lacks is measured when it is asked for, with the real layer on random inputs.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vlapack import __version__
from vlapack.documents import read_json
from vlapack.errors import InputError
from vlapack.files import write_json
from vlapack.fingerprint import digest
from vlapack.linear import PackedLinear
from vlapack.machine.gpu import CPU, synchronize
from vlapack.ops.arithmetic import arithmetic

REPEATS = 5
ENOUGH_SECONDS = 0.2
"""A product that takes longer than this in all is not repeated again."""


def cache_folder() -> Path:
    """Return vlapack's folder in the user's cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "vlapack"


class Costs:
    """The table of one machine; a context manager that saves what was measured.

    Args:
        device: where the layers are.
        folder: holds the tables; None: the user's cache folder.
    """

    def __init__(self, device: torch.device = CPU, folder: Path | None = None) -> None:
        """Read the table, if there is one."""
        self._device = device
        self.machine: dict[str, Any] = {**arithmetic(device), "vlapack": __version__}
        self.path = (folder or cache_folder()) / "costs" / f"{digest(self.machine)[:16]}.json"
        self._known: dict[str, float] = {}
        if self.path.exists():
            try:
                found = read_json(self.path).get("milliseconds")
            except InputError:  # half a file, or somebody else's: it is measured again
                found = None
            if isinstance(found, dict):
                self._known = {key: ms for key, ms in found.items() if isinstance(ms, float) and ms >= 0}
        self._new = False

    def save(self) -> None:
        """Write the table; a cache that cannot be written costs only time."""
        if self._new:
            document = {"machine": self.machine, "milliseconds": dict(sorted(self._known.items()))}
            try:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                write_json(self.path, document)
            except OSError:
                return
            self._new = False

    def product(self, layer: nn.Module, rows: int) -> float:
        """Return the milliseconds of one layer's product, without the activation step that it may share.

        Args:
            layer: a packed linear, or any module that is called like a linear.
            rows: M of its input [M, K].
        """
        outputs, inputs = _shape(layer)
        if isinstance(layer, PackedLinear):
            key = f"{outputs} x {inputs}, {rows} rows, {layer.bits}"
            return self._measured(key, inputs, rows, layer.inputs, layer)
        return self._measured(f"{outputs} x {inputs}, {rows} rows, {_dtype(layer)}", inputs, rows, _same, layer)

    def activation(self, layer: PackedLinear, rows: int) -> float:
        """Return the milliseconds of a packed layer's activation step."""
        inputs = layer.in_features
        steps = {name: list(tensor.shape) for name, tensor in layer.inputs.named_buffers()}
        key = f"activation of {inputs}, {rows} rows, {layer.inputs.act_bits} bits, {json.dumps(steps, sort_keys=True)}"
        return self._measured(key, inputs, rows, _same, layer.inputs)

    def _measured(
        self, key: str, inputs: int, rows: int, before: Callable[[Any], Any], run: Callable[[Any], Any]
    ) -> float:
        if key not in self._known:
            self._new = True
            generator = torch.Generator().manual_seed(0)
            x = before(torch.randn(rows, inputs, generator=generator).to(self._device))
            run(x)
            self._known[key] = min(self._timings(lambda: run(x)))
        return self._known[key]

    @torch.no_grad()
    def _timings(self, run: Callable[[], Any]) -> Iterator[float]:
        spent = 0.0
        for _ in range(REPEATS):
            synchronize(self._device)
            start = time.perf_counter()
            run()
            synchronize(self._device)
            seconds = time.perf_counter() - start
            spent += seconds
            yield seconds * 1e3
            if spent > ENOUGH_SECONDS:
                return


@contextmanager
def costs(device: torch.device) -> Iterator[Costs]:
    """Yield this machine's table, and save it at the end."""
    table = Costs(device)
    try:
        yield table
    finally:
        table.save()


def _same(x: Any) -> Any:
    return x


def _weight(layer: nn.Module) -> Tensor:
    weight = layer.weight
    assert isinstance(weight, Tensor)
    return weight


def _shape(layer: nn.Module) -> tuple[int, int]:
    if isinstance(layer, PackedLinear):
        return layer.out_features, layer.in_features
    rows, columns = _weight(layer).shape
    return rows, columns


def _dtype(layer: nn.Module) -> str:
    return str(_weight(layer).dtype).removeprefix("torch.")
