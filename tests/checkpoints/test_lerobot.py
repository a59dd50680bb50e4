"""LeRobot's folders act as LeRobot does: against what its own code computed (scripts/make_golden_lerobot.py)."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lerobot_policy import GOLDEN, edit, example, folder_of, header, use_small_sizes, weights
from safetensors.torch import load_file, save_file

from vlapack.checkpoints import open_checkpoint
from vlapack.errors import InputError
from vlapack.policy.policy import Policy

TASKS = {"pi05": "put_the bowl\non the plate", "pi0": "put the bowl on the plate"}


@pytest.fixture(autouse=True)
def small_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    """LeRobot's names of sizes mean the golden policies'."""
    use_small_sizes(monkeypatch)


def act(folder: Path, kind: str, **options: Any) -> tuple[Policy, dict[str, torch.Tensor], np.ndarray]:
    policy = Policy.from_pretrained(folder, **options)
    expected = load_file(GOLDEN / kind / "golden.safetensors")
    observation: dict[str, Any] = {name: value.numpy() for name, value in expected.items() if name.startswith("obs")}
    if policy.config.layout == "libero":
        observation = {
            "observation/image": observation["observation.images.image"],
            "observation/wrist_image": observation["observation.images.image2"],
            "observation/state": observation["observation.state"],
        }
    return (
        policy,
        expected,
        policy.infer(observation | {"prompt": TASKS[kind[:4].rstrip("-")]}, noise=expected["noise"])["actions"],
    )


def test_a_libero_policy_of_pi05_acts_as_in_lerobot(tmp_path: Path) -> None:
    policy, expected, actions = act(folder_of("pi05", tmp_path), "pi05")
    np.testing.assert_allclose(actions, expected["actions"], atol=2e-5)
    assert (policy.config.layout, policy.config.normalization) == ("libero", "quantile")
    assert policy.config.prompt_state_dim is None


def test_a_robot_of_its_own_acts_relative_to_its_state_as_in_lerobot(tmp_path: Path) -> None:
    policy, expected, actions = act(folder_of("pi0", tmp_path), "pi0")
    np.testing.assert_allclose(actions, expected["actions"], atol=5e-5)
    assert policy.config.features.cameras == ("observation.images.front", "observation.images.wrist")
    assert policy.config.delta_mask == (True,) * 5 + (False,)
    assert bytes(expected["text"]).decode() == f"{TASKS['pi0']}\n"
    state = expected["observation.state"].numpy().astype(np.float64)
    normalized = policy.observe(
        {name: value.numpy() for name, value in expected.items() if name.startswith("obs")} | {"prompt": "x"}
    )
    np.testing.assert_allclose(normalized.state[0, : len(state)], expected["normalized_state"], atol=1e-6)


def test_the_prompt_is_lerobots(tmp_path: Path) -> None:
    from vlapack.policy.prompt import prompt_text

    _, expected, _ = act(folder_of("pi05", tmp_path), "pi05")
    assert prompt_text(TASKS["pi05"], expected["normalized_state"].numpy()) == bytes(expected["text"]).decode()


def test_lerobot_before_05_pads_the_state_in_the_prompt(tmp_path: Path) -> None:
    folder = folder_of("pi05", tmp_path)
    edit(folder / "config.json", use_relative_actions=..., relative_exclude_joints=..., action_feature_names=...)
    tensors = load_file(folder / "model.safetensors")
    del tensors["model.paligemma_with_expert.paligemma.model.language_model.embed_tokens.weight"]  # tied then
    save_file(tensors, folder / "model.safetensors")
    policy, _, actions = act(folder, "pi05")
    assert policy.config.prompt_state_dim == 32
    assert np.isfinite(actions).all()
    assert policy.observe({**example(policy), "prompt": "x"}).token_masks.sum() > 32


def test_an_adapter_is_merged_into_its_base(tmp_path: Path) -> None:
    base = folder_of("pi05", tmp_path)
    folder = Path(shutil.copytree(GOLDEN / "pi05-peft", tmp_path / "peft"))
    edit(folder / "adapter_config.json", base_model_name_or_path="../pi05")
    checkpoint = open_checkpoint(folder)
    expected = load_file(GOLDEN / "pi05-peft" / "golden.safetensors")
    merged = {name.removeprefix("merged/model."): t for name, t in expected.items() if name.startswith("merged/")}
    # q, v and down of two layers of the expert, down of two of the language model, action_in, action_out and its bias
    assert len(merged) == 3 * 2 + 2 + 1 + 2
    unchanged = {name.removeprefix("model."): tensor for name, tensor in weights("pi05").items()}
    for name in checkpoint.names():
        torch.testing.assert_close(checkpoint.read(name), merged.get(name, unchanged[name]), atol=1e-6, rtol=0)
    _, _, actions = act(folder, "pi05-peft", tokenizer=base / "tokenizer.model")
    np.testing.assert_allclose(actions, expected["actions"], atol=1e-4)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"use_dora": True}, "use_dora is True, and .* has no lora_magnitude_vector"),
        ({"init_lora_weights": "pissa"}, "init_lora_weights is 'pissa'"),
        ({"peft_type": "MISS"}, "peft_type is 'MISS'"),
        ({"r": 4}, r"lora_A.weight has shape \[3, .*ask for \[4, "),
        ({"modules_to_save": None}, "2 of its tensors have no place .*action_out_proj"),
        ({"base_model_name_or_path": "someone/base"}, "`hf download someone/base`"),
    ],
)
def test_adapters_that_cannot_be_merged_are_refused(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    folder_of("pi05", tmp_path)
    folder = Path(shutil.copytree(GOLDEN / "pi05-peft", tmp_path / "peft"))
    edit(folder / "adapter_config.json", **{"base_model_name_or_path": "../pi05", **change})
    with pytest.raises(InputError, match=message):
        open_checkpoint(folder)


def test_shards_are_one_checkpoint(tmp_path: Path) -> None:
    folder = folder_of("pi05", tmp_path)
    tensors = weights("pi05")
    (folder / "model.safetensors").unlink()
    parts = {f"model-{number:05}-of-00002.safetensors": list(tensors)[number::2] for number in range(2)}
    for file, names in parts.items():
        save_file({name: tensors[name] for name in names}, folder / file)
    index = {"metadata": {}, "weight_map": {name: file for file, names in parts.items() for name in names}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    policy, expected, actions = act(folder, "pi05")
    np.testing.assert_allclose(actions, expected["actions"], atol=2e-5)
    policy.save_pretrained(tmp_path / "copy")  # becomes one of openpi's folders, which says what it is
    _, _, again = act(tmp_path / "copy", "pi05")
    assert np.array_equal(actions, again)
    moved = next(iter(index["weight_map"]))
    index["weight_map"][moved] = "model-00001-of-00002.safetensors"
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(InputError, match=rf"{moved} lies in model-00001.* but it lies in model-00000"):
        open_checkpoint(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"use_visual_memory": True}, "use_visual_memory is True"),
        ({"use_proprioceptive_memory": True}, "use_proprioceptive_memory is True"),
        ({"rtc_training_max_delay": 4}, "rtc_training_max_delay is 4; for a pi05 with chunk_size 4 it is 0 to 3"),
        ({"max_period": 8.0}, "max_period is 8.0"),
        ({"paligemma_variant": "gemma_9b"}, "paligemma_variant is 'gemma_9b'"),
        ({"chunk_size": ...}, "no 'chunk_size'"),
        ({"max_action_dim": 7}, "action_dim 7, but model.safetensors proves 32"),
        ({"action_expert_variant": "gemma_2b"}, r"do not have .* shapes; .*: \[\d+\] instead of \[\d+\]|instead of"),
        ({"type": "pi0"}, "no pi0_new_line_processor, and LeRobot's pi0 acts with it"),
        ({"output_features": {}}, "only pre-trained has no robot"),
    ],
)
def test_what_a_folder_cannot_be_is_named(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    folder = folder_of("pi05", tmp_path)
    edit(folder / "config.json", **change)
    with pytest.raises(InputError, match=message):
        open_checkpoint(folder)


def test_missing_and_unexpected_tensors_are_named_with_their_file(tmp_path: Path) -> None:
    folder = folder_of("pi05", tmp_path)
    tensors = weights("pi05")
    tensors["model.time_mlp_middle.weight"] = tensors.pop("model.time_mlp_out.bias")
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(InputError, match=r"model\.safetensors: .*lacks 1 tensor: time_mlp_out.bias.*time_mlp_middle"):
        open_checkpoint(folder)


def test_a_configuration_overrides_prompt_and_normalization(tmp_path: Path) -> None:
    folder = folder_of("pi05", tmp_path)
    sizes = json.loads(header("pi05")["sizes"])
    config = tmp_path / "mine.json"
    config.write_text(json.dumps({"base": "pi05_libero", "architecture": sizes}))
    checkpoint = open_checkpoint(folder, config=config)
    assert not checkpoint.config.discrete_state_input
    assert checkpoint.normalization.kind == "quantile"
    config.write_text(json.dumps({"base": "pi05_libero", "architecture": sizes, "normalization": "mean_std"}))
    assert open_checkpoint(folder, config=config).normalization.kind == "mean_std"


def processors(folder: Path, mode: str, **stats: list[float]) -> None:
    for file, step in (("policy_preprocessor.json", "normalizer"), ("policy_postprocessor.json", "unnormalizer")):
        document = json.loads((folder / file).read_text())
        for entry in document["steps"]:
            if entry["registry_name"] == f"{step}_processor":
                entry["config"]["norm_map"] = {"STATE": mode, "ACTION": mode}
                entry["config"]["stats"] = {"observation.state": stats, "action": stats}
        (folder / file).write_text(json.dumps(document))


@pytest.mark.parametrize(
    ("mode", "stats", "expected"),
    [
        (
            "QUANTILES",
            {"q01": [-1.0, 2.0], "q99": [3.0, 2.0]},
            lambda x: [2 * (x[0] + 1) / 4 - 1, 2 * (x[1] - 2) / 1e-8 - 1],
        ),
        ("MIN_MAX", {"min": [-1.0, 0.0], "max": [3.0, 0.5]}, lambda x: [2 * (x[0] + 1) / 4 - 1, 4 * x[1] - 1]),
        ("MEAN_STD", {"mean": [1.0, 0.0], "std": [2.0, 0.0]}, lambda x: [(x[0] - 1) / (2 + 1e-8), x[1] / 1e-8]),
        ("IDENTITY", {"mean": [1.0, 0.0]}, lambda x: x),
    ],
)
def test_every_mode_of_lerobots_gives_its_numbers(
    tmp_path: Path, mode: str, stats: dict[str, list[float]], expected: Any
) -> None:
    from vlapack.checkpoints.processors import Processors

    folder = folder_of("pi05", tmp_path)
    processors(folder, mode, **stats)
    normalization = Processors(folder).normalization(None, state=2, actions=2)
    x = np.array([0.7, 0.3])
    np.testing.assert_allclose(normalization.normalize("state", x), expected(x), rtol=1e-6)
    np.testing.assert_allclose(
        normalization.unnormalize("actions", normalization.normalize("actions", x)), x, atol=1e-7
    )


def test_a_step_that_we_lack_is_refused(tmp_path: Path) -> None:
    folder = folder_of("pi05", tmp_path)
    path = folder / "policy_preprocessor.json"
    document = json.loads(path.read_text())
    document["steps"].append({"registry_name": "my_crop", "config": {}})
    path.write_text(json.dumps(document))
    with pytest.raises(InputError, match="the step 'my_crop' is not supported"):
        open_checkpoint(folder)


def test_a_policy_that_was_only_pretrained_has_no_statistics(tmp_path: Path) -> None:
    folder = folder_of("pi05", tmp_path)
    for path in folder.glob("policy_p*"):
        path.unlink()
    with pytest.raises(InputError, match="`norm_stats"):
        Policy.from_pretrained(folder)
