"""A policy on a device: refused before it is read if it cannot be there, and loaded one layer at a time.

There is no card here. torch's answers about one are faked, and where tensors must really go, meta plays it.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fake_gpu import FakeCard, install_gpu, interpret
from live_bytes import LiveBytes
from torch import Tensor

from vlapack import Policy, Recipe, make_pack, open_checkpoint
from vlapack.checkpoints.finite import FiniteReader
from vlapack.errors import InputError
from vlapack.linear import PackedLinear
from vlapack.ops import engine, layouts
from vlapack.pi0.load import build, load_weights
from vlapack.pi0.names import canonical_name
from vlapack.pi0.savings import Savings
from vlapack.policy import loading, packed, placing
from vlapack.policy.placing import device_bytes, usable

META = torch.device("meta")
SHAPE = 16
"""Bytes of `weight_shape`, which stays on the CPU while its layer is made."""


@pytest.fixture(autouse=True)
def unset(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("VLAPACK_ENGINE", "TRITON_INTERPRET"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="module")
def pack(random_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """4 bits and some layers 8; the embedding 8."""
    recipe = Recipe(rounding="rtn", overrides=(("up_proj", 8),), embedding_bits=8, block=8)
    return make_pack(open_checkpoint(random_checkpoint), recipe, tmp_path_factory.mktemp("packs") / "all", None).pack


def largest(path: Path) -> int:
    checkpoint = open_checkpoint(path)
    return max(
        torch.empty(checkpoint.shape(name), dtype=checkpoint.dtype(name), device=META).nbytes
        for name in checkpoint.names()
        if "embed_tokens" not in name and "lm_head" not in name
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_float_policy_is_loaded_a_tensor_at_a_time(random_checkpoint: Path, dtype: torch.dtype) -> None:
    checkpoint = open_checkpoint(random_checkpoint)
    model = build(checkpoint.config.architecture)
    before: list[tuple[str, Counter[str]]] = []
    with LiveBytes() as bytes_of, FiniteReader(checkpoint, at_once=True) as reader:

        def read(name: str) -> Tensor:
            before.append((name, bytes_of.live.copy()))
            return reader.read(name)

        load_weights(model, read, checkpoint.names(), dtype, rows=reader.mapped, device=META)
    loaded = dict(model.named_parameters()) | dict(model.named_buffers())
    held = 0
    for name, live in before:  # nothing of the tensors before it is left but what is held of them
        assert live["cpu"] == 0
        assert live["meta"] == held
        held += loaded[canonical_name(name)].nbytes
    held, layer = bytes_of.live["meta"], largest(random_checkpoint)
    assert held > 2 * layer  # else the next lines would say nothing
    scalars = 64  # of the check for NaN
    assert bytes_of.peak["meta"] <= held + layer
    assert bytes_of.peak["cpu"] <= layer + scalars
    assert bytes_of.peak["both"] <= held + layer + scalars
    assert bytes_of.live["cpu"] == 0
    assert model.llm.embed_tokens.weight.device.type == "cpu"


def test_a_pack_is_loaded_a_layer_at_a_time_and_laid_out_there(pack: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint = open_checkpoint(pack)
    model = build(checkpoint.config.architecture)
    monkeypatch.setattr(packed, "build", lambda *_: model)  # its empty weights are on meta, too, and do not count
    calls = interpret(monkeypatch)
    monkeypatch.setattr(engine, "active", lambda device: "triton")
    layers: list[PackedLinear] = []
    put = model.set_submodule

    def set_submodule(name: str, module: torch.nn.Module) -> None:
        put(name, module)
        if isinstance(module, PackedLinear):  # nothing of this layer or of its neighbors is left but what is held
            layers.append(module)
            buffers = {id(buffer): buffer.nbytes for layer in layers for buffer in layer.buffers()}
            assert bytes_of.live["meta"] == sum(buffers.values())
            assert bytes_of.live["cpu"] <= SHAPE

    monkeypatch.setattr(model, "set_submodule", set_submodule)
    with LiveBytes() as bytes_of:
        packed.load_packed_model(checkpoint, torch.bfloat16, device=META)
    laid_out = [layer for layer in layers if layer.weight_prepared is not None]
    assert {layouts.engine_of(layer.weight_prepared) for layer in laid_out} == {"triton"}
    assert calls == {"prepare": len(laid_out)}
    held, layer = bytes_of.live["meta"], largest(pack)
    assert held > 2 * layer
    # What is read of a layer beside its weight: scales, permutation, rotation.
    beside = 4 * 1024
    assert bytes_of.peak["meta"] <= held + layer + beside
    assert bytes_of.peak["cpu"] <= layer + beside
    assert bytes_of.peak["both"] <= held + layer + beside
    table = model.llm.embed_tokens
    assert table.weight.device.type == table.scale.device.type == "cpu"
    model.to(META)
    assert table.weight.device.type == "cpu"


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_a_tensor_that_moves_does_not_wait_for_its_check(
    pack: Path, random_checkpoint: Path, device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    class Reader(FiniteReader):
        def __init__(self, source: Any, *, at_once: bool = False) -> None:
            asked.append(at_once)
            super().__init__(source, at_once=at_once)

    for module in (packed, loading):
        monkeypatch.setattr(module, "FiniteReader", Reader)
    for path in (pack, random_checkpoint):
        Policy.from_pretrained(path, device=torch.device(device), savings=Savings(time_table=False))
    assert asked == [device != "cpu"] * 2


@pytest.mark.parametrize("saved", [True, False])
def test_the_embedding_stays_in_its_file_or_goes_along(
    pack: Path, random_checkpoint: Path, saved: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loading, "usable", torch.device)
    savings = Savings(embedding_rows=saved, time_table=False)
    for path in (pack, random_checkpoint):
        loaded = Policy.from_pretrained(path, device="meta", savings=savings)
        assert loaded.device == META
        assert loaded.model.llm.embed_tokens.weight.device.type == ("cpu" if saved else "meta")
        assert "device   meta, float32" in repr(loaded)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_bytes_that_a_device_needs_are_those_that_are_held(
    pack: Path, random_checkpoint: Path, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VLAPACK_ENGINE", "reference")
    savings = Savings(time_table=False)
    for path in (pack, random_checkpoint):
        held = Policy.from_pretrained(path, dtype=dtype, savings=savings).held_bytes()
        assert device_bytes(open_checkpoint(path), dtype, savings)[0] == pytest.approx(held, rel=0.01)


def refused(path: Path, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Loading fails with this line before a single weight is read."""

    def read(*_: Any) -> Tensor:
        raise AssertionError("a weight was read")

    monkeypatch.setattr(FiniteReader, "read", read)
    with pytest.raises(InputError, match=message) as raised:
        Policy.from_pretrained(path, device="cuda")
    assert "\n" not in str(raised.value)


