"""A tuning on a card measures what it measures on the CPU, and goes on only where it was begun."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from fake_gpu import FakeCard, install_gpu, install_kernels
from small import SMALL, TOKENIZER, random_observations, random_tensors, small_policy
from tagged_device import CARD, CPU, TaggedDevice

from vlapack.checkpoints import open_checkpoint
from vlapack.checkpoints.write import write_folder
from vlapack.errors import InputError
from vlapack.packing.parent import Parent
from vlapack.packing.room import Load
from vlapack.recipe.presets import preset
from vlapack.tune.candidates import load_candidates, pack_candidates
from vlapack.tune.folder import TuningFolder
from vlapack.tune.room import measuring_bytes
from vlapack.tune.space import Space
from vlapack.tune.target import Target
from vlapack.tune.trial import Trial
from vlapack.tune.tuning import tune

OBSERVATIONS = random_observations(4)
BASE = replace(preset("everything"), block=16, rounding="rtn")


@pytest.fixture(scope="module")
def space(tmp_path_factory: pytest.TempPathFactory, random_checkpoint: Path) -> Space:
    """Of a policy in fp32 with one layer a stack: bf16 takes another way through attention on CPUs."""
    one = {part: replace(getattr(SMALL, part), depth=1) for part in ("vision", "llm", "expert")}
    config = small_policy(architecture=replace(SMALL, num_steps=2, **one))
    normalization = open_checkpoint(random_checkpoint).normalization
    assert normalization is not None
    tensors = {name: tensor.float() for name, tensor in random_tensors(config.architecture).items()}
    folder = tmp_path_factory.mktemp("fp32") / "checkpoint"
    write_folder(folder, config, tensors, normalization=normalization, tokenizer=TOKENIZER)
    return Space.of(Parent(open_checkpoint(folder)), BASE)


def measured(space: Space, folder: Path, device: torch.device) -> tuple[dict[str, Any], float]:
    with TuningFolder(folder, {}) as work:
        pack_candidates(work, space, OBSERVATIONS[:1], device)
        trial = Trial(space.parent, load_candidates(work, space, device), OBSERVATIONS, work, seed=0, device=device)
        found = trial.sensitivity([0])
        return found, trial.error({name: min(of) for name, of in found.items()}, [1])


def test_sensitivities_and_errors_are_the_cpus(space: Space, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLAPACK_ENGINE", "reference")
    expected = measured(space, tmp_path / "cpu", CPU)
    install_gpu(monkeypatch, FakeCard())
    monkeypatch.setenv("VLAPACK_ENGINE", "triton")
    monkeypatch.setenv("TRITON_INTERPRET", "1")  # inside an op, the stand-in is called with the CPU's tensors
    calls = install_kernels(monkeypatch)
    with TaggedDevice() as card:
        assert measured(space, tmp_path / "card", CARD) == expected
    assert calls["prepare"]
    assert calls["int_linear"]
    for step in ("tune/sensitivity.py", "tune/trial.py"):
        assert card.read_in(step) <= 2  # results, and nothing on the way
    assert 0.3 < card.peak / measuring_bytes(space, Load.of(space.parent, OBSERVATIONS)) < 1


def test_a_tuning_goes_on_where_it_was_begun(space: Space, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    budget = Target("file", 360_000)

    def stop(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("vlapack.tune.tuning.pack_candidates", stop)
    with pytest.raises(KeyboardInterrupt):
        tune(space.parent, BASE, budget, OBSERVATIONS, tmp_path / "work")
    install_gpu(monkeypatch, FakeCard())
    with pytest.raises(InputError, match="device: 'cpu' there, 'cuda' here"):
        tune(space.parent, BASE, budget, OBSERVATIONS, tmp_path / "work", device=CARD)
    install_gpu(monkeypatch, FakeCard(free=10_000))
    with pytest.raises(InputError, match=r"`device='cuda:0'`: tuning .* GB free"):
        tune(space.parent, BASE, budget, OBSERVATIONS, tmp_path / "other", device=CARD)
    assert not (tmp_path / "other").exists()
