"""How much every layer's quantization moves the final action chunk, for all layers and bit choices in one pass.

Let a be the chunk in the robot's units and δ(t) the error that a choice of bits causes in a layer's output at its call
t: the packed layer's output on the float layer's own input, minus the float output. To first order the chunk moves by
Δ = Σ_t J(t) δ(t), with J(t) the Jacobian of the chunk with respect to that output. J is never formed: for random signs
v, one backward pass of vᵀa brings g(t) = J(t)ᵀ v to every layer at once, and

    E_v [(Σ_t g(t)ᵀ δ(t))²] = ‖Δ‖²

as in Hutchinson's trace estimator (1989; signs vary less than normal numbers do). So one forward pass per observation
and one backward pass for some v side by side measure every layer at every choice: rounded weights and rounded
activations together, and with the sum over tokens and denoise steps inside the square, since a weight's error meets
every token with the same sign.

What it leaves out is what first order leaves out: curvature (an attention that turns to other keys, a gripper that
changes its mind), and the interplay of layers. docs/tune.md says how well it agrees with one layer at a time.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from vlapack.linear import project
from vlapack.machine.gpu import CPU
from vlapack.pi0.flow import Pi0
from vlapack.policy.inputs import Inputs
from vlapack.policy.policy import Policy
from vlapack.tune.allocate import Chosen

Choices = Mapping[str, Mapping[Chosen, nn.Module]]
"""Name of a module → choice → what would take its place, called like it."""


class Probe(nn.Module):
    """Computes what the module did before, and lets the way back tell what each choice would have changed.

    Attributes:
        amounts: one zero per choice. The network is computed as if that part of the choice's error δ were in the
            output, so that the gradient with respect to it is Σ gᵀδ.
    """

    def __init__(
        self, inner: nn.Module, choices: Mapping[Chosen, nn.Module], device: torch.device | None = None
    ) -> None:
        """Watch `inner`; `choices` are compared with it, on the device that all of them are on."""
        super().__init__()
        self.inner = inner
        self.choices = nn.ModuleList(choices.values())
        self.amounts = torch.zeros(len(choices), requires_grad=True, device=device)

    def forward(self, x: Tensor) -> Tensor:
        """Return `inner(x)`, or rows of a table if x are their numbers."""
        y: Tensor = self.inner(x)
        with torch.no_grad():
            # Errors wait for the way back: bf16 halves their memory, and a sum over thousands needs no more digits.
            errors = [(chosen - y).to(torch.bfloat16) for chosen in project(x, *self.choices)]
        noted: Tensor = _Note.apply(y, self.amounts, *errors)  # type: ignore[no-untyped-call]
        return noted


class _Note(torch.autograd.Function):
    """y + Σ amount · error, for amounts of zero."""

    @staticmethod
    def forward(ctx: Any, y: Tensor, amounts: Tensor, *errors: Tensor) -> Tensor:
        """Hand `y` on; `errors` are of its shape, one for each of the `amounts`."""
        ctx.save_for_backward(*errors)
        return y.view_as(y)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """Hand the gradient on."""
        flat = gradient.flatten()
        of_amounts = torch.stack([flat @ error.to(flat.dtype).flatten() for error in ctx.saved_tensors])
        return (gradient, of_amounts, *[None] * len(ctx.saved_tensors))


@contextmanager
def probing(model: nn.Module, choices: Choices, device: torch.device | None = None) -> Iterator[list[Probe]]:
    """Put a probe in the place of every module that `choices` names, in its order; at the end all is as it was.

    Args:
        model: the float network.
        choices: of its modules.
        device: of both.
    """
    originals = {name: model.get_submodule(name) for name in choices}
    probes = [Probe(originals[name], of_module, device) for name, of_module in choices.items()]
    try:
        for name, probe in zip(choices, probes, strict=True):
            model.set_submodule(name, probe)
        yield probes
    finally:
        for name, original in originals.items():
            model.set_submodule(name, original)


def robot_units(policy: Policy, inputs: Inputs) -> Tensor:
    """Return what one unit of the network's action is to the robot, [1, H, action_dim]; 0 for padding.

    Args:
        policy: whose actions they are.
        inputs: one observation, B = 1.
    """
    low, high = (
        policy.robot_actions(torch.full((1, *policy.noise_shape), value).numpy(), inputs.robot_state)
        for value in (0.0, 1.0)
    )
    unit = torch.zeros(1, *policy.noise_shape)
    unit[..., : low.shape[-1]] = torch.from_numpy(high - low)
    return unit


def sample(model: Pi0, probes: list[Probe], inputs: Inputs, noise: Tensor, directions: Tensor) -> tuple[Tensor, Tensor]:
    """Measure one observation.

    Args:
        model: the float network, with the probes in place.
        probes: of `probing`.
        inputs: one observation, B = 1.
        noise: [1, H, action_dim], where the flow starts.
        directions: [R, H, action_dim]: each v, times what one unit of the network's action is to the robot.

    Returns:
        On the CPU, as all that is given: the float chunk [1, H, action_dim]; and Σ gᵀδ, float64 [R, choices], probe by
        probe in the order of its choices: the mean of its squares over many observations and directions is the mean of
        ‖Δ‖².
    """
    images, image_masks, tokens, token_masks, state = inputs.network
    chunk = model.integrate(model.embed_prefix(images, image_masks, tokens, token_masks), state, noise)
    amounts = [probe.amounts for probe in probes]
    # The directions go back side by side: every weight is widened, and every error read, once for all of them.
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "There is a performance drop")  # fused attention takes them one by one
        sums = torch.func.vmap(lambda direction: torch.autograd.grad(chunk, amounts, direction[None]))(
            directions.to(chunk.device)
        )
    return chunk.detach().to(CPU), torch.cat(sums, dim=1).double().to(CPU)