def test_too_little_memory_is_said_before_loading_with_the_bytes(pack: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install_gpu(monkeypatch, FakeCard(free=20_000))
    refused(
        pack, r"`device='cuda:0'`: .*/all needs 0.00 GB \(.*\), and NVIDIA H200, .* has 0.00 GB free; .*", monkeypatch
    )


@pytest.mark.parametrize(
    ("faked", "message"),
    [
        ({"cuda": None}, "`device='cuda'`: torch .* is built without CUDA"),
        ({"failure": "No CUDA GPUs are available"}, "`device='cuda'`: no card is available"),
        ({"triton": None}, r"needs Triton .*pip install '\.\[gpu\]'"),
    ],
)
def test_a_card_that_cannot_be_used_is_said_before_loading(
    pack: Path, faked: dict[str, Any], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    install_gpu(monkeypatch, FakeCard(), **faked)
    refused(pack, message, monkeypatch)


def test_an_old_card_is_said_before_loading(random_checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install_gpu(monkeypatch, FakeCard("Tesla T4", 7, 5))
    refused(random_checkpoint, "`device='cuda:0'`: unsupported card Tesla T4, sm_75", monkeypatch)
    monkeypatch.setenv("VLAPACK_ENGINE", "reference")
    assert usable("cuda") == torch.device("cuda", 0)


def test_a_device_that_is_none_is_refused_with_the_nearest(pack: Path) -> None:
    with pytest.raises(InputError, match="`device='cud'`: no such device; did you mean cuda"):
        Policy.from_pretrained(pack, device="cud")


def test_bf16_is_the_type_of_gpus_and_fp32_that_of_cpus(random_checkpoint: Path) -> None:
    assert placing.default_dtype(torch.device("cuda", 0)) == torch.bfloat16
    assert placing.default_dtype(torch.device("cpu")) == torch.float32
    assert "device" not in repr(Policy.from_pretrained(random_checkpoint))
    loaded = Policy.from_pretrained(random_checkpoint, dtype=torch.bfloat16)
    assert "device   cpu, bfloat16" in repr(loaded)


def test_a_whole_policy_runs_on_the_kernels_that_its_device_has(pack: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLAPACK_ENGINE", "reference")
    loaded = Policy.from_pretrained(pack)
    noise = torch.zeros(loaded.noise_shape)
    expected = loaded.infer(loaded.example(), noise=noise)["actions"]
    calls = interpret(monkeypatch)
    loaded = Policy.from_pretrained(pack)
    found = loaded.infer(loaded.example(), noise=noise)["actions"]
    # Fused: merged products and the cache's attention may round otherwise.
    assert np.abs(found - expected).max() <= 1e-4 * np.abs(expected).max()
    config = loaded.config.architecture
    assert calls["turn_and_keep"] == config.llm.depth + config.num_steps * config.expert.depth
    assert calls["norm_quantize"]
    assert calls["int_linear"]
    assert "engine   triton 3.6.0 (interpreted)" in repr(loaded)
