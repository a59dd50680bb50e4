"""What a fused layer multiplies by: the linears that read one input, in few products, and what these hand on."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import chain
from typing import TypeAlias

import torch
from torch import Tensor, nn
from torch.nn.functional import linear as float_product

from vlapack.linear import PackedLinear, project
from vlapack.ops import fused, layouts, library
from vlapack.ops.activation import Activation, ActivationStep
from vlapack.pi0.fused.merging import Merged, merge

DECODE_TOKENS = 64
"""Up to this many tokens a product is handed on unfinished: Triton's then shares its channels among programs, and needs
a second kernel to end it (`ops.triton.tiles` has the same number)."""

Ready: TypeAlias = Tensor | Activation
"""What enters a product: [M, K] in the dtype of the stream, or what an `ActivationStep` makes of that."""


@dataclass(frozen=True)
class Outcome:
    """What a product came to.

    Attributes:
        values: [M, N] in the dtype of the stream, or int32 sums [S, M, N] that the other three end (`ops.fused`).
        s: [M, 1], of the activations.
        weight_scale: [N, 1].
        bias: [N], or None.
    """

    values: Tensor
    s: Tensor | None = None
    weight_scale: Tensor | None = None
    bias: Tensor | None = None

    @property
    def ending(self) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """What ends the sums; three times None where nothing is left to do."""
        return self.s, self.weight_scale, self.bias


class Product:
    """The product of one or several linears that read the same input.

    Neighbors with the same bits are one product. Linears that cannot be merged run one after another, as the plain
    network has them run.

    Args:
        linears: in the order of their outputs.
        in_turns: merge two linears whose activations are rounded with their rows in turns, for `fused.gated_product`.

    Attributes:
        linears: as given.
        step: what happens to the input before the product; None: nothing.
        merged: one weight of all, or of each run of neighbors with the same bits; empty: the linears run by themselves.
    """

    def __init__(self, *linears: nn.Module, in_turns: bool = False) -> None:
        """Merge the linears where their kinds allow it."""
        self.linears = linears
        self.step = _shared_step(linears)
        self.merged: tuple[Merged, ...] = merge(linears, in_turns=in_turns and self.rounds)
        if any(len(one.sizes) > 1 and one.weight.is_cuda for one in self.merged):
            # Else torch's allocator keeps the blocks of what was merged, in the end as much as the weights take.
            torch.cuda.empty_cache()

    @property
    def channels(self) -> int:
        """K, of its input."""
        channels: int = self.linears[0].in_features  # type: ignore[assignment]
        return channels

    @property
    def rounds(self) -> bool:
        """Whether the input is rounded to integers."""
        return self.step is not None and self.step.act_bits != 16

    @property
    def entering(self) -> tuple[Tensor | None, ...]:
        """The transform of the input, in the order of the fused ops' arguments: smooth, permutation, rotation."""
        return (
            (None, None, None) if self.step is None else (self.step.smooth, self.step.permutation, self.step.rotation)
        )

    @property
    def rounding(self) -> tuple[Tensor | int | None, ...]:
        """The rest of those arguments, where the input is rounded: the static scale, bits, the first rotation."""
        assert self.step is not None
        return self.step.input_scale, self.step.act_bits, self.step.pre_rotation

    @property
    def first_rotation(self) -> Tensor | None:
        """The rest of those arguments, where the input stays floating."""
        return None if self.step is None else self.step.pre_rotation

    def ready(self, x: Tensor) -> Ready:
        """Make [M, K] ready, by an op of its own."""
        return x if self.step is None else self.step(x)

    def unfinished(self, x: Ready) -> Outcome:
        """Multiply, and leave the end to the op that reads the outcome where there are few tokens."""
        (outcome,) = self.pieces(x, most=1)
        return outcome

    def pieces(self, x: Ready, *, most: int) -> tuple[Outcome, ...]:
        """Multiply as `unfinished` does, into an outcome for each merged weight, in the order of their outputs.

        Args:
            x: what enters.
            most: outcomes that the op that reads them takes; more are one that is finished.
        """
        if not 0 < len(self.merged) <= most:
            return (Outcome(self.finished(x)),)
        return tuple(self._piece(merged, x) for merged in self.merged)

    def finished(self, x: Ready) -> Tensor:
        """Multiply: [M, N] of all linears side by side, in the dtype of the stream."""
        outputs = tuple(self._multiplied(merged, x) for merged in self.merged) or self.outputs(x)
        return outputs[0] if len(outputs) == 1 else torch.cat(outputs, dim=1)

    def outputs(self, x: Ready) -> tuple[Tensor, ...]:
        """Multiply: [M, N] of each linear."""
        if self.merged:
            assert not self._in_turns
            split = (torch.split(self._multiplied(one, x), list(one.sizes), dim=1) for one in self.merged)
            return tuple(chain.from_iterable(split))
        if isinstance(x, Tensor):
            return project(x, *self.linears)
        return tuple(linear(x) for linear in self.linears)

    def gated(self, x: Ready, down: Product) -> Ready:
        """Multiply by gate and up, and make gelu(gate) · up ready for the product that follows."""
        if not self._in_turns:
            gate, up = self.outputs(x)
            return down.activated(Outcome(gate), up, gated=True, dtype=gate.dtype)
        assert isinstance(x, Activation)
        (merged,) = self.merged
        if self._hands_on(merged, x):
            return down.activated(self.unfinished(x), gated=True, dtype=x.dtype)
        y = fused.gated_product(
            x.values,
            x.scale,
            merged.weight,
            merged.weight_scale,
            merged.bias,
            dtype=x.dtype,
            group_size=merged.group_size,
        )
        return down.ready(y)

    def activated(self, before: Outcome, up: Tensor | None = None, *, gated: bool, dtype: torch.dtype) -> Ready:
        """Make GELU of what a product came to ready for this one, times `up` if `gated`.

        Args:
            before: gate, and up in turns with it if there is no other `up`; or what enters GELU alone.
            up: [M, F].
            gated: whether there is an up.
            dtype: of the stream.
        """
        arguments = (before.values, up, *before.ending, *self.entering)
        if self.rounds:
            q, s = fused.gelu_quantize(*arguments, *self.rounding, gated=gated, dtype=dtype)
            return Activation(q, s, q.shape[:1], dtype)
        kept = dtype if self.step is None else torch.float32
        y: Tensor = fused.gelu_transform(*arguments, self.first_rotation, gated=gated, dtype=dtype, out_dtype=kept)
        return y if self.step is None else Activation(y, None, y.shape[:1], dtype)

    @property
    def _in_turns(self) -> bool:
        """Whether gate and up are one product."""
        return any(one.in_turns for one in self.merged)

    def _hands_on(self, merged: Merged, x: Ready) -> bool:
        """Whether the sums of integers can be handed on; the CPU's engine ends every product itself."""
        if not self.rounds or merged.group_size is not None or layouts.engine_of(merged.weight) == "cpu":
            return False
        return isinstance(x, Activation) and len(x.values) <= DECODE_TOKENS

    def _piece(self, merged: Merged, x: Ready) -> Outcome:
        if not self._hands_on(merged, x):
            return Outcome(self._multiplied(merged, x))
        assert isinstance(x, Activation)
        sums = fused.int_sums(x.values, merged.weight, sum(merged.sizes))
        return Outcome(sums, x.scale, merged.weight_scale, merged.bias)

    def _multiplied(self, merged: Merged, x: Ready) -> Tensor:
        if isinstance(x, Tensor):
            return float_product(x, merged.weight, merged.bias)
        layer = (merged.weight, merged.weight_scale, None, merged.bias)
        options = {"dtype": x.dtype, "group_size": merged.group_size}
        y: Tensor = (
            library.float_linear(x.values, *layer, **options)
            if x.scale is None
            else library.int_linear(x.values, x.scale, *layer, **options)
        )
        return y


def _shared_step(linears: tuple[nn.Module, ...]) -> ActivationStep | None:
    """The step that all linears share, if they are packed and share one."""
    first = linears[0]
    if not isinstance(first, PackedLinear):
        return None
    shared = all(isinstance(one, PackedLinear) and one.inputs is first.inputs for one in linears)
    return first.inputs if shared else None
