"""Whether a GPU is here, and if one is, what keeps vlapack from it. A machine without one is not wrong."""

from __future__ import annotations

import torch

from vlapack.doctor.finding import Finding
from vlapack.errors import InputError
from vlapack.machine import gpu
from vlapack.ops import engine


def card() -> Finding:
    """Look for a GPU, its driver, a torch that has code for it, and kernels: Triton's or shipped ones."""
    on_the_bus = gpu.nvidia_cards()
    if not gpu.built_for_gpus():
        if not on_the_bus:
            return _good("none")
        return _good(f"{_cards(on_the_bus)}, and a torch without CUDA", f"to run there: {gpu.WITH_CUDA}")
    if (trouble := gpu.why_no_gpu()) is not None:
        absent = trouble.startswith("no ")
        if absent and not on_the_bus:
            return _good("none")
        if absent and "may hide it" in trouble:
            return _good(trouble)
        found, _, remedy = trouble.partition("; ")
        return Finding("gpu", False, found, remedy or gpu.DRIVER_REMEDY)
    devices = [torch.device("cuda", number) for number in range(torch.cuda.device_count())]
    named = "; ".join(str(gpu.card(device)) for device in devices)
    fit = [device for device in devices if gpu.unsupported(device) is None]
    if not fit:
        return _good(f"none that vlapack supports: {gpu.unsupported(devices[0])}", "vlapack runs on the CPU here")
    try:
        gpu.find_device(fit[0])
        engine.start_kernels(fit[0])
        kernels = engine.kernels_of_gpus()
    except InputError as error:
        return Finding("gpu", False, named, str(error))
    return _good(f"{named}; {kernels}")


def _good(found: str, remedy: str | None = None) -> Finding:
    return Finding("gpu", True, found, remedy)


def _cards(count: int) -> str:
    return f"{count} NVIDIA card{'s' if count > 1 else ''}"
