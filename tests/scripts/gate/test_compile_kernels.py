"""The script refuses what it cannot do in one line, before it compiles anything."""

from __future__ import annotations

import sys
from types import ModuleType

import compile_kernels
import pytest

from vlapack.console import exit_code


def test_an_unknown_card_is_named_with_those_there_are(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    triton = ModuleType("triton")
    triton.__dict__["__version__"] = "3.9.0"
    monkeypatch.setitem(sys.modules, "triton", triton)
    assert exit_code(lambda: compile_kernels.main(targets=("sm_75",))) == 2
    said = capsys.readouterr().err
    assert "sm_75" in said
    assert "sm_80, sm_86" in said


@pytest.mark.parametrize("version", [None, "3.6.0"])
def test_what_to_install_is_said(
    version: str | None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    triton = None
    if version is not None:
        triton = ModuleType("triton")
        triton.__dict__["__version__"] = version
    monkeypatch.setitem(sys.modules, "triton", triton)
    assert exit_code(compile_kernels.main) == 2
    assert "make gate" in capsys.readouterr().err
