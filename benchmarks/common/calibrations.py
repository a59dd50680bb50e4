"""Other Hessians of a policy's layers than calibration takes: of other inputs, or with tokens weighted.

Each function returns what stands for `quantize.prepare`. The transform stays as it is made from the float network.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from common.mixing import PolicyMixes
from common.preparations import Prepare
from torch import Tensor, nn

from vlapack import Policy, Recipe
from vlapack.linear import PackedLinear
from vlapack.methods.gptq import hessian_factor
from vlapack.ops.activation import Activation
from vlapack.pi0.savings import Savings
from vlapack.plan.selected import Group
from vlapack.policy.inputs import Inputs
from vlapack.quantize.calibration import InputCollector, LayerInputs, watch
from vlapack.quantize.groups import Prepared, Read, prepare
from vlapack.tune.sensitivity import robot_units

DIRECTIONS = 2
"""Random signs per observation; the mean of the squared gradients over them is that of the Jacobian's columns."""
ALL_LAYERS = Savings(time_table=False)
"""A loaded policy has a table in place of the layers that see the flow time; here they must run."""


def of_packed_inputs(target: PolicyMixes, seed: int) -> Prepare:
    """Take each layer's Hessian from what it reads where all layers are packed already, by the default."""
    recipe = replace(target.recipe, seed=seed)
    target.forget()
    with tempfile.TemporaryDirectory() as folder:
        target.pack(recipe, seed, Path(folder) / "pack")
        policy = Policy.from_pretrained(Path(folder) / "pack", savings=ALL_LAYERS)
        rows = packed_inputs(policy, target.observations(recipe), seed)

    def prepared(
        read: Read, group: Group, weights: Sequence[Tensor], recipe: Recipe, inputs: LayerInputs | None
    ) -> Prepared:
        found = prepare(read, group, weights, recipe, inputs)
        return found if found.factor is None else replace(found, factor=hessian_factor(rows[group[0].name]))

    return prepared


def packed_inputs(policy: Policy, observations: Sequence[Mapping[str, Any]], seed: int) -> dict[str, Tensor]:
    """Return what the products of a packed policy's layers read, transformed and rounded: rows [T, K] of each.

    Noises, tokens and their sample are those of the calibration, since they are drawn from the seed alike.
    """
    layers = {name: module for name, module in policy.model.named_modules() if isinstance(module, PackedLinear)}
    readers = {name: Reader(layer, InputCollector(name, seed=seed)) for name, layer in layers.items()}
    watch(policy.model, readers, lambda start: policy.sample(*start), starts(policy, observations, seed))
    return {name: reader.collector.inputs().sample for name, reader in readers.items()}


@dataclass(frozen=True)
class Reader:
    """Collects what a packed layer's product reads."""

    layer: PackedLinear
    collector: InputCollector

    def update(self, x: Tensor | Activation) -> None:
        """Take what enters the layer; its activation step may have run already."""
        ready = x if isinstance(x, Activation) else self.layer.inputs(x)
        self.collector.update(ready.values if ready.scale is None else ready.values * ready.scale)


def by_action_gradients(target: PolicyMixes, seed: int) -> Prepare:
    """Count each token by the squared gradient of the action chunk at the layers' outputs (ActQuant)."""
    policy = Policy.from_checkpoint(target.checkpoint, savings=ALL_LAYERS)
    recipe = replace(target.recipe, seed=seed)
    return weighted(squared_gradients(policy, target.layers, target.observations(recipe), seed))


def weighted(squares: Mapping[str, Tensor]) -> Prepare:
    """Weight the tokens of a group's Hessian by the sum of its layers' `squares` [T, 1].

    A rounded token times a factor is the token times the factor, rounded: its scale is its own.
    """

    def prepared(
        read: Read, group: Group, weights: Sequence[Tensor], recipe: Recipe, inputs: LayerInputs | None
    ) -> Prepared:
        if inputs is not None:
            square = torch.stack([squares[layer.name] for layer in group]).sum(0)
            counted = (square / square.mean().clamp_min(1e-30)).sqrt()
            inputs = replace(inputs, sample=inputs.sample.float() * counted)
        return prepare(read, group, weights, recipe, inputs)

    return prepared


def squared_gradients(
    policy: Policy, layers: Iterable[str], observations: Sequence[Mapping[str, Any]], seed: int
) -> dict[str, Tensor]:
    """Return for every token that calibration keeps how much its output in a layer moves the chunk, [T, 1] each.

    That is E_v ‖∂(vᵀa)/∂y‖² for random signs v and the chunk a in the robot's units, as in `tune.sensitivity`.
    """
    model = policy.model
    modules = {name: module for name, module in model.named_modules() if name in set(layers)}
    collectors = {name: InputCollector(name, seed=seed) for name in modules}
    calls: list[tuple[str, Tensor]] = []

    def see(name: str) -> Callable[..., None]:
        def hook(_module: nn.Module, _given: tuple[Tensor], y: Tensor) -> None:
            calls.append((name, y if y.requires_grad else y.requires_grad_()))

        return hook

    draw = torch.Generator().manual_seed(seed)
    with hooked(module.register_forward_hook(see(name)) for name, module in modules.items()):
        for inputs, noise in starts(policy, observations, seed):
            calls.clear()
            images, image_masks, tokens, token_masks, state = inputs.network
            chunk = model.integrate(model.embed_prefix(images, image_masks, tokens, token_masks), state, noise)
            outputs = [y for _, y in calls]
            total = [torch.zeros(y.numel() // y.shape[-1], 1) for y in outputs]
            for _ in range(DIRECTIONS):
                signs = torch.randint(0, 2, chunk.shape, generator=draw) * 2.0 - 1.0
                direction = signs * robot_units(policy, inputs)
                gradients = torch.autograd.grad(chunk, outputs, direction, retain_graph=True)
                of_call = [gradient.flatten(end_dim=-2).square().sum(1, keepdim=True) for gradient in gradients]
                total = [sums + more for sums, more in zip(total, of_call, strict=True)]
            for (name, _), sums in zip(calls, total, strict=True):
                collectors[name].update(sums / DIRECTIONS)
    calls.clear()
    return {name: collector.inputs().sample for name, collector in collectors.items() if collector.nbytes}


def starts(policy: Policy, observations: Sequence[Mapping[str, Any]], seed: int) -> Iterator[tuple[Inputs, Tensor]]:
    """Yield each observation with the noise [1, H, action_dim] that it has when calibration runs it."""
    generator = torch.Generator().manual_seed(seed)
    for observation in observations:
        yield policy.observe(observation), torch.randn((1, *policy.noise_shape), generator=generator)


@contextmanager
def hooked(handles: Iterable[Any]) -> Iterator[None]:
    """Let hooks hang where they are put, until the end."""
    hung = list(handles)
    try:
        yield
    finally:
        for handle in hung:
            handle.remove()
