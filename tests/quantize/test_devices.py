"""In-place quantization on a device: laid out for its engine, and refused before calibration where it has none."""

from __future__ import annotations

import pickle

import pytest
import torch
from fake_gpu import interpret
from torch import nn

from vlapack import Recipe, quantize_
from vlapack.errors import InputError
from vlapack.quantize import inplace


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
        raise InputError("the engine of GPUs needs Triton")

    monkeypatch.setattr(inplace, "active", active)
    model = nn.Sequential(nn.Linear(64, 32))
    with pytest.raises(InputError, match="needs Triton"):
        quantize_(model, Recipe(include=".", scope=""), [torch.randn(3, 64)], forward=lambda batch: 1 / 0)
