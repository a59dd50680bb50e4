"""Kernels that are imported again, with Triton or with what stands in for it; and a card that is not there."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from fake_cuda import FakeCuda

import vlapack.ops
from vlapack.ops.cubin.language import KERNELS

sys.path.insert(0, str(Path(__file__).parents[3] / "scripts"))
STREAM = 0x5EED


@pytest.fixture
def forget_kernels(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], None]]:
    """Let the modules of kernels be imported again, compiled and not interpreted; other tests keep theirs.

    Yields what forgets them once more.
    """

    def forget() -> None:
        for name in kernel_modules():
            del sys.modules[name]

    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    package = importlib.import_module(KERNELS)
    kept = {name: sys.modules[name] for name in kernel_modules()}
    forget()
    yield forget
    forget()
    sys.modules.update(kept)
    vlapack.ops.triton = package  # type: ignore[attr-defined]


def kernel_modules() -> list[str]:
    return [name for name in sys.modules if f"{name}.".startswith(f"{KERNELS}.")]


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> FakeCuda:
    """A libcuda, and a torch whose current card is 1, with a stream of its own."""
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 1)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda: SimpleNamespace(cuda_stream=STREAM))
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
    return FakeCuda()
