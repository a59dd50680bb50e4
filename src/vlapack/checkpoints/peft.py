"""PEFT's adapters, merged into the weights that they were trained on: W + s · B A (LoRA, arXiv 2106.09685).

A folder that LeRobot trained with PEFT holds `adapter_config.json`, `adapter_model.safetensors` and the processors; its
base lies elsewhere. Merging happens tensor by tensor as they are read, in fp32. What of the adapter has no place in the
base is an error, and so is any way of training that is not plain LoRA.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vlapack.checkpoints.assets import ADAPTER_FILE, hub_snapshot
from vlapack.checkpoints.base import read_json
from vlapack.checkpoints.tensorfile import TensorFile
from vlapack.checkpoints.weights import Weights
from vlapack.errors import InputError

ADAPTER_CONFIG = "adapter_config.json"
PREFIX = "base_model.model."
LORA = re.compile(r"(?P<layer>.+)\.lora_(?P<side>[AB])\.weight")

# Settings under which an adapter is something else than W + s · B A.
BEYOND_LORA = (
    "use_dora",
    "use_qalora",
    "use_bdlora",
    "lora_bias",
    "fan_in_fan_out",
    "layer_replication",
    "trainable_token_indices",
    "target_parameters",
    "alora_invocation_tokens",
)
# Initialisations that change the base, which is then no longer the one named.
CHANGES_BASE = ("pissa", "olora", "corda", "loftq", "lora_ga")


class Merged:
    """The weights of a base with a LoRA adapter in them; names are the base's.

    Args:
        base: what the adapter was trained on.
        folder: holds the adapter.

    Raises:
        InputError: a kind of adapter that is not plain LoRA, tensors that have no place in the base, halves without
            the other, or another rank than the configuration says.
    """

    def __init__(self, base: Weights, folder: Path) -> None:
        """Match the adapter's tensors with the base's."""
        self.path = folder / ADAPTER_FILE
        self._base = base
        self._config = read_json(folder / ADAPTER_CONFIG)
        self._adapter = TensorFile(self.path)
        _require_lora(folder, self._config)
        self._halves: dict[str, dict[str, str]] = {}
        self._replaced: dict[str, str] = {}
        known = set(base.names())
        left = []
        for stored in self._adapter.names():
            name = stored.removeprefix(PREFIX).removeprefix("model.")
            if (half := LORA.fullmatch(name)) and f"{half['layer']}.weight" in known:
                self._halves.setdefault(f"{half['layer']}.weight", {})[half["side"]] = stored
            elif name in known and self._is_saved_whole(name):
                self._replaced[name] = stored
            else:
                left.append(stored)
        if left:
            raise InputError(
                f"{self.path}: {len(left)} of its tensors have no place in the base {base.path}, the first is "
                f"{left[0]}; the adapter belongs to another base"
            )
        for name in [*self._halves, *self._replaced]:
            self._check(name)

    def _is_saved_whole(self, name: str) -> bool:
        saved = self._config.get("modules_to_save") or ()
        module = name.rpartition(".")[0]
        return any(module == saved_name or module.endswith(f".{saved_name}") for saved_name in saved)

    def _check(self, name: str) -> None:
        rows, *columns = self._base.shape(name)
        if name in self._replaced:
            expected = {self._replaced[name]: (rows, *columns)}
        else:
            halves = self._halves[name]
            if len(halves) < 2:
                raise InputError(f"{self.path}: {next(iter(halves.values()))} comes without its other half")
            rank = self._of_layer(name, "rank_pattern", "r")
            expected = {halves["A"]: (rank, *columns), halves["B"]: (rows, rank)}
        for stored, shape in expected.items():
            if self._adapter.shape(stored) != shape:
                raise InputError(
                    f"{self.path}: {stored} has shape {list(self._adapter.shape(stored))}; the base and "
                    f"{ADAPTER_CONFIG} ask for {list(shape)}"
                )

    def _of_layer(self, name: str, patterns: str, default: str) -> int:
        """A setting of one layer: the first of PEFT's patterns that ends its name, or the common one."""
        layer = name.removesuffix(".weight")
        for pattern, value in (self._config.get(patterns) or {}).items():
            if re.match(rf"(.*\.)?({pattern})$", layer):
                return int(value)
        return int(self._config[default])

    def names(self) -> list[str]:
        """Every tensor's name, as the base has it."""
        return self._base.names()

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of one tensor."""
        return self._base.shape(name)

    def dtype(self, name: str) -> torch.dtype:
        """Element type of one tensor: fp32 where the adapter changes it, as rounding would undo small changes."""
        return torch.float32 if name in self._halves or name in self._replaced else self._base.dtype(name)

    def read(self, name: str) -> Tensor:
        """One tensor, merged, in memory of its own."""
        if name in self._replaced:
            return self._adapter.read(self._replaced[name]).float()
        if name not in self._halves:
            return self._base.read(name)
        down, up = (self._adapter.read(self._halves[name][side]).float() for side in "AB")
        rank, alpha = self._of_layer(name, "rank_pattern", "r"), self._of_layer(name, "alpha_pattern", "lora_alpha")
        scale = alpha / (math.sqrt(rank) if self._config.get("use_rslora") else rank)
        return torch.addmm(self._base.read(name).float(), up, down, alpha=scale)

    def mapped(self, name: str) -> Tensor:
        """One tensor; those that the adapter does not change are left on disk."""
        changed = name in self._halves or name in self._replaced
        return self.read(name) if changed else self._base.mapped(name)


def base_of(folder: Path) -> Path:
    """Return the folder of the base that an adapter names: a path, or a repository in Hugging Face's cache.

    Raises:
        InputError: it names none, or none that is on this machine.
    """
    name = read_json(folder / ADAPTER_CONFIG).get("base_model_name_or_path")
    if not name:
        raise InputError(f"{folder / ADAPTER_CONFIG}: no base_model_name_or_path; write the base's folder there")
    for place in (folder / str(name), Path(str(name)), hub_snapshot(str(name))):
        if place is not None and place.is_dir():
            return place
    raise InputError(
        f"{folder / ADAPTER_CONFIG}: the base {name!r} is no folder here and not in Hugging Face's cache; fetch it "
        f"with `hf download {name}`, or write its folder there as base_model_name_or_path"
    )


def _require_lora(folder: Path, config: Mapping[str, Any]) -> None:
    place = folder / ADAPTER_CONFIG
    if (kind := config.get("peft_type")) != "LORA":
        raise InputError(f"{place}: peft_type is {kind!r}; LORA is merged, others are not: merge it with PEFT first")
    for name in ("r", "lora_alpha"):
        if not (isinstance(value := config.get(name), int) and value > 0):
            raise InputError(f"{place}: {name} is {value!r}; it must be a whole number above 0: copy the file again")
    beyond = {name: config[name] for name in BEYOND_LORA if config.get(name)}
    if config.get("bias", "none") != "none":
        beyond["bias"] = config["bias"]
    if str(config.get("init_lora_weights")).startswith(CHANGES_BASE):
        beyond["init_lora_weights"] = config["init_lora_weights"]
    if beyond:
        listed = ", ".join(f"{name} = {value!r}" for name, value in beyond.items())
        raise InputError(f"{place}: {listed} makes it more than a plain LoRA; merge it with PEFT's merge_and_unload")
