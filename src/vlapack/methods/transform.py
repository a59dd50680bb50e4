"""A change of basis on a linear's input channels that leaves the product as it is.

For y = x Wᵀ, a transform T gives the inputs x T and the weights W T⁻ᵀ, and `x T (W T⁻ᵀ)ᵀ = x Wᵀ`. It is made of steps
whose inverses are known in advance (divide by d, reorder, rotate blocks by orthogonal matrices), so nothing is ever
inverted numerically. What changes is only how hard the two factors are to round.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

UINT16_CHANNELS = 65536
ELEMENTS_AT_ONCE = 1 << 20
"""Elements rotated at a time, 8 MB of float64: a 16384 x 2048 weight is never doubled as a whole."""


@dataclass(frozen=True)
class Transform:
    """The steps on K channels, in the order scale, first rotation, permute, rotate; a step that is None is skipped.

    DuQuant uses all four (smooth, R1, P, R2: NeurIPS 2024, section 3.3); usually the first rotation is left out.

    Attributes:
        scale: d [K], positive. Inputs are divided by it, the weight's columns multiplied.
        permutation: p [K] int64. Channel i of the result is channel p[i] of the input.
        rotation: R [1, B, B] (one block shared by all) or [K/B, B, B], each block orthogonal. Every B consecutive
            channels, as a row vector, are multiplied by their block from the right.
        pre_rotation: Blocks as `rotation`, multiplied before the permutation.
    """

    scale: Tensor | None = None
    permutation: Tensor | None = None
    rotation: Tensor | None = None
    pre_rotation: Tensor | None = None

    def inputs(self, x: Tensor) -> Tensor:
        """Return x T for activations `x` [..., K], in the dtype of `x`."""
        return self._reorder_and_rotate(x if self.scale is None else x / self.scale)

    def weight(self, weight: Tensor) -> Tensor:
        """Return W T⁻ᵀ for a `weight` [N, K], in its dtype. Reordering and rotating are their own inverse transpose."""
        return self._reorder_and_rotate(weight if self.scale is None else weight * self.scale)

    def restored(self, x: Tensor) -> Tensor:
        """Undo `inputs`: return activations [..., K] from x T, in their dtype."""
        if self.rotation is not None:
            x = rotate_blocks(x, self.rotation.transpose(-1, -2))
        if self.permutation is not None:
            x = x.index_select(-1, self.permutation.argsort())
        if self.pre_rotation is not None:
            x = rotate_blocks(x, self.pre_rotation.transpose(-1, -2))
        return x if self.scale is None else x * self.scale

    def restored_weight(self, weight: Tensor) -> Tensor:
        """Undo `weight`: return a weight [N, K] from W T⁻ᵀ, in its dtype."""
        turned = replace(self, scale=None).restored(weight)
        return turned if self.scale is None else turned / self.scale

    def _reorder_and_rotate(self, x: Tensor) -> Tensor:
        if self.pre_rotation is not None:
            x = rotate_blocks(x, self.pre_rotation)
        if self.permutation is not None:
            x = x.index_select(-1, self.permutation)
        return x if self.rotation is None else rotate_blocks(x, self.rotation)

    def split(self, steps: Collection[str]) -> tuple[Transform, Transform]:
        """Cut this transform in two, of which the first holds the `steps`: one after the other they are this one.

        Args:
            steps: of `smooth`, `permutation` and `rotation`; those that leave a step behind that comes before them can
                change places with it: a reordering with a factor for each channel, and no other.
        """
        folded = Transform(
            scale=self.scale if "smooth" in steps else None,
            permutation=self.permutation if "permutation" in steps else None,
            rotation=self.rotation if "rotation" in steps else None,
        )
        scale = self.scale if folded.scale is None else None
        if scale is not None and folded.permutation is not None:
            scale = scale[folded.permutation]
        left = Transform(
            scale=scale,
            permutation=self.permutation if folded.permutation is None else None,
            rotation=self.rotation if folded.rotation is None else None,
            pre_rotation=self.pre_rotation,
        )
        return folded, left

    def tensors(self) -> dict[str, Tensor]:
        """Return the steps under their names in a pack, each in the smallest form that a run needs.

        `smooth` fp32 [K]; `permutation` uint16 [K] (int32 above 65536 channels); `rotation` and
        `pre_rotation` fp32 [1 or K/B, B, B].
        """
        tensors = {}
        if self.scale is not None:
            tensors["smooth"] = self.scale.float()
        if self.permutation is not None:
            small = len(self.permutation) <= UINT16_CHANNELS
            tensors["permutation"] = self.permutation.to(torch.uint16 if small else torch.int32)
        if self.rotation is not None:
            tensors["rotation"] = self.rotation.float()
        if self.pre_rotation is not None:
            tensors["pre_rotation"] = self.pre_rotation.float()
        return tensors

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> Transform:
        """Read back what `tensors` wrote; other names in the mapping (a layer's weights) are ignored."""
        permutation = tensors.get("permutation")
        return cls(
            scale=tensors.get("smooth"),
            permutation=None if permutation is None else permutation.to(torch.int64),
            rotation=tensors.get("rotation"),
            pre_rotation=tensors.get("pre_rotation"),
        )


def rotate_blocks(x: Tensor, blocks: Tensor) -> Tensor:
    """Multiply every B consecutive channels of `x` [..., K] by their block, from the right.

    Args:
        x: Activations, or a weight whose rows are rotated.
        blocks: [1, B, B], shared by all K/B groups of channels, or [K/B, B, B].

    Returns:
        The rotated tensor, in the shape and dtype of `x`. The products are float64: that costs little beside
        the linear itself, and neither `torch.set_float32_matmul_precision` nor autocast can round it.
    """
    count, block, _ = blocks.shape
    channels = x.shape[-1]
    wide = blocks.double()
    rows = x.reshape(-1, channels)
    rotated = torch.empty(rows.shape, dtype=x.dtype, device=x.device)
    rows_at_once = max(1, ELEMENTS_AT_ONCE // channels)
    for source, target in zip(torch.split(rows, rows_at_once), torch.split(rotated, rows_at_once), strict=True):
        grouped = source.double().reshape(len(source), channels // block, block)
        product = grouped @ wide[0] if count == 1 else torch.einsum("mgi,gij->mgj", grouped, wide)
        target.copy_(product.reshape(source.shape))
    return rotated.reshape(x.shape)
