"""Statistics that would turn actions into NaN, another sign or another unit are refused where they are read."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from vlapack.checkpoints import open_checkpoint
from vlapack.checkpoints.normalization import Normalization, Statistics
from vlapack.checkpoints.normstats import check_pair, read_tables, vector
from vlapack.checkpoints.processors import POSTPROCESSOR, PREPROCESSOR, Processors
from vlapack.errors import InputError

NAN, INF = float("nan"), float("inf")
FILE = Path("assets/small/norm_stats.json")


def with_table(folder: Path, tmp_path: Path, change: Callable[[dict[str, Any]], Any]) -> Path:
    """A copy of a checkpoint whose statistics were changed; `change` gets the entries."""
    copy = Path(shutil.copytree(folder, tmp_path / "changed"))
    document = json.loads((copy / FILE).read_text())
    change(document["norm_stats"])
    (copy / FILE).write_text(json.dumps(document))
    return copy


def put(key: str, statistic: str, value: Any) -> Callable[[dict[str, Any]], Any]:
    return lambda entries: entries[key].update({statistic: value})


def element(key: str, statistic: str, index: int, value: Any) -> Callable[[dict[str, Any]], Any]:
    return lambda entries: entries[key][statistic].__setitem__(index, value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (element("actions", "q01", 0, NAN), r"actions: q01\[0\] is NaN; statistics are finite numbers"),
        (element("actions", "q99", 2, INF), r"actions: q99\[2\] is Infinity; "),
        (element("state", "q01", 7, -INF), r"state: q01\[7\] is -Infinity; "),
        (element("state", "q99", 1, None), r"state: q99\[1\] is null; "),
        (element("state", "q99", 1, "0.5"), r"state: q99\[1\] is \"0.5\"; "),
        (element("state", "q99", 1, True), r"state: q99\[1\] is true; "),
        (element("state", "q99", 1, 10**400), r"state: q99\[1\] is 1000+; "),
        (element("actions", "q99", 3, -99.5), r"actions: q99\[3\] is -99.5; q01\[3\] is -\S+, and must not be above: "),
        (put("actions", "q01", []), r"actions: q01 is empty; "),
        (put("actions", "q01", 0.5), r"actions: q01 is 0.5; it must be a list"),
        (put("actions", "q01", {"0": 1}), r"actions: q01 is \{\"0\": 1\}; it must be a list"),
        (put("actions", "q01", [[0.0] * 7]), r"actions: q01 has shape \[1, 7\]; it must have one number per dimension"),
        (
            put("actions", "q01", [[0.0] * 7] * 4),
            r"actions: q01 has shape \[4, 7\]; .*tables per time step are not supp",
        ),
        (put("actions", "q01", [0.0, [0.0], *[0.0] * 5]), r"actions: q01\[1\] is \[0.0\]; "),
        (put("actions", "q01", [0.0] * 6), r"actions: q01 has 6 numbers and q99 7; they must be equally many"),
        (put("actions", "q01", None), r"actions has no 'q01', which quantile normalization needs"),
        (put("actions", "mask", [True] * 7), r"actions: unknown statistic 'mask'; openpi's are mean, std, q01, q99: "),
        (lambda entries: entries.pop("state"), r"no entry 'state'; found \['actions'\]"),
        (lambda entries: entries.update(actions=[1, 2]), r"not openpi's format"),
        (
            lambda entries: [entries["actions"].update({name: [0.0] * 6}) for name in ("q01", "q99")],
            r"actions: q01 and q99 have 6 numbers; layout libero has 7 dimensions and the network 32, so .* 7 to 32:",
        ),
        (
            lambda entries: [entries["state"].update({name: [0.0] * 33}) for name in ("q01", "q99")],
            r"state: q01 and q99 have 33 numbers; layout libero has 8 dimensions and the network 32",
        ),
    ],
)
def test_a_table_that_no_formula_can_use_is_refused_when_it_is_opened(
    random_checkpoint: Path, tmp_path: Path, change: Callable[[dict[str, Any]], Any], message: str
) -> None:
    folder = with_table(random_checkpoint, tmp_path, change)
    with pytest.raises(InputError, match=f"{FILE}: {message}") as raised:
        open_checkpoint(folder)
    assert "\n" not in str(raised.value)


def test_deviations_below_zero_are_refused() -> None:
    stats = Statistics(mean=np.zeros(2), std=np.array([1.0, -0.5]))
    with pytest.raises(InputError, match=r"file.json: state: std\[1\] is -0.5; it must be at least 0"):
        Normalization("mean_std", {"state": stats, "actions": stats}, "file.json")


@pytest.mark.parametrize("kind", ["mean_std", "quantile"])
def test_constant_dimensions_and_lerobots_epsilons_are_accepted_and_a_zero_divisor_is_not(kind: Any) -> None:
    def table(second: float) -> Normalization:
        stats = Statistics(*(np.array(values) for values in ([0.0], [second], [0.0], [second])))
        return Normalization(kind, {"state": stats, "actions": stats})

    for second in (0.0, 1e-8 - 1e-6):
        assert np.isfinite(table(second).normalize("state", np.ones(1))).all()
    with pytest.raises(InputError, match=r"state: (std|q99)\[0\] is -1e-06"):
        table(-1e-6)


@pytest.mark.parametrize("length", [7, 32])
def test_what_openpi_accepts_stays_accepted(
    random_checkpoint: Path, tmp_path: Path, length: int, capsys: pytest.CaptureFixture[str]
) -> None:
    """Shorter than the network, padded to it, constant, with other embodiments and with what LeRobot counts too."""

    def change(entries: dict[str, Any]) -> None:
        padding = [0.0] * (length - 7)
        entries["actions"] = {"q01": [-1.0] * 7 + padding, "q99": [1.0] * 6 + [-1.0] + padding, "mean": None}
        entries["actions"] |= {"min": [0.0], "max": [1.0], "count": [3], "q50": None}
        entries["state"] |= {"q01": [0] * 32, "q99": [1] * 32}
        entries["trossen"] = {"mean": [0.0] * 14, "std": [1.0] * 14, "anything": "else"}

    opened = open_checkpoint(with_table(random_checkpoint, tmp_path, change))
    assert opened.normalization is not None
    assert opened.normalization.stats["actions"].mean is None
    assert len(opened.normalization.stats["trossen"].mean) == 14  # type: ignore[arg-type]
    assert capsys.readouterr().err == ""


def test_what_is_broken_and_never_read_is_left_out_with_a_word(
    random_checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def change(entries: dict[str, Any]) -> None:
        entries["actions"]["std"] = [NAN] * 7
        entries["other"] = {"q01": [[1.0]]}

    normalization = open_checkpoint(with_table(random_checkpoint, tmp_path, change)).normalization
    assert normalization is not None
    assert normalization.stats["actions"].std is None
    assert normalization.stats["other"].q01 is None
    said = capsys.readouterr().err
    assert "actions: std[0] is NaN" in said
    assert "other: q01 has shape [1, 1]" in said


def test_an_unknown_key_beside_the_table_is_refused() -> None:
    with pytest.raises(InputError, match="unknown key 'version' next to norm_stats"):
        read_tables({"norm_stats": {}, "version": 2}, ("mean", "std"), "norm_stats")


@pytest.mark.parametrize("values", [np.zeros((1, 7)), np.array(3.0), np.zeros(0)])
def test_tensors_are_held_to_the_same_rules(values: np.ndarray) -> None:
    with pytest.raises(InputError, match=r"^here "):
        vector(values, "here")


def test_numbers_are_kept_as_they_are() -> None:
    found = vector([1, 0.1, -1e300], "here")
    assert found.dtype == np.float64
    assert found.tolist() == [1.0, 0.1, -1e300]
    check_pair(found, found, ("q01", "q99"), "here")


def processors(folder: Path, change: Callable[[dict[str, Any]], Any], mode: str = "QUANTILES") -> Processors:
    """LeRobot's processors of a robot with 2 joints; `change` gets what the state file will hold."""
    tensors = {
        f"{key}.{name}": torch.tensor([low, low])
        for key in ("observation.state", "action")
        for name, low in (("mean", 0.0), ("std", 1.0), ("q01", -1.0), ("q99", 1.0), ("min", -2.0), ("max", 2.0))
    }
    change(tensors)
    save_file(tensors, folder / "state.safetensors")
    features = {"observation.state": {"type": "STATE", "shape": [2]}, "action": {"type": "ACTION", "shape": [2]}}
    config = {"norm_map": {"STATE": mode, "ACTION": mode}, "features": features}
    for file, name in ((PREPROCESSOR, "normalizer_processor"), (POSTPROCESSOR, "unnormalizer_processor")):
        step = {"registry_name": name, "config": config, "state_file": "state.safetensors"}
        (folder / file).write_text(json.dumps({"steps": [step]}))
    return Processors(folder)


