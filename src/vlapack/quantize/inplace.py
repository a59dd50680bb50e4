"""Quantizing somebody else's model in its own process: openpi's `PI0Pytorch`, LeRobot's policies, any `nn.Module`.

Linears become integer layers where they stand; nothing else of the model changes, so its own `sample_actions` goes on
working. What a pack gains by knowing the network is not to be had here: every layer transforms its input by itself, and
no transform is folded into what stands before. A pack is faster; this needs no folder.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from vlapack.errors import InputError
from vlapack.linear import PackedLinear
from vlapack.ops.activation import ActivationStep
from vlapack.plan.select import select
from vlapack.plan.selected import Selected
from vlapack.plan.wiring import shared_inputs
from vlapack.progress import progress
from vlapack.quantize.calibration import InputCollector, LayerInputs
from vlapack.quantize.groups import quantize_group
from vlapack.recipe.needs import inputs_needed, needs_activations
from vlapack.recipe.presets import preset
from vlapack.recipe.recipe import Recipe

Filter = Callable[[nn.Module, str], bool]


def quantize_(
    model: nn.Module,
    recipe: Recipe | str,
    calib: Iterable[Any] | None = None,
    filter_fn: Filter | None = None,
    *,
    forward: Callable[[Any], object] | None = None,
) -> None:
    """Quantize a model in place: integer layers replace the linears that a recipe selects.

        vlapack.quantize_(model, "llm", calib=observations)

    Args:
        model: openpi's `PI0Pytorch`, a LeRobot policy, or any module; layer names start below the module that holds
            `paligemma_with_expert`, so scopes mean the same in all of them
        recipe: a recipe, or a preset's name; its `fold` is ignored, because only a pack rewrites neighboring layers
        calib: calibration data: openpi's observations, LeRobot's prepared batches, or whatever `forward` takes; None:
            weights only, which not every recipe allows
        filter_fn: called with a linear and its dotted name (torchao's signature); false leaves that layer float
        forward: runs the model on one item of `calib`; by default a LeRobot policy predicts a chunk, a model with
            openpi's `sample_actions` samples one (uncompiled), and any other model is called

    Raises:
        InputError: the recipe selects no layer, needs data or a pack, or calibration never reached a layer
    """
    conversion = Conversion(model, preset(recipe) if isinstance(recipe, str) else recipe, filter_fn)
    if calib is not None and conversion.needs_inputs:
        run = forward or _chunk(model)
        with conversion.watching(), torch.no_grad():
            for item in calib:
                run(item)
    conversion.convert()


class QuantizedLinear(nn.Module):
    """An integer layer that still answers what others ask of a linear: features, and its weight's dtype and device.

    openpi asks `q_proj.weight.dtype` to know in which type it computes. So `weight` is one number, in the float type
    that the layer had and follows `model.to(…)`, seen as often as the weight has elements.
    """

    def __init__(self, packed: PackedLinear, dtype: torch.dtype, device: torch.device) -> None:
        """Stand for a float layer of this type."""
        super().__init__()
        self.packed = packed
        self.in_features, self.out_features = packed.in_features, packed.out_features
        self.register_buffer("_float", torch.zeros(1, 1, dtype=dtype, device=device), persistent=False)

    @property
    def weight(self) -> Tensor:
        """[N, K] zeros of the layer's float type; the weight itself is `packed`."""
        stand_in: Tensor = self.get_buffer("_float")
        return stand_in.expand(self.out_features, self.in_features)

    @property
    def bias(self) -> Tensor | None:
        """[N]."""
        return self.packed.bias

    def forward(self, x: Tensor) -> Tensor:
        """[..., K] → [..., N], in the type of x."""
        y: Tensor = self.packed(x)
        return y


class Conversion:
    """One in-place quantization, from the selection to the last layer.

    Args:
        model: whose linears are replaced.
        recipe: which, and how.
        filter_fn: as in `quantize_`.

    Raises:
        InputError: the recipe selects nothing, or asks for what only a pack can have.
    """

    def __init__(self, model: nn.Module, recipe: Recipe, filter_fn: Filter | None = None) -> None:
        """Select the layers."""
        for asked, without in (
            (recipe.balances, "`atm=False` and `ohb=False`"),
            (recipe.embedding_bits == 8, "`embedding_bits=16`"),
        ):
            if asked:
                raise InputError(f"in place only linears are quantized; make a pack, or set {without} in the recipe")
        self.root = policy_network(model)
        self.recipe = replace(recipe, fold=False)
        linears = {
            name: (module.out_features, module.in_features)
            for name, module in self.root.named_modules()
            # On meta, as in our own network, stays what never runs.
            if isinstance(module, nn.Linear)
            and not module.weight.is_meta
            and (filter_fn is None or filter_fn(module, name))
        }
        if not linears:
            raise InputError("the model has no linear that filter_fn lets through; it is called with (module, name)")
        self.selected: list[Selected] = select(linears, self.recipe)
        self._collectors: dict[str, InputCollector] = {}

    @property
    def needs_inputs(self) -> bool:
        """Whether anything in the recipe depends on what the layers see."""
        return needs_activations(self.recipe)

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Collect the inputs of the selected layers while the context lasts; q, k and v read the same and share one."""
        firsts = {shared_inputs(layer.name): layer.name for layer in reversed(self.selected)}
        sample = self.recipe.rotation == "greedy" or self.recipe.rounding == "gptq" or self.recipe.act_scale == "static"
        options: dict[str, Any] = {} if sample else {"max_tokens": 1}
        self._collectors = {key: InputCollector(name, seed=self.recipe.seed, **options) for key, name in firsts.items()}
        handles = [
            self.root.get_submodule(name).register_forward_pre_hook(_sees(self._collectors[key]))
            for key, name in firsts.items()
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def convert(self) -> None:
        """Replace the layers one by one; each float weight is let go of before the next is read.

        Raises:
            InputError: the recipe needs inputs and none were collected, or a layer never saw one.
        """
        if not self._collectors and (needed := inputs_needed(self.recipe)):
            raise InputError(
                f"no calibration data for {' and '.join(needed)}: give `calib`, or a recipe with "
                f"{', '.join(needed.values())}"
            )
        inputs = {key: collector.inputs() for key, collector in self._collectors.items()}
        self._collectors = {}
        with progress("packing", len(self.selected)) as advance:
            for layer in self.selected:
                self._replace(layer, inputs.get(shared_inputs(layer.name)))
                advance(layer.name)

    def _replace(self, layer: Selected, inputs: LayerInputs | None) -> None:
        linear = self.root.get_submodule(layer.name)
        assert isinstance(linear, nn.Linear)
        device = linear.weight.device
        packed = quantize_group(
            lambda name: self.root.get_parameter(name).detach().cpu(), (layer,), self.recipe, inputs
        )
        tensors = {name.removeprefix(f"{layer.name}."): tensor for name, tensor in packed.tensors.items()}
        if linear.bias is not None:
            tensors["bias"] = linear.bias.detach().clone()
        step = ActivationStep(tensors, act_bits=layer.act_bits, act_scale=self.recipe.act_scale)
        integers = PackedLinear.from_tensors(
            tensors, weight_bits=layer.weight_bits, group_size=self.recipe.group_size, inputs=step
        )
        self.root.set_submodule(layer.name, QuantizedLinear(integers.to(device), linear.weight.dtype, device))


def policy_network(model: nn.Module) -> nn.Module:
    """Return the part of a model that `paligemma_with_expert` hangs on; the model itself where it has none."""
    for name, _ in model.named_modules():
        if name.rpartition(".")[2] == "paligemma_with_expert":
            return model.get_submodule(name.rpartition(".")[0])
    return model


def _sees(collector: InputCollector) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
    return lambda _module, inputs: collector.update(inputs[0].cpu())


def _chunk(model: nn.Module) -> Callable[[Any], object]:
    """How a model that we know makes one action chunk."""
    if hasattr(model, "predict_action_chunk"):
        return model.predict_action_chunk  # type: ignore[return-value]
    if hasattr(type(model), "sample_actions"):
        # Through the class: openpi's constructor has wrapped the instance's own by torch.compile, which sees no hooks.
        device = next(model.parameters()).device
        return lambda observation: type(model).sample_actions(model, device, observation)  # type: ignore[attr-defined]
    return model
