"""What becomes of every field of LeRobot's `config.json` for π0 and π0.5: PI0Config, PI05Config and their base class.

Read from LeRobot 0.4.0, 0.4.1, 0.4.4, 0.5.0, 0.5.1, 0.6.0, 0.6.1 and its main branch of August 2026.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

from vlapack.checkpoints.joining import Joining, Schedule
from vlapack.checkpoints.verdicts import FLAG, NAMES, Fields, off, only
from vlapack.errors import InputError

WRITERS = "LeRobot 0.4 to 0.6"
_NETWORK = "vlapack's network lacks that feature of LeRobot's; train without it"


FIELDS = Fields(
    writers=WRITERS,
    honored={
        "type",
        "input_features",
        "output_features",
        "paligemma_variant",
        "action_expert_variant",
        "chunk_size",
        "n_action_steps",
        "num_inference_steps",
        "max_state_dim",
        "max_action_dim",
        "image_resolution",
        "tokenizer_max_length",
        "use_relative_actions",
        "relative_exclude_joints",
        "action_feature_names",
        "use_peft",
        "rtc_config",
        "rtc_training_max_delay",
    },
    harmless={
        "normalization_mapping": "what the processors are made from; the saved ones say it, and are read",
        "empty_cameras": "cameras that no robot has: LeRobot masks them, and so does leaving them out",
        "dtype": "of LeRobot's arithmetic; ours is chosen when the policy is loaded",
        "device": "where LeRobot computes",
        "use_amp": "how LeRobot computes on a GPU",
        "compile_model": "how LeRobot computes",
        "compile_mode": "how LeRobot computes",
        **dict.fromkeys(
            ("memory_frames", "memory_stride", "memory_temporal_attention_every"),
            "of the two memories, which are refused",
        ),
        **dict.fromkeys(
            (
                "time_sampling_beta_alpha",
                "time_sampling_beta_beta",
                "time_sampling_scale",
                "time_sampling_offset",
                "gradient_checkpointing",
                "freeze_vision_encoder",
                "train_expert_only",
                "optimizer_lr",
                "optimizer_betas",
                "optimizer_eps",
                "optimizer_weight_decay",
                "optimizer_grad_clip_norm",
                "scheduler_warmup_steps",
                "scheduler_decay_steps",
                "scheduler_decay_lr",
            ),
            "training only",
        ),
        **dict.fromkeys(
            ("push_to_hub", "repo_id", "private", "tags", "license", "pretrained_path", "pretrained_revision"),
            "where the policy came from or goes to",
        ),
    },
    limited={
        "n_obs_steps": only(1, None, rule="the network sees one observation at a time; train with n_obs_steps 1"),
        "use_visual_memory": off(_NETWORK),
        "use_proprioceptive_memory": off(_NETWORK),
        "min_period": only(4e-3, None, rule="the network is fixed to openpi's 0.004"),
        "max_period": only(4.0, None, rule="the network is fixed to openpi's 4.0"),
    },
    typed={
        "use_relative_actions": FLAG,
        "relative_exclude_joints": NAMES,
        "action_feature_names": NAMES,
        "use_peft": FLAG,
    },
)

FEATURE = Fields(writers=WRITERS, honored={"type", "shape"})
"""Of one entry of `input_features` and `output_features`."""

RTC = Fields(
    writers=WRITERS,
    honored={"enabled", "prefix_attention_schedule", "max_guidance_weight", "execution_horizon"},
    harmless=dict.fromkeys(("debug", "debug_maxlen"), "what LeRobot keeps of its steps, to look at"),
    typed={"enabled": FLAG},
)
"""Of `rtc_config`: LeRobot's RTCConfig."""

OLD = {
    "resize_imgs_with_padding",
    "adapt_to_pi_aloha",
    "use_delta_joint_actions_aloha",
    "proj_width",
    "num_steps",
    "use_cache",
    "attention_implementation",
    "train_state_proj",
}
"""Fields that only LeRobot 0.3 and older wrote."""

RETRAIN = ("adapt_to_pi_aloha", "use_delta_joint_actions_aloha")
"""Those that later versions have nothing for."""


def require_new(path: Path, document: Mapping[str, Any]) -> None:
    """Refuse a folder of LeRobot 0.3 or older, whose normalization is in its weights.

    Raises:
        InputError: it says how LeRobot itself migrates such a folder.
    """
    found = sorted(OLD & document.keys())
    if not found and "paligemma_variant" in document:
        return
    why = f"config.json has {', '.join(found)}" if found else "config.json has no paligemma_variant"
    if used := [name for name in RETRAIN if document.get(name)]:
        raise InputError(
            f"{path}: written by LeRobot 0.3 or older with {' and '.join(used)} true, which later versions cannot do; "
            "train the policy again with LeRobot 0.4 or newer"
        )
    first = f"remove {', '.join(found)} from its config.json, which newer versions refuse, then " if found else ""
    raise InputError(
        f"{path}: written by LeRobot 0.3 or older ({why}), which kept the normalization in the weights. Migrate it "
        f"with LeRobot 0.4 or newer: {first}run `python -m lerobot.processor.migrate_policy_normalization "
        f"--pretrained-path {path}` and give {path.name}_migrated"
    )


def field_of(path: Path, document: Mapping[str, Any], name: str) -> Any:
    """Return a field that every LeRobot policy states; InputError where it is missing."""
    if name not in document:
        raise InputError(f"{path}: config.json has no {name!r}, which every LeRobot π0 policy states; copy it again")
    return document[name]


def max_delay(path: Path, document: Mapping[str, Any]) -> int:
    """Return how many given actions the policy was trained to go on from, 0 for none.

    Raises:
        InputError: not a number of actions that LeRobot trains with.
    """
    value = document.get("rtc_training_max_delay", 0)
    horizon, kind = count_of(path, document, "chunk_size"), document["type"]
    most = horizon - 1 if kind == "pi05" else 0
    if type(value) is not int or not 0 <= value <= most:
        raise InputError(
            f"{path}: rtc_training_max_delay is {value!r}; for a {kind} with chunk_size {horizon} it is 0 to {most}"
        )
    return value


def joining(path: Path, document: Mapping[str, Any]) -> Joining | None:
    """Return how LeRobot joins the policy's chunks; None where the folder does not say it, or that it does not.

    Raises:
        InputError: no configuration of LeRobot's for it, or a value that we cannot act by.
    """
    said, place = document.get("rtc_config"), f"{path}: rtc_config in config.json"
    if said is None:
        return None
    if not isinstance(said, Mapping):
        raise InputError(f"{place} is {said!r:.100}; it must be an object, or null")
    RTC.require(place, said)
    if not said.get("enabled"):
        return None
    if missing := sorted(set(RTC.honored) - set(said)):
        raise InputError(f"{place} has no {missing[0]!r}, which LeRobot states; copy it again")
    schedule = said["prefix_attention_schedule"]
    names = {name.upper(): name for name in get_args(Schedule)}
    if not isinstance(schedule, str) or schedule not in names:
        raise InputError(f"{place}: prefix_attention_schedule is {schedule!r:.100}; LeRobot's are {', '.join(names)}")
    try:
        return Joining(names[schedule], said["max_guidance_weight"], said["execution_horizon"])
    except InputError as error:
        raise InputError(f"{place}: {error}") from error


def count_of(path: Path, document: Mapping[str, Any], name: str) -> int:
    """Return a field that is a number of something; InputError for any other value."""
    value = field_of(path, document, name)
    if type(value) is not int or value < 1:
        raise InputError(f"{path}: {name} is {value!r}; it must be a whole number above 0")
    return value
