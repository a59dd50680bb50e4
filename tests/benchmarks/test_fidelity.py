"""The experiment table is what it says: every cell is its method, a kill loses no row, a changed target is measured."""

from __future__ import annotations

import filecmp
import json
import re
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from scipy.stats import chi2
from torch import nn

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
import closed_loop
import fidelity
from common import grid, minilm, results, sentences
from common.in_place import InPlace
from common.results import FIRST_OBSERVATIONS, FIRST_POLICY
from common.tiny_libero import TinyLibero

from vlapack.checkpoints import open_checkpoint
from vlapack.evaluate.ledger import Record
from vlapack.packing.make import make_pack
from vlapack.quantize.calibration import collect
from vlapack.recipe.presets import PRESETS
from vlapack.recipe.recipe import Recipe

CONTRACT = {"target", "method", "smooth", "group", "bits", "preset", "seed", "error"}


class Fake:
    """A target that counts what it is asked for."""

    name = "minilm"
    preset = None

    def __init__(self, identity: str = "one", fails_after: int | None = None) -> None:
        self.identity = identity
        self.asked: list[tuple[Recipe, int]] = []
        self._fails_after = fails_after

    def measure(self, recipe: Recipe, seed: int) -> dict[str, float]:
        if len(self.asked) == self._fails_after:
            raise KeyboardInterrupt
        self.asked.append((recipe, seed))
        return {"error": 0.25}


def test_rows_are_distinct_and_their_recipes_say_what_their_names_say() -> None:
    rows = list(grid.rows("tiny-libero", "full"))
    assert len({str(row) for row in rows}) == len(rows)
    for row in rows:
        assert f"W{row.recipe.weight_bits}A{row.recipe.act_bits}" == row.bits
        if row.method not in ("guide", grid.PRESET):
            assert (row.recipe.smooth, row.recipe.group_size) == (row.smooth, row.group)
            assert (row.recipe.rounding == "gptq") == row.method.endswith("gptq")
        assert {*row.to_dict(), "error"} == CONTRACT
    assert not [row for row in grid.rows("minilm", None) if row.method == grid.PRESET]


def test_a_killed_run_continues_and_a_changed_target_is_measured_again(tmp_path: Path) -> None:
    done, only = results.Rows(tmp_path / "result.json", tmp_path / "rows.jsonl"), re.compile("W4A8 g32 .*seed 1")
    killed = Fake(fails_after=3)
    with pytest.raises(KeyboardInterrupt):
        fidelity.measure(killed, only, done)
    resumed, again, changed = Fake(), Fake(), Fake("two")
    for target in (resumed, again, changed):
        fidelity.measure(target, only, done)
    wanted = sum(bool(only.search(str(row))) for row in grid.rows("minilm", None))
    assert len(resumed.asked) == wanted - 3 > 0
    assert not again.asked
    assert len(changed.asked) == wanted == len(fidelity.by_experiment(done))


def test_what_a_result_holds_is_not_measured_again(tmp_path: Path) -> None:
    only = re.compile("W4A8 g32 .*seed 1")
    done = results.Rows(tmp_path / "result.json", tmp_path / "rows.jsonl")
    fidelity.measure(Fake(), only, done)
    results.write_result(tmp_path / "result.json", [*fidelity.by_experiment(done).values()])
    elsewhere = results.Rows(tmp_path / "result.json", tmp_path / "empty.jsonl")
    again, changed = Fake(), Fake("two")
    fidelity.measure(again, only, elsewhere)
    assert not again.asked
    fidelity.measure(again, only, elsewhere, again=True)
    assert len(again.asked) == len(fidelity.by_experiment(done))
    fidelity.measure(changed, only, elsewhere)
    assert len(changed.asked) == len(fidelity.by_experiment(elsewhere)) == len(fidelity.by_experiment(done))


def test_what_no_calibration_changes_is_measured_once_for_all_seeds(tmp_path: Path) -> None:
    target, done = Fake(), results.Rows(tmp_path / "result.json", tmp_path / "rows.jsonl")
    fidelity.measure(target, re.compile("W4A8 g32 (rtn|hadamard) smooth 0.0"), done)
    assert [(recipe.rotation, seed) for recipe, seed in target.asked] == [("none", 0)] + [
        ("hadamard", seed) for seed in grid.SEEDS
    ]
    found = done.read()
    assert [(row["method"], row["seed"]) for row in found if row["method"] == "rtn"] == [("rtn", n) for n in grid.SEEDS]
    assert all({*row} == CONTRACT | {"family", "date", "commit", "made_of"} for row in found)


def test_the_result_and_the_table_hold_every_row(tmp_path: Path) -> None:
    errors = (0.10, 0.12, 0.11)
    found = [
        {**grid.Row("minilm", "rtn", 0.0, 32, "W4A8", None, seed).to_dict(), "error": error}
        for seed, error in enumerate(errors)
    ]
    results.write_result(tmp_path / "it.json", found)
    document = json.loads((tmp_path / "it.json").read_text())
    assert document["rows"] == found
    assert {"machine", "date", "commit"} < set(document)
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- x -->\nold\n<!-- /x -->\nafter\n")
    results.write_between(page, "x", fidelity.table(found))
    text = page.read_text()
    assert "11.00 ± 1.00" in text
    assert "old" not in text
    assert text.startswith("before\n<!-- x -->\n| method")
    assert text.endswith("<!-- /x -->\nafter\n")


