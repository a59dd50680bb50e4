"""Policies by their repository's name, without a network; and what may be published."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from small import small_policy

from vlapack.checkpoints import assets, hub, open_checkpoint, packcard
from vlapack.checkpoints.packcard import GEMMA_NOTICE, model_card, notices
from vlapack.errors import InputError
from vlapack.packing import make_pack
from vlapack.policy.policy import Policy
from vlapack.recipe.recipe import Recipe

RECIPE = Recipe(block=8, permute=False, rounding="rtn")


@pytest.fixture
def cached(random_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    repository = tmp_path / "hub" / "models--someone--kitchen"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("abc123")
    return Path(shutil.copytree(random_checkpoint, repository / "snapshots" / "abc123"))


def test_a_repository_in_the_cache_opens_by_its_name(cached: Path) -> None:
    assert open_checkpoint("someone/kitchen").path == cached


def test_a_pack_of_it_names_it_as_its_base(cached: Path, tmp_path: Path) -> None:
    make_pack(open_checkpoint("someone/kitchen"), RECIPE, tmp_path / "pack", None)
    card = (tmp_path / "pack" / "README.md").read_text()
    assert "base_model: someone/kitchen" in card
    assert assets.repository_of(tmp_path / "pack") is None


def test_a_repository_that_cannot_be_fetched_is_an_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(InputError, match=r"someone/absent: no such folder, .*HF_HUB_OFFLINE"):
        open_checkpoint("someone/absent")


@pytest.fixture
def gemma_pack(random_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A pack whose vocabulary passes for PaliGemma's."""
    monkeypatch.setattr(packcard, "PALIGEMMA_VOCABULARY", 512)
    make_pack(open_checkpoint(random_checkpoint), RECIPE, tmp_path / "pack", None)
    return tmp_path / "pack"


def test_a_pack_of_gemmas_carries_its_terms(gemma_pack: Path) -> None:
    hub.require_publishable(gemma_pack)
    assert (gemma_pack / "NOTICE").read_text() == GEMMA_NOTICE.lstrip()
    assert "Modified: quantized" in (gemma_pack / "NOTICE").read_text()
    assert "license: gemma" in (gemma_pack / "README.md").read_text()


@pytest.mark.parametrize("line", ["license: gemma", "Gemma Terms of Use found at ai.google.dev/gemma/terms"])
def test_without_them_it_is_not_sent(gemma_pack: Path, line: str) -> None:
    card = gemma_pack / "README.md"
    card.write_text(card.read_text().replace(line, ""))
    with pytest.raises(InputError, match=r"README.md: lacks .*Gemma"):
        Policy.from_pretrained(gemma_pack).push_to_hub("someone/pack")


def test_only_packs_are_sent(random_checkpoint: Path) -> None:
    with pytest.raises(InputError, match="only packs"):
        Policy.from_pretrained(random_checkpoint).push_to_hub("someone/pack")


def test_other_policies_carry_no_notice() -> None:
    policy = small_policy()
    error = {"mean": 0.0, "max": 0.0, "worst_layer": "x"}
    card = model_card(policy, RECIPE, [], parts={"llm": (1, 1)}, measured={"weight_error": error}).decode()
    assert notices(policy) == {}
    assert "base_model" not in card
    assert "Gemma" not in card
