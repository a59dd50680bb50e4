"""Steps of a transform on channels, done by the tensors that make those channels.

Where a layer makes y = z Wᵀ + b, the rows of W and b can be changed so that it makes y T. Every function takes a T
without first rotation. A reordering keeps a tensor's dtype; arithmetic is done, and returned, in fp32 at least.
"""

from __future__ import annotations

import torch
from torch import Tensor

from vlapack.methods.transform import Transform, rotate_blocks


def fold_made(made: Tensor, steps: Transform) -> Tensor:
    """Return the rows of a linear's weight [K, ...], its bias [K], or a LayerNorm's weight or bias [K], for y T."""
    if steps.scale is not None:
        made = (made.to(_wide(made)).movedim(0, -1) / steps.scale).movedim(-1, 0)
    if steps.permutation is not None:
        made = made.index_select(0, steps.permutation)
    if steps.rotation is not None:
        made = rotate_blocks(made.to(_wide(made)).movedim(0, -1), steps.rotation).movedim(-1, 0)
    return made.contiguous()


def fold_factor(made: Tensor, steps: Transform) -> Tensor:
    """Return the rows of what makes one factor of the channels; the other one takes all that is not reordering."""
    return fold_made(made, Transform(permutation=steps.permutation))


def fold_one_plus(weight: Tensor, steps: Transform) -> Tensor:
    """Return w' of an RMSNorm, y = x / rms(x) · (1 + w) [K], so that it makes y / d: (1 + w) / d - 1."""
    return (fold_made(1 + weight.double(), steps) - 1).to(_wide(weight))


def fold_modulation(made: Tensor, steps: Transform) -> Tensor:
    """Return the weight [3 K, C] or bias [3 K] of adaRMS's linear, y = x / rms(x) · (1 + scale) + shift, for y / d.

    Scale and shift become (1 + scale) / d - 1 and shift / d; the third K rows are the residual's gate, and stay.
    """
    wide = made.to(_wide(made))
    scale, shift, gate = wide.chunk(3)
    scale = fold_made(scale, steps) if made.dim() > 1 else fold_one_plus(scale, steps)
    return torch.cat((scale, fold_made(shift, steps), gate))


def restored_modulation(made: Tensor, steps: Transform) -> Tensor:
    """Return what adaRMS's linear makes [..., 3 K] as it is without `fold_modulation`."""
    scale, shift, gate = made.chunk(3, dim=-1)
    return torch.cat((steps.restored(1 + scale) - 1, steps.restored(shift), gate), dim=-1)


def _wide(tensor: Tensor) -> torch.dtype:
    return torch.promote_types(tensor.dtype, torch.float32)


FOLDS = {"made": fold_made, "factor": fold_factor, "one_plus": fold_one_plus, "modulation": fold_modulation}
"""By `wiring.role`."""
