"""A policy's network from its checkpoint: checked, read layer by layer onto its device, and made ready to act."""

from __future__ import annotations

import torch

from vlapack.checkpoints.base import Checkpoint
from vlapack.checkpoints.finite import FiniteReader
from vlapack.checkpoints.pack.checkpoint import PackedCheckpoint
from vlapack.machine.gpu import CPU
from vlapack.pi0.compiled import make_ready
from vlapack.pi0.flow import Pi0
from vlapack.pi0.load import build, load_weights
from vlapack.pi0.savings import Savings
from vlapack.policy.packed import load_packed_model
from vlapack.policy.placing import default_dtype, require_room, usable


def load_network(
    checkpoint: Checkpoint,
    *,
    dtype: torch.dtype | None,
    savings: Savings,
    compile: bool,
    device: str | torch.device,
) -> Pi0:
    """Do the part of `Policy.from_checkpoint` that loads the network; arguments as there.

    Raises:
        InputError: the weights do not fit, or the device is not there, cannot be used or has too little memory
    """
    place = usable(device)
    dtype = default_dtype(place) if dtype is None else dtype
    require_room(checkpoint, place, dtype, savings)
    if isinstance(checkpoint, PackedCheckpoint):
        model = load_packed_model(checkpoint, dtype, savings, place)
    else:
        model = build(checkpoint.config.architecture, savings)
        with FiniteReader(checkpoint, at_once=place != CPU) as reader:
            load_weights(model, reader.read, checkpoint.names(), dtype, rows=reader.mapped, device=place)
    make_ready(model, compile=compile)
    return model
