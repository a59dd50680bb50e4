"""What happens to an input before the integer products: `ActivationStep`, and buffers that no cast may round."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from vlapack.errors import InputError
from vlapack.ops import gradient, library

ActScale = Literal["per_token", "static"]


@dataclass(frozen=True)
class Activation:
    """An input made ready for the products of every layer that shares it.

    Attributes:
        values: [M, K]: int8, or fp32 where activations stay 16-bit.
        scale: [M, 1] fp32 for int8 values, else None.
        leading: The input's shape without its last dimension; M is their product.
        dtype: The input's dtype, which the outputs take.
        through: What the int8 values stand for, fp32 [M, K]: derivatives go through it, since none can through
            integers. None where nobody differentiates.
    """

    values: Tensor
    scale: Tensor | None
    leading: torch.Size
    dtype: torch.dtype
    through: Tensor | None = None


class ExactBuffers(nn.Module):
    """Buffers that change their device but never their dtype: `model.to(torch.bfloat16)` must not round the scales.

    Plain pickle writes a uint16 tensor and cannot read it back, so such buffers travel as int16, a type that none has.
    """

    def __getstate__(self) -> dict[str, Any]:
        """Return what pickle and `copy` take."""
        buffers = {name: _viewed(tensor, torch.uint16, torch.int16) for name, tensor in self._buffers.items()}
        return self.__dict__ | {"_buffers": buffers}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Take what `__getstate__` returned."""
        buffers = {name: _viewed(tensor, torch.int16, torch.uint16) for name, tensor in state["_buffers"].items()}
        super().__setstate__(state | {"_buffers": buffers})  # type: ignore[no-untyped-call]

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> nn.Module:
        def move(tensor: Tensor) -> Tensor:
            moved = fn(tensor)
            return moved if moved.dtype == tensor.dtype else tensor.to(moved.device)

        module: nn.Module = super()._apply(move, recurse)  # type: ignore[no-untyped-call]
        return module

    def hold(self, names: tuple[str, ...], tensors: Mapping[str, Tensor]) -> None:
        """Register the buffers of these names; one that `tensors` lacks is None."""
        for name in names:
            self.register_buffer(name, tensors.get(name))


def _viewed(tensor: Tensor | None, stored: torch.dtype, wanted: torch.dtype) -> Tensor | None:
    return tensor if tensor is None or tensor.dtype != stored else tensor.view(wanted)


class ActivationStep(ExactBuffers):
    """What happens to an input [..., K] before the products: `Transform`'s steps, then rounding to int8.

    Args:
        tensors: By the names of a pack: `smooth`, `pre_rotation`, `permutation`, `rotation`, and `input_scale` [1] fp32
            where the scale is static; absent ones are steps that do not exist. Other names are ignored.
        act_bits: 8 or 4 (int8 values in ±127 or ±7), or 16 for activations that are transformed and not rounded.
        act_scale: `per_token`: each row's own absmax / 127 (or 7); `static`: the given `input_scale`.

    Raises:
        InputError: Other bits, static with 16 bits, or `input_scale` present without `static` or the other way round.
    """

    NAMES = ("smooth", "pre_rotation", "permutation", "rotation", "input_scale")
    smooth: Tensor | None
    permutation: Tensor | None
    rotation: Tensor | None
    pre_rotation: Tensor | None
    input_scale: Tensor | None

    def __init__(self, tensors: Mapping[str, Tensor], *, act_bits: int = 8, act_scale: ActScale = "per_token") -> None:
        """Hold the tensors as they are; nothing is copied."""
        super().__init__()
        if act_bits not in (4, 8, 16):
            raise InputError(f"activations of {act_bits} bits: choose 4, 8 or 16")
        if (act_scale == "static") != ("input_scale" in tensors) or (act_scale == "static" and act_bits == 16):
            present = "with" if "input_scale" in tensors else "without"
            raise InputError(
                f"a {act_scale} activation scale at {act_bits} bits {present} a stored `input_scale`: static needs the "
                "tensor and 4 or 8 bits, per_token has none"
            )
        self.act_bits = act_bits
        self.hold(self.NAMES, tensors)

    def forward(self, x: Tensor) -> Activation:
        """Transform and round `x` [..., K] floating; differentiable, by `reference.activation_gradient`."""
        rows = x.reshape(-1, x.shape[-1])
        steps = (self.smooth, self.permutation, self.rotation)
        differentiated = gradient.wanted(rows)
        if self.act_bits == 16:
            return Activation(
                library.transform_activation(rows, *steps, self.pre_rotation), None, x.shape[:-1], x.dtype
            )
        rounding = (*steps, self.input_scale, self.act_bits, self.pre_rotation)
        if not differentiated:
            values, scale = library.quantize_activation(rows, *rounding)
            return Activation(values, scale, x.shape[:-1], x.dtype)
        with torch.no_grad():
            values, scale = library.quantize_activation(rows, *rounding)
        through = gradient.straight_through(rows, values, scale, *rounding)
        return Activation(values, scale, x.shape[:-1], x.dtype, through)
