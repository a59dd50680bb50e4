"""Moving magnitude between a channel's activations and its weights (SmoothQuant, ICML 2023, equation 4)."""

from __future__ import annotations

import torch
from torch import Tensor

from vlapack.errors import InputError


def smoothing_scale(x_absmax: Tensor, w_absmax: Tensor, lam: float) -> Tensor | None:
    """Return d_j = max|x_j|^λ / max|W_j|^(1-λ), by which inputs are divided and the weight's columns multiplied.

    With 4-bit weights and 8-bit activations a small λ (0.15) is right: it moves the difficulty to the 8-bit side.

    Args:
        x_absmax: [K], each channel's largest activation magnitude in calibration.
        w_absmax: [K], each column's largest weight magnitude (over all linears that share the input).
        lam: λ in [0, 1]. Zero means no smoothing at all; it is not the formula's limit.

    Returns:
        d [K] float64, or None where λ = 0. A channel with a zero maximum on either side has d_j = 1.

    Raises:
        InputError: λ is outside [0, 1], or a maximum is NaN or infinite.
    """
    if not 0 <= lam <= 1:
        raise InputError(f"smoothing λ = {lam} is not possible: it must be between 0 (off) and 1; 0.15 is usual")
    if lam == 0:
        return None
    x, w = x_absmax.double(), w_absmax.double()
    if not (x.isfinite().all() and w.isfinite().all()):
        raise InputError("cannot smooth: a channel's maximum is NaN or infinite; check the calibration observations")
    return torch.where((x == 0) | (w == 0), 1.0, x**lam / w ** (1 - lam))
