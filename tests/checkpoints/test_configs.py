"""Names of configurations: what they stand for, which are refused, and files in their place."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from vlapack.checkpoints.configs import LIBERO_DELTA, policy_config
from vlapack.errors import InputError


def test_the_two_libero_policies_differ_as_in_openpi() -> None:
    old, new = policy_config("pi0_libero"), policy_config("pi05_libero")
    facts = [
        (
            c.architecture.variant,
            c.architecture.action_horizon,
            c.architecture.max_token_len,
            c.discrete_state_input,
            c.normalization,
            c.delta_mask,
        )
        for c in (old, new)
    ]
    assert facts == [
        ("pi0", 50, 48, False, "mean_std", LIBERO_DELTA),
        ("pi05", 10, 200, False, "quantile", ()),
    ]
    assert old.asset_id == new.asset_id == "physical-intelligence/libero"


def test_pi05_droid_writes_its_state_into_the_prompt() -> None:
    assert policy_config("pi05_droid").discrete_state_input
    assert not policy_config("pi0_droid").discrete_state_input


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("pi05_libro", "did you mean pi05_libero"),
        ("zzzzzz", "known: pi0_libero, "),
        ("pi0_fast_libero", "π0-FAST"),
        ("pi0-FAST", "π0-FAST"),
        ("my_pi0_fast_thing", "π0-FAST"),
        ("paligemma_binning_droid", "π0-FAST and its kin"),
        ("missing.json", "missing.json: cannot be read"),
    ],
)
def test_other_names_are_refused_with_a_reason(name: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        policy_config(name)


def write(folder: Path, document: dict[str, Any]) -> Path:
    path = folder / "breakfast.json"  # "fast" inside a word is no π0-FAST
    path.write_text(json.dumps(document))
    return path


def test_a_file_describes_a_policy_in_full_or_as_changes(tmp_path: Path) -> None:
    base = policy_config("pi05_libero")
    assert policy_config(write(tmp_path, base.to_dict())) == base
    changes = {"base": "pi05_libero", "name": "mine", "architecture": {"action_horizon": 20}}
    mine = policy_config(write(tmp_path, changes))
    assert (mine.name, mine.architecture.action_horizon, mine.architecture.vision) == (
        "mine",
        20,
        base.architecture.vision,
    )


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ({"base": "pi05_libero", "horizon": 3}, "breakfast.json: policy configuration: unknown key 'horizon'"),
        ({"base": "pi05_libero", "architecture": {"depth": 3}}, "breakfast.json: architecture: unknown key depth"),
        ({"base": "pi05_nowhere"}, "breakfast.json: there is no configuration 'pi05_nowhere'"),
        ({"name": "mine"}, "missing architecture"),
    ],
)
def test_a_bad_file_is_named(tmp_path: Path, document: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        policy_config(write(tmp_path, document))


def test_a_file_that_is_its_own_base_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "own.json"
    path.write_text(json.dumps({"base": str(path)}))
    with pytest.raises(InputError, match=r"base is .*own\.json'; it must be a name"):
        policy_config(path)
