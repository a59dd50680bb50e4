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
from vlapack.checkpoints.assets import SHARD_INDEX_FILE, WEIGHTS_FILE
from vlapack.checkpoints.configs import policy_config
from vlapack.checkpoints.folder import FloatCheckpoint
from vlapack.checkpoints.lerobot_fields import FIELDS, count_of, field_of, joining, max_delay, require_new
from vlapack.checkpoints.lerobot_robot import delta_mask, is_libero, prompt_state_dim, read_features, renaming
from vlapack.checkpoints.normalization import Normalization
from vlapack.checkpoints.peft import Merged, base_of
from vlapack.checkpoints.peft_config import ADAPTER_CONFIG
from vlapack.checkpoints.policy_config import NormalizationKind, PolicyConfig
from vlapack.checkpoints.processors import PREPROCESSOR, STATE, Processors
from vlapack.checkpoints.proof import check, shape_of
from vlapack.checkpoints.weights import Weights, open_weights, plainly_named
from vlapack.errors import InputError
from vlapack.pi0.config import CONFIGS, GemmaConfig, Pi0Config
from vlapack.pi0.names import EMBEDDING, TIED_EMBEDDING

TYPES: Mapping[str, Literal["pi0", "pi05"]] = {"pi0": "pi0", "pi05": "pi05"}
VARIANTS: Mapping[str, GemmaConfig] = {"gemma_2b": CONFIGS["pi0"].llm, "gemma_300m": CONFIGS["pi0"].expert}
VISION = CONFIGS["pi0"].vision
WHOLE_WEIGHTS = (WEIGHTS_FILE, SHARD_INDEX_FILE)


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
    require_new(path, document)
    FIELDS.require(str(path / "config.json"), document)
    named = _weights(path, document)
    processors = Processors(path) if Processors.there(path) else None
    if processors is not None:
        processors.require_prompt_of(document["type"])
    own = config is None
    chosen = read_config(path, document, named, processors) if config is None else policy_config(config)
    stated = {"action_horizon": "chunk_size", "num_steps": "num_inference_steps"}
    check(
        path,
        named,
        chosen,
        {ours: (count_of(path, document, theirs), f"{theirs} in config.json") for ours, theirs in stated.items()},
    )
    if not own:
        chosen = _with_folders(path, document, processors, chosen)
    if norm_stats is not None:
        stats = assets.find_norm_stats(path, chosen.asset_id, norm_stats)
        normalization = None if stats is None else Normalization.load(stats, chosen.normalization)
    else:
        normalization = _normalization(path, processors, chosen, None if own else chosen.normalization)
    if normalization is not None and own:
        chosen = replace(chosen, normalization=normalization.kind)
    found = assets.find_tokenizer(path, tokenizer)
    if processors is not None and tokenizer is None:
        _require_paligemma(path, processors, found)
    return FloatCheckpoint(path=path, config=chosen, normalization=normalization, tokenizer=found, weights=named)


def _with_folders(
    path: Path, document: Mapping[str, Any], processors: Processors | None, config: PolicyConfig
) -> PolicyConfig:
    """Return a configuration that was given, with what it leaves open as the folder says it."""
    known = (*config.features.cameras, STATE)
    saved = {} if processors is None else processors.rename_map
    return replace(
        config,
        architecture=replace(config.architecture, max_delay=max_delay(path, document)),
        replan=_replan(path, document) if config.replan is None else config.replan,
        rename_map=config.rename_map or {old: new for old, new in saved.items() if new in known},
        joining=joining(path, document) if config.joining is None else config.joining,
    )


