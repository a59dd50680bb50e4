"""What the language model leaves behind for the action expert."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from vlapack.pi0.gemma import KeysValues


@dataclass(frozen=True)
class Prefix:
    """What the expert needs to know of images and prompt: computed once, read by every denoise step.

    Attributes:
        keys_values: Per layer the keys after RoPE and the values, each [B, kv heads, P, head_dim].
        mask: [B, P] boolean, true for tokens that exist; None when all do.
        length: [B], how many tokens exist: the position of the first suffix token.
    """

    keys_values: list[KeysValues]
    mask: Tensor | None
    length: Tensor

    def repeat(self, times: int) -> Prefix:
        """Return the prefix of a batch that holds every observation `times` times: [times · B], B running fastest."""
        if times == 1:
            return self
        return Prefix(
            keys_values=[(key.repeat(times, 1, 1, 1), value.repeat(times, 1, 1, 1)) for key, value in self.keys_values],
            mask=None if self.mask is None else self.mask.repeat(times, 1),
            length=self.length.repeat(times),
        )
