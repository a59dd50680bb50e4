"""Which tile of the result a program computes, by card: the one table to edit when a card has been measured.

No entry has been timed yet. They are what compiles without spilled registers (`docs/gpu.md`); among those, wide tiles
for many tokens and as many programs as the card has multiprocessors for few.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import torch
import triton

from vlapack.console import say
from vlapack.machine import gpu
from vlapack.ops.triton import layout

BAND = 8
"""Tiles of tokens that go through the outputs together and share the weights in the cache."""
DECODE_TOKENS = 64
"""Up to these tokens the channels are split among programs, and one tile holds all tokens where registers suffice."""
FEWEST_BLOCKS = 2
"""Blocks that a part of a split has at least: of 128 channels, or of the outputs that a backward product sums."""
MOST_PARTS = 16
FINISHED_AT_ONCE = 256
"""Outputs that one program of a split product's second kernel adds."""
WAVES = 2
"""Programs per multiprocessor that a split aims at."""


@dataclass(frozen=True)
class Tile:
    """Tokens and outputs of one program, its warps, and how many blocks its loads run ahead."""

    tokens: int
    outputs: int
    num_warps: int
    num_stages: int

    def __str__(self) -> str:
        """Name it in tables: tokens x outputs, warps and stages."""
        return f"{self.tokens}x{self.outputs} w{self.num_warps} s{self.num_stages}"


@dataclass(frozen=True)
class Tiles:
    """A card's tiles.

    Args:
        prefill: for many tokens, from large to small; the first that gives each multiprocessor a program is taken
        decode: for up to 64 tokens; fewer than 33 or 17 take one of 32 or 16
        grouped: for many tokens and scales per group, which need a second set of sums
        floats: for activations that are not quantized, which take four times the registers; as decode for few tokens
        backward: for backward products, whose `outputs` are those that a program multiplies at a time; as `floats`
    """

    prefill: tuple[Tile, ...]
    decode: Tile
    grouped: Tile
    floats: Tile
    backward: Tile


_NVIDIA = Tiles(
    prefill=(Tile(128, 128, 8, 3), Tile(64, 128, 4, 3), Tile(64, 64, 4, 4)),
    decode=Tile(64, 64, 4, 4),
    grouped=Tile(64, 64, 4, 3),
    floats=Tile(32, 64, 4, 3),
    backward=Tile(32, 32, 4, 3),
)
_DEFAULT = Tiles(
    prefill=(Tile(64, 64, 4, 2),),
    decode=Tile(64, 64, 4, 2),
    grouped=Tile(32, 64, 4, 2),
    floats=Tile(32, 64, 4, 2),
    backward=Tile(32, 32, 4, 2),
)
TILES = {
    # Float activations at 32 x 64 spill a few bytes before sm_90.
    "sm_80": replace(_NVIDIA, floats=Tile(16, 64, 4, 3)),
    "sm_86": replace(_NVIDIA, floats=Tile(32, 32, 4, 2)),
    "sm_87": replace(_NVIDIA, floats=Tile(32, 32, 4, 2)),
    "sm_89": replace(_NVIDIA, floats=Tile(32, 32, 4, 2)),
    "sm_90": _NVIDIA,
    "sm_100": _NVIDIA,
    "sm_103": _NVIDIA,
    "sm_110": _NVIDIA,
    "sm_120": _NVIDIA,
    "gfx942": _DEFAULT,
    # Scales per group spill at 64 x 64, float activations at 32 x 64.
    "gfx1151": replace(_DEFAULT, decode=Tile(32, 64, 4, 2), floats=Tile(16, 64, 4, 2)),
}
# The interpreter computes one program after the other: small tiles for small tests, all kinds of them.
_INTERPRETED = Tiles(
    prefill=(Tile(32, 32, 4, 1), Tile(16, 32, 4, 1)),
    decode=Tile(64, 32, 4, 1),
    grouped=Tile(16, 32, 4, 1),
    floats=Tile(32, 32, 4, 1),
    backward=Tile(32, 32, 4, 1),
)
_INTERPRETED_PROCESSORS = 4


