"""The noise that the flow of an action chunk starts from, and its generator."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

from vlapack.errors import InputError
from vlapack.robots.arrays import as_array

Noise: TypeAlias = Tensor | np.ndarray


def start_noise(
    shape: tuple[int, int], count: int, given: Sequence[Noise] | Noise | None, generator: torch.Generator
) -> Tensor:
    """Return the noise of several observations, drawn or given.

    Args:
        shape: of one observation's noise: horizon, action_dim
        count: how many observations
        given: one noise for each, standard normal; None: they are drawn
        generator: what they are drawn from

    Returns:
        float32 [count, horizon, action_dim].

    Raises:
        InputError: another number or shape, another type than numbers, or a value that is not finite
    """
    if given is None:
        # One draw per observation: the batch sees the noise that one at a time would have seen.
        return torch.stack([torch.randn(shape, generator=generator) for _ in range(count)])
    arrays = [as_array(part, "noise") for part in given]
    if any(array.dtype.kind not in "iuf" for array in arrays):
        raise InputError(f"noise: dtype {arrays[0].dtype}; noise is standard normal, float")
    parts = [torch.from_numpy(array.astype(np.float32)) for array in arrays]
    if len(parts) != count or any(part.shape != shape for part in parts):
        raise InputError(
            f"noise: {len(parts)} of shapes {sorted({tuple(part.shape) for part in parts})}; "
            f"this policy needs {count} of shape {shape}"
        )
    if not all(part.isfinite().all() for part in parts):
        raise InputError("noise: not finite everywhere; noise is standard normal")
    return torch.stack(parts)


class NoiseGenerator(torch.Generator):
    """A CPU generator that is pickled as bytes.

    torch pickles a generator's state as a tensor made for that moment. Tensors go to spawned processes through shared
    memory, and this one would be gone before the other process has begun.
    """

    def __reduce__(self) -> tuple[Any, ...]:
        """Return what pickle takes."""
        return _restored, (self.get_state().numpy().tobytes(),)


def _restored(state: bytes) -> NoiseGenerator:
    generator = NoiseGenerator()
    generator.set_state(torch.frombuffer(bytearray(state), dtype=torch.uint8))
    return generator
