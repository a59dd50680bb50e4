"""A pack's `config.json`: LeRobot-shaped, the quantization in compressed-tensors' words, with a checksum of itself."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from vlapack import __version__
from vlapack.checkpoints.assets import CONFIG_FILE, NORM_STATS_FILE, TOKENIZER_FILE, WEIGHTS_FILE
from vlapack.checkpoints.policy_config import PolicyConfig
from vlapack.documents import read_json
from vlapack.errors import InputError, install
from vlapack.fingerprint import Fingerprint, digest
from vlapack.plan.selected import Selected, groups
from vlapack.recipe.recipe import Recipe, digest_document

TYPE = "vlapack"
FORMAT_VERSION = 2
"""The newest that is read. A pack is written in the oldest that can say what it holds (`format_of`)."""
LONGEST_NAME = 255

FIELDS: Mapping[str, type] = {
    "type": str,
    "format_version": int,
    "vlapack": str,
    "files": dict,
    "recipe": dict,
    "fingerprint": dict,
    "quantization_config": dict,
    "architecture": dict,
    # Nothing of ours reads what follows. LeRobot's words for the policy:
    "input_features": dict,
    "output_features": dict,
    "chunk_size": int,
    "n_action_steps": int,
    # and how the pack came about:
    "measured": dict,
    "made_with": dict,
}
"""Every key of `config.json` beside the policy's (`POLICY_FIELDS`) and `checksum`; any other is refused by name."""
OPTIONAL = ("made_with",)
JSON_NAMES = {str: "string", int: "integer", dict: "object"}
POLICY_FIELDS = tuple(field.name for field in dataclasses.fields(PolicyConfig))


@dataclass(frozen=True)
class PackedGroup:
    """Layers that share one transform, which the first of them stores; what loading needs to know of each."""

    layers: tuple[str, ...]
    executed: bool
    weight_bits: Mapping[str, int]
    group_sizes: Mapping[str, int | None]
    """Input channels per weight scale; None: one scale per output channel."""
    act_bits: int
    act_scale: Literal["per_token", "static"]


