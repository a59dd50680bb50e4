"""What doctor says of GPUs: nothing alarming where there is none, and what to do where one cannot be used."""

from __future__ import annotations

from typing import Any

import pytest
from fake_gpu import FakeCard, install_gpu

from vlapack.doctor import card as doctor
from vlapack.machine import gpu

NO_DRIVER = "Found no NVIDIA driver on your system. Please check that you have an NVIDIA GPU"
TOO_OLD = "The NVIDIA driver on your system is too old (found version 11040). Please update your GPU driver"
NONE = "No CUDA GPUs are available"
T4 = FakeCard("Tesla T4", 7, 5)
RTX_5090 = FakeCard("NVIDIA GeForce RTX 5090", 12, 0)


@pytest.mark.parametrize(
    ("faked", "on_the_bus"),
    [({"cuda": None}, 0), ({"failure": NO_DRIVER}, 0), ({"failure": NONE}, 0), ({"cards": [T4]}, 1)],
)
def test_a_machine_without_a_card_for_vlapack_is_not_wrong(
    monkeypatch: pytest.MonkeyPatch, faked: dict[str, Any], on_the_bus: int
) -> None:
    install_gpu(monkeypatch, *faked.pop("cards", ()), **faked)
    monkeypatch.setattr(gpu, "nvidia_cards", lambda: on_the_bus)
    found = doctor.card()
    assert found.ok
    assert found.value.startswith("none")


def test_a_card_that_can_be_used_is_named_with_its_driver_and_triton(monkeypatch: pytest.MonkeyPatch) -> None:
    install_gpu(monkeypatch, FakeCard(), T4)
    found = doctor.card()
    assert found.ok
    assert found.value == ("NVIDIA H200, sm_90, driver 570.86.15; Tesla T4, sm_75, driver 570.86.15; triton 3.6.0")


@pytest.mark.parametrize(
    ("faked", "value", "remedy"),
    [
        ({"failure": NO_DRIVER}, "1 NVIDIA card without a driver", "install NVIDIA's driver"),
        ({"failure": TOO_OLD}, "the driver is too old (it goes up to CUDA 11.4)", "update the driver"),
        ({"failure": NONE}, "no card is available", "give cpu"),
        ({"cards": [FakeCard()], "triton": None}, "NVIDIA H200", "pip install '.[gpu]'"),
        ({"cards": [FakeCard()], "triton": "3.3.1"}, "NVIDIA H200", "Triton 3.3.1 is too old"),
        ({"cards": [RTX_5090], "architectures": ("sm_90",)}, "RTX 5090", "install a newer torch"),
    ],
)
def test_what_keeps_vlapack_from_a_card_is_wrong_and_has_a_remedy(
    monkeypatch: pytest.MonkeyPatch, faked: dict[str, Any], value: str, remedy: str
) -> None:
    for name in gpu.VISIBLE:
        monkeypatch.delenv(name, raising=False)
    install_gpu(monkeypatch, *faked.pop("cards", ()), **faked)
    monkeypatch.setattr(gpu, "nvidia_cards", lambda: 1)
    found = doctor.card()
    assert not found.ok
    assert value in found.value
    assert remedy in (found.remedy or "")


def test_a_card_that_torch_or_a_variable_ignores_is_named_and_not_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    install_gpu(monkeypatch, cuda=None)
    monkeypatch.setattr(gpu, "nvidia_cards", lambda: 2)
    found = doctor.card()
    assert found.ok
    assert found.value == "2 NVIDIA cards, and a torch without CUDA"
    assert "pip install --force-reinstall torch" in (found.remedy or "")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    install_gpu(monkeypatch, failure=NONE)
    monkeypatch.setattr(gpu, "nvidia_cards", lambda: 2)
    assert doctor.card().ok
    assert "CUDA_VISIBLE_DEVICES= may hide it" in doctor.card().value
