"""A pack's `config.json`: LeRobot-shaped, the quantization in compressed-tensors' words, with a checksum of itself."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from vlapack import __version__
from vlapack.checkpoints.assets import CONFIG_FILE
from vlapack.checkpoints.base import PolicyConfig, read_json
from vlapack.errors import InputError, install
from vlapack.fingerprint import Fingerprint, digest
from vlapack.plan.selected import Selected, groups
from vlapack.recipe.recipe import Recipe

TYPE = "vlapack"
FORMAT_VERSION = 1
POLICY_FIELDS = tuple(field.name for field in dataclasses.fields(PolicyConfig))


@dataclass(frozen=True)
class PackedGroup:
    """Layers that share one transform, which the first of them stores; what loading needs to know of each."""

    layers: tuple[str, ...]
    executed: bool
    weight_bits: Mapping[str, Literal[4, 8]]
    group_size: int | None
    """Input channels per weight scale; None: one scale per output channel."""
    act_bits: Literal[4, 8, 16]
    act_scale: Literal["per_token", "static"]


def features(policy: PolicyConfig) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return LeRobot's `input_features` and `output_features`."""
    robot, size = policy.features, policy.architecture.vision.image_size
    inputs = {camera: {"type": "VISUAL", "shape": [3, size, size]} for camera in robot.cameras}
    inputs["observation.state"] = {"type": "STATE", "shape": [robot.state]}
    return inputs, {"action": {"type": "ACTION", "shape": [len(robot.actions)]}}


def config_document(
    policy: PolicyConfig,
    recipe: Recipe,
    selected: Sequence[Selected],
    *,
    linears: Iterable[str],
    fingerprint: Fingerprint,
    made_with: Mapping[str, Any],
    measured: Mapping[str, Any],
) -> dict[str, Any]:
    """Return everything in `config.json` but its checksums.

    Args:
        policy: the parent's.
        recipe: how the layers were packed.
        selected: which layers were packed.
        linears: every linear of the network, so that `ignore` can name the others.
        fingerprint: of the pack.
        made_with: what computed it, beyond the fingerprint: `ops.arithmetic` and the dtype of calibration.
        measured: what making the pack found out: bytes and rounding errors.
    """
    inputs, outputs = features(policy)
    return {
        "type": TYPE,
        "format_version": FORMAT_VERSION,
        "vlapack": __version__,
        "input_features": inputs,
        "output_features": outputs,
        "chunk_size": policy.architecture.action_horizon,
        "n_action_steps": policy.replan or policy.architecture.action_horizon,
        **policy.to_dict(),
        "recipe": recipe.to_dict(),
        "fingerprint": {**fingerprint.to_dict(), "hex": fingerprint.hex},
        "made_with": dict(made_with),
        "quantization_config": quantization_config(recipe, selected, linears),
        "measured": dict(measured),
    }


def quantization_config(recipe: Recipe, selected: Sequence[Selected], linears: Iterable[str]) -> dict[str, Any]:
    """Say in compressed-tensors' words how each layer is stored; what they have no word for stands in `transforms`."""
    schemes: dict[tuple[int, int, bool], list[str]] = {}
    for layer in selected:
        static = recipe.act_scale == "static" and layer.executed
        schemes.setdefault((layer.weight_bits, layer.act_bits, static), []).append(layer.name)
    packed = {layer.name for layer in selected}
    return {
        "quant_method": TYPE,
        "format": "mixed-precision" if len(schemes) > 1 else _format(next(iter(schemes))[0]),
        "quantization_status": "compressed",
        "config_groups": {
            f"group_{index}": {
                "targets": names,
                "weights": _numbers(
                    bits, "group" if recipe.group_size else "channel", dynamic=False, group_size=recipe.group_size
                ),
                "input_activations": (
                    None if act == 16 else _numbers(act, "tensor" if static else "token", dynamic=not static)
                ),
                "format": _format(bits),
            }
            for index, ((bits, act, static), names) in enumerate(schemes.items())
        },
        "ignore": [name for name in linears if name not in packed],
        "transforms": [
            {
                "layers": [layer.name for layer in group],
                "block": group[0].block,
                "folded": list(group[0].folded),
                "executed": group[0].executed,
            }
            for group in groups(selected, recipe)
        ],
    }


def _format(bits: int) -> str:
    return "pack-quantized" if bits == 4 else "int-quantized"


def _numbers(bits: int, strategy: str, *, dynamic: bool, group_size: int | None = None) -> dict[str, Any]:
    return {
        "num_bits": bits,
        "type": "int",
        "symmetric": True,
        "strategy": strategy,
        "group_size": group_size,
        "dynamic": dynamic,
    }


def packed_groups(document: Mapping[str, Any]) -> list[PackedGroup]:
    """Read back from `quantization_config` how the layers are stored."""
    schemes = {name: scheme for scheme in document["config_groups"].values() for name in scheme["targets"]}
    found = []
    for entry in document["transforms"]:
        scheme = schemes[entry["layers"][0]]
        activations = scheme["input_activations"]
        found.append(
            PackedGroup(
                layers=tuple(entry["layers"]),
                executed=entry["executed"],
                weight_bits={name: schemes[name]["weights"]["num_bits"] for name in entry["layers"]},
                group_size=scheme["weights"]["group_size"],
                act_bits=16 if activations is None else activations["num_bits"],
                act_scale="static" if activations is not None and not activations["dynamic"] else "per_token",
            )
        )
    return found


def policy_config(document: Mapping[str, Any]) -> PolicyConfig:
    """Read back the parent's policy configuration."""
    return PolicyConfig.from_dict({key: document[key] for key in POLICY_FIELDS if key in document})


def seal(config: Mapping[str, Any]) -> bytes:
    """Return `config.json` with a checksum of itself, so that no flipped byte in it goes unseen."""
    return (json.dumps({**config, "checksum": digest(config)}, indent=2, ensure_ascii=False) + "\n").encode()


def read_config(folder: Path) -> dict[str, Any]:
    """Read and check a pack's `config.json`.

    Raises:
        InputError: no pack is there, it was written by a newer vlapack, or the file was changed.
    """
    path = folder / CONFIG_FILE
    document = read_json(path)
    if document.get("type") != TYPE:
        raise InputError(f"{path} says type {document.get('type')!r}; a pack says {TYPE!r}")
    version = document.get("format_version")
    if not isinstance(version, int) or version > FORMAT_VERSION:
        raise InputError(
            f"{path} is of pack format {version!r} and this vlapack reads formats up to {FORMAT_VERSION}: "
            f"get vlapack {document.get('vlapack')}, which wrote it, or a newer one, and run {install()}"
        )
    checksum = document.pop("checksum", None)
    if checksum != digest(document):
        raise InputError(
            f"{path} is not as it was written (its checksum differs); copy the pack again, or quantize again"
        )
    return document
