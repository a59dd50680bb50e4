"""`PackedLinear`: a linear layer that holds integers, in place of `nn.Linear`; and `project`, several on one input.

A packed layer is two halves. The `ActivationStep` transforms and rounds the inputs; layers that read the same input
(q, k and v of an attention) hold the *same* step, and `project` then runs it once. The `PackedLinear` multiplies. In
memory stay the 4-bit nibbles (or int8), their scales and the transform: as the pack stores them, except that the
engine of the layer's device lays the nibbles out in the order in which it reads them. Moving the layer to another
device lays them out again. That order stays inside the process: a `state_dict` and a pickle hold the pack's tensors
under the pack's names, on every engine.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from vlapack.errors import InputError
from vlapack.methods.round import group_count
from vlapack.ops import gradient, layouts, library
from vlapack.ops.activation import Activation, ActivationStep, ActScale, ExactBuffers


class PackedLinear(ExactBuffers):
    """y = x Wᵀ + b with integer weights [N, K]; called like the `nn.Linear` that it replaces. Dtype out is dtype in.

    Build one by `from_tensors`. Its buffers carry the names of a pack: `weight_packed` int32 [N, ceil(K / 8)] (4 bits)
    or `weight` int8 [N, K] (8 bits), `weight_scale` [N, 1] fp32 or [N, groups] bf16, `row_rotation`, `bias`; `inputs`
    is the `ActivationStep`, the same module in every layer that shares it. Moving the model moves them; casting it does
    not change them.

    `weight_prepared` (see `ops.layouts`) takes the weight's place while the layer is made, and whenever it is moved, if
    the engine of its device reads another form. Its `state_dict` still has the pack's tensors: the weight as it is
    stored, `weight_shape`, and those of the `inputs` without that prefix.
    """

    WEIGHTS = ("weight_packed", "weight", "weight_prepared")
    NAMES = (*WEIGHTS, "weight_scale", "row_rotation", "bias")
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
        self._merged = False
        self.hold(self.NAMES, tensors)
        self.register_state_dict_post_hook(_in_the_packs_names)  # type: ignore[no-untyped-call]

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
        layer = cls(tensors, channels, inputs, weight_bits, group_size)
        layer._prepare()
        return layer

    def lie_in(self, name: str, view: Tensor) -> None:
        """Hold one tensor as a view of a larger one, in which other layers have their rows, too.

        A `state_dict`, and a layer that moves, has tensors of its own again.

        Args:
            name: of `NAMES`.
            view: its values, as they were.
        """
        self._buffers[name] = view
        self._merged = True

    def _prepare(self) -> None:
        """Lay the weight out as the engine of its device reads it, in place of the pack's layout."""
        weight = self._buffers[self.stored_name]
        if weight is None:
            return
        prepared = layouts.prepare(weight, self.weight_bits, self.in_features, self.inputs.act_bits)
        if prepared is not None:
            self.weight_prepared = prepared
            self._buffers[self.stored_name] = None

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> nn.Module:
        """Move the layer: its weight travels as a pack stores it, and is laid out where it arrives."""
        before = self.weight_scale.device
        after = fn(self.weight_scale.new_empty(0)).device
        if after == before:
            return super()._apply(fn, recurse)
        if self.weight_prepared is not None:
            self._buffers[self.stored_name] = self._restored(self.weight_prepared, after)
            self.weight_prepared = None
        super()._apply(fn, recurse)
        self._merged = False
        self._prepare()
        return self

    def on_meta(self) -> dict[str, Tensor | None]:
        """Return the buffers as they would be on meta, where every weight is as a pack stores it."""
        buffers = {name: None if tensor is None else tensor.to("meta") for name, tensor in self._buffers.items()}
        if self.weight_prepared is not None:
            buffers |= {
                "weight_prepared": None,
                self.stored_name: self._restored(self.weight_prepared, torch.device("meta")),
            }
        return buffers

    def _restored(self, prepared: Tensor, after: torch.device) -> Tensor:
        """The weight as a pack stores it; of one that goes to meta, nothing but the shape is needed."""
        if after.type != "meta":
            return layouts.restore(prepared, self.out_features, self.in_features)
        four = self.weight_bits == 4
        columns, dtype = (-(-self.in_features // 8), torch.int32) if four else (self.in_features, torch.int8)
        return torch.empty(self.out_features, columns, dtype=dtype, device="meta")

    @property
    def stored_name(self) -> str:
        """What a pack calls the weight of this layer."""
        return "weight_packed" if self.weight_bits == 4 else "weight"

    def _pack_layout(self) -> dict[str, Tensor | None]:
        """Return the buffers with the weight as a pack stores it; a weight that an engine laid out is copied."""
        buffers = self._buffers | {"weight_prepared": None}
        if self._merged:
            buffers = _by_themselves(buffers)
        if self.weight_prepared is not None:
            weight = layouts.restore(self.weight_prepared, self.out_features, self.in_features)
            buffers[self.stored_name] = weight
        return buffers

    def _shape(self) -> Tensor:
        return torch.tensor([self.out_features, self.in_features], dtype=torch.int64)

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        held = {name: tensor for name, tensor in self._pack_layout().items() if tensor is not None}
        if self.weight_bits == 4:
            held["weight_shape"] = self._shape()
        destination.update({f"{prefix}{name}": tensor for name, tensor in held.items()})

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, metadata: dict[str, Any], *rest: Any
    ) -> None:
        """Take a pack's tensors; of another dtype or shape than the layer's they are an error, never cast."""
        errors: list[str] = rest[-1]
        held = self._pack_layout() | self.inputs._buffers
        expected = {name: (tensor.dtype, tensor.shape) for name, tensor in held.items() if tensor is not None}
        shape = state_dict.pop(f"{prefix}weight_shape", None)
        if shape is not None and shape.tolist() != [self.out_features, self.in_features]:
            errors.append(f"{prefix}weight_shape {shape.tolist()}: the layer is {self._shape().tolist()}")
        if f"{prefix}weight_prepared" in state_dict:
            errors.append(f"{prefix}weight_prepared: an engine's private layout; save the weight as a pack stores it")
            return
        for name, (dtype, size) in expected.items():
            given = state_dict.get(f"{prefix}{name}")
            if given is not None and (given.dtype != dtype or given.shape != size):
                found = f"{given.dtype} {list(given.shape)}"
                errors.append(f"{prefix}{name}: must be {dtype} {list(size)}, as a pack stores it, not {found}")
                return
        for name in ActivationStep.NAMES:
            if f"{prefix}{name}" in state_dict:
                state_dict[f"{prefix}inputs.{name}"] = state_dict.pop(f"{prefix}{name}")
        stored = f"{prefix}{self.stored_name}"
        if self.weight_prepared is not None and stored in state_dict:
            weight = state_dict.pop(stored).to(self.weight_prepared.device)
            name = layouts.engine_of(self.weight_prepared)
            prepared = layouts.prepare_for(name, weight, self.weight_bits, self.in_features)
            state_dict[f"{prefix}weight_prepared"] = prepared
        super()._load_from_state_dict(state_dict, prefix, metadata, *rest)

    def __getstate__(self) -> dict[str, Any]:
        """Return what pickle takes: the pack's layout, since the reader may have another engine.

        A weight that is laid out back for this is an array, not a tensor: torch sends tensors to spawned processes
        through shared memory, which ends with the last of them, before the other process has begun.
        """
        state = super().__getstate__()
        if self.weight_prepared is not None:
            weight = layouts.restore(self.weight_prepared, self.out_features, self.in_features)
            state["_buffers"] |= {"weight_prepared": None, self.stored_name: None}
            state["weight_array"] = weight.cpu().numpy()
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Take what `__getstate__` returned, and lay it out for the engine here."""
        weight = state.pop("weight_array", None)
        super().__setstate__(state)
        if weight is not None:
            self._buffers[self.stored_name] = torch.from_numpy(weight).to(self.weight_scale.device)
        self._prepare()

    def forward(self, x: Tensor | Activation) -> Tensor:
        """Return y [..., N] for `x` [..., K], or for what its `inputs` step made of it.

        It can be differentiated by `x`, as the layer of the dequantized weights with rounding straight-through
        (`ops.gradient`); what the layer holds never gets a gradient.
        """
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
        elif ready.through is not None:
            y = gradient.linear_through(ready.through, ready.values, ready.scale, *layer, **options)
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


def _by_themselves(buffers: Mapping[str, Tensor | None]) -> dict[str, Tensor | None]:
    """Copy tensors that are views of larger ones."""
    return {
        name: None if tensor is None else tensor.clone(memory_format=torch.contiguous_format)
        for name, tensor in buffers.items()
    }


def _in_the_packs_names(layer: nn.Module, tensors: dict[str, Tensor], prefix: str, _metadata: object) -> None:
    """Name the tensors of the `ActivationStep` as a pack does: they belong to the layer."""
    for name in ActivationStep.NAMES:
        if f"{prefix}inputs.{name}" in tensors:
            tensors[f"{prefix}{name}"] = tensors.pop(f"{prefix}inputs.{name}")


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
