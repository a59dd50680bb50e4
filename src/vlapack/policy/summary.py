"""What `repr(policy)` says of a loaded policy: network, robot, bits, memory, engine; off the CPU, or in bf16, where."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator
from typing import get_args

import torch
from torch import Tensor, nn

from vlapack.checkpoints.policy_config import PolicyConfig
from vlapack.checkpoints.tensorfile import is_mapped
from vlapack.linear import PackedLinear
from vlapack.machine import gpu
from vlapack.ops import engine
from vlapack.pi0.flow import Pi0
from vlapack.pi0.names import EMBEDDING_MODULE, never_executed
from vlapack.pi0.stored import StoredEmbedding, StoredLinear
from vlapack.plan.selected import Part, part_of

FLOAT, NEVER_RUN = "float", "never run"


def summary(model: Pi0, config: PolicyConfig) -> str:
    """Describe a policy, one thing a line: what `config` says of it, and what is really in its network."""
    sizes, robot = config.architecture, config.features
    transformers = (("vision", sizes.vision), ("llm", sizes.llm), ("expert", sizes.expert))
    layers = ", ".join(f"{part} {size.depth} × {size.width}" for part, size in transformers)
    packed = any(isinstance(module, PackedLinear) for module in model.modules())
    device, dtype = model.device, compute_dtype(model)
    rows = {
        "network": f"{'π0.5' if sizes.adaptive_norms else 'π0'}: {layers} (layers × width)",
        "robot": f"{config.layout}: {len(robot.cameras)} cameras, state {robot.state}, "
        f"chunks of {sizes.action_horizon} × {len(robot.actions)} actions",
        "weights": bits_by_part(model),
        "memory": f"{held_bytes(model) / 1e6:.2f} MB held, {mapped_bytes(model) / 1e6:.2f} MB mapped from the file",
        "engine": _engine(device, packed=packed),
    }
    if device.type != "cpu" or dtype != torch.float32:
        rows["device"] = f"{device}, {str(dtype).removeprefix('torch.')}"
    return "\n".join((f"Policy {config.name}", *(f"  {name:8s} {text}" for name, text in rows.items())))


def compute_dtype(model: Pi0) -> torch.dtype:
    """Return the type of a network's float arithmetic, which is that of its prompt's rows."""
    table = model.llm.embed_tokens
    return table.dtype if isinstance(table, StoredEmbedding) else table.weight.dtype


def _engine(device: torch.device, *, packed: bool) -> str:
    if packed:
        return engine.described(device)
    return f"torch ({gpu.card(device)})" if device.type == "cuda" else "torch"


def held_bytes(model: nn.Module) -> int:
    """Return the bytes of a network's tensors that are in memory: each storage once, none that is mapped or on meta."""
    return sum(tensor.untyped_storage().nbytes() for tensor in _storages(model) if not is_mapped(tensor))


def mapped_bytes(model: nn.Module) -> int:
    """Return the bytes of a network's tensors that stay in their file."""
    return sum(tensor.untyped_storage().nbytes() for tensor in _storages(model) if is_mapped(tensor))


def _storages(model: nn.Module) -> Iterator[Tensor]:
    """Return one tensor for every distinct storage of a network."""
    seen = set()
    for tensor in (*model.parameters(), *model.buffers()):
        if not tensor.is_meta and (address := tensor.untyped_storage().data_ptr()) not in seen:
            seen.add(address)
            yield tensor


def bits_by_part(model: Pi0) -> str:
    """Say how each part's linears and embedding are held: `llm W4A8 (121) + never run (5), expert float, …`.

    Layers of which only the time table is kept are left out.
    """
    labels: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for name, label in _labels(model):
        labels[part_of(name)][label] += 1
    return ", ".join(f"{part} {_counted(labels[part])}" for part in get_args(Part) if labels[part])


def _labels(model: Pi0) -> Iterator[tuple[str, str]]:
    """Name every linear and the embedding, and say how it is held."""
    unread = never_executed(model.config)
    for name, module in model.named_modules():
        if isinstance(module, PackedLinear) and not module.weight_scale.is_meta:
            yield name, module.bits
        elif name == EMBEDDING_MODULE:
            yield name, "W8" if isinstance(module, StoredEmbedding) and module.scale is not None else FLOAT
        elif isinstance(module, (nn.Linear, StoredLinear)):
            if not module.weight.is_meta:
                yield name, FLOAT
            elif name in unread:
                yield name, NEVER_RUN


def _counted(labels: Counter[str]) -> str:
    """List labels with their counts; a part that is float throughout, or one embedding, needs none."""
    if len(labels) == 1 and (FLOAT in labels or "W8" in labels):
        return next(iter(labels))
    return " + ".join(f"{label} ({count})" for label, count in sorted(labels.items()))
