"""The cards that kernels are compiled for, and what their code must look like there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

Kind = Literal["int8", "float"]
"""What a product multiplies: 8-bit integers, or 16-bit floats."""
Families = Mapping[Kind, frozenset[str]]

KB = 1024


@dataclass(frozen=True)
class Target:
    """One class of card.

    Args:
        name: as the tables and the flags call it, `sm_89`.
        cards: what people buy.
        backend: Triton's name of the maker: `cuda`, `hip`.
        arch: Triton's name of the instruction set: 89, `gfx942`.
        warp_size: threads of one warp.
        shared_limit: bytes of shared memory that one program may ask for.
        families: the tensor-core instructions that its products must use, by what they multiply.
        tensor_rate: operations (2 a multiply-accumulate) on int8 that one multiprocessor's tensor cores do in a clock
            cycle, or None: unknown. See `peaks.py` for where they come from.
        assembled_as: compile for `arch`, and assemble its PTX for this one; None: for `arch`.
    """

    name: str
    cards: str
    backend: Literal["cuda", "hip"]
    arch: int | str
    warp_size: int
    shared_limit: int
    families: Families
    tensor_rate: int | None
    assembled_as: str | None = None


def _families(int8: str, floats: str) -> Families:
    return {"int8": frozenset(int8.split()), "float": frozenset(floats.split())}


def _nvidia(arch: int, cards: str, shared_kb: int, families: Families, rate: int | None) -> Target:
    return Target(f"sm_{arch}", cards, "cuda", arch, 32, shared_kb * KB, families, rate)


def _amd(arch: str, cards: str, warp_size: int, shared_kb: int, family: str) -> Target:
    return Target(arch, cards, "hip", arch, warp_size, shared_kb * KB, _families(family, family), None)


_SYNCHRONOUS = _families("IMMA", "HMMA")
_B200 = _nvidia(100, "B200", 227, _families("UTCIMMA", "UTCHMMA HMMA"), None)

# Shared memory, from memory: CUDA C++ Programming Guide, "Technical Specifications per Compute Capability", the maximum
# per thread block; AMD: the LDS of a work-group. 16-bit products of few rows do not fill a warp group's 64 rows: they
# are plain HMMA on sm_90 and sm_100, too.
TARGETS: dict[str, Target] = {
    target.name: target
    for target in (
        _nvidia(80, "A100", 163, _SYNCHRONOUS, 4096),
        _nvidia(86, "RTX 3090", 99, _SYNCHRONOUS, 2048),
        _nvidia(87, "Jetson Orin", 163, _SYNCHRONOUS, 4096),
        _nvidia(89, "RTX 4090, L4", 99, _SYNCHRONOUS, 2048),
        _nvidia(90, "H100, H200", 227, _families("IGMMA", "HGMMA HMMA"), 8192),
        _B200,
        _nvidia(103, "B300", 227, _families("IMMA", "UTCHMMA HMMA"), None),
        _nvidia(110, "Jetson Thor", 227, _families("IMMA", "UTCHMMA HMMA"), None),
        replace(_B200, name="sm_110-tcgen05", cards="Jetson Thor, tcgen05", assembled_as="sm_110a"),
        _nvidia(120, "RTX 5090", 99, _SYNCHRONOUS, 2048),
        _amd("gfx942", "MI300X", 64, 64, "MFMA"),
        _amd("gfx950", "MI350", 64, 160, "MFMA"),
        _amd("gfx1151", "Strix Halo", 32, 64, "WMMA"),
    )
}

EVERY_RUN = ("sm_89", "sm_90", "sm_120")
"""Targets that are looked at in every run: one of each way in which NVIDIA's tensor cores are fed on a desk."""
