"""The engine is what the environment says, or an error: never quietly another."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from extras import needs
from fake_gpu import FakeCard, install_gpu, install_triton, uncache

from vlapack.errors import InputError
from vlapack.ops import engine


@pytest.mark.parametrize("value", [None, ""])
def test_the_best_engine_there_is_comes_by_itself(monkeypatch, value):
    monkeypatch.delenv("VLAPACK_ENGINE", raising=False)
    if value is not None:
        monkeypatch.setenv("VLAPACK_ENGINE", value)
    assert engine.active() == engine.available()[0]


def test_the_reference_is_always_there(monkeypatch):
    monkeypatch.setenv("VLAPACK_ENGINE", "reference")
    assert engine.active() == engine.described() == "reference"


def test_an_engine_that_is_not_here_is_refused_by_name(monkeypatch):
    monkeypatch.setenv("VLAPACK_ENGINE", "warp")
    with pytest.raises(InputError, match=r"VLAPACK_ENGINE=warp.*available: .*reference"):
        engine.active()


def run(code, **variables):
    """In a process of its own, for the instruction set is chosen once."""
    command = [sys.executable, "-c", code]
    return subprocess.run(command, env=variables, capture_output=True, text=True, check=False)


DESCRIBE = "import sys; sys.path[:0] = {path!r}; {before}; from vlapack.ops import engine; print(engine.described())"


def describe(before="pass", **variables):
    return run(DESCRIBE.format(path=sys.path, before=before), **variables)


def test_an_instruction_set_can_be_named():
    needs("vlapack._kernels", remedy="install vlapack where there is a C++17 compiler")
    for name in ("portable", "amx-emulated"):
        assert describe(VLAPACK_ISA=name).stdout == f"cpu ({name})\n"
    found = describe(VLAPACK_ISA="mmx").stderr
    assert "VLAPACK_ISA=mmx: this CPU or this build does not have it; available: " in found


def test_without_the_compiled_engine_its_cost_and_remedy_are_said_once():
    missing = "sys.modules['vlapack._kernels'] = None"
    found = describe(missing)
    assert found.stdout == "reference\n"
    assert found.stderr.count("engine reference: slow") == 1
    assert "C++17 compiler" in found.stderr
    named = describe(missing, VLAPACK_ENGINE="cpu").stderr
    assert "VLAPACK_ENGINE=cpu: no such engine here; available: reference" in named
    assert describe(missing, VLAPACK_ENGINE="reference").stderr == ""


GPU = torch.device("cuda", 0)


@pytest.fixture
def unset(monkeypatch):
    for name in ("VLAPACK_ENGINE", "TRITON_INTERPRET"):
        monkeypatch.delenv(name, raising=False)
    return monkeypatch


def test_each_device_has_its_own_engine(unset):
    install_gpu(unset, FakeCard())
    assert engine.active(GPU) == engine.active(torch.device("cuda")) == "triton"
    assert engine.active() == engine.available()[0] != "triton"
    assert engine.active(torch.device("meta")) == engine.active(torch.device("mps")) == "reference"
    assert engine.described(GPU) == "triton 3.6.0 (NVIDIA H200, sm_90, driver 570.86.15)"


def test_the_reference_runs_on_a_card_too_if_asked(unset):
    install_gpu(unset, FakeCard("Tesla T4", 7, 5), triton=None)
    unset.setenv("VLAPACK_ENGINE", "reference")
    assert engine.active(GPU) == "reference"
    assert engine.described(GPU) == "reference (Tesla T4, sm_75, driver 570.86.15)"


@pytest.mark.parametrize(
    ("name", "device", "message"),
    [
        ("cpu", GPU, "VLAPACK_ENGINE=cpu runs on the CPU and the device is cuda:0: unset"),
        ("cpu", torch.device("mps"), "VLAPACK_ENGINE=cpu runs on the CPU and the device is mps"),
        ("triton", torch.device("mps"), "VLAPACK_ENGINE=triton runs on GPUs and the device is mps"),
        ("triton", torch.device("cpu"), "VLAPACK_ENGINE=triton runs on GPUs and the device is cpu.*TRITON_INTERPRET=1"),
        ("warp", GPU, "VLAPACK_ENGINE=warp: no such engine here; available: triton, reference"),
    ],
)
def test_an_engine_that_cannot_run_on_the_device_says_so(unset, name, device, message):
    install_gpu(unset, FakeCard())
    unset.setenv("VLAPACK_ENGINE", name)
    with pytest.raises(InputError, match=message):
        engine.active(device)


def test_a_card_that_the_kernels_do_not_run_on_is_refused_with_the_way_round(unset):
    install_gpu(unset, FakeCard("Tesla T4", 7, 5))
    with pytest.raises(InputError, match=r"unsupported card Tesla T4, sm_75.*sm_80 on.*VLAPACK_ENGINE=reference"):
        engine.active(GPU)


@pytest.mark.parametrize(
    ("version", "message"),
    [(None, r"needs Triton .*pip install '\.\[gpu\]'"), ("3.3.1", "Triton 3.3.1 is too old: .* needs 3.6 or newer")],
)
def test_a_missing_or_old_triton_is_refused_with_its_remedy(unset, version, message):
    install_gpu(unset, FakeCard(), triton=version)
    with pytest.raises(InputError, match=f"{message}.*VLAPACK_ENGINE=reference"):
        engine.active(GPU)


def test_tritons_interpreter_is_an_engine_of_the_cpu_only_if_named(unset, capsys):
    uncache(unset)
    install_triton(unset, "3.9.0")
    unset.setenv("TRITON_INTERPRET", "1")
    assert engine.active() != "triton"
    unset.setenv("VLAPACK_ENGINE", "triton")
    assert engine.described() == "triton 3.9.0 (interpreted)"
    assert "a thousand times slower" in capsys.readouterr().err


def test_a_machine_without_a_compiler_is_told_before_the_first_chunk(unset, monkeypatch):
    install_gpu(unset, FakeCard())
    unset.setattr(engine.shutil, "which", lambda name: None)
    with pytest.raises(InputError, match=r"no C compiler \(gcc, clang\).* apt-get install -y gcc python3-dev"):
        engine.active(torch.device("cuda", 0))