@pytest.mark.parametrize(
    ("mode", "name", "values", "message"),
    [
        ("QUANTILES", "action.q01", [0.0, NAN], r"action\.q01\[1\] is NaN"),
        ("MIN_MAX", "observation.state.max", [INF, 1.0], r"observation\.state\.max\[0\] is Infinity"),
        ("QUANTILES", "action.q99", [-3.0, 1.0], r"action: q99\[0\] is -3; q01\[0\] is -1, and must not be above"),
        ("MEAN_STD", "action.std", [1.0, -0.5], r"action: std\[1\] is -0.5; it must be at least 0"),
        ("MEAN_STD", "action.mean", [[0.0, 0.0]], r"action\.mean has shape \[1, 2\]"),
        (
            "MEAN_STD",
            "action.std",
            [1.0],
            r"action: 'std' of its statistics has shape \[1\]; the policy's features say",
        ),
        ("MEAN_STD", "action.std", 1.0, r"action\.std is 1\.0; it must be a list"),
    ],
)
def test_lerobots_statistics_are_held_to_the_same_rules(
    tmp_path: Path, mode: str, name: str, values: Any, message: str
) -> None:
    broken = processors(tmp_path, lambda tensors: tensors.update({name: torch.tensor(values)}), mode)
    with pytest.raises(InputError, match=f"state.safetensors: {message}"):
        broken.normalization(None, state=2, actions=2)


