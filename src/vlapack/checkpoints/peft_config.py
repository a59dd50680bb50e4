"""PEFT's `adapter_config.json`: what each of its fields means for the merged weights."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vlapack.checkpoints.verdicts import FLAG, NAMES, TEXT, Fields, Only, off, only
from vlapack.documents import read_json
from vlapack.errors import InputError

ADAPTER_CONFIG = "adapter_config.json"

_MERGE = "vlapack does not merge that kind: merge it with PEFT's `merge_and_unload` and give the merged folder"

# The others change the base when PEFT loads the adapter, so that it is no longer the one named.
_KEEPS_BASE = (True, False, "gaussian", "eva", "orthogonal", "mica")

FIELDS = Fields(
    writers="PEFT 0.21 and older",
    honored={
        "base_model_name_or_path",
        "revision",
        "r",
        "lora_alpha",
        "rank_pattern",
        "alpha_pattern",
        "use_rslora",
        "use_dora",
        "lora_bias",
        "bias",
        "modules_to_save",
    },
    harmless={
        **dict.fromkeys(
            ("target_modules", "exclude_modules", "layers_to_transform", "layers_pattern"),
            "chose the layers that were trained; the tensors in the file are of those",
        ),
        **dict.fromkeys(("task_type", "auto_mapping", "peft_version", "inference_mode"), "describe the software"),
        "lora_dropout": "training only",
        "fan_in_fan_out": "PEFT switches it off for torch's linear layers, and these networks have no others",
        **dict.fromkeys(("loftq_config", "eva_config", "corda_config", "lora_ga_config"), "initialization only"),
        "qalora_group_size": "of `use_qalora`, which is refused",
        "megatron_core": "of `megatron_config`, which is refused",
        "runtime_config": "where PEFT computes",
        "ephemeral_gpu_offload": "where PEFT computes",
    },
    limited={
        "peft_type": only("LORA", rule=f"LORA is merged, others are not; {_MERGE}"),
        "init_lora_weights": Only(
            lambda value: value in (*_KEEPS_BASE, None),
            f"such an initialization changes the base when PEFT loads the adapter; {_MERGE}",
        ),
        "megatron_config": off(f"its tensors may be shards; {_MERGE}"),
        **dict.fromkeys(
            (
                "use_qalora",
                "use_bdlora",
                "layer_replication",
                "trainable_token_indices",
                "target_parameters",
                "alora_invocation_tokens",
                "arrow_config",
                "velora_config",
                "monteclora_config",
                "kasa_config",
                "ensure_weight_tying",
            ),
            off(_MERGE),
        ),
    },
    typed={
        "base_model_name_or_path": TEXT,
        "revision": TEXT,
        "use_rslora": FLAG,
        "use_dora": FLAG,
        "lora_bias": FLAG,
        "modules_to_save": NAMES,
    },
)


class AdapterConfig:
    """One adapter's configuration.

    Args:
        folder: holds `adapter_config.json`.

    Raises:
        InputError: a field that is unknown, or that makes it another kind of adapter than those that are merged.
    """

    def __init__(self, folder: Path) -> None:
        """Read and check it."""
        self.path = folder / ADAPTER_CONFIG
        self._document = read_json(self.path)
        FIELDS.require(str(self.path), {"peft_type": None, **self._document})
        self._rank(self._document.get("r"), "r")
        self._number(self._document.get("lora_alpha"), "lora_alpha")
        for name in ("rank_pattern", "alpha_pattern"):
            if not isinstance(self._document.get(name) or {}, dict):
                raise InputError(f"{self.path}: {name} is {self._document[name]!r}; it must be an object of patterns")
        self.dora = self._flag("use_dora")
        self.bias = str(self._document.get("bias") or "none")
        if self.bias not in ("none", "all", "lora_only"):
            raise InputError(f"{self.path}: bias is {self.bias!r}; PEFT knows none, all and lora_only")
        self._saved = tuple(self._document.get("modules_to_save") or ())
        self.base: str | None = self._document.get("base_model_name_or_path")
        self.revision: str | None = self._document.get("revision")

    def _flag(self, name: str) -> bool:
        return bool(self._document.get(name))

    def _rank(self, value: Any, name: str) -> int:
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise InputError(
                f"{self.path}: {name} is {value!r}; it must be a whole number above 0: copy the file again"
            )
        return value

    def _number(self, value: Any, name: str) -> float:
        if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value):
            raise InputError(f"{self.path}: {name} is {value!r}; it must be a number")
        return value

    def rank(self, layer: str) -> int:
        """Return the rank of one layer, by the name under which PEFT saw it."""
        return self._rank(self._of_layer(layer, "rank_pattern", "r"), f"rank of {layer}")

    def scale(self, layer: str) -> float:
        """Return the factor of B A: alpha / rank, with rsLoRA alpha / sqrt(rank)."""
        alpha = self._number(self._of_layer(layer, "alpha_pattern", "lora_alpha"), f"alpha of {layer}")
        rank = self.rank(layer)
        return alpha / (math.sqrt(rank) if self._flag("use_rslora") else rank)

    def _of_layer(self, layer: str, patterns: str, default: str) -> Any:
        """A setting of one layer: that of the first pattern which matches the end of its name, as in PEFT."""
        found: Mapping[str, Any] = self._document.get(patterns) or {}
        for pattern, value in found.items():
            try:
                if re.match(rf"(.*\.)?({pattern})$", layer):
                    return value
            except re.error as error:
                raise InputError(
                    f"{self.path}: {patterns} has {pattern!r}, which is not a regular expression: {error}"
                ) from error
        return self._document[default]

    def saves_whole(self, name: str) -> bool:
        """Whether a tensor belongs to a module that was trained whole (`modules_to_save`, by PEFT's rule)."""
        modules = name.split(".")[:-1]
        paths = (".".join(modules[:end]) for end in range(1, len(modules) + 1))
        return any(path.endswith(self._saved) for path in paths)
