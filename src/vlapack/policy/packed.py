"""A pack folder loaded as a network."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from vlapack.checkpoints.finite import FiniteReader
from vlapack.checkpoints.pack.checkpoint import PackedCheckpoint
from vlapack.checkpoints.pack.config import PackedGroup
from vlapack.linear import PackedLinear
from vlapack.machine.gpu import CPU
from vlapack.ops.activation import ActivationStep
from vlapack.pi0.flow import Pi0
from vlapack.pi0.load import build, load_weights
from vlapack.pi0.names import EMBEDDING_MODULE
from vlapack.pi0.savings import Savings
from vlapack.pi0.stored import StoredEmbedding


def load_packed_model(
    checkpoint: PackedCheckpoint,
    dtype: torch.dtype = torch.float32,
    savings: Savings = Savings(),  # noqa: B008 - it is frozen
    device: torch.device = CPU,
) -> Pi0:
    """Return the network of a pack, every weight held as the pack stores it.

    Layers that never run stay on meta; the embedding stays in the file. Every tensor is checked, these included. One
    layer at a time is read, moved, laid out for the device's engine, and freed.

    Args:
        checkpoint: the pack.
        dtype: of the arithmetic around the integer products; see `load_weights`.
        savings: what is neither computed nor held.
        device: where the network is to be.

    Raises:
        InputError: a tensor is damaged or missing, or holds NaN or infinity.
    """
    with FiniteReader(checkpoint, at_once=device != CPU) as reader:
        return _assemble(checkpoint, reader, dtype, savings, device)


def _assemble(
    checkpoint: PackedCheckpoint, reader: FiniteReader, dtype: torch.dtype, savings: Savings, device: torch.device
) -> Pi0:
    model = build(checkpoint.config.architecture, savings)
    of_module: dict[str, dict[str, str]] = {}
    for name in checkpoint.names():
        module, _, kind = name.rpartition(".")
        of_module.setdefault(module, {})[kind] = name
    unread = set(checkpoint.names())

    def take(name: str) -> Tensor:
        unread.discard(name)
        return reader.read(name)

    def tensors(module: str) -> dict[str, Tensor]:
        return {
            # The shape is for this process to read, not for kernels.
            kind: take(name) if device == CPU or kind == "weight_shape" else take(name).to(device)
            for kind, name in of_module.pop(module, {}).items()
        }

    for group in checkpoint.groups:
        if group.executed or not savings.last_layer:
            for name, packed in _packed_linears(group, tensors):
                model.set_submodule(name, packed)
        else:
            for name in group.layers:
                del of_module[name]
    embedding = reader.mapped if savings.embedding_rows else reader.read
    rows = {kind: embedding(name) for kind, name in of_module.pop(EMBEDDING_MODULE).items()}
    table = StoredEmbedding(rows["weight"], rows.get("weight_scale"), dtype, stays=savings.embedding_rows)
    model.set_submodule(EMBEDDING_MODULE, table.to(device))
    names = [name for kinds in of_module.values() for name in kinds.values()]
    load_weights(model, take, names, dtype, device=device)
    for name in unread:
        check_tensor(checkpoint, reader, name)
    return model


def check_tensor(checkpoint: PackedCheckpoint, reader: FiniteReader, name: str) -> None:
    """Check a tensor that nothing reads as strictly as one that is read, without holding a large one.

    Raises:
        InputError: its bytes are damaged, or it holds a value that a kernel must not see.
    """
    if name in checkpoint.contents.ruled:
        reader.read(name)
        return
    checkpoint.weights.check(name)
    if checkpoint.dtype(name).is_floating_point:
        reader.mapped(name)


def _packed_linears(
    group: PackedGroup, tensors: Callable[[str], dict[str, Tensor]]
) -> Iterator[tuple[str, PackedLinear]]:
    """Build the layers of one group around the one activation step that they share, each when it is asked for."""
    inputs: ActivationStep | None = None
    for name in group.layers:
        packed = PackedLinear.from_tensors(
            tensors(name),
            weight_bits=group.weight_bits[name],
            group_size=group.group_sizes[name],
            act_bits=group.act_bits,
            act_scale=group.act_scale,
            inputs=inputs,
        )
        inputs = packed.inputs
        yield name, packed
