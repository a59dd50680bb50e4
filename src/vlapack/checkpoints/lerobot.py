"""LeRobot's folders of π0 and π0.5 (0.4 to 0.6): `config.json`, `model.safetensors` and two processors.

They say what openpi's folders leave to a Python file: robot, horizon, normalization. The weights are openpi's, with
`model.` before every name; from 0.6 on, the token embedding stands beside the head that it once was tied to. What was
trained with PEFT is an adapter beside such a configuration, and names its base.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from vlapack.checkpoints import assets
from vlapack.checkpoints.base import Normalization, NormalizationKind, PolicyConfig
from vlapack.checkpoints.configs import policy_config
from vlapack.checkpoints.features import CAMERA, FEATURES, Features
from vlapack.checkpoints.folder import FloatCheckpoint
from vlapack.checkpoints.peft import Merged, base_of
from vlapack.checkpoints.peft_config import ADAPTER_CONFIG
from vlapack.checkpoints.processors import Processors
from vlapack.checkpoints.proof import check
from vlapack.checkpoints.spelling import plainly_named
from vlapack.checkpoints.weights import Weights, open_weights
from vlapack.errors import InputError
from vlapack.pi0.config import CONFIGS, GemmaConfig, Pi0Config
from vlapack.pi0.names import TIED_EMBEDDING

TYPES: Mapping[str, Literal["pi0", "pi05"]] = {"pi0": "pi0", "pi05": "pi05"}
VARIANTS: Mapping[str, GemmaConfig] = {"gemma_2b": CONFIGS["pi0"].llm, "gemma_300m": CONFIGS["pi0"].expert}
VISION = CONFIGS["pi0"].vision

# Features that change what the network computes, and that ours does not have.
LACKING = ("use_visual_memory", "use_proprioceptive_memory", "rtc_training_max_delay")
# Of the flow's time embedding; fixed in openpi's network and in ours.
PERIODS = {"min_period": 4e-3, "max_period": 4.0}


def open_lerobot(
    path: Path,
    document: Mapping[str, Any],
    *,
    config: str | Path | None = None,
    norm_stats: Path | None = None,
    tokenizer: Path | None = None,
) -> FloatCheckpoint:
    """Open a folder, or an adapter's with its base; tensors are read later.

    Args:
        path: the folder.
        document: its `config.json`.
        config: openpi's configuration name or a JSON file, whose layout, prompt and normalization go before the
            folder's; the statistics are still the folder's.
        norm_stats: openpi's norm_stats.json or its folder, instead of the processors'.
        tokenizer: SentencePiece model, instead of the one that is found.

    Raises:
        InputError: a feature that we lack, a configuration that the folder contradicts, or a broken file.
    """
    for name in LACKING:
        if document.get(name):
            raise InputError(f"{path}: {name} is {document[name]!r}; vlapack's network lacks that feature of LeRobot's")
    named = _weights(path)
    processors = Processors(path) if Processors.there(path) else None
    own = config is None
    chosen = read_config(path, document, named, processors) if config is None else policy_config(config)
    check(path, named, chosen, {"action_horizon": (_field(path, document, "chunk_size"), "chunk_size in config.json")})
    if norm_stats is not None:
        stats = assets.find_norm_stats(path, chosen.asset_id, norm_stats)
        normalization = None if stats is None else Normalization.load(stats, chosen.normalization)
    else:
        normalization = _normalization(path, processors, chosen, None if own else chosen.normalization)
    if normalization is not None and own:
        chosen = replace(chosen, normalization=normalization.kind)
    return FloatCheckpoint(
        path=path,
        config=chosen,
        normalization=normalization,
        tokenizer=assets.find_tokenizer(path, tokenizer),
        weights=named,
    )


def _weights(path: Path) -> Weights:
    """Tensors under openpi's names, those of an adapter merged into its base's."""
    adapter = (path / ADAPTER_CONFIG).is_file()
    stored = open_weights(base_of(path) if adapter else path)
    named = plainly_named(stored)
    return Merged(named, path) if adapter else named


def read_config(
    path: Path, document: Mapping[str, Any], weights: Weights, processors: Processors | None
) -> PolicyConfig:
    """Return what a folder's `config.json` and processors say the policy is.

    Raises:
        InputError: a field is missing or has a value that our network cannot have.
    """
    variant = TYPES[document["type"]]
    for name, value in PERIODS.items():
        if document.get(name, value) != value:
            raise InputError(f"{path}: {name} is {document[name]!r}; the network is fixed to openpi's {value}")
    robot = read_features(path, document)
    libero = _is_libero(robot)
    architecture = Pi0Config(
        variant=variant,
        vision=replace(VISION, image_size=_square(path, document)),
        llm=_gemma(path, document, "paligemma_variant"),
        expert=_gemma(path, document, "action_expert_variant"),
        vocab_size=weights.shape(TIED_EMBEDDING)[0],
        action_dim=_field(path, document, "max_action_dim"),
        action_horizon=_field(path, document, "chunk_size"),
        max_token_len=_field(path, document, "tokenizer_max_length"),
        num_cameras=CONFIGS["pi0"].num_cameras if libero else len(robot.cameras),
    )
    # LeRobot before 0.5 padded the state that it wrote into π0.5's prompt, and did not know relative actions yet.
    padded = variant == "pi05" and "use_relative_actions" not in document
    return PolicyConfig(
        name=f"lerobot_{variant}",
        architecture=architecture,
        layout="libero" if libero else "lerobot",
        discrete_state_input=variant == "pi05",
        normalization="quantile" if variant == "pi05" else "mean_std",
        delta_mask=_delta_mask(document, processors, robot),
        robot=None if libero else robot,
        prompt_state_dim=_field(path, document, "max_state_dim") if padded else None,
    )


def read_features(path: Path, document: Mapping[str, Any]) -> Features:
    """Return the robot's features; cameras that LeRobot only pads with (`empty_camera_0`) are none."""
    inputs, outputs = (_field(path, document, name) for name in ("input_features", "output_features"))
    cameras = [name for name, feature in inputs.items() if feature["type"] == "VISUAL"]
    seen = tuple(name for name in cameras if not name.startswith(f"{CAMERA}empty_camera"))
    dims = {
        name: features[name]["shape"][0]
        for name, features in (("observation.state", inputs), ("action", outputs))
        if name in features
    }
    if not seen or len(dims) < 2:
        raise InputError(
            f"{path}: its features are {sorted(inputs)} and {sorted(outputs)}; a policy needs a camera, "
            "observation.state and action. A checkpoint that was only pre-trained has no robot yet: fine-tune it, or "
            "give --config and --norm-stats"
        )
    names = document.get("action_feature_names") or [f"action_{index}" for index in range(dims["action"])]
    return Features(seen, dims["observation.state"], tuple(names))