def format_of(recipe: Recipe) -> int:
    """Return the version of the pack that a recipe makes: 2 if layers choose their own groups or activation bits."""
    return recipe.version


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
        "format_version": format_of(recipe),
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
    schemes: dict[tuple[int, int | None, int, bool], list[str]] = {}
    for layer in selected:
        static = recipe.act_scale == "static" and layer.executed
        schemes.setdefault((layer.weight_bits, layer.group_size, layer.act_bits, static), []).append(layer.name)
    packed = {layer.name for layer in selected}
    return {
        "quant_method": TYPE,
        "format": "mixed-precision" if len(schemes) > 1 else _format(next(iter(schemes))[0]),
        "quantization_status": "compressed",
        "config_groups": {
            f"group_{index}": {
                "targets": names,
                "weights": _numbers(bits, "group" if size else "channel", dynamic=False, group_size=size),
                "input_activations": (
                    None if act == 16 else _numbers(act, "tensor" if static else "token", dynamic=not static)
                ),
                "format": _format(bits),
            }
            for index, ((bits, size, act, static), names) in enumerate(schemes.items())
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


def packed_groups(selected: Sequence[Selected], recipe: Recipe) -> list[PackedGroup]:
    """Return how the layers are stored, by the transform that they share."""
    return [
        PackedGroup(
            layers=tuple(layer.name for layer in group),
            executed=group[0].executed,
            weight_bits={layer.name: layer.weight_bits for layer in group},
            group_sizes={layer.name: layer.group_size for layer in group},
            act_bits=group[0].act_bits,
            act_scale="static" if recipe.act_scale == "static" and group[0].executed else "per_token",
        )
        for group in groups(selected, recipe)
    ]


def policy_config(document: Mapping[str, Any]) -> PolicyConfig:
    """Read back the parent's policy configuration."""
    return PolicyConfig.from_dict({key: document[key] for key in POLICY_FIELDS if key in document})


def seal(config: Mapping[str, Any]) -> bytes:
    """Return `config.json` with a checksum of itself, so that no flipped byte in it goes unseen."""
    return (json.dumps({**config, "checksum": digest(config)}, indent=2, ensure_ascii=False) + "\n").encode()


def read_config(folder: Path) -> dict[str, Any]:
    """Read and check a pack's `config.json`: whole, of a known format, and each value of the type that it has.

    Raises:
        InputError: no pack is there, it was written by a newer vlapack, the file was changed, or it
                says what no pack says.
    """
    path = file_inside(folder, CONFIG_FILE)
    document = read_json(path)
    if document.get("type") != TYPE:
        raise InputError(f"{path} says type {document.get('type')!r:.100}; a pack says {TYPE!r}")
    version = document.get("format_version")
    if type(version) is not int or version < 1:
        raise InputError(f"{path} is of pack format {version!r:.40}, which does not exist; copy the pack again")
    if version > FORMAT_VERSION:
        raise InputError(
            f"{path} is of pack format {version!r:.40} and this vlapack reads formats up to {FORMAT_VERSION}: "
            f"get vlapack {document.get('vlapack'):.40}, which wrote it, or a newer one, and run {install()}"
        )
    checksum = document.pop("checksum", None)
    if checksum != digest(document):
        raise InputError(
            f"{path} is not as it was written (its checksum differs); copy the pack again, or quantize again"
        )
    try:
        _check_fields(document)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    return document


def _check_fields(document: Mapping[str, Any]) -> None:
    for key in document:
        if key not in FIELDS and key not in POLICY_FIELDS:
            raise InputError(f"unknown key {key!r:.100}, which may change what the pack means; quantize again")
    for key, kind in FIELDS.items():
        if key in OPTIONAL and key not in document:
            continue
        if type(document.get(key)) is not kind:
            raise InputError(
                f"{key} is {document.get(key)!r:.100}; it must be a JSON {JSON_NAMES[kind]}: quantize again"
            )
    _check_files(document["files"])
    stated, recipe = document["fingerprint"], document["recipe"]
    fields = {key: value for key, value in stated.items() if key != "hex"}
    if stated.get("hex") != digest(fields) or fields.get("format_version") != document["format_version"]:
        raise InputError("its fingerprint does not match its parts; copy the pack again")
    if fields.get("recipe") != digest_document(recipe):
        raise InputError("its recipe does not match its fingerprint; copy the pack again")


def _check_files(files: Mapping[str, Any]) -> None:
    for name, checksum in files.items():
        if name in ("", ".", "..", CONFIG_FILE) or re.search(r"[/\\\x00-\x1f]", name) or len(name) > LONGEST_NAME:
            raise InputError(f"files names {name!r:.100}; a pack's files are next to its {CONFIG_FILE}")
        if not (isinstance(checksum, str) and re.fullmatch("[0-9a-f]{64}", checksum)):
            raise InputError(f"files: {name:.100} has the checksum {checksum!r:.100}; it must be a SHA-256")
    for name in (WEIGHTS_FILE, NORM_STATS_FILE, TOKENIZER_FILE):
        if name not in files:
            raise InputError(f"files does not name {name}, without which a pack cannot act; quantize again")


def file_inside(folder: Path, name: str) -> Path:
    """Return the path of a pack's file.

    Raises:
        InputError: it is a link to another folder: what is copied or sent would not be the pack's. Hugging Face's
            cache, whose files are links to its blobs, is the one exception.
    """
    path = folder / name
    root, real = folder.resolve(), path.resolve()
    snapshots = next((parent for parent in root.parents if parent.name == "snapshots"), None)
    if real.parent != root and (snapshots is None or real.parent != snapshots.parent / "blobs"):
        raise InputError(f"{path}: a link to {real}, outside of the pack; put the file itself there")
    return path
