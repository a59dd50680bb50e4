"""Quantizing somebody else's model in its own process: openpi's `PI0Pytorch`, LeRobot's policies, any `nn.Module`.

Linears become integer layers where they stand; nothing else of the model changes, so its own `sample_actions` goes on
working. What a pack gains by knowing the network is not available here: every layer transforms its input by itself, and
no transform is folded into what stands before. A pack is faster; this needs no folder.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from inspect import signature
from typing import Any

import torch
from torch import nn

from vlapack.console import say
from vlapack.errors import InputError
from vlapack.linear import PackedLinear
from vlapack.machine.allocator import map_large_blocks, settle
from vlapack.ops.activation import ActivationStep
from vlapack.ops.engine import active
from vlapack.plan.select import select
from vlapack.plan.selected import Selected
from vlapack.plan.wiring import shared_inputs
from vlapack.progress import progress
from vlapack.quantize.calibration import LayerInputs
from vlapack.quantize.groups import quantize_group
from vlapack.quantize.guarding import guard_saving
from vlapack.quantize.quantized_linear import QuantizedLinear
from vlapack.quantize.room import group_bytes, require_free
from vlapack.quantize.watching import Watch
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
    calib_memory: int = 2**30,
) -> None:
    """Quantize a model in place: integer layers replace the linears that a recipe selects.

        vlapack.quantize_(model, "llm", calib=observations)

    Each layer is quantized on its own device and stays there, laid out for that device's engine. Save the result with
    `vlapack.save`; a Transformers model (5 or newer) also with its own `save_pretrained`.

    Args:
        model: openpi's `PI0Pytorch`, a LeRobot policy, or any module; layer names start below the module that holds
            `paligemma_with_expert`, so scopes mean the same in all of them
        recipe: a recipe, or a preset's name; its `fold` is ignored, because only a pack rewrites neighboring layers
        calib: calibration data: openpi's observations, LeRobot's prepared batches, a tokenizer's output, or whatever
            `forward` takes; None: weights only, which not every recipe allows
        filter_fn: called with a linear and its dotted name (torchao's signature); false leaves that layer float
        forward: runs the model on one item of `calib`; by default a LeRobot policy predicts a chunk, a model with
            openpi's `sample_actions` samples one (uncompiled), and any other model is called, with the entries of a
            dict as keywords if it takes them
        calib_memory: bytes of layers' inputs held at once, 1 GiB by default. If they exceed it, `calib` runs again for
            the layers that are left: less memory, more time, the same result

    Raises:
        InputError: the recipe selects no layer, needs data or a pack, calibration never reached a layer, or a GPU that
            the model is on has no engine or too little memory for the work on one layer
    """
    conversion = Conversion(model, preset(recipe) if isinstance(recipe, str) else recipe, filter_fn)
    if calib is not None and conversion.needs_inputs:
        conversion.calibrate(list(calib), forward or _chunk(model), calib_memory)
    conversion.convert()
    guard_saving(model)


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
        placed: dict[torch.device, list[Selected]] = {}
        for layer in self.selected:
            placed.setdefault(self.root.get_parameter(f"{layer.name}.weight").device, []).append(layer)
        for device, layers in placed.items():  # what is missing on a device is said now, not after calibration
            active(device)
            work = max(group_bytes((layer,), self.recipe) for layer in layers)
            require_free(device, work, "quantizing its largest layer", "or move the model to the CPU")
        self._watch: Watch | None = None
        self._quantized: dict[str, QuantizedLinear] = {}

    @property
    def needs_inputs(self) -> bool:
        """Whether anything in the recipe depends on what the layers see."""
        return needs_activations(self.recipe)

    def watching(self) -> Watch:
        """Return a context that collects the inputs of the selected layers, all at once: for data that comes once."""
        self._watch = self._watched(self._inputs(), None)
        return self._watch

    def calibrate(self, batches: Sequence[Any], run: Callable[[Any], object], memory: int) -> None:
        """Run the model on the batches, as often as it takes to hold no more than `memory` bytes of inputs at once.

        Layers whose inputs are complete are quantized before the next run, and put into the model by `convert`: until
        then it computes in float, so every layer sees what it would have seen in one run.

        Raises:
            InputError: a layer was never reached, or what a layer or the model raises.
        """
        left = self._inputs()
        while left:
            self._watch = self._watched(left, memory)
            with self._watch, torch.no_grad():
                for batch in batches:
                    run(batch)
            if left := self._watch.deferred:
                # Else the integer layers that are kept settle in the holes that freed blocks leave.
                map_large_blocks()
                say(f"calibration: {len(left)} inputs do not fit into {memory / 1e9:.2f} GB; the data runs again")
                self._quantize_ahead(self._watch.inputs())

    def _quantize_ahead(self, inputs: Mapping[str, LayerInputs]) -> None:
        for layer in self.selected:
            if (seen := inputs.get(shared_inputs(layer.name))) is not None:
                self._quantized[layer.name] = self._made(layer, seen)

    def convert(self) -> None:
        """Replace the layers one by one; each float weight is freed before the next is read.

        Raises:
            InputError: the recipe needs inputs and none were collected, or a layer never saw one.
        """
        if self._watch is None and (needed := inputs_needed(self.recipe)):
            raise InputError(
                f"no calibration data for {' and '.join(needed)}: give `calib`, or a recipe with "
                f"{', '.join(needed.values())}"
            )
        ahead = bool(self._quantized)
        inputs = {} if self._watch is None else self._watch.inputs()
        self._watch = None
        readers = Counter(shared_inputs(layer.name) for layer in self.selected)
        with progress("packing", len(self.selected)) as advance:
            for layer in self.selected:
                key = shared_inputs(layer.name)
                made = self._quantized.pop(layer.name, None) or self._made(layer, inputs.get(key))
                self.root.set_submodule(layer.name, made)
                readers[key] -= 1
                if not readers[key]:
                    inputs.pop(key, None)
                advance(layer.name)
        if ahead:
            settle()

    def _inputs(self) -> dict[str, str]:
        """The inputs of the selected layers, each with the first layer that reads it: q, k and v read the same."""
        firsts: dict[str, str] = {}
        for layer in self.selected:
            firsts.setdefault(shared_inputs(layer.name), layer.name)
        return firsts

    def _watched(self, layers: Mapping[str, str], memory: int | None) -> Watch:
        sample = self.recipe.rotation == "greedy" or self.recipe.rounding == "gptq" or self.recipe.act_scale == "static"
        options: dict[str, Any] = {} if sample else {"max_tokens": 1}
        return Watch(self.root, layers, memory=memory, seed=self.recipe.seed, **options)

    def _made(self, layer: Selected, inputs: LayerInputs | None) -> QuantizedLinear:
        linear = self.root.get_submodule(layer.name)
        assert isinstance(linear, nn.Linear)
        device = linear.weight.device
        seen = None if inputs is None else inputs.to(device)
        packed = quantize_group(lambda name: self.root.get_parameter(name).detach(), (layer,), self.recipe, seen)
        tensors = {name.removeprefix(f"{layer.name}."): tensor.to(device) for name, tensor in packed.tensors.items()}
        if linear.bias is not None:
            tensors["bias"] = linear.bias.detach().clone()
        step = ActivationStep(tensors, act_bits=layer.act_bits, act_scale=self.recipe.act_scale)
        integers = PackedLinear.from_tensors(
            tensors, weight_bits=layer.weight_bits, group_size=layer.group_size, inputs=step
        )
        return QuantizedLinear(integers, linear.weight.dtype, device, self.recipe)


def policy_network(model: nn.Module) -> nn.Module:
    """Return the part of a model that `paligemma_with_expert` hangs on; the model itself where it has none."""
    for name, _ in model.named_modules():
        if name.rpartition(".")[2] == "paligemma_with_expert":
            return model.get_submodule(name.rpartition(".")[0])
    return model


def _chunk(model: nn.Module) -> Callable[[Any], object]:
    """How a model that we know makes one action chunk; any other one is called."""
    if hasattr(model, "predict_action_chunk"):
        return model.predict_action_chunk  # type: ignore[return-value]
    if hasattr(type(model), "sample_actions"):
        # Through the class: openpi's constructor has wrapped the instance's own by torch.compile, which sees no hooks.
        device = next(model.parameters()).device
        return lambda observation: type(model).sample_actions(model, device, observation)  # type: ignore[attr-defined]
    return lambda batch: model(**batch) if _are_keywords(model, batch) else model(batch)


def _are_keywords(model: nn.Module, batch: Any) -> bool:
    """Whether a batch is a dict of what the model's forward takes by name, as a tokenizer's output is."""
    if not isinstance(batch, Mapping) or not all(isinstance(key, str) for key in batch):
        return False
    try:
        signature(model.forward).bind(**batch)
    except TypeError:
        return False
    return True
