"""The generator of a policy's noise, which a spawned process can receive."""

from __future__ import annotations

from typing import Any

import torch


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
