"""Which kernels a card runs is what `VLAPACK_KERNELS` says, or an error in one line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from fake_cuda import FakeCuda, fake_cubin
from fake_gpu import FakeCard, install_gpu

from vlapack.console import exit_code
from vlapack.doctor.card import card
from vlapack.errors import InputError
from vlapack.ops import engine, library
from vlapack.ops.cubin import archive, driver, launch
from vlapack.ops.cubin.archive import Archive, Code, cubin_name, kernels_hash, write
from vlapack.ops.cubin.language import import_kernels
from vlapack.ops.cubin.variant import Variant

ORIN, THOR, H200 = FakeCard("Orin", 8, 7), FakeCard("Thor", 11, 0), FakeCard()
CUDA = torch.device("cuda", 0)


@pytest.fixture
def shipped(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, cuda: FakeCuda, forget_kernels: Any) -> FakeCuda:
    """Archives with what `quantize` launches, in a folder, and a machine that has a driver and no Triton."""
    launches: list[Variant] = []
    import_kernels(lambda kernel, grid, values, options: launches.append(Variant.of_launch(kernel, values, options)))
    quantize(torch.zeros(3, 64))
    forget_kernels()
    (variant,) = launches
    passed = [word for word in variant.arguments if "=" not in word]
    cubin = fake_cubin("rows_kernel", [*(8 if word.startswith("*") else 4 for word in passed), 8, 8])
    codes, cubins = {variant: Code("rows_kernel", cubin_name(cubin), 128, 0)}, {cubin_name(cubin): cubin}
    for target in ("sm_87", "sm_110", "sm_110-tcgen05"):
        write(Archive(target, "triton 3.9.0", kernels_hash(), codes, cubins), tmp_path)
    monkeypatch.setattr(archive, "FOLDER", tmp_path)
    monkeypatch.setattr(driver.ctypes, "CDLL", lambda name: cuda)
    monkeypatch.setattr(launch, "_launcher", launch._launcher.__wrapped__)
    monkeypatch.delenv("VLAPACK_ENGINE", raising=False)
    return cuda


def quantize(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return library.of_triton("activation", "quantize_activation")(x)


@pytest.mark.parametrize(
    ("value", "device", "described"),
    [
        ("cubin", ORIN, "cubin (Orin, sm_87, driver 570.86.15)"),
        ("cubin", THOR, "cubin (Thor, sm_110, driver 570.86.15)"),
        ("cubin:tcgen05", THOR, "cubin:tcgen05 (Thor, sm_110, driver 570.86.15)"),
    ],
)
def test_a_robot_needs_no_triton(
    monkeypatch: pytest.MonkeyPatch, shipped: FakeCuda, value: str, device: FakeCard, described: str
) -> None:
    install_gpu(monkeypatch, device, triton=None, architectures=("sm_87", "sm_110"))
    monkeypatch.setenv("VLAPACK_KERNELS", value)
    assert engine.active(CUDA) == "triton"
    assert engine.described(CUDA) == described
    found = card()
    assert found.ok
    assert found.value.endswith(f"; {value}")


def test_an_op_launches_shipped_code(monkeypatch: pytest.MonkeyPatch, shipped: FakeCuda) -> None:
    install_gpu(monkeypatch, ORIN, triton=None)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setenv("VLAPACK_KERNELS", "cubin")
    engine.active(CUDA)
    x = torch.zeros(3, 64)
    q, s = quantize(x)
    (launched,) = shipped.launched
    assert (launched.symbol, launched.grid, launched.block) == ("rows_kernel", (3, 1, 1), (128, 1, 1))
    pointers = [int.from_bytes(value, "little") for value in launched.parameters if len(value) == 8]
    assert pointers == [x.data_ptr(), q.data_ptr(), s.data_ptr(), 0, 0]


@pytest.mark.parametrize(
    ("value", "device", "message"),
    [
        ("cubins", ORIN, "VLAPACK_KERNELS=cubins: no such kernels; there are triton, cubin, cubin:tcgen05"),
        ("cubin", H200, "VLAPACK_KERNELS=cubin: .*no compiled kernels for sm_90; .*there are: sm_110, sm_110-"),
        ("cubin:tcgen05", ORIN, "VLAPACK_KERNELS=cubin:tcgen05: .*no compiled kernels for sm_87-tcgen05"),
        ("triton", H200, "the GPU engine needs Triton.*reference, which is slow$"),
        ("triton", ORIN, "the GPU engine needs Triton.*or set VLAPACK_KERNELS=cubin: compiled kernels for"),
    ],
)
def test_what_does_not_fit_is_one_line_and_exit_code_2(  # noqa: PLR0917 - fixtures
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    shipped: FakeCuda,
    value: str,
    device: FakeCard,
    message: str,
) -> None:
    install_gpu(monkeypatch, device, triton=None)
    monkeypatch.setenv("VLAPACK_KERNELS", value)
    with pytest.raises(InputError, match=message):
        engine.active(CUDA)
    assert exit_code(lambda: len(engine.described(CUDA))) == 2
    assert len(capsys.readouterr().err.strip().splitlines()) == 1
    assert not card().ok


def test_an_installation_without_archives_or_a_driver_says_so(
    monkeypatch: pytest.MonkeyPatch, shipped: FakeCuda, tmp_path: Path
) -> None:
    install_gpu(monkeypatch, ORIN, triton=None)
    monkeypatch.setenv("VLAPACK_KERNELS", "cubin")

    def missing(name: str) -> None:
        raise OSError("libcuda.so.1: cannot open shared object file")

    monkeypatch.setattr(driver.ctypes, "CDLL", missing)
    with pytest.raises(InputError, match=r"libcuda\.so\.1, which NVIDIA's driver installs, cannot be loaded"):
        engine.active(CUDA)
    monkeypatch.setattr(archive, "FOLDER", tmp_path / "none")
    with pytest.raises(InputError, match="no compiled kernels for sm_87; in this folder there are: none"):
        engine.active(CUDA)


def test_the_interpreter_needs_triton_whatever_is_shipped(monkeypatch: pytest.MonkeyPatch) -> None:
    install_gpu(monkeypatch, cuda=None)
    monkeypatch.setenv("VLAPACK_KERNELS", "cubin")
    monkeypatch.setenv("VLAPACK_ENGINE", "triton")
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    with pytest.raises(InputError, match="VLAPACK_KERNELS=cubin runs on GPUs and the device is cpu"):
        engine.active()
