"""A packed policy whose numbers are trained, in the pack's own format: integers, scales, norms and biases.

Where the pack rounds, the way forward rounds, too, and the way back passes gradients through as if it did not
(straight-through, arXiv 1308.3432). So the trained network computes what the engine will compute.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from common.calibrations import ALL_LAYERS
from torch import Tensor, nn
from torch.nn.functional import linear
from torch.nn.utils import parametrize

from vlapack import Policy
from vlapack.checkpoints.assets import CONFIG_FILE, WEIGHTS_FILE
from vlapack.checkpoints.pack.checkpoint import PackedCheckpoint
from vlapack.checkpoints.pack.writer import PackWriter
from vlapack.checkpoints.tensorlayout import TensorSpec
from vlapack.errors import InputError
from vlapack.linear import PackedLinear
from vlapack.methods.rotate import hadamard
from vlapack.methods.round import largest_activation, step_size
from vlapack.ops.activation import ActivationStep
from vlapack.ops.int4 import pack_int4, unpack_int4
from vlapack.pi0.load import executed_parameters
from vlapack.pi0.names import LLM, VISION

LEAST, MOST = -8.4, 7.4
"""Where latents of 4-bit integers stop: farther out they would take long to come back."""


class Straight(torch.autograd.Function):
    """Gives `rounded`, and on the way back hands its gradient to what was rounded."""

    @staticmethod
    def forward(_ctx: Any, _value: Tensor, rounded: Tensor) -> Tensor:
        """Two tensors of one shape."""
        return rounded.view_as(rounded)

    @staticmethod
    def backward(_ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        """The same, and none for the rounding."""
        return gradient, None


def straight(value: Tensor, rounded: Tensor) -> Tensor:
    """Return `rounded` with the gradient of `value`."""
    found: Tensor = Straight.apply(value, rounded.detach())  # type: ignore[no-untyped-call]
    return found


class Narrow(nn.Module):
    """A parametrization: the values as a file of this dtype holds them."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.dtype = dtype

    def forward(self, value: Tensor) -> Tensor:
        """Round to the dtype; the result's own dtype stays."""
        return straight(value, value.to(self.dtype).to(value.dtype))


class TrainedInput(nn.Module):
    """An `ActivationStep` that gradients pass. Layers that share it call it with one tensor, for which it runs once."""

    def __init__(self, step: ActivationStep) -> None:
        super().__init__()
        if step.input_scale is not None or step.pre_rotation is not None:
            raise InputError("only scales per token and single rotations are trained here; choose `full-w4`'s method")
        self.largest, self.smooth, self.rotation = largest_activation(step.act_bits), step.smooth, step.rotation
        self.order = None if step.permutation is None else step.permutation.long()
        self._last: tuple[Tensor, Tensor] | None = None

    def forward(self, x: Tensor) -> Tensor:
        """Return `x` [..., K], transformed and rounded token by token."""
        if self._last is None or self._last[0] is not x:
            y = self._transformed(x)
            with torch.no_grad():
                step = step_size(y.abs().amax(-1, keepdim=True), self.largest)
                rounded = (y / step).round_().mul_(step)
            self._last = (x, straight(y, rounded))
        return self._last[1]

    def _transformed(self, x: Tensor) -> Tensor:
        y = x if self.smooth is None else x / self.smooth
        if self.order is not None:
            y = y.index_select(-1, self.order)
        if self.rotation is None:
            return y
        count, block, _ = self.rotation.shape
        grouped = y.unflatten(-1, (-1, block))
        turned = grouped @ self.rotation[0] if count == 1 else torch.einsum("...gi,gij->...gj", grouped, self.rotation)
        return turned.flatten(-2)


class TrainedLinear(nn.Module):
    """A 4-bit `PackedLinear`: latents that round to its integers, the logarithm of each scale's change, and a bias."""

    def __init__(self, packed: PackedLinear, inputs: TrainedInput) -> None:
        super().__init__()
        if packed.weight_bits != 4 or packed.group_size is not None or packed.row_rotation is not None:
            raise InputError(f"only 4-bit layers with one scale per row are trained here, not {packed.bits}")
        tensors = packed.state_dict()
        self.inputs = inputs
        self.start = tensors["weight_scale"]
        self.latent = nn.Parameter(unpack_int4(tensors["weight_packed"], packed.in_features).float())
        self.gain = nn.Parameter(torch.zeros_like(self.start))
        bias = tensors.get("bias")
        self.bias = None if bias is None else nn.Parameter(bias.float())
        self._stored = torch.float32 if bias is None else bias.dtype

    def forward(self, x: Tensor) -> Tensor:
        """`x` [..., K] → [..., N]."""
        weight = straight(self.latent, self.latent.round()) * self._scale()
        bias = None if self.bias is None else straight(self.bias, self.bias.to(self._stored).to(self.bias.dtype))
        return linear(self.inputs(x), weight, bias)

    def tensors(self) -> dict[str, Tensor]:
        """Return what a pack stores of it."""
        found = {"weight_packed": pack_int4(self.latent.round().to(torch.int8)), "weight_scale": self._scale()}
        return found if self.bias is None else found | {"bias": self.bias.to(self._stored)}

    def _scale(self) -> Tensor:
        return self.start * self.gain.exp()


