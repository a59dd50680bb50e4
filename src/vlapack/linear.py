"""`PackedLinear`: a linear layer that holds integers, in place of `nn.Linear`; and `project`, several on one input.

A packed layer is two halves. The `ActivationStep` transforms and rounds the inputs; layers that read the same input
(q, k and v of an attention) hold the *same* step, and `project` then runs it once. The `PackedLinear` multiplies. In
memory stay the 4-bit nibbles (or int8), their scales and the transform: as the pack stores them, save that the compiled
engine lays the nibbles out in the order in which it reads them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from vlapack.errors import InputError
from vlapack.methods.round import group_count
from vlapack.ops import cpu, engine, library

ActScale = Literal["per_token", "static"]


@dataclass(frozen=True)
class Activation:
    """An input made ready for the products of every layer that shares it.

    Attributes:
        values: [M, K]: int8, or fp32 where activations stay 16-bit.
        scale: [M, 1] fp32 for int8 values, else None.
        leading: The input's shape without its last dimension; M is their product.
        dtype: The input's dtype, which the outputs take.
    """

    values: Tensor
    scale: Tensor | None
    leading: torch.Size
    dtype: torch.dtype


class _ExactBuffers(nn.Module):
    """Buffers that change their device but never their dtype: `model.to(torch.bfloat16)` must not round the scales."""

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> nn.Module:
        def move(tensor: Tensor) -> Tensor:
            moved = fn(tensor)
            return moved if moved.dtype == tensor.dtype else tensor.to(moved.device)

        module: nn.Module = super()._apply(move, recurse)  # type: ignore[no-untyped-call]
        return module

    def _hold(self, names: tuple[str, ...], tensors: Mapping[str, Tensor]) -> None:
        """Register the buffers of these names; one that `tensors` lacks is None."""
        for name in names:
            self.register_buffer(name, tensors.get(name))


class ActivationStep(_ExactBuffers):
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
        self._hold(self.NAMES, tensors)

    def forward(self, x: Tensor) -> Activation:
        """Transform and round `x` [..., K] floating."""
        rows = x.reshape(-1, x.shape[-1])
        steps = (self.smooth, self.permutation, self.rotation)
        if self.act_bits == 16:
            return Activation(
                library.transform_activation(rows, *steps, self.pre_rotation), None, x.shape[:-1], x.dtype
            )
        values, scale = library.quantize_activation(rows, *steps, self.input_scale, self.act_bits, self.pre_rotation)
        return Activation(values, scale, x.shape[:-1], x.dtype)


class PackedLinear(_ExactBuffers):
    """y = x Wᵀ + b with integer weights [N, K]; called like the `nn.Linear` that it replaces. Dtype out is dtype in.

    Build one by `from_tensors`. Its buffers carry the names of a pack: `weight_packed` int32 [N, ceil(K / 8)] (4 bits)
    or `weight` int8 [N, K] (8 bits), `weight_scale` [N, 1] fp32 or [N, groups] bf16, `row_rotation`, `bias`; `inputs`
    is the `ActivationStep`, the same module in every layer that shares it. Moving the model moves them; casting it does
    not change them.

    Where the engine is `cpu` and activations are integers, `weight_prepared` (see `ops.cpu`) takes the weight's place
    while the layer is made; such a layer stays on the CPU.
    """

    NAMES = ("weight_packed", "weight", "weight_prepared", "weight_scale", "row_rotation", "bias")
    weight_packed: Tensor | None
    weight: Tensor | None
    weight_prepared: Tensor | None
    weight_scale: Tensor
    row_rotation: Tensor | None
    bias: Tensor | None

    def __init__(
        self,
        tensors: Mapping[str, Tensor],
        in_features: int,
        inputs: ActivationStep,
        weight_bits: int,
        group_size: int | None,
    ) -> None:
        """Hold tensors already checked; `from_tensors` is the way in."""
        super().__init__()
        self.in_features = in_features
        self.weight_bits = weight_bits
        self.out_features = len(tensors["weight_scale"])
        self.inputs = inputs
        self.group_size = group_size
        self._hold(self.NAMES, tensors)

    @classmethod
    def from_tensors(
        cls,
        tensors: Mapping[str, Tensor],
        *,
        weight_bits: int,
        group_size: int | None = None,
        act_bits: int = 8,
        act_scale: ActScale = "per_token",
        inputs: ActivationStep | None = None,
    ) -> PackedLinear:
        """Build a layer from the tensors that a pack stores for it.

        Args:
            tensors: By the names of a pack: the weight (`weight_packed` and `weight_shape` [2] for 4 bits, `weight` for
                8), `weight_scale`, where present `bias` and `row_rotation`, and those of the `ActivationStep`.
            weight_bits: 4 or 8.
            group_size: Input channels per weight scale, or None: one scale per output channel.
            act_bits: 4, 8 or 16; see `ActivationStep`.
            act_scale: `per_token` or `static`.
            inputs: The step of a layer that reads the same input, to be shared; `tensors` then need not repeat it, and
                `act_bits` and `act_scale` are that step's.

        Raises:
            InputError: A tensor is missing or has a shape or dtype that its name does not allow.
        """
        if weight_bits not in (4, 8):
            raise InputError(f"packed weights of {weight_bits} bits: choose 4 or 8")
        needed = ("weight_packed", "weight_shape") if weight_bits == 4 else ("weight",)
        if missing := [name for name in (*needed, "weight_scale") if name not in tensors]:
            raise InputError(f"a {weight_bits}-bit layer needs {', '.join(missing)}; it has {', '.join(tensors)}")
        weight = tensors[needed[0]]
        rows, channels = tensors["weight_shape"].tolist() if weight_bits == 4 else weight.shape
        expected = {
            "weight_packed": (torch.int32, (rows, -(-channels // 8))),
            "weight": (torch.int8, (rows, channels)),
            "weight_scale": (
                torch.float32 if group_size is None else torch.bfloat16,
                (rows, group_count(channels, group_size)),
            ),
        }
        for name in (needed[0], "weight_scale"):
            dtype, shape = expected[name]
            if tensors[name].dtype != dtype or tensors[name].shape != shape:
                found = f"{tensors[name].dtype} {list(tensors[name].shape)}"
                raise InputError(f"{name} of a {rows} x {channels} layer must be {dtype} {list(shape)}, not {found}")
        if inputs is None:
            inputs = ActivationStep(tensors, act_bits=act_bits, act_scale=act_scale)
        if engine.active() == "cpu" and inputs.act_bits != 16 and weight.device.type == "cpu":
            tensors = {name: tensor for name, tensor in tensors.items() if name != needed[0]}
            tensors["weight_prepared"] = cpu.prepare(weight, weight_bits, channels)
        return cls(tensors, channels, inputs, weight_bits, group_size)

    def forward(self, x: Tensor | Activation) -> Tensor:
        """Return y [..., N] for `x` [..., K], or for what its `inputs` step made of it."""
        ready = x if isinstance(x, Activation) else self.inputs(x)
        layer = (self._stored(), self.weight_scale)
        options = {
            "row_rotation": self.row_rotation,
            "bias": self.bias,
            "dtype": ready.dtype,
            "group_size": self.group_size,
        }
        if ready.scale is None:
            y: Tensor = library.float_linear(ready.values, *layer, **options)
        else:
            y = library.int_linear(ready.values, ready.scale, *layer, **options)
        return y.reshape(*ready.leading, self.out_features)

    def _stored(self) -> Tensor | None:
        """The weight, in whichever of its three forms the layer holds."""
        if self.weight_prepared is not None:
            return self.weight_prepared
        return self.weight_packed if self.weight is None else self.weight

    @property
    def bits(self) -> str:
        """The bits of weights and activations, and channels per weight scale if they share one: `W4A8`, `W4g128A8`."""
        groups = "" if self.group_size is None else f"g{self.group_size}"
        return f"W{self.weight_bits}{groups}A{self.inputs.act_bits}"

    def extra_repr(self) -> str:
        """Say shape and bits in `print(model)`, as `nn.Linear` does."""
        return f"in_features={self.in_features}, out_features={self.out_features}, {self.bits}"


def project(x: Tensor, *linears: nn.Module) -> tuple[Tensor, ...]:
    """Apply several linears to the same input `x` [..., K]; one output per linear, in their order.

    Neighbours that hold the same `ActivationStep` run it once; any other module is called with `x`.
    """
    outputs = []
    step, ready = None, None
    for linear in linears:
        if not isinstance(linear, PackedLinear):
            outputs.append(linear(x))
            continue
        if linear.inputs is not step:
            step, ready = linear.inputs, linear.inputs(x)
        outputs.append(linear(ready))
    return tuple(outputs)
