"""What is measured of a policy: bytes by part, milliseconds by part, and the memory of its process."""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from vlapack.checkpoints.tensorfile import is_mapped
from vlapack.errors import InputError
from vlapack.linear import PackedLinear
from vlapack.machine.gpu import synchronize
from vlapack.machine.memory import process_memory
from vlapack.pi0.flow import Pi0
from vlapack.pi0.graphs import DIFFERENTIATED, Runner
from vlapack.pi0.prefix import look
from vlapack.plan.selected import part_of
from vlapack.policy.acting import EAGER
from vlapack.policy.policy import Policy
from vlapack.policy.rtc import Guidance, RealTime, steering

PHASES = {"see": "vision", "understand": "prefix", "velocity": "denoise"}
"""The network's methods, and what the time that they take is called."""
FLOW = {"follow": "flow"}
"""All denoise steps with what steers them; a captured graph has them as `denoise`."""
FUSED = "fused"
"""How an eager policy ran whose network has a fused form."""


@dataclass
class Spent:
    """What was seen of a chunk while it ran."""

    parts: Counter[str] = field(default_factory=Counter)
    """Milliseconds of each part."""
    differentiated: bool = False
    """Whether a denoise step was; with graphs, the policy itself says so."""


def require_joined(policy: Policy, guidance: Guidance) -> None:
    """Refuse a guidance that the policy's chunks cannot be joined by.

    Raises:
        InputError: chunks of one action, or a policy that was not trained for `trained`.
    """
    horizon, _ = policy.noise_shape
    if horizon < 2:
        raise InputError(
            f"action_horizon is {horizon}; a chunk is joined to what is left of the one before, so it must be at least "
            "2: time this policy without guidance"
        )
    steering(None, RealTime(guidance), horizon=horizon, max_delay=policy.max_delay)


def footprint(policy: Policy, observation: Mapping[str, Any]) -> dict[str, Any]:
    """Say what a policy holds, and how many tokens an observation has for it."""
    inputs = policy.observe(observation)
    seen = look(*inputs.network[:4], config=policy.config.architecture, savings=policy.model.savings)
    patches = policy.config.architecture.vision.num_patches
    return {
        "weight_bytes": policy.held_bytes(),
        "mapped_bytes": policy.mapped_bytes(),
        "bytes_by_part": bytes_by_part(policy.model),
        "packed": any(isinstance(module, PackedLinear) for module in policy.model.modules()),
        "architecture": policy.config.architecture.to_dict(),
        "cameras": int(inputs.image_masks.sum()),
        "prompt_tokens": int(inputs.token_masks.sum()),
        "prefix_tokens": seen.images.shape[1] * patches + seen.tokens.shape[1],
    }


def bytes_by_part(model: Pi0) -> dict[str, int]:
    """Return the bytes in memory of every part of the network, each storage once; what is mapped is left out."""
    found: dict[str, int] = defaultdict(int)
    counted = set()
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        storage = tensor.untyped_storage()
        if not tensor.is_meta and not is_mapped(tensor) and storage.data_ptr() not in counted:
            counted.add(storage.data_ptr())
            found["time table" if name == "time_table" else part_of(name)] += storage.nbytes()
    return dict(found)


def chunk(policy: Policy, observation: Mapping[str, Any], guidance: Guidance | None = None) -> dict[str, Any]:
    """Run one action chunk: its milliseconds with the observation's preparation, those of the parts, and the memory.

    Args:
        policy: whose.
        observation: in the layout's keys.
        guidance: run a second chunk, `guided`, that is joined to the first: half of that has been carried out by then,
            and one action more is until the second arrives. How long it takes does not depend on either.
    """
    phases = PHASES if guidance is None else PHASES | FLOW
    actions, found = _run(policy, observation, phases)
    if guidance is not None:
        joined = {"previous": actions[len(actions) // 2 :], "delay": 1, "realtime": RealTime(guidance=guidance)}
        found["guided"] = {"guidance": guidance, **_run(policy, observation, phases, **joined)[1]}
    return {**found, **process_memory()}


def _run(
    policy: Policy, observation: Mapping[str, Any], phases: Mapping[str, str], **joined: Any
) -> tuple[np.ndarray, dict[str, Any]]:
    graphs = policy.acting.graphs
    with timed(policy.model, phases) if graphs is None else timed_graphs(graphs, policy.device) as spent:
        start = time.perf_counter()
        actions = policy.infer(observation, **joined)["actions"]
        total = (time.perf_counter() - start) * 1e3
    return actions, {"ms": total, "parts": dict(spent.parts), "how": _how(policy, spent)}


def _how(policy: Policy, spent: Spent) -> str:
    """Say how the last chunk ran: as `Policy.how` does, and where that is eager, whether the fused form did it."""
    if policy.how != EAGER or not policy.model.is_fused:
        return policy.how
    return f"{FUSED} ({DIFFERENTIATED})" if spent.differentiated else FUSED


@contextmanager
def timed_graphs(graphs: Runner, device: torch.device) -> Iterator[Spent]:
    """Add up the milliseconds of each part while graphs run; one graph has vision and prefix, and counts as prefix."""
    spent = Spent()

    @contextmanager
    def watched(part: str) -> Iterator[None]:
        synchronize(device)
        start = time.perf_counter()
        yield
        synchronize(device)
        spent.parts["prefix" if part == "encode" else part] += (time.perf_counter() - start) * 1e3  # type: ignore[assignment]

    unwatched, graphs.watch = graphs.watch, watched
    try:
        yield spent
    finally:
        graphs.watch = unwatched


@contextmanager
def timed(model: Pi0, phases: Mapping[str, str] = PHASES) -> Iterator[Spent]:
    """Add up the milliseconds of each part while the network runs; `phases` are methods, and what they are called."""
    spent = Spent()
    device = model.device

    def watched(work: Callable[..., Any], part: str) -> Callable[..., Any]:
        def run(*args: Any, **options: Any) -> Any:
            synchronize(device)
            start = time.perf_counter()
            result = work(*args, **options)
            synchronize(device)
            spent.differentiated |= torch.is_grad_enabled()
            spent.parts[part] += (time.perf_counter() - start) * 1e3  # type: ignore[assignment]
            return result

        return run

    # Whoever asks whether a network is compiled looks for methods of its own: those that it has not must go again.
    own = {name: method for name, method in vars(model).items() if name in phases}
    for name, part in phases.items():
        setattr(model, name, watched(getattr(model, name), part))
    try:
        yield spent
    finally:
        for name in phases:
            delattr(model, name)
        for name, method in own.items():
            setattr(model, name, method)
