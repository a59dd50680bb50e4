"""The engine is what the environment says, or an error: never quietly another."""

from __future__ import annotations

import pytest

from vlapack.errors import InputError
from vlapack.ops import engine


@pytest.mark.parametrize("value", [None, "", "reference"])
def test_the_reference_is_the_default(monkeypatch, value):
    monkeypatch.delenv("VLAPACK_ENGINE", raising=False)
    if value is not None:
        monkeypatch.setenv("VLAPACK_ENGINE", value)
    assert engine.active() == "reference"


def test_an_engine_that_is_not_here_is_refused_by_name(monkeypatch):
    monkeypatch.setenv("VLAPACK_ENGINE", "warp")
    with pytest.raises(InputError, match=r"VLAPACK_ENGINE=warp.*available: reference"):
        engine.active()
