"""`vlapack quantize` under a measured target, in one resumable step; and a tuned recipe that is checked."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from shop import Shop
from small import random_observations, small_policy, write_observations, write_random_checkpoint

from vlapack.checkpoints.pack.writer import PackWriter
from vlapack.cli import main
from vlapack.policy.policy import Policy
from vlapack.tune.folder import TuningFolder

FOUND = ["pack", "pack.frontier.json", "pack.frontier.svg"]


class KilledError(BaseException):
    """Stands for a kill."""


@pytest.fixture(scope="module")
def calib(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_observations(tmp_path_factory.mktemp("twenty"), random_observations(20))


@pytest.fixture
def measured(shop: Shop, calib: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    monkeypatch.setenv("XDG_CACHE_HOME", str(shop.folder.parent / "cache"))

    def run(*words: str, out: str = "pack", preset: str = "dit") -> int:
        common = ["--calib", str(calib), "--out", str(shop.folder / out), "--rounding", "rtn"]
        return main(["quantize", str(shop.parent), "--preset", preset, *common, *words])

    return run


def names(shop: Shop) -> list[str]:
    return sorted(path.name for path in shop.folder.iterdir())


def test_the_pack_keeps_its_error_and_is_made_once(shop: Shop, measured: Callable[..., int]) -> None:
    assert measured("--max-error", "2%", "--json") == 0
    document = json.loads(shop.printed())
    assert names(shop) == FOUND
    assert document["error"]["median"] < 0.02
    assert document["error"]["frames"] == 16
    assert document["bytes"]["held"] == Policy.from_pretrained(shop.folder / "pack").held_bytes()
    note = json.loads(shop.contents("pack")["config.json"])["measured"]["tuned"]
    assert note["median"] == document["error"]["median"]
    before = shop.contents("pack")
    assert measured("--max-error", "2%") == 0
    assert "is this very pack already" in shop.printed()
    assert measured("--max-error", "3%") == 2
    assert "already holds another pack; what differs: target" in shop.said()
    assert shop.contents("pack") == before


def test_a_budget_is_what_a_policy_holds(shop: Shop, measured: Callable[..., int]) -> None:
    assert measured("--budget", "353KB", "--observations", "8", "--json") == 0
    held = json.loads(shop.printed())["bytes"]["held"]
    assert held <= 353_000
    assert Policy.from_pretrained(shop.folder / "pack").held_bytes() == held


def test_killed_anywhere_the_same_command_ends_in_the_same_pack(
    shop: Shop, measured: Callable[..., int], monkeypatch: pytest.MonkeyPatch
) -> None:
    budget = ("--budget", "353KB", "--observations", "8")
    assert measured(*budget, out="whole") == 0
    keep, write, finished = TuningFolder.keep, PackWriter.write, {"keep": 0, "write": 0}
    kills = {"keep": [5, 18, 23], "write": [3]}

    def killed(kind: str, work: Callable[..., None]) -> Callable[..., None]:
        def run(*arguments: Any) -> None:
            if finished[kind] in kills[kind]:
                kills[kind].remove(finished[kind])
                raise KilledError
            work(*arguments)
            finished[kind] += 1

        return run

    monkeypatch.setattr(TuningFolder, "keep", killed("keep", keep))
    monkeypatch.setattr(PackWriter, "write", killed("write", write))
    for _ in range(4):
        with pytest.raises(KilledError):
            measured(*budget)
        assert "pack.tuning.partial" in names(shop)
    assert measured(*budget) == 0
    assert not any(kills.values())
    assert shop.contents("pack")["model.safetensors"] == shop.contents("whole")["model.safetensors"]
    assert main(["clean", str(shop.folder)]) == 0
    assert "nothing is left over" in shop.printed()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--max-error", "1%", "--budget", "1GB"], "--max-error and --budget exclude each other"),
        (["--max-error", "2"], "write 1%, or 0.01"),
        (["--budget", "lots"], "is not a size"),
        (["--budget", "1KB"], "is impossible: what a policy of this pack holds lies between"),
        (["--max-error", "1%", "--observations", "12"], "12 observations are too few"),
        (["--max-error", "1%", "--observations", "21"], "holds 20 observations, fewer than --observations 21"),
        (["--max-error", "1%", "--weights-only"], "--weights-only and a measured target exclude each other"),
        (["--max-error", "1%", "--weight-bits", "8"], "--weight-bits and a measured target exclude each other"),
        (["--max-error", "1%", "--check"], "--check and a measured target exclude each other"),
        (["--choices", "4,8,4g32"], "--choices goes with --max-error, --budget or --budget-file"),
        (["--survey"], "--survey goes with --max-error, --budget or --budget-file"),
        (["--check"], "no --recipe FILE is given"),
    ],
)
def test_what_makes_no_sense_is_refused_before_any_work(
    shop: Shop, measured: Callable[..., int], words: list[str], said: str
) -> None:
    assert measured(*words) == 2
    assert said in shop.said().replace("`", "")
    assert names(shop) == []


def test_variables_and_a_recipe_exclude_a_target(
    shop: Shop, measured: Callable[..., int], monkeypatch: pytest.MonkeyPatch, calib: Path
) -> None:
    words = ["quantize", str(shop.parent), "--out", str(shop.folder / "pack"), "--max-error", "1%"]
    assert main([*words, "--recipe", "somewhere.json"]) == 2
    assert "a recipe says the bits already" in shop.said()
    monkeypatch.setenv("OPENPI_DUQUANT_WBITS_DEFAULT", "4")
    assert main(words) == 2
    assert "these variables describe a recipe: OPENPI_DUQUANT_WBITS_DEFAULT" in shop.said()


def test_a_tuned_recipe_is_checked_on_the_next_checkpoint(
    shop: Shop, calib: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(shop.folder.parent / "cache"))
    recipe = shop.folder / "r.json"
    common = ["--calib", str(calib), "--preset", "dit", "--observations", "8"]
    assert main(["tune", str(shop.parent), *common, "--budget", "353KB", "--out", str(recipe)]) == 0
    other = write_random_checkpoint(tmp_path / "other", small_policy(), seed=1)
    pack = shop.folder / "next"
    check = ["quantize", str(other), "--recipe", str(recipe), "--calib", str(calib), "--check", "--out", str(pack)]
    document = json.loads(recipe.read_text())
    document["tuned"]["median"] *= 100
    recipe.write_text(json.dumps(document))
    shop.printed()
    assert main(check) == 0
    assert "the recipe holds: the median error is" in shop.printed()
    document["tuned"]["median"] /= 10_000
    recipe.write_text(json.dumps(document))
    assert main([*check, "--json"]) == 1  # the pack is there by now, and is only compared
    found = json.loads(shop.printed())
    assert found["already_there"]
    assert not found["check"]["holds"]
    assert found["check"]["median"] > found["check"]["limit"]
    assert found["check"]["frames"] == 14
