from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import binom

from vlapack.errors import InputError
from vlapack.evaluate.power import DROPS, episodes_needed
from vlapack.evaluate.statistics import Paired


def exact_power(pairs: int, drop: float, discordance: float) -> float:
    """How often the exact McNemar test finds the drop in so many pairs, summed over all that can happen."""
    found, lost = 0.0, (discordance + drop) / (2 * discordance)
    for disagreements in range(1, pairs + 1):
        fewer = np.arange(disagreements // 2 + 1)
        rejected = fewer[np.minimum(1.0, 2 * binom.cdf(fewer, disagreements, 0.5)) < 0.05]
        if len(rejected):
            most = rejected[-1]
            either = binom.cdf(most, disagreements, lost) + binom.sf(disagreements - most - 1, disagreements, lost)
            found += binom.pmf(disagreements, pairs, discordance) * either
    return float(found)


@pytest.mark.parametrize(("drop", "discordance"), [(0.1, 0.2), (0.1, 0.1), (0.05, 0.2), (0.3, 0.4)])
def test_so_many_pairs_find_the_drop_in_about_four_of_five_runs(drop: float, discordance: float) -> None:
    pairs = episodes_needed(drop, discordance)
    assert 0.70 <= exact_power(pairs, drop, discordance) <= 0.84
    assert exact_power(round(1.15 * pairs), drop, discordance) >= 0.78


@pytest.mark.parametrize(("discordance", "both"), [(0.1, 0.7), (0.2, 0.7), (0.3, 0.45)])
def test_as_many_pairs_exclude_a_drop_that_is_not_there(discordance: float, both: float) -> None:
    pairs = episodes_needed(0.1, discordance)
    parts = [both, discordance / 2, discordance / 2, 1 - both - discordance]
    runs = np.random.default_rng(0).multinomial(pairs, parts, size=500)
    excluded = [Paired(*map(int, run)).difference_interval()[0] > -0.1 for run in runs]
    assert 0.65 <= np.mean(excluded) <= 0.85


def test_more_disagreement_and_smaller_drops_take_more() -> None:
    assert episodes_needed(0.05, 0.1) < episodes_needed(0.05, 0.2) < episodes_needed(0.02, 0.2)


@pytest.mark.parametrize(("drop", "discordance"), [(0.0, 0.2), (-0.1, 0.2), (0.3, 0.2), (0.3, 1.2)])
def test_a_drop_that_cannot_be_is_refused_with_the_rule(drop: float, discordance: float) -> None:
    with pytest.raises(InputError, match="a drop is above 0"):
        episodes_needed(drop, discordance)


def test_the_table_in_the_docs_is_what_the_function_says() -> None:
    page = (Path(__file__).parents[2] / "docs" / "evaluation.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (\d+) % \| ([\d,]+) \| ([\d,]+) \| ([\d,]+) \|$", page, re.MULTILINE)
    assert len(rows) == 3
    for percent, *cells in rows:
        expected = [episodes_needed(drop, int(percent) / 100) for drop in DROPS]
        assert [int(cell.replace(",", "")) for cell in cells] == expected