def choose(
    device: torch.device, tokens: int, outputs: int, channels: int, *, grouped: bool = False, floats: bool = False
) -> tuple[Tile, int]:
    """Return the tile for a product [M, N] over K, and among how many programs its channels are split.

    Args:
        device: where the tensors are
        tokens: M
        outputs: N
        channels: K
        grouped: whether weights have scales per group; those are not split, because their sums have an order
        floats: whether activations are not quantized
    """
    tiles = of(device)
    if tokens > DECODE_TOKENS:
        if floats or grouped:
            return (tiles.floats if floats else tiles.grouped), 1
        enough = (tile for tile in tiles.prefill if programs(tile, tokens, outputs) >= processors(device))
        return next(enough, tiles.prefill[-1]), 1
    tile = _for_few(tiles.floats if floats else tiles.decode, tokens)
    if grouped:
        return tile, 1
    return tile, _parts(device, programs(tile, tokens, outputs), -(-channels // layout.BLOCK))


def choose_backward(device: torch.device, tokens: int, outputs: int, channels: int) -> tuple[Tile, int]:
    """Return the tile for a backward product [M, K] over N, and among how many programs its outputs are split.

    Of the tile, `outputs` are those that a program multiplies at a time.
    """
    tile = of(device).backward
    if tokens <= DECODE_TOKENS:
        tile = _for_few(tile, tokens)
    return tile, _parts(device, backward_programs(tile, tokens, channels), -(-outputs // tile.outputs))


def backward_programs(tile: Tile, tokens: int, channels: int) -> int:
    """Return how many tiles a backward product [M, K] has, each of half a block's channels."""
    return -(-tokens // tile.tokens) * 2 * -(-channels // layout.BLOCK)


def _parts(device: torch.device, programs: int, blocks: int) -> int:
    """Return among how many programs to split each of `programs`, which sums so many blocks."""
    most = min(MOST_PARTS, blocks // FEWEST_BLOCKS)
    return max(1, min(most, WAVES * processors(device) // programs))


def _for_few(tile: Tile, tokens: int) -> Tile:
    """Return a tile that has as many tokens as there are, filled up to a power of two and to what it may have."""
    return replace(tile, tokens=max(16, min(tile.tokens, 1 << (tokens - 1).bit_length())))


def programs(tile: Tile, tokens: int, outputs: int) -> int:
    """Return how many tiles a result [M, N] has."""
    return -(-tokens // tile.tokens) * -(-outputs // tile.outputs)


def uses() -> list[tuple[str, Tile, tuple[str, ...]]]:
    """Return what each tile is used for, as `Tiles` names it, and the cards that do; the last two for few and many."""
    found: dict[tuple[str, Tile], list[str]] = {}
    for name, card in TILES.items():
        kinds: dict[str, Iterable[Tile]] = {
            "prefill": card.prefill,
            "decode": [_for_few(card.decode, tokens) for tokens in (16, 32, 64)],
            "grouped": [card.grouped],
            "floats": dict.fromkeys(_for_few(card.floats, tokens) for tokens in (16, 32, 64)),
            "backward": dict.fromkeys(_for_few(card.backward, tokens) for tokens in (16, 32, 64)),
        }
        for kind, tiles in kinds.items():
            for tile in tiles:
                found.setdefault((kind, tile), []).append(name)
    return [(kind, tile, tuple(names)) for (kind, tile), names in found.items()]


def constants(tile: Tile, bits: int, group_size: int | None, split: int) -> dict[str, Any]:
    """Return the compile-time constants that every product's kernel takes."""
    return {
        "BITS": bits,
        "GROUP": group_size or 0,
        "SPLIT": split,
        "BM": tile.tokens,
        "BN": tile.outputs,
        "BAND": BAND,
    }


def of(device: torch.device) -> Tiles:
    """Return a card's tiles; an unknown card's are small and safe, which is said once."""
    if device.type == "cpu":
        return _INTERPRETED
    return _of_card(gpu.card(device).architecture)


@cache
def _of_card(name: str) -> Tiles:
    if name not in TILES:
        say(f"engine triton: no tiles were chosen for {name}, so small ones are used; known: {', '.join(TILES)}")
    return TILES.get(name, _DEFAULT)


@cache
def processors(device: torch.device) -> int:
    """Return how many multiprocessors a card has."""
    if device.type == "cpu":
        return _INTERPRETED_PROCESSORS
    return int(torch.cuda.get_device_properties(device).multi_processor_count)


def has_assembly(device: torch.device) -> bool:
    """Whether kernels may contain PTX: not on AMD's cards, and not under the interpreter."""
    return device.type == "cuda" and torch.version.hip is None and not triton.knobs.runtime.interpret


def on(device: torch.device) -> AbstractContextManager[object]:
    """Make a card the current one, which is where Triton launches."""
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()