class Student:
    """A pack as a network that can be trained and written back.

    Args:
        pack: of 4-bit layers with one scale per row.

    Attributes:
        pack: where it began.
        model: the network; its flow times are not tabulated.
        trained: name → what is trained: `….latent`, `….gain` and `….bias` of packed layers, and every other vector
            behind the vision tower's first layer: weights and biases of norms, biases of float layers.
    """

    def __init__(self, pack: PackedCheckpoint) -> None:
        self.pack = pack
        self.model = Policy.from_checkpoint(pack, savings=ALL_LAYERS).model
        self.trained: dict[str, nn.Parameter] = {}
        for name, parameter in executed_parameters(self.model).items():
            if parameter.dim() == 1 and not name.startswith(f"{VISION}.embeddings."):
                self.trained[name] = self._freed(name)
        self._vectors = [*self.trained]
        self._layers: dict[str, TrainedLinear] = {}
        inputs: dict[nn.Module, TrainedInput] = {}
        for name, packed in [*self.model.named_modules()]:
            if isinstance(packed, PackedLinear):
                if packed.inputs not in inputs:
                    inputs[packed.inputs] = TrainedInput(packed.inputs)
                layer = self._layers[name] = TrainedLinear(packed, inputs[packed.inputs])
                self.model.set_submodule(name, layer)
                self.trained |= {f"{name}.{kind}": parameter for kind, parameter in layer.named_parameters()}

    def _freed(self, name: str) -> nn.Parameter:
        """Let a vector have gradients; one that its file holds in fewer bits is rounded to them."""
        module, _, leaf = name.rpartition(".")
        owner, dtype = self.model.get_submodule(module), self.pack.dtype(name)
        if dtype != owner.get_parameter(leaf).dtype:
            parametrize.register_parametrization(owner, leaf, Narrow(dtype))
            leaf = f"parametrizations.{leaf}.original"
        return owner.get_parameter(leaf).requires_grad_()

    def basis(self) -> Tensor:
        """Return the rotation [D, D] of a head's values in the pack, o_proj's, which is folded into v_proj."""
        width = self.model.config.llm.head_dim
        layer = self.pack.contents.layers[f"{LLM}.layers.0.self_attn.o_proj"]
        return hadamard(width)[0].float() if "rotation" in layer.folded else torch.eye(width)

    def values(self) -> dict[str, Tensor]:
        """Return a copy of everything that is trained."""
        return {name: parameter.detach().clone() for name, parameter in self.trained.items()}

    @torch.no_grad()
    def set(self, values: Mapping[str, Tensor]) -> None:
        """Take values that `values` returned, all or some."""
        for name, value in values.items():
            self.trained[name].copy_(value)

    @torch.no_grad()
    def clamp(self) -> None:
        """Keep latents within what 4 bits hold."""
        for layer in self._layers.values():
            layer.latent.clamp_(LEAST, MOST)

    @torch.no_grad()
    def changed(self) -> float:
        """Return the part of the integers that are no longer the pack's."""
        changes, count = 0, 0
        for name, layer in self._layers.items():
            before = unpack_int4(self.pack.read(f"{name}.weight_packed"), layer.latent.shape[1])
            changes += int((layer.latent.round() != before).sum())
            count += before.numel()
        return changes / count

    @torch.no_grad()
    def write(self, out: Path) -> Path:
        """Write the pack with the trained numbers in place of its own, as the engine loads it; replaces `out`."""
        found = {name: self.trained[name].to(self.pack.dtype(name)) for name in self._vectors}
        for name, layer in self._layers.items():
            found |= {f"{name}.{kind}": tensor for kind, tensor in layer.tensors().items()}
        shutil.rmtree(out, ignore_errors=True)
        specs = [TensorSpec(name, self.pack.dtype(name), tuple(self.pack.shape(name))) for name in self.pack.names()]
        with PackWriter(out, {"trained from": self.pack.fingerprint}, specs) as writer:
            for name in self.pack.names():
                writer.write(name, {name: found[name] if name in found else self.pack.read(name)}, {})
            files = [file for file in self.pack.files if file.name not in (CONFIG_FILE, WEIGHTS_FILE)]
            writer.finish(
                {key: value for key, value in self.pack.document.items() if key != "files"},
                {file.name: file.read_bytes() for file in files},
            )
        return out
