"""Policy configurations survive JSON or are refused; normalization equals the formulas written out."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vlapack.checkpoints.configs import POLICIES
from vlapack.checkpoints.normalization import Normalization, Statistics
from vlapack.checkpoints.policy_config import PolicyConfig
from vlapack.errors import InputError

RNG = np.random.default_rng(0)
STATS = Statistics(*(RNG.normal(size=5) + shift for shift in (0, 10, 0, 10)))


@pytest.mark.parametrize("config", POLICIES.values(), ids=POLICIES)
def test_every_named_configuration_survives_json(config: PolicyConfig) -> None:
    assert PolicyConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"layuot": "libero"}, "unknown key 'layuot'; the nearest known key is 'layout'"),
        ({"layout": "humanoid"}, "layout is 'humanoid'"),
        ({"normalization": "none"}, "normalization is 'none'"),
        ({"discrete_state_input": "yes"}, "discrete_state_input is 'yes'"),
        ({"delta_mask": [1, 0]}, "delta_mask is"),
    ],
)
def test_a_configuration_that_means_nothing_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        PolicyConfig.from_dict(POLICIES["pi05_libero"].to_dict() | changes)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("name", 5),
        ("asset_id", []),
        ("asset_id", "../../elsewhere"),
        ("asset_id", "/etc"),
        ("asset_id", "a\0b"),
        ("default_prompt", {}),
        ("delta_mask", 5),
        ("delta_mask", "yes"),
        ("delta_mask", [1, 0]),
        ("policy_metadata", [1]),
        ("prompt_state_dim", 10**9),
        ("prompt_state_dim", True),
        ("discrete_state_input", 1),
        ("layout", ["libero"]),
        ("architecture", 3),
        ("robot", {"cameras": ["a"], "state": True, "actions": ["x"]}),
        ("k" * 10**6, 1),
    ],
    ids=lambda part: repr(part)[:30],
)
def test_a_value_of_another_type_is_refused_by_name(key: str, value: Any) -> None:
    document = POLICIES["tiny_libero"].to_dict() | {key: value}
    with pytest.raises(InputError, match="features" if key == "robot" else key[:20]) as refusal:
        PolicyConfig.from_dict(document)
    assert len(str(refusal.value)) < 500


@pytest.mark.parametrize("document", [None, 5, [], "tiny_libero"])
def test_no_object_is_no_configuration(document: Any) -> None:
    with pytest.raises(InputError, match="it must be an object"):
        PolicyConfig.from_dict(document)


def test_missing_keys_are_named() -> None:
    document = POLICIES["pi05_libero"].to_dict()
    del document["layout"], document["normalization"]
    with pytest.raises(InputError, match="missing layout, normalization"):
        PolicyConfig.from_dict(document)


def test_pi0_cannot_have_its_state_in_the_prompt() -> None:
    with pytest.raises(InputError, match="discrete_state_input is true for variant pi0"):
        replace(POLICIES["pi0_libero"], discrete_state_input=True)


def normalization(kind: Any, stats: Statistics = STATS) -> Normalization:
    return Normalization(kind, {"state": stats, "actions": stats})


@pytest.mark.parametrize("kind", ["mean_std", "quantile"])
def test_formulas_and_padding(kind: str) -> None:
    x = RNG.normal(size=(3, 5))
    scaled = normalization(kind).normalize("state", x)
    padded = np.concatenate([scaled, np.ones((3, 2))], axis=-1)
    back = normalization(kind).unnormalize("actions", padded)
    for i in range(5):
        first, second = (STATS.mean, STATS.std) if kind == "mean_std" else (STATS.q01, STATS.q99)
        if kind == "mean_std":
            expected = (x[:, i] - first[i]) / (second[i] + 1e-6)
        else:
            expected = 2 * (x[:, i] - first[i]) / (second[i] - first[i] + 1e-6) - 1
        np.testing.assert_allclose(scaled[:, i], expected, rtol=1e-14)
    np.testing.assert_allclose(back[:, :5], x, atol=1e-12)
    np.testing.assert_array_equal(back[:, 5:], 1 + 1e-6 if kind == "mean_std" else 1.0)


def test_longer_statistics_are_cut_and_shorter_ones_refused() -> None:
    x = RNG.normal(size=3)
    short = Statistics(mean=STATS.mean[:3], std=STATS.std[:3])
    np.testing.assert_array_equal(
        normalization("mean_std").normalize("state", x), normalization("mean_std", short).normalize("state", x)
    )
    with pytest.raises(InputError, match="state has 3 dimensions, the data 5"):
        normalization("mean_std", short).normalize("state", RNG.normal(size=5))
    with pytest.raises(InputError, match="actions has 5 dimensions, the data only 3"):
        normalization("mean_std").unnormalize("actions", x)


def test_a_file_survives_reading_and_writing(tmp_path: Path) -> None:
    path = tmp_path / "norm_stats.json"
    path.write_text(json.dumps(normalization("quantile").to_dict()))
    loaded = Normalization.load(path, "quantile")
    np.testing.assert_array_equal(loaded.stats["actions"].q99, STATS.q99)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not valid JSON"),
        ("[]", "expected a JSON object"),
        ('{"norm_stats": {"state": {"q01": [0], "q99": [1]}}}', "no entry 'actions'"),
        ('{"norm_stats": {"state": {"mean": [0]}, "actions": {}}}', "state has no 'q01', which quantile"),
        ('{"norm_stats": {"state": [1, 2]}}', "not openpi's format"),
        ('{"norm_stats": {"state": {"q01": ["a"]}}}', r'state: q01\[0\] is "a"'),
        ("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", "a git-lfs pointer.*`git lfs pull`"),
    ],
)
def test_a_damaged_file_is_named(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "norm_stats.json"
    path.write_text(text)
    with pytest.raises(InputError, match=f"norm_stats.json: .*{message}"):
        Normalization.load(path, "quantile")
