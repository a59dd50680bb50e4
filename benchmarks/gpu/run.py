"""The run: correctness, ceilings, products, chunks; every cell is written when it is done."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from gpu import ceilings, chunks, peer, products, record
from gpu.card import Card
from gpu.correct import checks, said, verdicts
from gpu.inputs import GRID, SHORT, Chunk, NotMeasuredError
from vlapack.console import say
from vlapack.errors import InputError, WorkError
from vlapack.serve.trouble import DeviceLostError, MemoryShortError, named

PARTS = ("correct", "products", "chunks")


@dataclass(frozen=True)
class Options:
    """What is asked of a run.

    Attributes:
        parts: of `PARTS`; correctness is always among what must be right.
        everything: the whole grid of chunks.
        again: keep no cell of an earlier run.
        seconds: begin no cell after so many.
        file: the JSON; None: where the card's results belong.
    """

    parts: Sequence[str] = PARTS
    everything: bool = False
    again: bool = False
    seconds: float = float("inf")
    file: Path | None = None


class Bench:
    """One run on one card."""

    def __init__(self, card: Card, options: Options) -> None:
        """Look at the card, and at what is known of it."""
        self._card, self._options = card, options
        beginning = record.head(card)
        self.record = record.Record(options.file or record.file_for(beginning["card"]), beginning, again=options.again)
        self._start = time.monotonic()
        self._out_of_time = 0

    @torch.no_grad()
    def run(self) -> int:
        """Do all that is asked; return the exit code.

        Raises:
            WorkError: a kernel's integers are wrong, or the card failed.
        """
        card = self.record.document["card"]
        say(f"{card['name']}, {card['architecture']}, driver {card['driver']}; results: {self.record.file}")
        self._check()
        if set(self._options.parts) - {"correct"} and self.record.document["ceilings"] is None:
            self.record.document["ceilings"] = ceilings.measure(self._card)
            self.record.write()
        if "products" in self._options.parts:
            for shape in products.shapes(Chunk("pi05", "bf16").architecture(dry=self._card.dry)):
                self._cell(
                    "product", shape.name, lambda shape=shape: products.measure(self._card, shape, self._ceilings)
                )
        if "chunks" in self._options.parts:
            for chunk in (*SHORT, *GRID) if self._options.everything else SHORT:
                self._cell("chunk", chunk.name, lambda chunk=chunk: self._chunk(chunk))
        for kind in ("product", "chunk"):
            self._refuse(kind, f"{kind}s that did not run")
        if self._out_of_time:
            say(f"{self._out_of_time} cells were not begun: the time was up; the same command continues with them")
        return 0

    @property
    def _ceilings(self) -> dict[str, Any]:
        found: dict[str, Any] = self.record.document["ceilings"]
        return found

    def _check(self) -> None:
        try:
            found = checks()
        except ImportError as error:
            if not self._card.dry:
                raise InputError(f"the kernels need Triton: {error}; torch's builds for CUDA bring it") from error
            self.record.put("correct", "all", {"status": "not measured", "reason": str(error)})
            return
        for name, told in verdicts(self._card, found, [one for one in found if not self.record.kept("correct", one)]):
            say(f"{name}: {told['status']}{': ' + told['reason'] if 'reason' in told else ''}")
            self.record.put("correct", name, told)
        self._refuse("correct", f"nothing was measured, for of {len(found)} checks these are not right")

    def _refuse(self, kind: str, what: str) -> None:
        """End the run where a cell of this kind is not right.

        Raises:
            WorkError: with each of them, and why.
        """
        cells = [cell for cell in self.record.document["cells"] if cell["kind"] == kind]
        if bad := [cell for cell in cells if cell["status"] in ("wrong", "failed")]:
            raise WorkError(f"{what}: " + "; ".join(f"{cell['name']}: {cell['reason']}" for cell in bad))

    def _cell(self, kind: str, name: str, measure: Callable[[], dict[str, Any]]) -> None:
        """Measure one cell, unless it is there already.

        Raises:
            WorkError: the card failed, and this process cannot use it any more.
        """
        if self.record.kept(kind, name):
            return
        if time.monotonic() - self._start > self._options.seconds:
            self._out_of_time += 1
            return
        lost = False
        try:
            cell = {"status": "measured", **measure()}
        except NotMeasuredError as error:
            cell = {"status": "not measured", "reason": str(error)}
        except Exception as error:  # whatever a compiler or a driver says: other cells may run
            trouble = named(error)
            lost = isinstance(trouble, DeviceLostError)
            short = isinstance(trouble, MemoryShortError)
            cell = {"status": "not measured" if short else "failed", "reason": said(error)}
        self.record.put(kind, name, cell)
        say(f"{kind} {name}: {summary(cell)}")
        if lost:
            raise WorkError(f"{kind} {name}: the card failed: {cell['reason']}")

    def _chunk(self, chunk: Chunk) -> dict[str, Any]:
        if chunk.contender == "openpi":
            return peer.measure(self._card, chunk)
        return chunks.measure(self._card, chunk, self._ceilings)


def summary(cell: dict[str, Any]) -> str:
    """Say a cell in a line."""
    if cell["status"] != "measured":
        return f"{cell['status']} ({cell['reason']})"
    if "contenders" in cell:
        return ", ".join(
            f"{name} {1e3 * times['cold']['p50']:.1f} µs cold, {1e3 * times['warm']['p50']:.1f} warm"
            for name, times in cell["contenders"].items()
        )
    times = cell.get("replay", cell["wall"])
    peak = cell["memory"]["running_peak"] / 1e9
    return f"{times['p50']:.2f} ms (p95 {times['p95']:.2f}), peak {peak:.2f} GB, {cell['how']}"
