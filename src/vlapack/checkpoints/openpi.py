"""openpi's PyTorch folder: `model.safetensors` and, with luck, `assets/<id>/norm_stats.json`.

Such a folder does not say what it is: layout, horizon, prompt format and normalization stand in openpi's Python
configuration. So its name (or a JSON file) is asked for, and checked against everything that the weights prove. Folders
that we write ourselves carry the answer in `config.json` under `policy_config`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vlapack.checkpoints import assets
from vlapack.checkpoints.assets import CONFIG_FILE
from vlapack.checkpoints.configs import LORA, POLICIES, config_from_document, policy_config
from vlapack.checkpoints.folder import FloatCheckpoint
from vlapack.checkpoints.normalization import Normalization
from vlapack.checkpoints.proof import action_dim, check, mismatches, variant_of
from vlapack.checkpoints.weights import Weights, open_weights
from vlapack.documents import read_json
from vlapack.errors import InputError


def open_openpi(
    path: Path,
    *,
    config: str | Path | None = None,
    norm_stats: Path | None = None,
    tokenizer: Path | None = None,
) -> FloatCheckpoint:
    """Open a folder; tensors are read later.

    Args:
        path: the folder.
        config: openpi's configuration name or a JSON file; not needed where the folder says it itself.
        norm_stats: norm_stats.json or its folder, instead of the one in the folder.
        tokenizer: SentencePiece model, instead of the one that is found.

    Raises:
        InputError: no usable weights, no or a contradicting configuration, or a given file that does not exist.
    """
    weights = open_weights(path)
    if config in LORA:
        raise InputError(
            f"{path}: `config={config!r}` is a LoRA fine-tune, and openpi's converter to PyTorch drops the adapters; "
            "give the JAX folder, whose adapters are merged, or if you have merged them yourself `config='pi0_libero'`"
        )
    document = read_json(path / CONFIG_FILE) if (path / CONFIG_FILE).is_file() else {}
    return with_config(path, weights, document, config=config, norm_stats=norm_stats, tokenizer=tokenizer)


def with_config(
    path: Path,
    weights: Weights,
    document: Mapping[str, Any],
    *,
    config: str | Path | None,
    norm_stats: Path | None,
    tokenizer: Path | None,
) -> FloatCheckpoint:
    """Put a checkpoint together from weights under openpi's names; arguments and errors as in `open_openpi`.

    Args:
        path: the folder, below which statistics and tokenizer are looked for.
        weights: its tensors.
        document: its `config.json`, empty where there is none.
        config: as the next two, see `open_openpi`.
        norm_stats: norm_stats.json or its folder.
        tokenizer: SentencePiece model.
    """
    variant_of(weights)
    if config is not None:
        chosen = policy_config(config)
    elif "policy_config" in document:
        chosen = config_from_document(document["policy_config"])
    else:
        raise _unknown_config(path, weights, document)
    horizon = {"action_horizon": (document["action_horizon"], CONFIG_FILE)} if "action_horizon" in document else {}
    check(path, weights, chosen, horizon)
    stats = assets.find_norm_stats(path, chosen.asset_id, norm_stats)
    return FloatCheckpoint(
        path=path,
        config=chosen,
        normalization=None if stats is None else Normalization.load(stats, chosen.normalization),
        tokenizer=assets.find_tokenizer(path, tokenizer),
        weights=weights,
    )


def _unknown_config(path: Path, weights: Weights, document: Mapping[str, Any]) -> InputError:
    """Nothing in the folder names the configuration: say what is proven, and which names fit that."""
    held = assets.asset_ids(path)
    horizon = document.get("action_horizon")
    variant = variant_of(weights)
    fitting = [
        entry
        for entry in POLICIES.values()
        if entry.name not in LORA
        and entry.architecture.variant == variant
        and not mismatches(weights, entry.architecture)
        and (horizon is None or entry.architecture.action_horizon == horizon)
    ]
    likely = [entry for entry in fitting if entry.asset_id in held] or fitting
    hint = (
        f"likely {' or '.join(f'`config={entry.name!r}`' for entry in likely)}" if likely else "no known name fits them"
    )
    return InputError(
        f"{path}: the folder does not say its layout, action_horizon, max_token_len, discrete_state_input, "
        "normalization, delta_mask and asset_id, which are in the openpi configuration it was trained with. "
        f"Give `config=NAME` or `config=FILE.json`. The weights prove variant {variant} with action_dim "
        f"{action_dim(weights)}{f', its assets hold {held}' if held else ''}: {hint}"
    )
