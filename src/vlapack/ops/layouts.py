"""The forms that a packed weight takes in memory: the pack's own, which the reference reads, and each engine's.

Dtype and number of dimensions say which engine reads a weight, so it needs no label. No form leaves the process.
"""

from __future__ import annotations

import importlib
import math
from types import ModuleType

import torch
from torch import Tensor

from vlapack.ops import cpu, engine

PIECE = 1 << 20
"""Bytes of rows that are laid out at a time where that needs room of its own: not a whole layer's."""
CPU_DIMENSIONS = 3
"""[panels, steps, bytes] (`ops.cpu`); Triton's form has four (`ops.triton.layout`)."""


def engine_of(weight: Tensor) -> str:
    """Return the engine that reads a weight in this form; `reference` for a pack's."""
    if weight.dtype != torch.uint8:
        return "reference"
    return "cpu" if weight.dim() == CPU_DIMENSIONS else "triton"


def prepare(stored: Tensor, bits: int, in_features: int, act_bits: int) -> Tensor | None:
    """Lay out a pack's weight for the engine of its device; None where that one reads it as it is.

    Args:
        stored: int32 [N, ceil(K / 8)] of 4 bits, or int8 [N, K] of 8.
        bits: of the weight, 4 or 8.
        in_features: K.
        act_bits: of the layer's activations; at 16 the CPU's layers are the reference's.

    Raises:
        InputError: as in `engine.active`, or the engine cannot multiply so many channels.
    """
    name = engine.active(stored.device)
    if name == "reference" or (name == "cpu" and act_bits == 16):
        return None
    return prepare_for(name, stored, bits, in_features)


def prepare_for(name: str, stored: Tensor, bits: int, in_features: int) -> Tensor:
    """Lay out a pack's weight for an engine, `cpu` or `triton`; otherwise as in `prepare`."""
    module = _module(name)
    pieces = (
        torch.split(stored, max(1, PIECE // max(1, stored[:1].nbytes))) if name == "triton" and bits == 4 else (stored,)
    )
    first: Tensor = module.prepare(pieces[0], bits, in_features)
    if len(pieces) == 1:
        return first
    prepared = first.new_empty(len(stored), *first.shape[1:])
    for target, piece in zip(torch.split(prepared, len(pieces[0])), pieces, strict=True):
        target.copy_(first if piece is pieces[0] else module.prepare(piece, bits, in_features))
    return prepared


def held_bytes(bits: int, out_features: int, in_features: int, act_bits: int, device: torch.device) -> int:
    """Return the bytes that a packed weight [N, K] takes once `prepare` has laid it out, scales not counted.

    Args:
        bits: of the weight, 4 or 8.
        out_features: N.
        in_features: K.
        act_bits: as in `prepare`.
        device: where the layer is.

    Raises:
        InputError: as in `engine.active`.
    """
    name = engine.active(device)
    if name == "reference" or (name == "cpu" and act_bits == 16):
        return out_features * (4 * -(-in_features // 8) if bits == 4 else in_features)
    return math.prod(_module(name).prepared_shape(bits, out_features, in_features))


def restore(prepared: Tensor, out_features: int, in_features: int) -> Tensor:
    """Return the weight that `prepare` was given, on the same device."""
    stored: Tensor = _module(engine_of(prepared)).restore(prepared, out_features, in_features)
    return stored


def _module(name: str) -> ModuleType:
    return cpu if name == "cpu" else importlib.import_module("vlapack.ops.triton.layout")
