"""What one pass predicts for a trained policy is what packing one layer at a time does."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from vlapack.checkpoints import open_checkpoint
from vlapack.observations.folder import load_observations
from vlapack.packing.parent import Parent
from vlapack.recipe.presets import preset
from vlapack.tune.candidates import load_candidates, pack_candidates
from vlapack.tune.folder import TuningFolder
from vlapack.tune.space import Space
from vlapack.tune.trial import Trial

POLICY = Path(__file__).parents[1] / "data" / "tiny-libero-1"
VISION = "paligemma_with_expert.paligemma.model.vision_tower.vision_model.encoder.layers"
LLM = "paligemma_with_expert.paligemma.model.language_model.layers"
EXPERT = "paligemma_with_expert.gemma_expert.model.layers"
LAYERS = (
    f"{VISION}.0.mlp.fc2",
    f"{VISION}.3.self_attn.q_proj",
    f"{LLM}.0.self_attn.v_proj",
    f"{LLM}.1.mlp.down_proj",
    f"{LLM}.2.mlp.gate_proj",
    f"{EXPERT}.0.self_attn.k_proj",
    f"{EXPERT}.1.mlp.down_proj",
    f"{EXPERT}.2.input_layernorm.dense",
    f"{EXPERT}.3.mlp.up_proj",
    "action_out_proj",
)
SEEN = 16
"""Observations, two samples of ‖Δ‖² from each; from four, chance alone moves a prediction threefold."""


@pytest.mark.slow
def test_the_prediction_agrees_with_one_layer_at_a_time(tmp_path: Path) -> None:
    parent = Parent(open_checkpoint(POLICY))
    space = Space.of(parent, replace(preset("everything"), layers=LAYERS, embedding_bits=16))
    observations = load_observations(POLICY / "observations", SEEN)
    with TuningFolder(tmp_path / "work", {}) as work:
        pack_candidates(work, space, observations)
        trial = Trial(parent, load_candidates(work, space), observations, work, seed=0)
        errors = trial.sensitivity(range(SEEN))
        pairs = [
            (predicted**0.5, trial.error({name: bits}, range(SEEN)))
            for name, of_layer in errors.items()
            for bits, predicted in of_layer.items()
        ]
    predicted, measured = np.log(np.array(pairs)).T
    assert np.ptp(measured) > 5  # e⁵: the choices differ by more than two decades
    assert np.corrcoef(predicted, measured)[0, 1] > 0.95
    assert np.abs(predicted - measured).max() < np.log(2)
