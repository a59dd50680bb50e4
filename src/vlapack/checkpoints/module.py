"""`save` and `load_`: any module that `quantize_` took, to a folder and back.

A pack is a policy and needs no code of others. This folder is the state of somebody's module, whose class builds it
again: `config.json` (the recipes, and the form of each integer layer) and `model.safetensors` (every tensor of its
`state_dict`, the integers as a pack stores them), both with checksums.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from vlapack import __version__
from vlapack.checkpoints.assets import CONFIG_FILE, WEIGHTS_FILE
from vlapack.checkpoints.pack.checkpoint import PackFile
from vlapack.checkpoints.pack.config import seal
from vlapack.checkpoints.tensorlayout import DTYPE_NAMES, TensorSpec, encode_header, place
from vlapack.checkpoints.write import new_folder
from vlapack.documents import read_json
from vlapack.errors import InputError
from vlapack.files import raw_bytes
from vlapack.fingerprint import digest
from vlapack.quantize.guarding import guard_saving
from vlapack.quantize.quantized_linear import QuantizedLinear, expected_tensors, forms_of, from_form

TYPE = "vlapack-module"
FORMAT_VERSION = 1
FIELDS = ("type", "format_version", "vlapack", "class", "recipes", "layers", "tied", "unset", "files")


def save(model: nn.Module, folder: str | Path) -> None:
    """Write a module that `quantize_` took to a folder, from which `load_` brings it back.

        vlapack.quantize_(model, "llm", calib=observations)
        vlapack.save(model, "policy-w4a8")

    Args:
        model: any module with quantized layers
        folder: the folder to make; it appears when everything is written

    Raises:
        InputError: nothing in the model is quantized, its state holds what is no tensor, or `folder` exists
        WorkError: the disk is full or cannot be written
    """
    folder, forms = Path(folder), forms_of(model)
    state, tied, unset = _own_tensors(model)
    specs = [TensorSpec(name, tensor.dtype, tuple(tensor.shape)) for name, tensor in state.items()]
    placed = place(specs)
    sums: dict[str, str] = {}
    with new_folder(folder) as partial:
        partial.mkdir(parents=True)
        with (partial / WEIGHTS_FILE).open("wb") as file:
            file.write(encode_header(placed, {}))
            for name in placed:
                values = raw_bytes(state[name].cpu())
                sums[name] = hashlib.sha256(values).hexdigest()
                file.write(values)
            header = encode_header(placed, sums)
            file.seek(0)
            file.write(header)
        config = {
            "type": TYPE,
            "format_version": FORMAT_VERSION,
            "vlapack": __version__,
            "class": type(model).__qualname__,
            **forms,
            "tied": tied,
            "unset": unset,
            "files": {WEIGHTS_FILE: hashlib.sha256(header[8:]).hexdigest()},
        }
        (partial / CONFIG_FILE).write_bytes(seal(config))


def load_(model: nn.Module, folder: str | Path) -> None:
    """Load into a module what `save` wrote: its linears become integer layers, its other tensors those of the folder.

        model = build_model()  # the class that was saved; its weights do not matter
        vlapack.load_(model, "policy-w4a8")

    The module is changed only when the whole folder has been read and fits. Tensors take the folder's types and stay
    on the module's device; what the module built on meta goes to the CPU.

    Args:
        model: of the class and configuration that were saved, float or quantized, on meta or not
        folder: what `save` wrote

    Raises:
        InputError: the folder is none of `save`'s, is damaged, or is of another model; the message names what differs
    """
    document = _read_config(Path(folder))
    file = PackFile(Path(folder) / WEIGHTS_FILE, document["files"][WEIGHTS_FILE])
    layers = {name: _layer(model, name, form, file, document["recipes"]) for name, form in document["layers"].items()}
    inside = tuple(f"{name}." for name in layers)
    formed = {f"{name}.{kind}" for name, form in document["layers"].items() for kind in form["tensors"]}
    if strange := {name for name in file.names() if name.startswith(inside)} - formed:
        raise InputError(f"{file.path}: holds {min(strange)}, which its layer's form lacks; copy the folder again")
    rest = {name: file.read(name) for name in file.names() if not name.startswith(inside)}
    rest |= {alias: rest[name] for alias, name in document["tied"].items() if name in rest}
    _check_fit(model, rest, inside, document["unset"], Path(folder))
    shared = _shared_parameters(model)
    for name, layer in layers.items():
        model.set_submodule(name, layer)
    held = model.state_dict()
    placed = {
        name: tensor if name not in held or held[name].is_meta else tensor.to(held[name].device)
        for name, tensor in rest.items()
    }
    model.load_state_dict(placed, strict=False, assign=True)
    _share(model, shared)
    guard_saving(model)


def _own_tensors(model: nn.Module) -> tuple[dict[str, Tensor], dict[str, str], list[str]]:
    """Return a model's state without repetitions, name → name that holds the same tensor, and what is on meta."""
    state: dict[str, Tensor] = {}
    tied: dict[str, str] = {}
    unset: list[str] = []
    seen: dict[Any, str] = {}
    for name, tensor in model.state_dict().items():
        if not isinstance(tensor, Tensor):
            raise InputError(f"{name}: a {type(tensor).__name__} in the model's state, and only tensors are saved")
        if tensor.is_meta:
            unset.append(name)
            continue
        if tensor.dtype not in DTYPE_NAMES:
            raise InputError(
                f"{name}: {tensor.dtype} is not written; convert it to one of {', '.join(map(str, DTYPE_NAMES))}"
            )
        key = (tensor.data_ptr(), tensor.dtype, tuple(tensor.shape), tensor.stride())
        if tensor.numel() and key in seen:
            tied[name] = seen[key]
        else:
            state[name], seen[key] = tensor, name
    return state, tied, unset


