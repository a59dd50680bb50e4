"""The engine is what the environment says, or an error: never quietly another."""

from __future__ import annotations

import subprocess
import sys

import pytest
from extras import needs

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
    assert describe(VLAPACK_ISA="portable").stdout == "cpu (portable)\n"
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
