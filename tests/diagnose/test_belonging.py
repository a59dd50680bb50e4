"""A copy of the parent is told from another policy."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from small import TOKENIZER, random_tensors, small_policy, write_random_checkpoint

from vlapack.checkpoints import open_checkpoint
from vlapack.checkpoints.normalization import Normalization, Statistics
from vlapack.checkpoints.pack.checkpoint import PackedCheckpoint
from vlapack.checkpoints.write import write_folder
from vlapack.diagnose.belonging import belonging, foreign_network
from vlapack.diagnose.finding import Finding
from vlapack.diagnose.given import recipe_of
from vlapack.packing.make import make_pack
from vlapack.packing.parent import Parent
from vlapack.recipe.presets import preset


@pytest.fixture(scope="module")
def pack(random_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> PackedCheckpoint:
    out = tmp_path_factory.mktemp("pack") / "pack"
    make_pack(open_checkpoint(random_checkpoint), preset("dit-fast"), out, None)
    opened = open_checkpoint(out)
    assert isinstance(opened, PackedCheckpoint)
    return opened


def judged(pack: PackedCheckpoint, baseline: Path) -> list[Finding]:
    parent = Parent(open_checkpoint(baseline))
    assert foreign_network(pack, parent) is None
    return belonging(pack, parent, recipe_of(pack))


def written(folder: Path, weights: dict[str, torch.Tensor], like: Path) -> Path:
    parent = Parent(open_checkpoint(like))
    statistics: Normalization = parent.normalization
    write_folder(folder, small_policy(), weights, normalization=statistics, tokenizer=TOKENIZER)
    return folder


def test_the_parent_itself_belongs(pack: PackedCheckpoint, random_checkpoint: Path) -> None:
    assert judged(pack, random_checkpoint) == []


def test_the_same_weights_in_another_dtype_are_a_note(
    pack: PackedCheckpoint, random_checkpoint: Path, tmp_path: Path
) -> None:
    wide = {name: tensor.float() for name, tensor in random_tensors(small_policy().architecture).items()}
    [found] = judged(pack, written(tmp_path / "wide", wide, random_checkpoint))
    assert (found.kind, found.severity) == ("other_dtype", "minor")


def test_a_fine_tune_is_another_policy_even_if_one_tensor_moved_by_little(
    pack: PackedCheckpoint, random_checkpoint: Path, tmp_path: Path
) -> None:
    tuned = random_tensors(small_policy().architecture)
    name = "paligemma_with_expert.paligemma.model.language_model.layers.1.mlp.up_proj.weight"
    tuned[name] = tuned[name] * 1.02
    [found] = judged(pack, written(tmp_path / "tuned", tuned, random_checkpoint))
    assert (found.kind, found.severity) == ("wrong_parent", "critical")
    assert found.layers == (name.removesuffix(".weight"),)


def test_a_packed_layers_fine_tune_is_seen_though_all_float_tensors_are_equal(
    pack: PackedCheckpoint, random_checkpoint: Path, tmp_path: Path
) -> None:
    tuned = random_tensors(small_policy().architecture)
    name = "paligemma_with_expert.gemma_expert.model.layers.1.mlp.up_proj.weight"
    tuned[name] = tuned[name] * 1.02
    [found] = judged(pack, written(tmp_path / "tuned", tuned, random_checkpoint))
    assert (found.kind, found.severity) == ("wrong_parent", "critical")


def test_other_statistics_are_critical(pack: PackedCheckpoint, tmp_path: Path) -> None:
    other = write_random_checkpoint(tmp_path / "other", small_policy(), seed=0)
    parent = Parent(open_checkpoint(other))
    shifted = replace(parent.normalization, stats=_shifted(parent.normalization))
    weights = random_tensors(small_policy().architecture)
    write_folder(tmp_path / "shifted", small_policy(), weights, normalization=shifted, tokenizer=TOKENIZER)
    [found] = judged(pack, tmp_path / "shifted")
    assert (found.kind, found.severity, found.numbers["differs"]) == ("other_settings", "critical", ["normalization"])


def test_another_network_is_refused_before_anything_is_read(pack: PackedCheckpoint, tmp_path: Path) -> None:
    longer = replace(small_policy().architecture, action_horizon=8)
    other = write_random_checkpoint(tmp_path / "other", small_policy(architecture=longer))
    found = foreign_network(pack, Parent(open_checkpoint(other)))
    assert found is not None
    assert (found.kind, found.severity) == ("wrong_parent", "critical")


def _shifted(normalization: Normalization) -> dict[str, Statistics]:
    return {key: replace(one, q99=one.q99 + 1) for key, one in normalization.stats.items() if one.q99 is not None}