def _read_config(folder: Path) -> dict[str, Any]:
    """Read and check `config.json`."""
    path = folder / CONFIG_FILE
    if not path.is_file():
        raise InputError(f"{folder}: no {CONFIG_FILE}; `load_` reads what `vlapack.save` wrote")
    document = read_json(path)
    if document.get("type") != TYPE:
        raise InputError(
            f"{path}: type {document.get('type')!r}, not {TYPE!r}; `load_` reads what `vlapack.save` wrote, and "
            "`Policy.from_pretrained` packs and checkpoints"
        )
    checksum = document.pop("checksum", None)
    if checksum != digest(document):
        raise InputError(f"{path}: not as it was written (its checksum differs); copy the folder again")
    if document.get("format_version") != FORMAT_VERSION:
        raise InputError(
            f"{path}: format_version {document.get('format_version')!r}, and this vlapack reads {FORMAT_VERSION}; "
            f"vlapack {document.get('vlapack')} wrote it"
        )
    if strange := document.keys() ^ set(FIELDS):
        raise InputError(f"{path}: fields that are missing or unknown: {', '.join(sorted(strange))}")
    return document


def _layer(
    model: nn.Module, name: str, form: Mapping[str, Any], file: PackFile, recipes: list[dict[str, Any]]
) -> QuantizedLinear:
    try:
        linear = model.get_submodule(name)
    except AttributeError as error:
        raise InputError(f"{file.path}: the model has no layer {name}; it is not the model that was saved") from error
    held = {kind: file.read(f"{name}.{kind}") for kind in expected_tensors(name, form)}
    return from_form(name, form, held, linear, recipes)


def _check_fit(
    model: nn.Module, rest: Mapping[str, Tensor], inside: tuple[str, ...], unset: list[str], folder: Path
) -> None:
    """Compare names and shapes with those of the model, before anything is changed."""
    state = model.state_dict()
    wanted = {name: tensor for name, tensor in state.items() if not name.startswith(inside)}
    if strange := wanted.keys() ^ (rest.keys() | set(unset)):
        name = min(strange)
        where = "the model has and the folder lacks" if name in wanted else "the folder has and the model lacks"
        raise InputError(f"{folder}: {where} {len(strange)} tensors, {name} among them; it is not the same model")
    for name, tensor in rest.items():
        if tensor.shape != wanted[name].shape:
            raise InputError(
                f"{folder}: {name} is {list(tensor.shape)}, in the model {list(wanted[name].shape)}; another model"
            )
    for name, buffer in model.named_buffers():
        if buffer.is_meta and name not in state and not name.startswith(inside):
            raise InputError(f"{name}: a buffer on meta that no file holds; build the model on a device")


def _shared_parameters(model: nn.Module) -> list[list[str]]:
    """Return the names of each parameter that has several."""
    names: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), []).append(name)
    return [several for several in names.values() if len(several) > 1]


def _share(model: nn.Module, shared: list[list[str]]) -> None:
    """Make the names one parameter again, which assigning has made several."""
    for first, *others in shared:
        for name in others:
            module, _, leaf = name.rpartition(".")
            setattr(model.get_submodule(module), leaf, model.get_parameter(first))
