"""openpi's PyTorch folder: `model.safetensors` and, with luck, `assets/<id>/norm_stats.json`.

Such a folder does not say what it is: layout, horizon, prompt format and normalization stand in openpi's Python
configuration. So its name (or a JSON file) is asked for, and checked against everything that the weights prove. Folders
that we write ourselves carry the answer in `config.json` under `policy_config`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vlapack.checkpoints import assets
from vlapack.checkpoints.base import Normalization, PolicyConfig, read_json
from vlapack.checkpoints.configs import POLICIES, config_from_document, policy_config
from vlapack.checkpoints.folder import CheckpointFolder
from vlapack.checkpoints.mapping import TensorFile
from vlapack.errors import InputError
from vlapack.pi0.config import Pi0Config, Variant
from vlapack.pi0.names import canonical, openpi_tensors

WEIGHTS_FILE = "model.safetensors"
CONFIG_FILE = "config.json"
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")


@dataclass(frozen=True, kw_only=True)
class OpenpiCheckpoint(CheckpointFolder):
    """One float policy folder; see `checkpoints.base.Checkpoint` for the methods."""

    normalization: Normalization | None
    tokenizer: Path | None

    @classmethod
    def open(
        cls,
        path: Path,
        *,
        config: str | Path | None = None,
        norm_stats: Path | None = None,
        tokenizer: Path | None = None,
    ) -> OpenpiCheckpoint:
        """Open a folder; tensors are read later.

        Args:
            path: the folder.
            config: openpi's configuration name or a JSON file; not needed where the folder says it itself.
            norm_stats: norm_stats.json or its folder, instead of the one in the folder.
            tokenizer: SentencePiece model, instead of the one that is found.

        Raises:
            InputError: no usable weights, no or a contradicting configuration, or a given file that does not exist.
        """
        weights = TensorFile(_weights_file(path))
        document = read_json(path / CONFIG_FILE) if (path / CONFIG_FILE).is_file() else {}
        variant = _variant(weights)
        if config is not None:
            chosen = policy_config(config)
        elif "policy_config" in document:
            chosen = config_from_document(document["policy_config"])
        else:
            raise _unknown_config(path, weights, variant, document)
        _check(path, weights, variant, chosen, document)
        stats = assets.find_norm_stats(path, chosen.asset_id, norm_stats)
        return cls(
            path=path,
            config=chosen,
            normalization=None if stats is None else Normalization.load(stats, chosen.normalization),
            tokenizer=assets.find_tokenizer(path, tokenizer),
            weights=weights,
        )


def _weights_file(path: Path) -> Path:
    if not path.is_dir():
        raise InputError(f"{path}: no such folder; a checkpoint is a folder with {WEIGHTS_FILE}")
    weights = path / WEIGHTS_FILE
    if weights.is_file():
        return weights
    if (path / f"{WEIGHTS_FILE}.index.json").is_file():
        raise InputError(f"{path}: sharded weights; openpi and vlapack keep them in one {WEIGHTS_FILE}")
    if pickles := sorted(file.name for file in path.iterdir() if file.suffix in PICKLES):
        raise InputError(
            f"{path}: holds {', '.join(pickles)}, a pickle, which runs any code it likes when it is loaded; "
            f"convert it where you trust it, with safetensors.torch.save_model, to {WEIGHTS_FILE}"
        )
    if (path / "params").is_dir():
        raise InputError(
            f"{path}: a JAX checkpoint (params/); convert it with openpi's examples/convert_jax_model_to_pytorch.py"
        )
    raise InputError(f"{path}: no {WEIGHTS_FILE}; the folder holds {sorted(file.name for file in path.iterdir())}")


def _variant(weights: TensorFile) -> Variant:
    names = set(weights.names())
    if "time_mlp_in.weight" in names:
        return "pi05"
    if "action_time_mlp_in.weight" in names:
        return "pi0"
    reason = "it has neither time_mlp_in (π0.5) nor action_time_mlp_in (π0); π0-FAST and other models are not supported"
    if any(name.startswith("model.") for name in names):
        reason = "its names begin with 'model.', as LeRobot's do, whose folders are not read yet"
    raise InputError(f"{weights.path}: no openpi π0 or π0.5 checkpoint: {reason}")


def _action_dim(weights: TensorFile) -> int:
    return weights.shape("action_in_proj.weight")[1]


def _unknown_config(path: Path, weights: TensorFile, variant: Variant, document: Mapping[str, Any]) -> InputError:
    """Nothing in the folder names the configuration: say what is proven, and which names fit that."""
    held = assets.asset_ids(path)
    horizon = document.get("action_horizon")
    fitting = [
        entry
        for entry in POLICIES.values()
        if entry.architecture.variant == variant
        and not _mismatches(weights, entry.architecture)
        and (horizon is None or entry.architecture.action_horizon == horizon)
    ]
    likely = [entry for entry in fitting if entry.asset_id in held] or fitting
    hint = f"likely --config {' or '.join(entry.name for entry in likely)}" if likely else "no known name fits them"
    return InputError(
        f"{path}: the folder does not say its layout, action_horizon, max_token_len, discrete_state_input, "
        "normalization, delta_mask and asset_id, which stand in the openpi configuration it was trained with. "
        f"Give --config NAME or --config FILE.json. The weights prove variant {variant} with action_dim "
        f"{_action_dim(weights)}{f', its assets hold {held}' if held else ''}: {hint}"
    )


def _mismatches(weights: TensorFile, architecture: Pi0Config) -> dict[str, tuple[int, ...]]:
    """Tensors of another shape than the architecture's, with that shape; absent names are the loader's business."""
    expected = {canonical(name): shape for name, (shape, _) in openpi_tensors(architecture).items()}
    return {
        name: expected[canonical(name)]
        for name in weights.names()
        if canonical(name) in expected and expected[canonical(name)] != weights.shape(name)
    }


def _check(
    path: Path, weights: TensorFile, variant: Variant, config: PolicyConfig, document: Mapping[str, Any]
) -> None:
    """Refuse a configuration that the weights, or the converter's config.json, contradict."""
    mark = "time_mlp_in" if variant == "pi05" else "action_time_mlp_in"
    proven: dict[str, tuple[Any, str]] = {
        "variant": (variant, f"{mark} in {WEIGHTS_FILE}"),
        "action_dim": (_action_dim(weights), WEIGHTS_FILE),
    }
    if "action_horizon" in document:
        proven["action_horizon"] = (document["action_horizon"], CONFIG_FILE)
    remedy = "give the --config that the policy was trained with"
    for field, (value, source) in proven.items():
        if (said := getattr(config.architecture, field)) != value:
            raise InputError(
                f"{path}: configuration {config.name} has {field} {said}, but {source} proves {value}; {remedy}"
            )
    if wrong := _mismatches(weights, config.architecture):
        name, expected = next(iter(wrong.items()))
        raise InputError(
            f"{path}: {len(wrong)} of the tensors do not have configuration {config.name}'s shapes; the first is "
            f"{name}: {list(weights.shape(name))} instead of {list(expected)}; {remedy}"
        )