def _is_libero(robot: Features) -> bool:
    """Whether a robot is LIBERO's, as LeRobot's own environment shows it."""
    known = FEATURES["libero"]
    return (robot.cameras, robot.state, len(robot.actions)) == (known.cameras, known.state, len(known.actions))


def _field(path: Path, document: Mapping[str, Any], name: str) -> Any:
    if name not in document:
        raise InputError(f"{path}: config.json has no {name!r}, which every LeRobot π0 policy states; copy it again")
    return document[name]


def _gemma(path: Path, document: Mapping[str, Any], name: str) -> GemmaConfig:
    variant = _field(path, document, name)
    if variant not in VARIANTS:
        raise InputError(f"{path}: {name} is {variant!r}; LeRobot's are {' and '.join(VARIANTS)}")
    return VARIANTS[variant]


def _square(path: Path, document: Mapping[str, Any]) -> int:
    height, width = document.get("image_resolution") or (VISION.image_size,) * 2
    if height != width:
        raise InputError(f"{path}: image_resolution is {[height, width]}; the network takes square pictures")
    return int(width)


def _delta_mask(document: Mapping[str, Any], processors: Processors | None, robot: Features) -> tuple[bool, ...]:
    """Return which actions are relative to the state: all but the joints whose names say that they are excluded."""
    step = {} if processors is None else processors.relative_actions or {}
    if not step.get("enabled", document.get("use_relative_actions", False)):
        return ()
    excluded = [str(name).lower() for name in step.get("exclude_joints", document.get("relative_exclude_joints")) or ()]
    names = step.get("action_names", document.get("action_feature_names"))
    if names is None:
        return (True,) * len(robot.actions)
    mask = [not any(token in str(name).lower() for token in excluded) for name in names[: len(robot.actions)]]
    return (*mask, *(True,) * (len(robot.actions) - len(mask)))


def _normalization(
    path: Path, processors: Processors | None, config: PolicyConfig, kind: NormalizationKind | None
) -> Normalization | None:
    if processors is None:
        return None
    robot = config.features
    try:
        return processors.normalization(kind, state=robot.state, actions=len(robot.actions))
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
