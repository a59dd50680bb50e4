"""Which observations serve what: none twice, and what is kept back is spread over all of them."""

from __future__ import annotations

import itertools

import pytest

from vlapack.errors import InputError
from vlapack.tune.target import Target, parted

BUDGET, ERROR = Target("held", 1e9), Target("error", 0.01)


@pytest.mark.parametrize(
    ("target", "count", "kept"), [(BUDGET, 4, 1), (BUDGET, 8, 2), (ERROR, 20, 16), (ERROR, 64, 32)]
)
def test_no_observation_serves_twice(target: Target, count: int, kept: int) -> None:
    parts = parted(count, target)
    assert len(parts.kept) == kept
    assert sorted(parts.kept + parts.calibrating) == list(range(count))
    assert set(parts.sensed) <= set(parts.calibrating)
    assert len(parts.sensed) == len(set(parts.sensed)) == min(8, count - kept)


def test_a_third_of_those_kept_back_is_spread_over_all() -> None:
    first = sorted(parted(64, ERROR).kept[:11])
    gaps = [after - before for before, after in itertools.pairwise(first)]
    assert max(gaps) <= 7
    assert first[0] < 7
    assert first[-1] > 56


@pytest.mark.parametrize(("target", "count"), [(BUDGET, 3), (ERROR, 19)])
def test_too_few_are_refused(target: Target, count: int) -> None:
    with pytest.raises(InputError, match=rf"{count} observations are too few .* give {count + 1} or more"):
        parted(count, target)
