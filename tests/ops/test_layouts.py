"""A weight is multiplied by the engine that it is laid out for, on the device where it was laid out, or not at all."""

from __future__ import annotations

import sys
from types import ModuleType, SimpleNamespace

import pytest
import torch
from fake_gpu import install_kernels, interpret, uncache

from vlapack.errors import InputError
from vlapack.methods.round import round_weight
from vlapack.ops import engine, layouts, library, reference
from vlapack.ops.int4 import pack_int4

N, K = 24, 40


def layer(bits: int) -> tuple[torch.Tensor, torch.Tensor]:
    q, scale = round_weight(torch.randn(N, K, generator=torch.Generator().manual_seed(0)), bits)
    return (pack_int4(q) if bits == 4 else q), scale


@pytest.mark.parametrize("bits", [4, 8])
def test_every_op_reaches_triton_where_it_is_the_engine(bits: int, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = interpret(monkeypatch)
    stored, scale = layer(bits)
    prepared = layouts.prepare(stored, bits, K, act_bits=16)  # its layers of unrounded activations, too
    assert prepared is not None
    assert layouts.engine_of(prepared) == "triton"
    assert torch.equal(layouts.restore(prepared, N, K), stored)
    x = torch.randn(3, K)
    q, s = library.quantize_activation(x)
    y = library.int_linear(q, s, prepared, scale, dtype=torch.float32)
    assert torch.equal(y, reference.int_linear(q, s, stored, scale, dtype=torch.float32))
    z = library.float_linear(library.transform_activation(x), prepared, scale, dtype=torch.float32)
    assert torch.equal(z, reference.float_linear(x, stored, scale, dtype=torch.float32))
    assert calls == dict.fromkeys(("prepare", "restore", "int_linear", "float_linear"), 1) | {
        "quantize_activation": 1,
        "transform_activation": 1,
    }


def test_a_packs_own_layout_is_the_references_on_every_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    stored, scale = layer(4)
    q, s = reference.quantize_activation(torch.randn(3, K))
    expected = reference.int_linear(q, s, stored, scale, dtype=torch.float32)
    calls = interpret(monkeypatch)
    assert torch.equal(library.int_linear(q, s, stored, scale, dtype=torch.float32), expected)
    assert not calls


def test_a_weight_of_the_gpus_does_not_run_on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("VLAPACK_ENGINE", "TRITON_INTERPRET"):
        monkeypatch.delenv(name, raising=False)
    uncache(monkeypatch)
    install_kernels(monkeypatch)
    stored, scale = layer(4)
    prepared = layouts.prepare_for("triton", stored, 4, K)
    q, s = reference.quantize_activation(torch.randn(3, K))
    with pytest.raises(InputError, match="runs on GPUs and the device is cpu"):
        library.int_linear(q, s, prepared, scale, dtype=torch.float32)


@pytest.mark.skipif(engine.kernels is None, reason="it is the compiled engine's layout")
def test_a_weight_of_the_cpus_does_not_run_on_a_gpu() -> None:
    stored, scale = layer(4)
    prepared = layouts.prepare_for("cpu", stored, 4, K)
    x = torch.randn(3, K, device="meta")  # what the function of the GPU's dispatch key sees: another device
    choosing = library.by_layout({"cpu": reference.float_linear, "reference": reference.float_linear}, position=1)
    for weight, engine_name in ((prepared, "cpu"), (stored, "reference")):
        with pytest.raises(InputError, match=f"a weight on cpu, laid out for the engine {engine_name}, .* on meta: mo"):
            choosing(x, weight, scale, dtype=torch.float32)


def test_a_kernel_is_launched_on_the_card_of_its_tensors(monkeypatch: pytest.MonkeyPatch) -> None:
    """Triton would take the current one: no tensor can be on a second card here, so a stand-in says that it is."""
    launched: list[str] = []

    class Current:
        def __init__(self, device: torch.device) -> None:
            self.device = device

        def __enter__(self) -> None:
            launched.append(f"on {self.device}")

        def __exit__(self, *_: object) -> None:
            launched.append("back")

    module = ModuleType("vlapack.ops.triton.product")
    module.int_linear = lambda x: launched.append("kernel")  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "device", Current)
    run = library.of_triton("product", "int_linear")
    for number in (0, 1):
        run(SimpleNamespace(device=torch.device("cuda", number)))
    assert launched == ["kernel", "on cuda:1", "kernel", "back"]


def test_a_large_weight_is_laid_out_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = interpret(monkeypatch)
    stored, _ = layer(4)
    whole = layouts.prepare_for("triton", stored, 4, K)
    monkeypatch.setattr(layouts, "PIECE", 7 * stored[:1].nbytes)  # 24 rows: 7, 7, 7 and 3
    assert torch.equal(layouts.prepare_for("triton", stored, 4, K), whole)
    assert calls["prepare"] == 1 + 4


@pytest.mark.parametrize("name", ["transform_activation", "quantize_activation", "int_linear", "float_linear"])
def test_gpus_have_functions_of_their_own_and_importing_them_needs_no_triton(name: str) -> None:
    assert torch._C._dispatch_has_kernel_for_dispatch_key(f"vlapack::{name}", "CUDA")