@pytest.mark.parametrize("mode", ["QUANTILES", "MIN_MAX", "MEAN_STD"])
def test_a_joint_that_never_moved_is_accepted_from_lerobot_and_from_the_pack_made_of_it(
    tmp_path: Path, mode: str
) -> None:
    def still(tensors: dict[str, Any]) -> None:
        tensors.update({name: torch.full((2,), 0.0 if name.endswith("std") else 0.5) for name in tensors})

    normalization = processors(tmp_path, still, mode).normalization(None, state=2, actions=2)
    assert normalization is not None
    again = Normalization.from_dict(json.loads(json.dumps(normalization.to_dict())), normalization.kind)
    assert np.isfinite(again.normalize("state", np.ones(2))).all()


def test_statistics_that_lerobots_mode_does_not_read_may_be_anything(tmp_path: Path) -> None:
    opened = processors(tmp_path, lambda tensors: tensors.update({"action.max": torch.tensor(NAN)}))
    assert opened.normalization(None, state=2, actions=2) is not None


@pytest.mark.parametrize("value", [None, "0.1"])
def test_statistics_inside_lerobots_json_are_held_to_them_too(tmp_path: Path, value: Any) -> None:
    processors(tmp_path, lambda _: None)
    document = json.loads((tmp_path / POSTPROCESSOR).read_text())
    document["steps"][0]["config"]["stats"] = {"action": {"q01": [0.0, value], "q99": [1.0, 1.0]}}
    (tmp_path / POSTPROCESSOR).write_text(json.dumps(document))
    with pytest.raises(InputError, match=rf"unnormalizer_processor: action\.q01\[1\] is {json.dumps(value)}"):
        Processors(tmp_path).normalization(None, state=2, actions=2)