def _weights(path: Path, document: Mapping[str, Any]) -> Weights:
    """Tensors under openpi's names, those of an adapter merged into its base's."""
    adapter = (path / ADAPTER_CONFIG).is_file()
    if document.get("use_peft") and not adapter:
        raise InputError(f"{path}: use_peft is true, and there is no {ADAPTER_CONFIG}; copy the whole folder")
    if adapter and not document.get("use_peft") and any((path / file).is_file() for file in WHOLE_WEIGHTS):
        raise InputError(
            f"{path}: holds {ADAPTER_CONFIG} and whole weights, and use_peft is not true, so LeRobot leaves the "
            "adapter out; remove the one you do not want"
        )
    named = plainly_named(open_weights(base_of(path) if adapter else path))
    return Merged(named, path) if adapter else named


def read_config(
    path: Path, document: Mapping[str, Any], weights: Weights, processors: Processors | None
) -> PolicyConfig:
    """Return what a folder's `config.json` and processors say the policy is.

    Raises:
        InputError: a field is missing or has a value that our network cannot have.
    """
    variant = TYPES[document["type"]]
    robot = read_features(path, document)
    libero = is_libero(robot)
    # LeRobot's tokenizer step was made from the configuration, and decides from then on.
    said = count_of(path, document, "tokenizer_max_length")
    prompt_length = said if processors is None else processors.max_length
    architecture = Pi0Config(
        variant=variant,
        vision=replace(VISION, image_size=_square(path, document)),
        llm=_gemma(path, document, "paligemma_variant"),
        expert=_gemma(path, document, "action_expert_variant"),
        vocab_size=shape_of(weights, TIED_EMBEDDING, EMBEDDING)[0],
        action_dim=count_of(path, document, "max_action_dim"),
        action_horizon=count_of(path, document, "chunk_size"),
        max_token_len=prompt_length,
        num_cameras=CONFIGS["pi0"].num_cameras if libero else len(robot.cameras),
        num_steps=count_of(path, document, "num_inference_steps"),
        max_delay=max_delay(path, document),
    )
    return PolicyConfig(
        name=f"lerobot_{variant}",
        architecture=architecture,
        layout="libero" if libero else "lerobot",
        discrete_state_input=variant == "pi05",
        normalization="quantile" if variant == "pi05" else "mean_std",
        delta_mask=delta_mask(path, document, processors, robot),
        robot=None if libero else robot,
        prompt_state_dim=prompt_state_dim(path, document, robot, architecture),
        replan=_replan(path, document),
        rename_map={} if processors is None else renaming(path, document, processors, robot),
        joining=joining(path, document),
    )


def _replan(path: Path, document: Mapping[str, Any]) -> int | None:
    """How many actions of a chunk LeRobot carries out before it asks for the next."""
    return None if document.get("n_action_steps") is None else count_of(path, document, "n_action_steps")


def _gemma(path: Path, document: Mapping[str, Any], name: str) -> GemmaConfig:
    variant = field_of(path, document, name)
    if not isinstance(variant, str) or variant not in VARIANTS:
        raise InputError(f"{path}: {name} is {variant!r}; LeRobot's are {' and '.join(VARIANTS)}")
    return VARIANTS[variant]


def _square(path: Path, document: Mapping[str, Any]) -> int:
    found = document.get("image_resolution")
    if found is None:
        return VISION.image_size
    if not isinstance(found, list) or len(found) != 2 or any(type(size) is not int or size < 1 for size in found):
        raise InputError(f"{path}: image_resolution is {found!r}; it must be height and width, two whole numbers")
    if found[0] != found[1]:
        raise InputError(f"{path}: image_resolution is {found}; the network takes square pictures")
    return int(found[0])


def _require_paligemma(path: Path, processors: Processors, found: Path | None) -> None:
    """Refuse to read another tokenizer's prompts with PaliGemma's."""
    name = processors.tokenizer_name
    own = found is not None and path in found.parents
    if name is not None and not own and not Path(name).name.lower().startswith("paligemma"):
        raise InputError(
            f"{path / PREPROCESSOR}: prompts are for the tokenizer {name!r}, and π0's is PaliGemma's; give its "
            "SentencePiece model, `tokenizer=FILE`"
        )


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
