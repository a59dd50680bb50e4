"""What the kernels must know of a layer's constant tensors, read from them once.

Is a rotation's block a Hadamard, which takes sums instead of products? Is a permutation within its channels? The answer
is on the device, and a call may run while a graph is captured, which may not wait for the device. So it is looked up
when a tensor is first seen, and kept as long as that tensor is and does not change. `learn` does it ahead of a capture,
as does any call before one. A capture that meets an unknown tensor multiplies by its blocks as they are.
"""

from __future__ import annotations

import torch
from torch import Tensor

from vlapack.errors import InputError
from vlapack.methods.rotate import hadamard
from vlapack.ops.known import Known


def _is_hadamard(blocks: Tensor) -> bool:
    count, size, _ = blocks.shape
    if count != 1 or size & (size - 1):
        return False
    return torch.equal(blocks, hadamard(size).to(blocks))


def _check_permutation(permutation: Tensor) -> bool:
    channels = len(permutation)
    places = permutation.to(torch.int64)
    wrong = ((places < 0) | (places >= channels)).nonzero()
    if len(wrong):
        place = int(wrong[0])
        raise InputError(
            f"permutation[{place}] is {int(places[place])}: it must be from 0 to {channels - 1}; the pack is damaged"
        )
    return True


is_hadamard = Known(_is_hadamard, unknown=False)
"""Whether blocks [1, B, B] are `methods.rotate.hadamard`'s."""
check_permutation = Known(_check_permutation, unknown=True)
"""Raises InputError, naming the first channel of a permutation [K] that is not from 0 to K - 1."""


def learn(rotation: Tensor | None, permutation: Tensor | None = None, pre_rotation: Tensor | None = None) -> None:
    """Look at a layer's tensors now, so that its first call need not wait for the device."""
    for blocks in (rotation, pre_rotation):
        if blocks is not None:
            is_hadamard(blocks)
    if permutation is not None:
        check_permutation(permutation)
