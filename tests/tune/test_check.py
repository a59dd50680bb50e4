"""Whether a recipe holds for the next checkpoint: by what was measured, within a tolerance that is said."""

from __future__ import annotations

from typing import Any

import pytest

from vlapack.errors import InputError
from vlapack.tune.check import TOLERANCE, Verdict

NOTE: dict[str, Any] = {"median": 0.008, "p95": 0.02, "target": {"kind": "held", "value": 1e9}}


def found(median: float) -> dict[str, Any]:
    return {"deviation": {"p50": median, "p95": 0.03}, "frames": 24}


def test_as_good_as_then_within_the_tolerance_holds() -> None:
    assert Verdict.on(NOTE, found(0.99 * TOLERANCE * 0.008)).holds
    verdict = Verdict.on(NOTE, found(1.01 * TOLERANCE * 0.008))
    assert not verdict.holds
    assert str(verdict).startswith("measure again: the median error is 1.21% (95 % point 3.00%) on 24 observations")


def test_what_was_promised_is_enough() -> None:
    promised = {**NOTE, "target": {"kind": "error", "value": 0.02}}
    assert Verdict.on(promised, found(0.019)).holds
    assert not Verdict.on(promised, found(0.021)).holds


@pytest.mark.parametrize("missing", ["median", "p95", "target"])
def test_a_note_that_lacks_a_figure_is_refused(missing: str) -> None:
    note = {key: value for key, value in NOTE.items() if key != missing}
    with pytest.raises(InputError, match=f"lacks median, p95 or target .*{missing}"):
        Verdict.on(note, found(0.01))
