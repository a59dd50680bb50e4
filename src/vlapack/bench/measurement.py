"""What is measured of a policy: bytes by part, milliseconds by part, and the memory of its process."""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from vlapack.checkpoints.tensorfile import is_mapped
from vlapack.linear import PackedLinear
from vlapack.machine.gpu import synchronize
from vlapack.machine.memory import process_memory
from vlapack.pi0.flow import Pi0
from vlapack.pi0.graphs import Runner
from vlapack.pi0.prefix import look
from vlapack.plan.selected import part_of
from vlapack.policy.policy import Policy
from vlapack.policy.rtc import Guidance, RealTime

PHASES = {"see": "vision", "understand": "prefix", "velocity": "denoise"}
"""The network's methods, and what the time that they take is called."""
FLOW = {"follow": "flow"}
"""All denoise steps with what steers them; a captured graph has them as `denoise`."""


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
        found["guided"] = _run(policy, observation, phases, **joined)[1]
    return {**found, **process_memory()}


def _run(
    policy: Policy, observation: Mapping[str, Any], phases: Mapping[str, str], **joined: Any
) -> tuple[np.ndarray, dict[str, Any]]:
    graphs = policy.acting.graphs
    with timed(policy.model, phases) if graphs is None else timed_graphs(graphs, policy.device) as spent:
        start = time.perf_counter()
        actions = policy.infer(observation, **joined)["actions"]
        total = (time.perf_counter() - start) * 1e3
    return actions, {"ms": total, "parts": dict(spent), "how": policy.how}


@contextmanager
def timed_graphs(graphs: Runner, device: torch.device) -> Iterator[Mapping[str, float]]:
    """Add up the milliseconds of each part while graphs run; one graph has vision and prefix, and counts as prefix."""
    spent: Counter[str] = Counter()

    @contextmanager
    def watched(part: str) -> Iterator[None]:
        synchronize(device)
        start = time.perf_counter()
        yield
        synchronize(device)
        spent["prefix" if part == "encode" else part] += (time.perf_counter() - start) * 1e3  # type: ignore[assignment]

    unwatched, graphs.watch = graphs.watch, watched
    try:
        yield spent
    finally:
        graphs.watch = unwatched


@contextmanager
def timed(model: Pi0, phases: Mapping[str, str] = PHASES) -> Iterator[Mapping[str, float]]:
    """Add up the milliseconds of each part while the network runs; `phases` are methods, and what they are called."""
    spent: Counter[str] = Counter()
    device = model.device

    def watched(work: Callable[..., Any], part: str) -> Callable[..., Any]:
        def run(*args: Any, **options: Any) -> Any:
            synchronize(device)
            start = time.perf_counter()
            result = work(*args, **options)
            synchronize(device)
            spent[part] += (time.perf_counter() - start) * 1e3  # type: ignore[assignment]
            return result

        return run

    originals = {name: getattr(model, name) for name in phases}
    try:
        for name, part in phases.items():
            setattr(model, name, watched(originals[name], part))
        yield spent
    finally:
        for name, original in originals.items():
            setattr(model, name, original)
