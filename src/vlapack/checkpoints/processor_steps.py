"""What becomes of every step of LeRobot's processors, and of each step's fields, in a folder of π0 or π0.5.

Read from `lerobot/processor` and `processor_pi0.py`, `processor_pi05.py` of the versions that lerobot_fields.py lists.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vlapack.checkpoints.lerobot_fields import WRITERS
from vlapack.checkpoints.verdicts import FLAG, NAMES, TEXT, Fields, only
from vlapack.errors import InputError

RENAME, TOKENIZER = "rename_observations_processor", "tokenizer_processor"
NORMALIZER, UNNORMALIZER = "normalizer_processor", "unnormalizer_processor"
RELATIVE, ABSOLUTE = "relative_actions_processor", "absolute_actions_processor"
NEW_LINE, PREPARE = "pi0_new_line_processor", "pi05_prepare_state_tokenizer_processor_step"
BATCH, DEVICE = "to_batch_processor", "device_processor"

DOCUMENT = Fields(writers=WRITERS, honored={"steps"}, harmless={"name": "of the file"})
"""Of the whole file."""

STEP = Fields(
    writers=WRITERS,
    honored={"registry_name", "config", "state_file", "artifacts"},
    harmless={"class": "LeRobot takes the registered step where there is one"},
)
"""Of each entry of `steps`."""

_SCALING = Fields(
    writers=WRITERS,
    honored={"eps", "features", "norm_map", "stats", "normalize_observation_keys"},
    harmless={"device": "where LeRobot computes", "dtype": "of LeRobot's arithmetic"},
)
_TASK = only("task", rule="the instruction is read from 'task'; rename it in the data and set task_key to 'task'")

CONFIGS: Mapping[str, Fields] = {
    RENAME: Fields(writers=WRITERS, honored={"rename_map"}),
    BATCH: Fields(writers=WRITERS),
    NEW_LINE: Fields(writers=WRITERS),
    PREPARE: Fields(
        writers=WRITERS,
        harmless={"max_state_dim": "LeRobot before 0.5 padded the state to it, and config.json says it too"},
        limited={
            "task_key": _TASK,
            "include_state_in_prompt": only(True, rule="π0.5 without the state in its prompt is not supported"),
        },
    ),
    TOKENIZER: Fields(
        writers=WRITERS,
        honored={"max_length", "tokenizer_name"},
        limited={
            "task_key": _TASK,
            "padding_side": only("right", rule="prompts are padded on the right; set it to 'right'"),
            "padding": only("max_length", rule="prompts are padded to the network's length; set it to 'max_length'"),
            "truncation": only(True, rule="long prompts are cut, as the network's length is fixed; set it to true"),
        },
        typed={"tokenizer_name": TEXT},
    ),
    DEVICE: Fields(
        writers=WRITERS,
        harmless={"device": "where LeRobot computes"},
        limited={
            "float_dtype": only(
                None, "float32", "float", rule="observations and actions would be rounded to it; set it to null"
            )
        },
    ),
    RELATIVE: Fields(
        writers=WRITERS,
        honored={"enabled", "exclude_joints", "action_names"},
        typed={"enabled": FLAG, "exclude_joints": NAMES, "action_names": NAMES},
    ),
    ABSOLUTE: Fields(writers=WRITERS, honored={"enabled"}, typed={"enabled": FLAG}),
    NORMALIZER: _SCALING,
    UNNORMALIZER: _SCALING,
}

BEFORE = (RENAME, BATCH, NEW_LINE, PREPARE, TOKENIZER, DEVICE, RELATIVE, NORMALIZER)
AFTER = (UNNORMALIZER, ABSOLUTE, DEVICE)
NEEDED: Mapping[str, Sequence[str]] = {
    "pi0": (NEW_LINE, TOKENIZER, NORMALIZER, UNNORMALIZER),
    "pi05": (PREPARE, TOKENIZER, NORMALIZER, UNNORMALIZER),
}
FOREIGN = {"pi0": PREPARE, "pi05": NEW_LINE}
"""The step that makes another policy's prompt."""

ORDER = (
    (RENAME, RELATIVE),
    (RENAME, NORMALIZER),
    (RELATIVE, NORMALIZER),
    (NORMALIZER, PREPARE),
    (PREPARE, TOKENIZER),
    (NEW_LINE, TOKENIZER),
    (UNNORMALIZER, ABSOLUTE),
)
"""Pairs of which the first comes first; another order computes something else."""

REPEATABLE = {BATCH, DEVICE}


def require_steps(place: Path, document: Mapping[str, Any], allowed: Sequence[str]) -> list[dict[str, Any]]:
    """Return a file's steps, once each of them and each of their fields is one of those that are known here.

    Args:
        place: the file.
        document: what it holds.
        allowed: the steps that such a file may have.

    Raises:
        InputError: it names the step or field, and what to do.
    """
    DOCUMENT.require(str(place), document)
    steps = document.get("steps")
    if not isinstance(steps, list) or not all(isinstance(step, dict) for step in steps):
        raise InputError(f"{place}: no list of steps; LeRobot writes one: copy the file again")
    names = [step.get("registry_name") for step in steps]
    for name, step in zip(names, steps, strict=True):
        if name not in allowed:
            raise InputError(
                f"{place}: the step {name or step.get('class')!r} is not supported there "
                f"({', '.join(sorted(allowed))}); the policy would see different inputs than in LeRobot"
            )
        config = step.get("config") or {}
        if not isinstance(config, dict):
            raise InputError(f"{place}: the config of {name} is {config!r}, not an object; copy the file again")
        STEP.require(f"{place}: step {name}", step)
        CONFIGS[name].require(f"{place}: step {name}", config)
        if name not in REPEATABLE and names.count(name) > 1:
            raise InputError(f"{place}: the step {name} appears twice; vlapack supports it once")
    for first, second in ORDER:
        if first in names and second in names and names.index(first) > names.index(second):
            raise InputError(f"{place}: {second} comes before {first}; vlapack only supports LeRobot's order")
    return steps
