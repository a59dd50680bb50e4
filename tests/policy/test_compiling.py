"""When a command compiles: if it is asked to, and none of the guide's variables forbids it."""

from __future__ import annotations

import pytest

from vlapack.errors import InputError
from vlapack.policy import compiling
from vlapack.policy.compiling import SWITCHES, compile_wanted


@pytest.mark.parametrize("name", SWITCHES)
@pytest.mark.parametrize(("value", "expected"), [("1", False), ("TRUE", False), ("0", True), ("", True), ("no", True)])
def test_each_variable_switches_it_off(
    name: str, value: str, expected: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    assert compile_wanted(True, {name: value}) == expected
    assert not compile_wanted(False, {name: value})
    assert (f"not compiled: {name} says so; set it to 0 to compile" in capsys.readouterr().err) != expected


def test_a_variable_that_says_neither_is_refused() -> None:
    with pytest.raises(InputError, match="TORCHDYNAMO_DISABLE=maybe: say 1"):
        compile_wanted(True, {"TORCHDYNAMO_DISABLE": "maybe"})


def test_without_a_compiler_the_remedy_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiling.shutil, "which", lambda name: None)
    with pytest.raises(InputError, match=r"install one .*leave `compile` out"):
        compile_wanted(True, {})
    assert not compile_wanted(False, {})
