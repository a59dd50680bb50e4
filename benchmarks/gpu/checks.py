"""What every check of correctness compares by, and what it is told of the card."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from gpu.card import Card
from vlapack.ops import reference
from vlapack.ops.int4 import pack_int4
from vlapack.ops.triton import layout

if TYPE_CHECKING:
    from vlapack.ops.triton.steps import Steps

Integers = tuple[Tensor, Tensor]
"""q [M, K] int8 and s [M, 1] fp32."""
FLOATS = (torch.float32, torch.bfloat16, torch.float16)
SEED = 19


class WrongError(Exception):
    """A kernel's result is not the reference's."""


@dataclass(frozen=True)
class Place:
    """Where a check runs.

    Attributes:
        card: on which.
        small: whether shapes are to be small: the interpreter takes milliseconds for what a card does in none.
        draw: where numbers come from; the same on every card.
    """

    card: Card
    small: bool
    draw: torch.Generator

    @classmethod
    def on(cls, card: Card, *, small: bool) -> Place:
        """Return a place with numbers of its own, so that checks do not depend on each other."""
        return cls(card, small, torch.Generator().manual_seed(SEED))

    @property
    def device(self) -> torch.device:
        """Where tensors are."""
        return self.card.device

    def dtype(self, number: int) -> torch.dtype:
        """Return one of the types in turn: a card compiles a kernel for each, seconds apiece."""
        return FLOATS[number % len(FLOATS)]

    def normal(self, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        """Return standard normal numbers."""
        return torch.randn(shape, generator=self.draw).to(self.device, dtype)

    def positive(self, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        """Return numbers from 0.5 to 1.5."""
        return (torch.rand(shape, generator=self.draw) + 0.5).to(self.device, dtype)

    def order(self, count: int) -> Tensor:
        """Return a permutation as packs store it."""
        return torch.randperm(count, generator=self.draw).to(torch.uint16).to(self.device)

    def integers(self, *shape: int, bits: int = 8) -> Tensor:
        """Return int8 of so many bits, the lowest in all of the first row."""
        low = -(1 << (bits - 1))
        found = torch.randint(low, -low, shape, generator=self.draw, dtype=torch.int8)
        found[:1] = low
        return found.to(self.device)

    def blocks(self, size: int, count: int = 1) -> Tensor:
        """Return orthogonal blocks that are no Hadamard matrices."""
        return torch.linalg.qr(torch.randn(count, size, size, generator=self.draw))[0].contiguous().to(self.device)

    def weight(self, n: int, k: int, bits: int) -> tuple[Tensor, Tensor]:
        """Return a weight as a pack stores it, and as the kernels read it."""
        values = self.integers(n, k, bits=bits)
        stored = pack_int4(values) if bits == 4 else values
        return stored, layout.prepare(stored, bits, k)


def same(found: Tensor, expected: Tensor, what: str) -> None:
    """Demand equality to the last bit; NaN equals NaN.

    Raises:
        WrongError: with how many differ, and the first.
    """
    if found.shape != expected.shape or found.dtype != expected.dtype:
        raise WrongError(
            f"{what}: {found.dtype} {list(found.shape)} instead of {expected.dtype} {list(expected.shape)}"
        )
    differs = (found != expected) & ~(found.isnan() & expected.isnan())
    if differs.any():
        place = tuple(differs.nonzero()[0].tolist())
        raise WrongError(
            f"{what}: {int(differs.sum())} of {found.numel()} differ; at {list(place)} it is {found[place].item()!r} "
            f"instead of {expected[place].item()!r}"
        )


def near(found: Tensor, expected: Tensor, bound: Tensor | float, what: str) -> None:
    """Demand that no result is farther from float64's than `bound`.

    Raises:
        WrongError: with the largest error.
    """
    error = (found.double() - expected.double()).abs()
    if not bool((error <= bound).all()):
        raise WrongError(
            f"{what}: off by up to {error.max().item():.3g}, allowed {float(torch.as_tensor(bound).max()):.3g}"
        )


def rounded_alike(found: Integers, expected: Integers, dtype: torch.dtype, part: float, what: str) -> None:
    """Demand equal integers, of which so small a part may be off by one, and scales equal to the last bits of `dtype`.

    For what stands before the rounding and has no bits of its own to keep to: a sum's order, an exp.

    Raises:
        WrongError: with how many differ, and by how much.
    """
    (q, s), (expected_q, expected_s) = found, expected
    differs = (q.int() - expected_q.int()).abs()
    count = int((differs > 0).sum())
    if q.shape != expected_q.shape or int(differs.max()) > 1 or count > max(1, part * q.numel()):
        raise WrongError(f"{what}: {count} of {q.numel()} integers differ, by up to {int(differs.max())}")
    ulp = 4e-6 if dtype == torch.float32 else torch.finfo(dtype).eps
    if not torch.allclose(s, expected_s, rtol=ulp):
        raise WrongError(f"{what}: scales differ by up to {float((s / expected_s - 1).abs().max()):.3g}")


def plain(x: Tensor, steps: Steps) -> Integers:
    """Return the reference's integers of rows."""
    q, s = reference.quantize_activation(
        x, steps.smooth, steps.permutation, steps.rotation, steps.scale, steps.bits, steps.pre_rotation
    )
    return q, s.expand(len(x), 1)
