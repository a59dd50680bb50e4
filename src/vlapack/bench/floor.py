"""The least time that a chunk's products could take: operations needed, over the speed seen here."""

from __future__ import annotations

import time

import torch

from vlapack.machine.gpu import CPU, synchronize
from vlapack.ops import engine
from vlapack.pi0.config import Pi0Config
from vlapack.pi0.names import EXPERT, LLM, PROJECTOR, VISION, linears, never_executed, time_table

SIDE = 1024
TRIES = 5
ROUNDS = 2_000_000
GPU_SIDE, GPU_ROUNDS = 8192, 10


def operations(config: Pi0Config, cameras: int, prompt: int) -> int:
    """Count a chunk's multiplications and additions in linear layers: 2 · M · K · N of each.

    Only what cannot be left out: cameras that there are, prompt tokens without padding, none of the layers that nothing
    reads, and the flow times from their table. Attention itself, norms and activations are not counted.

    Args:
        config: of the network.
        cameras: how many pictures.
        prompt: tokens of the prompt.
    """
    pictures = cameras * config.vision.num_patches
    suffix = config.num_steps * config.suffix_length
    rows_of = {VISION: pictures, PROJECTOR: pictures, LLM: pictures + prompt, EXPERT: suffix}
    unread = never_executed(config) | time_table(config)[0]
    total = 0
    for name, (outputs, inputs) in linears(config).items():
        if name not in unread:
            rows = next((rows for part, rows in rows_of.items() if name.startswith(f"{part}.")), None)
            if rows is None:  # what stands before and behind the expert: the actions, and π0's state
                rows = config.num_steps * (1 if name == "state_proj" else config.action_horizon)
            total += 2 * rows * outputs * inputs
    return total


def peak(dtype: torch.dtype | None, threads: int, device: torch.device = CPU) -> tuple[float, str]:
    """Measure how many operations per second this CPU or a GPU reaches, and say with what.

    Args:
        dtype: of a float policy's arithmetic, whose peak is that of torch's own product of two square matrices; None
            for a packed one, whose peak is the compiled engine's instructions on registers alone. Without that engine
            integers are multiplied as fp32.
        threads: how many work.
        device: a GPU's peak is that of torch's own products of large matrices, of int8 for a packed policy.
    """
    if device.type != "cpu":
        return _peak_on_gpu(dtype, device)
    if dtype is None and engine.active() == "cpu":
        kernels = engine.kernels
        return max(kernels.peak(threads, ROUNDS) for _ in range(TRIES)), f"int8, {kernels.isa()}, registers only"
    dtype = torch.float32 if dtype is None else dtype
    a, b = (torch.randn(SIDE, SIDE).to(dtype) for _ in range(2))
    best = float("inf")
    for _ in range(TRIES):
        start = time.perf_counter()
        torch.mm(a, b)
        best = min(best, time.perf_counter() - start)
    return 2 * SIDE**3 / best, f"{str(dtype).removeprefix('torch.')}, torch.mm"


def _peak_on_gpu(dtype: torch.dtype | None, device: torch.device) -> tuple[float, str]:
    """Measure torch's product of two square matrices: int8 where `dtype` is None."""
    kind = torch.int8 if dtype is None else dtype
    product = torch._int_mm if dtype is None else torch.mm
    a, b = (torch.ones(GPU_SIDE, GPU_SIDE, dtype=kind, device=device) for _ in range(2))
    b = b.T  # cuBLAS multiplies int8 in this order only, on all cards
    best = float("inf")
    for _ in range(TRIES):
        synchronize(device)
        start = time.perf_counter()
        for _ in range(GPU_ROUNDS):
            product(a, b)
        synchronize(device)
        best = min(best, (time.perf_counter() - start) / GPU_ROUNDS)
    return 2 * GPU_SIDE**3 / best, f"{str(kind).removeprefix('torch.')}, torch.{product.__name__}"
