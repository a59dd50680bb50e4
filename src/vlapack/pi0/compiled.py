"""A network made ready to act; compiled: three graphs, without a break, and none compiled again from chunk to chunk."""

from __future__ import annotations

import os
from pathlib import Path

import torch

from vlapack.machine import allocator
from vlapack.ops import engine
from vlapack.pi0.flow import Pi0

# Prompts differ in length, and everything behind them with it: those graphs take any. Pictures are all of one size.
GRAPHS = {"see": None, "understand": True, "velocity": True}
CACHE_VARIABLE = "TORCHINDUCTOR_CACHE_DIR"


def make_ready(model: Pi0, *, compile: bool = False) -> None:
    """Do what is done once, when a network has its weights.

    Flow times are tabulated, memory is settled. For Triton's engine the network is fused, unless it is to be compiled.
    """
    if model.savings.time_table:
        model.tabulate()
    allocator.settle()
    if compile:
        keep_compiled()
        compile_network(model)
    elif engine.active(model.device) == "triton":
        model.fuse()


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
