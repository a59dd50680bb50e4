"""The steps between a row and its integers, as an `ActivationStep` holds them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from vlapack.errors import InputError
from vlapack.ops.triton.known import check_permutation, is_hadamard
from vlapack.ops.triton.tensors import checked


@dataclass(frozen=True)
class Steps:
    """What happens to a row on its way to integers; the tensors of an `ActivationStep`.

    Attributes:
        smooth: [K] fp32 or None
        permutation: [K] uint16, int32 or int64, or None
        rotation: [1 or K/B, B, B] fp32 or None
        scale: the static step [1] fp32, or None: each row's own
        bits: 8 or 4
        pre_rotation: blocks like `rotation`, before the permutation
    """

    smooth: Tensor | None = None
    permutation: Tensor | None = None
    rotation: Tensor | None = None
    scale: Tensor | None = None
    bits: int = 8
    pre_rotation: Tensor | None = None

    def checked(self, channels: int, device: torch.device) -> Steps:
        """Return them contiguous.

        Raises:
            InputError: a tensor has a shape or dtype that its name does not allow, or is elsewhere
        """
        permutation = self.permutation
        if permutation is not None:
            if permutation.dtype not in (torch.uint16, torch.int32, torch.int64):
                raise InputError(f"permutation must be uint16, int32 or int64, not {permutation.dtype}")
            permutation = checked("permutation", permutation, permutation.dtype, (channels,), device)
            check_permutation(permutation)
        scale = None if self.scale is None else self.scale.reshape(-1)
        return Steps(
            checked("smooth", self.smooth, torch.float32, (channels,), device),
            permutation,
            _blocks("rotation", self.rotation, channels, device),
            checked("scale", scale, torch.float32, (1,), device),
            self.bits,
            _blocks("pre_rotation", self.pre_rotation, channels, device),
        )

    @property
    def dense(self) -> bool:
        """Whether the rotation's blocks must be multiplied by: they are no Hadamard's."""
        return self.rotation is not None and not is_hadamard(self.rotation)

    @property
    def one_launch(self) -> bool:
        """Whether a row can go through them where it is made: Hadamard blocks or none, and no first rotation."""
        return self.pre_rotation is None and not self.dense

    @property
    def block(self) -> int:
        """Channels of a Hadamard block; 1: there are none."""
        return 1 if self.rotation is None else self.rotation.shape[1]


def _blocks(name: str, tensor: Tensor | None, channels: int, device: torch.device) -> Tensor | None:
    if tensor is None:
        return None
    if tensor.dim() != 3 or not tensor.shape[1] or channels % tensor.shape[1]:
        raise InputError(
            f"{name} {list(tensor.shape)} of {channels} channels: it must be [1 or K/B, B, B], B dividing K"
        )
    count, size = tensor.shape[:2]
    shape = (1 if count == 1 else channels // size, size, size)
    return checked(name, tensor, torch.float32, shape, device)
