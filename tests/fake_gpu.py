"""A GPU that is not there: what torch says of cards, and a stand-in for the package of Triton's kernels."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType

import pytest
import torch
from torch import Tensor

from vlapack.machine import gpu
from vlapack.ops import attention_reference, engine, fused_reference, reference

ARCHITECTURES = ("sm_80", "sm_86", "sm_90", "sm_100", "sm_120", "compute_120")


@dataclass
class FakeCard:
    """What torch's `get_device_properties` says of a card."""

    name: str = "NVIDIA H200"
    major: int = 9
    minor: int = 0
    free: int = 10**11
    is_integrated: bool = False
    gcnArchName: str = ""  # noqa: N815 - torch's


def install_gpu(
    monkeypatch: pytest.MonkeyPatch,
    *cards: FakeCard,
    failure: str | None = None,
    cuda: str | None = "12.8",
    hip: str | None = None,
    triton: str | None = "3.6.0",
    architectures: tuple[str, ...] = ARCHITECTURES,
) -> None:
    """Let torch see these cards, or fail to with this message; Triton is there in a version, or is missing."""

    def init() -> None:
        if failure is not None:
            raise RuntimeError(failure)

    def number(device: object) -> int:
        return device.index or 0 if isinstance(device, torch.device) else int(str(device))

    for name, value in {
        "init": init,
        "device_count": lambda: len(cards),
        "current_device": lambda: 0,
        "get_device_properties": lambda device: cards[number(device)],
        "get_device_name": lambda device: cards[number(device)].name,
        "get_arch_list": lambda: list(architectures),
        "memory_reserved": lambda device: 0,
        "memory_allocated": lambda device: 0,
        "mem_get_info": lambda device: (cards[number(device)].free, 2 * cards[number(device)].free),
    }.items():
        monkeypatch.setattr(torch.cuda, name, value)
    monkeypatch.setattr(torch.version, "cuda", cuda)
    monkeypatch.setattr(torch.version, "hip", hip)
    monkeypatch.setattr(gpu, "driver_version", lambda: "570.86.15")
    monkeypatch.setattr(gpu, "nvidia_cards", lambda: 0)
    uncache(monkeypatch)
    install_triton(monkeypatch, triton)


def uncache(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was found out once is found out again in this test, and nothing of this test is kept."""
    for module, name in ((gpu, "card"), (engine, "_start_triton"), (engine, "start_interpreter")):
        monkeypatch.setattr(module, name, getattr(getattr(module, name), "__wrapped__", getattr(module, name)))


def install_triton(monkeypatch: pytest.MonkeyPatch, version: str | None) -> None:
    """Have a Triton of this version, or none. Not as a module: torch would look into it."""

    def found() -> str:
        if version is None:
            raise ImportError("No module named 'triton'")
        return version

    monkeypatch.setattr(engine, "triton_version", found)
    monkeypatch.setattr(engine.shutil, "which", lambda name: f"/usr/bin/{name}")  # Triton's compiler


FUSED = {
    "fused": (
        fused_reference.norm_quantize,
        fused_reference.norm_transform,
        fused_reference.gelu_quantize,
        fused_reference.gelu_transform,
    ),
    "turning": (attention_reference.turn_and_keep,),
    "attention": (attention_reference.attend_few,),
    "attention_step": (attention_reference.attend_quantize,),
}
"""Where the fused ops' kernels are, and what defines these ops."""


def install_kernels(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Put the reference in the place of Triton's kernels, with a form of its own for weights; return what was called.

    A prepared weight is uint8 [N, 1 + bytes]: its bits, and then the row as a pack stores it.
    """
    calls: Counter[str] = Counter()

    def prepare(stored: Tensor, bits: int, in_features: int) -> Tensor:
        calls["prepare"] += 1
        row = stored.contiguous().view(torch.uint8)
        return torch.cat((torch.full_like(row[:, :1], bits), row), dim=1)

    def restore(prepared: Tensor, out_features: int, in_features: int) -> Tensor:
        calls["restore"] += 1
        return stored_of(prepared)

    def stored_of(prepared: Tensor) -> Tensor:
        dtype = torch.int32 if prepared[0, 0] == 4 else torch.int8
        return prepared[:, 1:].contiguous().view(dtype)

    def int_linear(q: Tensor, s: Tensor, weight: Tensor, *rest: Tensor | None, **options: object) -> Tensor:
        calls["int_linear"] += 1
        return reference.int_linear(q, s, stored_of(weight), *rest, **options)  # type: ignore[arg-type]

    def float_linear(x: Tensor, weight: Tensor, *rest: Tensor | None, **options: object) -> Tensor:
        calls["float_linear"] += 1
        return reference.float_linear(x, stored_of(weight), *rest, **options)  # type: ignore[arg-type]

    def linear_gradient(gradient: Tensor, weight: Tensor, *rest: Tensor | None, **options: object) -> Tensor:
        calls["linear_gradient"] += 1
        return reference.linear_gradient(gradient, stored_of(weight), *rest, **options)  # type: ignore[arg-type]

    def transform_activation(*arguments: Tensor | None) -> Tensor:
        calls["transform_activation"] += 1
        return reference.transform_activation(*arguments)  # type: ignore[arg-type]

    def quantize_activation(*arguments: Tensor | None) -> tuple[Tensor, Tensor]:
        calls["quantize_activation"] += 1
        return reference.quantize_activation(*arguments)  # type: ignore[arg-type]

    def int_sums(q: Tensor, weight: Tensor, outputs: int) -> Tensor:
        calls["int_sums"] += 1
        return fused_reference.int_sums(q, stored_of(weight), outputs)

    def gated_product(q: Tensor, s: Tensor, weight: Tensor, *rest: Tensor | None, **options: object) -> Tensor:
        calls["gated_product"] += 1
        return fused_reference.gated_product(q, s, stored_of(weight), *rest, **options)  # type: ignore[arg-type]

    def counting(definition: Callable[..., object]) -> Callable[..., object]:
        def run(*arguments: object, **options: object) -> object:
            calls[definition.__name__] += 1
            return definition(*arguments, **options)

        return run

    package = {
        "layout": {"prepare": prepare, "restore": restore},
        "product": {"int_linear": int_linear, "int_sums": int_sums, "gated_product": gated_product},
        "weight_only": {"float_linear": float_linear},
        "gradient": {"linear_gradient": linear_gradient},
        "activation": {"transform_activation": transform_activation, "quantize_activation": quantize_activation},
        **{module: {one.__name__: counting(one) for one in ops} for module, ops in FUSED.items()},
    }
    for name, functions in package.items():
        module = ModuleType(f"vlapack.ops.triton.{name}")
        module.__dict__.update(functions)
        monkeypatch.setitem(sys.modules, module.__name__, module)
    return calls


def interpret(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Have CPU tensors run on the stand-in, as under Triton's interpreter; return what was called."""
    uncache(monkeypatch)
    install_triton(monkeypatch, "3.6.0")
    monkeypatch.setenv("VLAPACK_ENGINE", "triton")
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    return install_kernels(monkeypatch)
