"""A network made ready to act; compiled: three graphs, without a break, and none compiled again from chunk to chunk."""

from __future__ import annotations

import os
from pathlib import Path

import torch
from torch import nn

from vlapack.linear import PackedLinear
from vlapack.machine import allocator
from vlapack.ops import engine
from vlapack.pi0.flow import Pi0

# Prompts differ in length, and everything behind them with it: those graphs take any. Pictures are all of one size.
GRAPHS = {"see": None, "understand": True, "velocity": True}
CACHE_VARIABLE = "TORCHINDUCTOR_CACHE_DIR"


def make_ready(model: Pi0, *, compile: bool = False) -> None:
    """Do what is done once, when a network has its weights.

    Flow times are tabulated, memory is settled. Unless the network is to be compiled, it is fused where that pays.
    """
    if model.savings.time_table:
        model.tabulate()
    allocator.settle()
    if compile:
        keep_compiled()
        compile_network(model)
    else:
        fuse_where_it_pays(model)


def fuse_where_it_pays(model: Pi0) -> None:
    """Fuse a network for Triton's engine, and for the CPU's one whose layers multiply integers.

    On the CPU a float network stays openpi's, operation by operation.
    """
    name = engine.active(model.device)
    if name == "triton" or (name == "cpu" and any(map(_multiplies_integers, model.modules()))):
        model.fuse()


def _multiplies_integers(module: nn.Module) -> bool:
    return isinstance(module, PackedLinear) and module.inputs.act_bits != 16


def compile_network(model: Pi0) -> None:
    """Have the vision tower, the language model and the denoise step compiled, each when it first runs.

    What they call is compiled with them; packed layers stay the operators that they are. Whoever needs a gradient gets
    a graph of its own. Modules must not be replaced afterwards.
    """
    model.unfuse()
    for name, dynamic in GRAPHS.items():
        setattr(model, name, torch.compile(getattr(model, name), fullgraph=True, dynamic=dynamic))


def is_compiled(model: Pi0) -> bool:
    """Whether `compile_network` had a network compiled."""
    return "velocity" in vars(model)


def keep_compiled() -> Path:
    """Let torch keep what it compiles in the user's cache folder, where the next process finds it; return the folder.

    torch's own choice is a temporary folder; one that the variable TORCHINDUCTOR_CACHE_DIR names stays.
    """
    home = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
    return Path(os.environ.setdefault(CACHE_VARIABLE, str(home / "vlapack" / "inductor")))
