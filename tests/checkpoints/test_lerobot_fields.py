"""No field of LeRobot's config.json and processors is skipped in silence: honored, harmless, or refused by name."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lerobot_policy import POST, PRE, edit, edit_step, edit_steps, example, folder_of, named, use_small_sizes

from vlapack.checkpoints import lerobot_fields, open_checkpoint, processor_steps
from vlapack.checkpoints.lerobot import open_lerobot
from vlapack.errors import InputError
from vlapack.packing.make import make_pack
from vlapack.pi0.savings import Savings
from vlapack.policy.policy import Policy
from vlapack.policy.rtc import RealTime
from vlapack.recipe.presets import preset

NO_TABLE = Savings(time_table=False)


@pytest.fixture(autouse=True)
def small_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    use_small_sizes(monkeypatch)


# LeRobot's classes, all fields of all versions since 0.4.0: what a folder may hold must have its place.
PI0 = """
n_obs_steps input_features output_features device use_amp use_peft push_to_hub repo_id private tags license
pretrained_path pretrained_revision paligemma_variant action_expert_variant dtype chunk_size n_action_steps
max_state_dim max_action_dim num_inference_steps time_sampling_beta_alpha time_sampling_beta_beta
time_sampling_scale time_sampling_offset min_period max_period use_relative_actions relative_exclude_joints
action_feature_names rtc_config image_resolution empty_cameras normalization_mapping gradient_checkpointing
compile_model compile_mode freeze_vision_encoder train_expert_only optimizer_lr optimizer_betas optimizer_eps
optimizer_weight_decay optimizer_grad_clip_norm scheduler_warmup_steps scheduler_decay_steps
scheduler_decay_lr tokenizer_max_length type
"""
PI05 = """use_visual_memory use_proprioceptive_memory memory_frames memory_stride memory_temporal_attention_every
rtc_training_max_delay"""


def test_every_field_of_lerobots_classes_has_its_one_place() -> None:
    fields = lerobot_fields.FIELDS
    columns = [set(fields.honored), set(fields.harmless), set(fields.limited)]
    assert set.union(*columns) == {*PI0.split(), *PI05.split()}
    assert sum(map(len, columns)) == len(set.union(*columns))
    assert all(fields.harmless.values())
    assert not lerobot_fields.OLD & set.union(*columns)


RTC = {
    "enabled": True,
    "prefix_attention_schedule": "LINEAR",
    "max_guidance_weight": 2.5,
    "execution_horizon": 2,
    "debug": True,
    "debug_maxlen": 100,
}
"""LeRobot's RTCConfig, with all of its fields."""

WRONG: list[Any] = [7, -1.5, True, "false", [], [28], [{}], {"a": []}]
"""Values of a type that hardly any field has."""


@pytest.mark.parametrize("kind", ["pi0", "pi05"])
def test_a_field_of_another_type_is_no_traceback(tmp_path: Path, kind: str) -> None:
    folder = folder_of(kind, tmp_path / kind)
    files = {file: (folder / file).read_text() for file in ("config.json", PRE, POST)}

    def try_all(file: str, place: Callable[[dict[str, Any]], dict[str, Any]], names: Collection[str]) -> None:
        for name in names:
            for value in WRONG:
                document = json.loads(files[file])
                place(document)[name] = value
                (folder / file).write_text(json.dumps(document))
                with suppress(InputError):
                    open_checkpoint(folder)
        (folder / file).write_text(files[file])

    try_all("config.json", lambda document: document, sorted(lerobot_fields.FIELDS.honored))
    for file in (PRE, POST):
        for step in json.loads(files[file])["steps"]:
            name = step["registry_name"]
            fields = processor_steps.CONFIGS[name].honored
            try_all(file, lambda document, name=name: named(document["steps"], name)["config"], sorted(fields))