def test_a_network_quantized_in_memory_keeps_its_biases_and_comes_near_the_float() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 48), nn.GELU(), nn.Linear(48, 16)).requires_grad_(False)
    x = torch.randn(200, 64)
    seen = collect(model, ["0", "2"], model, [x])
    recipe = Recipe(scope="", include=".", weight_bits=8, block=16, smooth=0.3)
    packed = InPlace(model).quantized(recipe, seen)
    assert type(model[0]) is nn.Linear
    assert type(packed.get_submodule("0")) is not nn.Linear
    torch.testing.assert_close(packed(x), model(x), atol=0.02, rtol=0)


def test_what_recipes_have_in_common_changes_none_of_them() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 48), nn.GELU(), nn.Linear(48, 16)).requires_grad_(False)
    x = torch.randn(200, 64)
    seen = collect(model, ["0", "2"], model, [x])
    one_by_one = InPlace(model)
    coarse = Recipe(scope="", include=".", rotation="greedy", block=16)
    for recipe in (coarse, replace(coarse, group_size=32), replace(coarse, weight_bits=8), replace(coarse, act_bits=4)):
        alone = InPlace(model).quantized(recipe, seen)
        assert torch.equal(one_by_one.quantized(recipe, seen)(x), alone(x))


@pytest.mark.slow
def test_a_row_of_tiny_libero_is_the_pack_that_a_user_would_make(tmp_path: Path) -> None:
    target = TinyLibero(FIRST_OBSERVATIONS, limit=1)
    few: dict[str, Any] = {"calib_steps": 2, "seed": 3}
    coarse = replace(PRESETS["full"], smooth=0.3, **few)
    target.pack(replace(coarse, group_size=32), tmp_path / "grouped")  # leaves behind what the next has in common
    recipes = (coarse, replace(grid.GUIDE_FULL, **few), replace(PRESETS["everything"], rounding="rtn", **few))
    for number, recipe in enumerate(recipes):
        pack, alone = target.pack(recipe, tmp_path / f"pack{number}"), tmp_path / f"alone{number}"
        make_pack(open_checkpoint(FIRST_POLICY), recipe, alone, target.chosen(3, 2))
        names = ["model.safetensors", "config.json"]
        assert filecmp.cmpfiles(pack, alone, names, shallow=False) == (names, [], [])


def test_words_are_cut_into_their_longest_pieces(tmp_path: Path) -> None:
    vocabulary = tmp_path / "vocab.txt"
    vocabulary.write_text(
        "\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "un", "##able", "##a", "##ble", "able", ",", "cafe"])
    )
    tokens = minilm.WordPiece(vocabulary)("Unable, Café xyz")
    assert tokens.tolist() == [2, 4, 5, 9, 10, 1, 3]


def test_calibration_sentences_follow_from_their_seed_and_are_not_the_tests() -> None:
    one = sentences.made_up(200, 1)
    assert one == sentences.made_up(200, 1) != sentences.made_up(200, 2)
    assert not any("{" in sentence for sentence in one)
    test = sentences.TEST.read_text().splitlines()
    assert len(set(test)) == len(test) >= 200
    assert not set(one) & set(test)


def test_closed_loop_rows_keep_the_contract() -> None:
    summary = {
        "episodes": 60,
        "success_rate": 0.9,
        "ci95": [0.8, 0.95],
        "baseline_success_rate": 0.95,
        "baseline_ci95": [0.87, 0.98],
        "paired": {"p_value": 0.5},
        "bytes": {"policy": 4_000_000, "baseline": 30_000_000},
    }
    found = closed_loop.rows({"full": summary, "full-w4a4": summary})
    keys = {"policy", "bits", "episodes", "success_rate", "ci95", "baseline_success_rate", "p_value", "bytes"}
    assert all(set(row) == keys for row in found)
    assert [row["bits"] for row in found] == ["float", "W4A8", "W4A4"]
    assert "| `full` | W4A8 | 90 % | 80-95 % | 0.500 | 4.00 |" in closed_loop.table(found, 0.25)


def test_runs_are_added_up_by_episodes_also_where_one_lacks_a_policy(tmp_path: Path) -> None:
    def result(name: str, **of_policy: tuple[float, int]) -> Path:
        rows = [
            {"policy": policy, "success_rate": rate, "episodes": episodes}
            for policy, (rate, episodes) in of_policy.items()
        ]
        results.write_result(tmp_path / name, rows)
        return tmp_path / name

    table = closed_loop.together([result("one.json", a=(0.5, 10), b=(0.6, 10)), result("two.json", a=(0.9, 30))])
    assert table.splitlines() == [
        "| policy | `one` | `two` | together |",
        "|---|---|---|---|",
        "| `a` | 50 % | 90 % | 80 % of 40 |",
        "| `b` | 60 % |  | 60 % of 10 |",
    ]


def test_cochrans_q_of_two_policies_is_mcnemars_test_without_correction() -> None:
    def played(role: str, outcomes: str) -> list[Record]:
        """1: success, 0: failure, -: the simulator failed."""
        success = {"1": True, "0": False, "-": None}
        return [Record(role, "suite", 0, state, success[one], 1, (), 1.0, 1, 1) for state, one in enumerate(outcomes)]

    lost, won = 9, 3
    pair = {
        "baseline": played("baseline", "1" * lost + "0" * won + "1100" + "1"),
        "pack": played("pack", "0" * lost + "1" * won + "1100" + "-"),
    }
    assert closed_loop.cochran(pair) == pytest.approx(chi2.sf((lost - won) ** 2 / (lost + won), 1))
    assert closed_loop.cochran({"baseline": pair["baseline"], "same": pair["baseline"]}) == 1.0
