"""In-place quantization on a device: laid out for its engine, and refused before calibration where it has none."""

from __future__ import annotations

import pickle

import pytest
import torch
from fake_gpu import FakeCard, install_gpu, install_kernels, interpret
from tagged_device import CARD, TaggedDevice
from torch import nn

from vlapack import Recipe, quantize_
from vlapack.errors import InputError
from vlapack.quantize import inplace
from vlapack.quantize.calibration import InputCollector


@pytest.mark.parametrize("calibrated", [True, False])
def test_a_model_is_laid_out_for_the_engine_of_its_device(calibrated: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = interpret(monkeypatch)
    model = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 64))
    x = torch.randn(3, 64)
    quantize_(model, Recipe(include=".", scope="", rounding="rtn", permute=False, block=8), [x] if calibrated else None)
    assert calls["prepare"] == 2
    y = model(x)
    assert calls["int_linear"] == 2
    monkeypatch.setenv("VLAPACK_ENGINE", "reference")
    plain = pickle.loads(pickle.dumps(model))
    assert torch.equal(plain(x), y)


def test_a_device_without_an_engine_is_said_before_calibration(monkeypatch: pytest.MonkeyPatch) -> None:
    def active(device: torch.device) -> str:
        raise InputError("the GPU engine needs Triton")

    monkeypatch.setattr(inplace, "active", active)
    model = nn.Sequential(nn.Linear(64, 32))
    with pytest.raises(InputError, match="needs Triton"):
        quantize_(model, Recipe(include=".", scope=""), [torch.randn(3, 64)], forward=lambda batch: 1 / 0)


GPTQ = Recipe(include=".", scope="", rotation="greedy", smooth=0.15, block=8, act_scale="static")


def three_layers() -> nn.Sequential:
    torch.manual_seed(4)
    return nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 64), nn.Linear(64, 16))


@pytest.mark.parametrize("memory", [2**30, 1])
def test_a_model_on_a_card_is_quantized_there_as_on_the_cpu(memory: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A memory of one byte has every layer calibrated in a run of its own."""
    data = [torch.randn(50, 64, generator=torch.Generator().manual_seed(number)) for number in range(3)]
    monkeypatch.setenv("VLAPACK_ENGINE", "reference")
    expected = three_layers()
    quantize_(expected, GPTQ, data)
    install_gpu(monkeypatch, FakeCard())
    monkeypatch.setenv("VLAPACK_ENGINE", "triton")
    monkeypatch.setenv("TRITON_INTERPRET", "1")  # inside an op, the stand-in is called with the CPU's tensors
    calls = install_kernels(monkeypatch)
    with TaggedDevice() as card:
        model = three_layers().to(CARD)
        quantize_(model, GPTQ, [x.to(CARD) for x in data], calib_memory=memory)
        assert calls["prepare"] == 3
        assert {tensor.device for tensor in model.buffers()} == {CARD}
        found = {name: tensor.cpu() for name, tensor in model.state_dict().items()}
        y = model(data[0].to(CARD))
        assert y.device == CARD
    assert found.keys() == expected.state_dict().keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.state_dict().items())
    assert torch.equal(y, expected(data[0]))
    assert card.read_in("methods/gptq.py") <= 4 * 3


def test_a_card_without_memory_for_a_layer_is_said_before_calibration(monkeypatch: pytest.MonkeyPatch) -> None:
    install_gpu(monkeypatch, FakeCard(free=10_000))
    with TaggedDevice():
        model = three_layers().to(CARD)
        with pytest.raises(InputError, match=r"`device='cuda:0'`: quantizing its largest layer needs about .* H200"):
            quantize_(model, GPTQ, [torch.zeros(3, 64)], forward=lambda batch: 1 / 0)


@pytest.mark.parametrize("kept", [None, torch.device("cpu")])
def test_the_sample_of_a_card_is_the_cpus_and_grows_as_it_fills(kept: torch.device | None) -> None:
    batches = [torch.randn(rows, 6, generator=torch.Generator().manual_seed(rows)) for rows in (3, 1, 7, 30, 40)]
    here = InputCollector("layer", seed=2, max_tokens=16)
    with TaggedDevice() as card:
        there = InputCollector("layer", seed=2, max_tokens=16, device=kept)
        for number, batch in enumerate(batches):
            here.update(batch)
            there.update(batch.to(CARD))
            if not number:
                assert there._sample.shape == ((6, 6) if kept is None else (16, 6))
        found, expected = there.inputs(), here.inputs()
        assert found.sample.device == found.absmax.device == (kept or CARD)
        assert torch.equal(found.sample.cpu(), expected.sample)
        assert torch.equal(found.absmax.cpu(), expected.absmax)
        assert found.tokens == expected.tokens
    assert card.read_in("quantize/calibration.py") <= 2 * len(batches) + 1