@pytest.mark.parametrize("kind", ["pi0", "pi05"])
def test_an_unknown_field_is_refused_wherever_it_stands(tmp_path: Path, kind: str) -> None:
    def breaks(change: Callable[[Path], Any], message: str) -> None:
        folder = folder_of(kind, tmp_path / str(len(list(tmp_path.iterdir()))))
        change(folder)
        with pytest.raises(InputError, match=message) as raised:
            open_checkpoint(folder)
        assert "\n" not in str(raised.value)

    unknown = "unknown field 'state_noise'.* update vlapack"
    breaks(lambda folder: edit(folder / "config.json", state_noise=0.1), rf"config.json: {unknown}")
    breaks(lambda folder: edit(folder / PRE, state_noise=0.1), rf"{PRE}: {unknown}")
    edit_feature = json.loads((folder_of(kind, tmp_path / "plain") / "config.json").read_text())["input_features"]
    edit_feature["observation.state"]["state_noise"] = 1
    breaks(lambda folder: edit(folder / "config.json", input_features=edit_feature), f"observation.state: {unknown}")
    for file in (PRE, POST):
        for step in json.loads((folder_of(kind, tmp_path / f"steps{file}") / file).read_text())["steps"]:
            name = step["registry_name"]
            breaks(
                lambda folder, name=name, file=file: edit_step(folder, name, lambda c: c.update(state_noise=1), file),
                f"{file}: step {name}: {unknown}",
            )
    breaks(lambda folder: edit_steps(folder, lambda steps: steps[0].update(state_noise=1)), unknown)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"n_obs_steps": 2}, "n_obs_steps is 2; the network sees one observation"),
        ({"rtc_training_max_delay": True}, "rtc_training_max_delay is True"),
        ({"rtc_training_max_delay": -1}, "rtc_training_max_delay is -1"),
        ({"rtc_config": [1]}, r"rtc_config in config.json is \[1\]; it must be an object, or null"),
        ({"rtc_config": RTC | {"temper": 1}}, "rtc_config in config.json: unknown field 'temper'"),
        ({"rtc_config": RTC | {"enabled": 1}}, "enabled is 1; it must be true or false"),
        ({"rtc_config": {"enabled": True}}, "rtc_config in config.json has no 'execution_horizon'"),
        ({"rtc_config": RTC | {"prefix_attention_schedule": "SLOW"}}, "is 'SLOW'; LeRobot's are LINEAR, EXP, ONES"),
        ({"rtc_config": RTC | {"max_guidance_weight": "5"}}, "max_guidance_weight is '5'"),
        ({"rtc_config": RTC | {"execution_horizon": 0}}, "execution_horizon is 0; it must be a whole number above 0"),
        ({"min_period": 1e-3}, "min_period is 0.001"),
        ({"num_inference_steps": 0}, "num_inference_steps is 0; it must be a whole number above 0"),
        ({"num_inference_steps": 2.5}, "num_inference_steps is 2.5"),
        ({"n_action_steps": 5}, "replan is 5; it must be a whole number of the 4 actions"),
        ({"n_action_steps": True}, "n_action_steps is True"),
        ({"use_peft": True}, "use_peft is true, and there is no adapter_config.json"),
        ({"input_features": None}, "only pre-trained has no robot"),
        ({"input_features": ["observation.state"]}, "must be an object of features"),
        ({"output_features": {"action": {"type": "ACTION", "shape": []}}}, r"action has shape \[\]"),
        ({"output_features": {"action": {"type": "ACTION"}}}, "must have a type and a shape"),
        ({"action_feature_names": ["x"]}, "action_feature_names has 1 names for 7 dimensions"),
    ],
)
def test_a_value_that_would_act_otherwise_is_refused(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    folder = folder_of("pi05", tmp_path)
    edit(folder / "config.json", **change)
    with pytest.raises(InputError, match=message):
        open_checkpoint(folder)


def test_states_longer_than_the_network_takes_are_refused(tmp_path: Path) -> None:
    folder = folder_of("pi0", tmp_path)
    edit(folder / "config.json", max_state_dim=40)
    with pytest.raises(InputError, match="max_state_dim is 40 for a state of 6 and max_action_dim 32"):
        open_checkpoint(folder)


def test_an_adapter_beside_whole_weights_that_lerobot_would_leave_out_is_refused(tmp_path: Path) -> None:
    folder = folder_of("pi05", tmp_path)
    (folder / "adapter_config.json").write_text("{}")
    with pytest.raises(InputError, match="whole weights, and use_peft is not true, so LeRobot leaves the adapter out"):
        open_checkpoint(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"proj_width": 1024, "num_steps": 10},
            r"\(config.json has num_steps, proj_width\).*remove num_steps, proj",
        ),
        (
            {"paligemma_variant": ...},
            r"config.json has no paligemma_variant.*run `python -m lerobot.processor.migrate",
        ),
        ({"adapt_to_pi_aloha": True}, "adapt_to_pi_aloha true, which later versions cannot do; train the policy again"),
    ],
)
def test_a_folder_of_lerobot_03_is_told_how_to_migrate(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    folder = folder_of("pi0", tmp_path)
    edit(folder / "config.json", **change)
    with pytest.raises(InputError, match=f"written by LeRobot 0.3 or older.*{message}|{message}"):
        open_checkpoint(folder)


def test_the_number_of_denoise_steps_is_lerobots(tmp_path: Path) -> None:
    folder = folder_of("pi05", tmp_path)
    policy = Policy.from_pretrained(folder)
    edit(folder / "config.json", num_inference_steps=3)
    fewer = Policy.from_pretrained(folder)
    inputs, noise = policy.observe(example(policy)), torch.ones(1, *policy.noise_shape)
    expected = Policy.from_pretrained(folder_of("pi05", tmp_path / "again"), savings=NO_TABLE).model.sample_actions(
        *inputs.network, noise, num_steps=3
    )
    torch.testing.assert_close(fewer.model.sample_actions(*inputs.network, noise), expected)
    assert not torch.allclose(policy.model.sample_actions(*inputs.network, noise), expected)
    assert fewer.config.architecture.to_dict()["num_steps"] == 3
    assert type(fewer.config).from_dict(fewer.config.to_dict()) == fewer.config


def test_a_prompt_that_04_and_050_write_otherwise_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = folder_of("pi05", tmp_path)
    open_checkpoint(folder)
    assert not capsys.readouterr().err
    edit(folder / "config.json", use_relative_actions=..., relative_exclude_joints=..., action_feature_names=...)
    assert open_checkpoint(folder).config.prompt_state_dim == 32
    assert "read as LeRobot 0.4's, which pads the state in the prompt to 32" in capsys.readouterr().err


def test_a_configuration_that_is_given_keeps_what_it_leaves_open_to_the_folder(tmp_path: Path) -> None:
    folder = folder_of("pi05", tmp_path)
    edit(folder / "config.json", n_action_steps=2)
    renaming = {"top": "observation.images.image"}
    edit_step(folder, "rename_observations_processor", lambda config: config.update(rename_map=renaming))
    plain = open_checkpoint(folder).config
    assert (plain.replan, plain.rename_map) == (2, renaming)
    config = tmp_path / "mine.json"
    config.write_text(json.dumps(plain.to_dict() | {"default_prompt": "wave"}))
    document = json.loads((folder / "config.json").read_text())
    assert open_lerobot(folder, document, config=config).config.replan == 2
    config.write_text(json.dumps({k: v for k, v in plain.to_dict().items() if k not in ("replan", "rename_map")}))
    assert open_lerobot(folder, document, config=config).config == plain
    edit(folder / "config.json", num_inference_steps=5)
    with pytest.raises(InputError, match=r"num_steps 10, but num_inference_steps in config\.json proves 5"):
        open_checkpoint(folder, config=config)


def test_how_lerobot_joins_chunks_is_how_the_policy_and_its_pack_do(tmp_path: Path) -> None:
    folder = folder_of("pi05", tmp_path)
    edit(folder / "config.json", rtc_config=RTC)
    make_pack(open_checkpoint(folder), preset("dit-fast"), tmp_path / "pack", None)
    for kind in (folder, tmp_path / "pack"):
        policy = Policy.from_pretrained(kind)
        about: dict[str, Any] = {"noise": torch.ones(policy.noise_shape), "previous": np.full((3, 7), 0.1)}

        def chunk(**said: Any) -> Any:
            return policy.infer(example(policy), **about, **said)["actions"]  # noqa: B023 - called at once

        explicit = RealTime("lerobot", "linear", 2.5)
        np.testing.assert_array_equal(chunk(), chunk(execution_horizon=2, realtime=explicit))
        assert not np.array_equal(chunk(), chunk(execution_horizon=2, realtime=RealTime()))
        # What will have been executed is bound even where LeRobot's horizon ends before.
        np.testing.assert_array_equal(chunk(delay=3), chunk(delay=3, execution_horizon=3, realtime=explicit))
    edit(folder / "config.json", rtc_config=RTC | {"enabled": False})
    assert open_checkpoint(folder).config.joining is None


@pytest.mark.parametrize(
    ("field", "value", "rule"),
    [
        ("use_peft", "false", "it must be true or false"),
        ("use_relative_actions", 1, "it must be true or false"),
        ("relative_exclude_joints", "gripper", "it must be a list of names"),
        ("image_resolution", 224, "it must be height and width"),
        ("image_resolution", [224.5, 224.5], "it must be height and width"),
        ("type", ["pi0"], "of LeRobot's policies, pi0 and pi05 are read"),
        ("paligemma_variant", ["gemma_2b"], "LeRobot's are"),
    ],
)
def test_a_type_that_python_would_stretch_is_refused(tmp_path: Path, field: str, value: Any, rule: str) -> None:
    folder = folder_of("pi0", tmp_path / "a")
    edit(folder / "config.json", **{field: value})
    with pytest.raises(InputError, match=rule):
        open_checkpoint(folder)
