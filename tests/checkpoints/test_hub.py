"""Policies by their repository's name, without a network; and what may be published."""

from __future__ import annotations

import shutil
import sys
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from small import small_policy

from vlapack.checkpoints import assets, hub, open_checkpoint, open_with
from vlapack.checkpoints.pack import card as packcard
from vlapack.checkpoints.pack.card import GEMMA_NOTICE, model_card, notices
from vlapack.errors import InputError, WorkError
from vlapack.packing.make import make_pack
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


class HfHubHTTPError(Exception):
    """The hub's refusal."""


@dataclass
class Hub:
    """Stands for `huggingface_hub`: one repository, and what was sent."""

    held: Path | None = None
    sent: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    refuses: bool = False

    def snapshot_download(self, repository: str, *, allow_patterns: list[str]) -> str:
        self.sent.append((repository, {"allow_patterns": allow_patterns}))
        if self.held is None:
            raise HfHubHTTPError("404 Client Error: Repository Not Found")
        return str(self.held)

    def api(self, token: str | None = None) -> Hub:
        return self

    def create_repo(self, repo_id: str, **options: Any) -> None:
        if self.refuses:
            raise HfHubHTTPError("401 Client Error: Unauthorized")
        self.sent.append((repo_id, options))

    def upload_folder(self, *, repo_id: str, **options: Any) -> SimpleNamespace:
        self.sent.append((repo_id, options))
        return SimpleNamespace(commit_url=f"https://huggingface.co/{repo_id}/commit/abc")


@pytest.fixture
def online(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Hub:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    found = Hub()
    module = ModuleType("huggingface_hub")
    module.__dict__.update(snapshot_download=found.snapshot_download, HfApi=found.api)
    errors = ModuleType("huggingface_hub.errors")
    errors.__dict__.update(HfHubHTTPError=HfHubHTTPError, LocalEntryNotFoundError=FileNotFoundError)
    monkeypatch.setitem(sys.modules, "huggingface_hub", module)
    monkeypatch.setitem(sys.modules, "huggingface_hub.errors", errors)
    return found


def test_a_repository_is_fetched_and_only_the_files_of_a_policy(online: Hub, random_checkpoint: Path) -> None:
    online.held = random_checkpoint
    policy = Policy.from_pretrained("someone/kitchen")
    assert policy.checkpoint is not None
    assert policy.checkpoint.path == random_checkpoint
    [(repository, options)] = online.sent
    assert repository == "someone/kitchen"
    assert not any(fnmatch("optimizer.pt", pattern) for pattern in options["allow_patterns"])


def test_a_fetched_pack_takes_no_flags_of_its_parents(online: Hub, gemma_pack: Path) -> None:
    online.held = gemma_pack
    assert open_with("someone/pack", config="pi05_libero").path == gemma_pack
    with pytest.raises(InputError, match="a pack holds its own configuration"):
        open_checkpoint("someone/pack", config="pi05_libero")


def test_a_snapshot_without_weights_is_fetched_again(online: Hub, cached: Path, random_checkpoint: Path) -> None:
    """Another tool looked at the configuration only, and left a snapshot of that."""
    (cached / "model.safetensors").unlink()
    online.held = random_checkpoint
    assert open_checkpoint("someone/kitchen").path == random_checkpoint


def test_what_the_hub_refuses_is_said(online: Hub, gemma_pack: Path) -> None:
    with pytest.raises(InputError, match=r"someone/absent: no such folder, and .* 404 Client Error"):
        Policy.from_pretrained("someone/absent")
    online.refuses = True
    with pytest.raises(WorkError, match=r"someone/pack: the hub rejected .* 401 Client Error"):
        Policy.from_pretrained(gemma_pack).push_to_hub("someone/pack")


def test_a_pack_is_sent_whole_and_the_commits_address_comes_back(online: Hub, gemma_pack: Path, tmp_path: Path) -> None:
    Policy.from_pretrained(gemma_pack).save_pretrained(tmp_path / "copy")
    url = Policy.from_pretrained(tmp_path / "copy").push_to_hub("someone/pack", private=True, revision="v1")
    assert url == "https://huggingface.co/someone/pack/commit/abc"
    (made, made_with), (sent, sent_with) = online.sent
    assert (made, made_with["private"], sent, sent_with["revision"]) == ("someone/pack", True, "someone/pack", "v1")
    assert sent_with["folder_path"] == tmp_path / "copy"
    assert set(sent_with["allow_patterns"]) == {file.name for file in gemma_pack.iterdir()}
    assert {file.name for file in gemma_pack.iterdir()} == {file.name for file in (tmp_path / "copy").iterdir()}


def test_a_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, gemma_pack: Path) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(InputError, match=r"pip install '\.\[hub\]'"):
        Policy.from_pretrained("someone/absent")
    with pytest.raises(InputError, match=r"pip install '\.\[hub\]'"):
        Policy.from_pretrained(gemma_pack).push_to_hub("someone/pack")


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


@pytest.mark.parametrize(
    ("held", "whole"),
    [
        (["model.safetensors"], True),
        (["adapter_model.safetensors"], True),
        (["params/_METADATA"], True),
        (["config.json", "policy_preprocessor_step_0_normalizer.safetensors"], False),
        (["model-1.safetensors", "model-2.safetensors", "model.safetensors.index.json"], True),
        (["model-1.safetensors", "model.safetensors.index.json"], False),
        (["params/"], False),
        ([], False),
    ],
)
def test_a_snapshot_counts_as_fetched_only_with_all_of_its_weights(
    held: list[str], whole: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    snapshot = tmp_path / "models--someone--part" / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    for name in held:
        (snapshot / name).parent.mkdir(exist_ok=True)
        (snapshot / name).mkdir() if name.endswith("/") else (snapshot / name).write_text(INDEX)
    (snapshot / "model.safetensors").symlink_to("never-fetched") if not held else None
    assert assets.hub_snapshot("someone/part") == (snapshot if whole else None)
    if not whole:
        with pytest.raises(InputError, match="no weights of it in Hugging Face's cache"):
            hub.local_folder("someone/part")


INDEX = '{"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}'
