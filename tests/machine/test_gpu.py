"""Whatever keeps a card from being used is told apart, in one line that says what helps; torch is faked."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from fake_gpu import FakeCard, install_gpu

from vlapack.errors import InputError
from vlapack.machine import gpu

TOO_OLD = (
    "The NVIDIA driver on your system is too old (found version 11040). Please update your GPU driver by downloading "
    "and installing a new version"
)
NO_DRIVER = "Found no NVIDIA driver on your system. Please check that you have an NVIDIA GPU and installed a driver"
MISMATCH = "Unexpected error from cudaGetDeviceCount(). Error 803: system has unsupported display driver combination"


def test_a_device_by_its_name_or_by_torchs_own_object() -> None:
    assert gpu.find_device("cpu") == gpu.find_device("cpu:0") == torch.device("cpu")
    assert gpu.parse_device("cuda:1") == gpu.parse_device(torch.device("cuda", 1)) == torch.device("cuda", 1)
    assert gpu.find_device(torch.device("meta")).type == "meta"


@pytest.mark.parametrize(
    ("word", "near"), [("cud", "cuda"), ("gpu", "cuda"), ("CUDA:0", "cuda"), ("cpu0", "cpu"), ("cuda:x", "cuda")]
)
def test_an_unknown_device_is_refused_with_the_nearest(word: str, near: str) -> None:
    with pytest.raises(InputError, match=f"`device='{word}'`: no such device; did you mean {near}\\? Give cpu, cuda"):
        gpu.find_device(word)


def test_one_that_is_near_to_nothing_is_refused_too() -> None:
    with pytest.raises(InputError, match="`device='tpu9'`: no such device;"):
        gpu.find_device("tpu9")
    with pytest.raises(InputError, match="no such device; Give cpu"):
        gpu.find_device("")


def test_a_card_has_its_number(monkeypatch: pytest.MonkeyPatch) -> None:
    install_gpu(monkeypatch, FakeCard(), FakeCard("NVIDIA L4", 8, 9))
    assert gpu.find_device("cuda") == torch.device("cuda", 0)
    assert gpu.find_device("cuda:1") == torch.device("cuda", 1)
    assert str(gpu.card(torch.device("cuda", 1))) == "NVIDIA L4, sm_89, driver 570.86.15"
    with pytest.raises(InputError, match=r"no card with that number; there are cuda:0 \(NVIDIA H200\), cuda:1"):
        gpu.find_device("cuda:2")


@pytest.mark.parametrize(
    ("failure", "said"),
    [
        (TOO_OLD, r"the driver is too old \(it goes up to CUDA 11.4\) for torch .*built for CUDA 12.8; update the dri"),
        (NO_DRIVER, "no NVIDIA driver and no card; give cpu"),
        ("No CUDA GPUs are available", "no card is available; give cpu"),
        ("No HIP GPUs are available", "no card is available; give cpu"),
        (MISMATCH, "the driver does not work: Unexpected error .*803"),
    ],
)
def test_each_reason_has_its_message(monkeypatch: pytest.MonkeyPatch, failure: str, said: str) -> None:
    for name in gpu.VISIBLE:
        monkeypatch.delenv(name, raising=False)
    install_gpu(monkeypatch, failure=failure)
    with pytest.raises(InputError, match=said) as raised:
        gpu.find_device("cuda")
    assert "\n" not in str(raised.value)


def test_a_card_without_a_driver_is_not_an_empty_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    install_gpu(monkeypatch, failure=NO_DRIVER)
    monkeypatch.setattr(gpu, "nvidia_cards", lambda: 2)
    with pytest.raises(InputError, match="2 NVIDIA cards without a driver; install NVIDIA's driver"):
        gpu.find_device("cuda")


def test_a_hidden_card_is_named_by_what_hides_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    install_gpu(monkeypatch, failure="No CUDA GPUs are available")
    with pytest.raises(InputError, match="CUDA_VISIBLE_DEVICES= may hide it"):
        gpu.find_device("cuda")


def test_a_torch_without_cuda_comes_with_the_line_that_installs_one(monkeypatch: pytest.MonkeyPatch) -> None:
    install_gpu(monkeypatch, cuda=None)
    with pytest.raises(InputError, match="is built without CUDA; `pip install --force-reinstall torch"):
        gpu.find_device("cuda")


def test_a_card_that_torch_has_no_code_for(monkeypatch: pytest.MonkeyPatch) -> None:
    blackwell = FakeCard("NVIDIA GeForce RTX 5090", 12, 0)
    install_gpu(monkeypatch, blackwell, architectures=("sm_80", "sm_90"))
    with pytest.raises(
        InputError, match=r"no code for NVIDIA GeForce RTX 5090, sm_120.*only for sm_80, sm_90; install"
    ):
        gpu.find_device("cuda")
    install_gpu(monkeypatch, blackwell, architectures=("sm_80", "compute_90"))  # the driver compiles PTX
    assert gpu.find_device("cuda").index == 0
    install_gpu(monkeypatch, FakeCard("Orin", 8, 7), architectures=("sm_80", "sm_90a"))
    assert gpu.find_device("cuda").index == 0


@pytest.mark.parametrize(
    ("card", "hip", "runs"),
    [
        (FakeCard("Tesla T4", 7, 5), None, False),
        (FakeCard("Orin", 8, 7), None, True),
        (FakeCard("a later one", 13, 0), None, True),
        (FakeCard("AMD Instinct MI300X", 9, 4, gcnArchName="gfx942:sramecc+:xnack-"), "6.4", True),
        (FakeCard("AMD Radeon VII", 9, 0, gcnArchName="gfx906"), "6.4", False),
    ],
)
def test_which_cards_the_kernels_run_on(
    monkeypatch: pytest.MonkeyPatch, card: FakeCard, hip: str | None, runs: bool
) -> None:
    install_gpu(monkeypatch, card, hip=hip, cuda=None if hip else "12.8")
    reason = gpu.unsupported(torch.device("cuda", 0))
    assert (reason is None) == runs
    assert runs or reason.startswith(str(gpu.card(torch.device("cuda", 0))))


def test_a_board_with_one_memory_counts_the_file_cache_as_free(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu, "available_bytes", lambda: 7_000)
    install_gpu(monkeypatch, FakeCard(free=3_000), FakeCard(free=3_000, is_integrated=True))
    assert [gpu.free_bytes(torch.device("cuda", number)) for number in (0, 1)] == [3_000, 7_000]


def test_the_bus_and_the_kernels_modules_are_read_without_a_driver(tmp_path: Path) -> None:
    for name, vendor, kind in (("0", "0x10de", "0x030200"), ("1", "0x10de", "0x040300"), ("2", "0x1002", "0x030000")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "vendor").write_text(f"{vendor}\n")
        (tmp_path / name / "class").write_text(f"{kind}\n")
    assert gpu.nvidia_cards(tmp_path) == 1
    assert gpu.nvidia_cards(tmp_path / "none") == 0
    version = tmp_path / "version"
    version.write_text("NVRM version: NVIDIA UNIX x86_64 Kernel Module  570.86.15  Thu Jan 16\nGCC version: 12.2\n")
    assert gpu.driver_version((tmp_path / "none", version)) == "570.86.15"
    assert gpu.driver_version(()) is None
