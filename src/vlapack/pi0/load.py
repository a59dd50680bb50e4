"""Filling the network from a checkpoint: built on meta, every tensor assigned, never half-initialised."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from vlapack.errors import InputError
from vlapack.machine.gpu import CPU
from vlapack.pi0.config import Pi0Config
from vlapack.pi0.flow import Pi0
from vlapack.pi0.names import EMBEDDING, EXPERT_HEAD, TIED_EMBEDDING, canonical_name, kept_in_fp32, never_executed
from vlapack.pi0.savings import Savings
from vlapack.pi0.stored import StoredEmbedding, StoredLinear

SHOWN = 5
FLOATS = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
"""What weights are stored in. An integer or an fp8 value is a weight only together with a scale."""


def build(config: Pi0Config, savings: Savings = Savings()) -> Pi0:  # noqa: B008 - it is frozen
    """Return the network with every parameter on the meta device: shapes without memory."""
    with torch.device("meta"):
        return Pi0(config, savings).eval()


def load_weights(
    model: Pi0,
    read: Callable[[str], Tensor],
    names: Iterable[str],
    dtype: torch.dtype = torch.float32,
    *,
    rows: Callable[[str], Tensor] | None = None,
    device: torch.device = CPU,
) -> None:
    """Assign every parameter of `model` that acting reads; what it never reads stays on meta and is not read here.

    A tensor that already has the wanted dtype is assigned as it is, so one mapped from a file stays mapped. Linears
    that the file stores in a narrower dtype are held so, and widened when they run: the same products in less memory.
    One tensor is read, moved and freed at a time: beyond what is held in the end, loading needs one tensor's bytes.

    Args:
        model: From `build`, possibly with some linears replaced by modules without parameters.
        read: Name, in the file's spelling → tensor.
        names: Every tensor of the file, `paligemma.` or `paligemma.model.` spelling. The lm_heads may be among them:
            the language model's is the token embedding where that has no name of its own (tied weights), and the
            expert's is never read.
        dtype: Of the arithmetic; with bf16 (or fp16), norms, patch embeddings, action and time projections stay fp32.
        rows: Name → tensor, left on disk: for the embedding, of which a prompt needs some rows; it stays there wherever
            the network is. None: it is read.
        device: Where the network is to be.

    Raises:
        InputError: A tensor is missing, unexpected, there twice, of another shape, or no float; the message names it.
    """
    stored = stored_names(names)
    check_names(model, stored)
    if rows is not None and model.savings.embedding_rows:
        table = _fitting(rows(stored[EMBEDDING]), model.llm.embed_tokens.weight.shape, stored[EMBEDDING])
        model.set_submodule(EMBEDDING.removesuffix(".weight"), StoredEmbedding(table, dtype=dtype, stays=True))
    if EXPERT_HEAD in stored and not model.savings.lm_heads:
        name = EXPERT_HEAD.removesuffix(".weight")
        model.get_submodule(name.rpartition(".")[0]).add_module(
            "lm_head", StoredLinear(_placed(read(stored[EXPERT_HEAD]), device), None)
        )
    wanted = executed_parameters(model)
    for name, parameter in wanted.items():
        tensor = _placed(_fitting(read(stored[name]), parameter.shape, stored[name]), device)
        module, _, leaf = name.rpartition(".")
        owner = model.get_submodule(module)
        if not (isinstance(owner, nn.Linear) and tensor.dtype.itemsize < arithmetic(name, dtype).itemsize):
            tensor = tensor.to(arithmetic(name, dtype))
        setattr(owner, leaf, nn.Parameter(tensor, requires_grad=False))
    for name, module in list(model.named_modules()):
        if not isinstance(module, nn.Linear):
            continue
        if module.weight.dtype.itemsize < dtype.itemsize:
            model.set_submodule(name, StoredLinear(module.weight, module.bias))
        elif module.bias is not None and module.bias.dtype != module.weight.dtype:  # a file may mix them
            module.bias = nn.Parameter(module.bias.to(module.weight.dtype), requires_grad=False)


@contextmanager
def filled(model: Pi0, modules: Sequence[str], read: Callable[[str], Tensor], dtype: torch.dtype) -> Iterator[None]:
    """Give some modules of a network on meta their weights, as wide as they compute; afterwards they are meta again.

    Args:
        model: From `build`.
        modules: Dotted names; everything below them that acting reads is filled.
        read: A parameter's name → tensor.
        dtype: As in `load_weights`.
    """
    inside = tuple(f"{name}." for name in modules)
    for name in executed_parameters(model):
        if name.startswith(inside):
            module, _, leaf = name.rpartition(".")
            tensor = read(name).to(arithmetic(name, dtype))
            setattr(model.get_submodule(module), leaf, nn.Parameter(tensor, requires_grad=False))
    try:
        yield
    finally:
        for name in modules:
            model.get_submodule(name).to("meta")


def _placed(tensor: Tensor, device: torch.device) -> Tensor:
    return tensor if device.type == "cpu" else tensor.to(device)


def executed_parameters(model: Pi0) -> dict[str, nn.Parameter]:
    """Every parameter that acting reads, by name."""
    unread = never_executed(model.config) if model.savings.last_layer else frozenset()
    return {name: value for name, value in model.named_parameters() if name.rpartition(".")[0] not in unread}


def arithmetic(name: str, dtype: torch.dtype) -> torch.dtype:
    """The dtype in which one parameter computes when the network computes in `dtype`."""
    return torch.float32 if kept_in_fp32(name) else dtype


def stored_names(names: Iterable[str]) -> dict[str, str]:
    """Map the network's names to those of a checkpoint; where the embedding is only there as the head, it is that.

    Raises:
        InputError: Two names mean the same tensor.
    """
    stored: dict[str, str] = {}
    for name in names:
        other = stored.setdefault(canonical_name(name), name)
        if other != name:
            raise InputError(f"The checkpoint holds one tensor under two names: {other} and {name}.")
    if EMBEDDING not in stored and TIED_EMBEDDING in stored:
        stored[EMBEDDING] = stored[TIED_EMBEDDING]
    return stored


def _fitting(tensor: Tensor, shape: torch.Size, name: str) -> Tensor:
    if tensor.shape != shape:
        raise InputError(
            f"{name}: expected shape {list(shape)}, found {list(tensor.shape)}. "
            "The weights belong to another configuration than the one given."
        )
    require_float(tensor.dtype, name)
    return tensor


def require_float(dtype: torch.dtype, name: str) -> None:
    """Refuse a weight that is stored as integers, booleans or fp8.

    Raises:
        InputError: it names the tensor and its dtype.
    """
    if dtype not in FLOATS:
        allowed = ", ".join(str(one).removeprefix("torch.") for one in FLOATS)
        raise InputError(
            f"{name} is stored as {str(dtype).removeprefix('torch.')}, no weight without its scales; weights are "
            f"{allowed}: give the float checkpoint that this one was converted from"
        )


def check_names(model: Pi0, stored: Collection[str]) -> None:
    """Compare a checkpoint's tensors, by their canonical names, with those that the network reads and knows.

    Raises:
        InputError: Some are missing, or unexpected; the message lists the first of them.
    """
    wanted = executed_parameters(model).keys()
    known = {name for name, _ in model.named_parameters()} | {EMBEDDING, TIED_EMBEDDING, EXPERT_HEAD}
    problems = []
    for what, keys in (("lacks", wanted - set(stored)), ("has no place for", set(stored) - known)):
        if keys:
            listed = ", ".join(sorted(keys)[:SHOWN]) + (", …" if len(keys) > SHOWN else "")
            problems.append(f"{what} {len(keys)} tensor{'s' if len(keys) > 1 else ''}: {listed}")
    if problems:
        shape = "π0.5" if model.config.adaptive_norms else "π0"
        raise InputError(
            f"The weights do not fit this {shape} network of {len(wanted)} tensors: the checkpoint "
            f"{', and '.join(problems)}. Check that the configuration is the checkpoint's own and the file complete."
        )
