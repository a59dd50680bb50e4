"""How much every layer's quantization moves the final action chunk, for all layers and bit choices in one pass.

Let a be the chunk in the robot's units and δ(t) the error that a choice of bits causes in a layer's output at its call
t: the packed layer's output on the float layer's own input, minus the float output. To first order the chunk moves by
Δ = Σ_t J(t) δ(t), with J(t) the Jacobian of the chunk with respect to that output. J is never formed: for a standard
normal v, one backward pass of vᵀa brings g(t) = J(t)ᵀ v to every layer at once, and

    E_v [(Σ_t g(t)ᵀ δ(t))²] = ‖Δ‖²

as in Hutchinson's trace estimator. So one forward pass per observation and one backward pass per direction v measure
every layer at every choice: rounded weights and rounded activations together, and with the sum over tokens and denoise
steps inside the square, since a weight's error meets every token with the same sign.

What it leaves out is what first order leaves out: curvature (an attention that turns to other keys, a gripper that
changes its mind), and the interplay of layers. docs/tune.md says how well it agrees with one layer at a time.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from vlapack.linear import project
from vlapack.pi0.flow import Pi0
from vlapack.policy.inputs import Inputs

Choices = Mapping[str, Mapping[int, nn.Module]]
"""Name of a module → bits → what would take its place, called like it."""


class Probe(nn.Module):
    """Computes what the module did before, and notes on the way back what each choice would have changed.

    Attributes:
        totals: Σ gᵀδ of every choice since `begin`, float64.
    """

    def __init__(self, inner: nn.Module, choices: Mapping[int, nn.Module]) -> None:
        """Watch `inner`; `choices` are compared with it."""
        super().__init__()
        self.inner = inner
        self.choices = nn.ModuleList(choices.values())
        self.begin()

    def begin(self) -> None:
        """Start a new sum."""
        self.totals = [0.0] * len(self.choices)

    def forward(self, x: Tensor) -> Tensor:
        """Return `inner(x)`, or rows of a table if x are their numbers."""
        y: Tensor = self.inner(x)
        with torch.no_grad():
            # Errors wait for the way back: bf16 halves their memory, and a sum over thousands needs no more digits.
            errors = [(chosen - y).to(torch.bfloat16) for chosen in project(x, *self.choices)]
        if not y.requires_grad:  # the first probe on a path: what lies before it needs no gradient
            y.requires_grad_()
        noted: Tensor = _Note.apply(y, self, *errors)  # type: ignore[no-untyped-call]
        return noted


class _Note(torch.autograd.Function):
    """The identity, whose backward pass adds gᵀδ to the totals of a probe."""

    @staticmethod
    def forward(ctx: Any, y: Tensor, probe: Probe, *errors: Tensor) -> Tensor:
        """Hand `y` on; `errors` are of its shape."""
        ctx.probe = probe
        ctx.save_for_backward(*errors)
        return y.view_as(y)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """Hand the gradient on."""
        for choice, error in enumerate(ctx.saved_tensors):
            ctx.probe.totals[choice] += float(torch.vdot(gradient.flatten(), error.to(gradient.dtype).flatten()))
        return (gradient, *[None] * (1 + len(ctx.saved_tensors)))


@contextmanager
def probing(model: nn.Module, choices: Choices) -> Iterator[list[Probe]]:
    """Put a probe in the place of every module that `choices` names, in its order; at the end all is as it was."""
    originals = {name: model.get_submodule(name) for name in choices}
    probes = [Probe(originals[name], of_module) for name, of_module in choices.items()]
    try:
        for name, probe in zip(choices, probes, strict=True):
            model.set_submodule(name, probe)
        yield probes
    finally:
        for name, original in originals.items():
            model.set_submodule(name, original)


def sample(model: Pi0, probes: list[Probe], inputs: Inputs, noise: Tensor, directions: Tensor) -> tuple[Tensor, Tensor]:
    """Measure one observation.

    Args:
        model: the float network, with the probes in place.
        probes: of `probing`.
        inputs: one observation, B = 1.
        noise: [1, H, action_dim], where the flow starts.
        directions: [R, H, action_dim]: each v, times what one unit of the network's action is to the robot.

    Returns:
        The float chunk [1, H, action_dim]; and Σ gᵀδ, float64 [R, choices], probe by probe in the order of its choices:
        the mean of its squares over many observations and directions is the mean of ‖Δ‖².
    """
    images, image_masks, tokens, token_masks, state = inputs.network
    chunk = model.integrate(model.embed_prefix(images, image_masks, tokens, token_masks), state, noise)
    sums = []
    for number, direction in enumerate(directions, start=1):
        for probe in probes:
            probe.begin()
        chunk.backward(direction[None], retain_graph=number < len(directions))  # type: ignore[no-untyped-call]
        sums.append([total for probe in probes for total in probe.totals])
    return chunk.detach(), torch.tensor(sums, dtype=torch.float64)
