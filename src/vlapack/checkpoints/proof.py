"""What the weights of a folder prove, and a configuration held against it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vlapack.checkpoints.policy_config import PolicyConfig
from vlapack.checkpoints.spelling import LEROBOT_PREFIX
from vlapack.checkpoints.weights import Weights
from vlapack.errors import InputError
from vlapack.pi0.config import Pi0Config, Variant
from vlapack.pi0.load import build, check_names, require_float, stored_names
from vlapack.pi0.names import EXPERT, LLM, VISION, canonical_name, openpi_tensors

MARKS: Mapping[Variant, str] = {"pi05": "time_mlp_in", "pi0": "action_time_mlp_in"}
STACKS: Mapping[str, str] = {"vision": f"{VISION}.encoder", "llm": LLM, "expert": EXPERT}
"""Field of the architecture → where its layers lie."""
REMEDY = "give the `config` that the policy was trained with"


def variant_of(weights: Weights) -> Variant:
    """Return which of the two networks the weights are.

    Raises:
        InputError: neither.
    """
    names = set(weights.names())
    for variant, mark in MARKS.items():
        if f"{mark}.weight" in names:
            return variant
    for name in weights.names():
        if name.endswith(tuple(f".{mark}.weight" for mark in MARKS.values())):
            raise _prefixed(weights, name.rpartition(".")[0].rpartition(".")[0] + ".")
    raise InputError(
        f"{weights.path}: no π0 or π0.5 checkpoint: it has neither {MARKS['pi05']} (π0.5) nor {MARKS['pi0']} (π0); "
        "π0-FAST and other models are not supported"
    )


def _prefixed(weights: Weights, prefix: str) -> InputError:
    """The error of weights that another module held when they were saved."""
    if prefix == LEROBOT_PREFIX:
        remedy = (
            "LeRobot's folders have that, and say in config.json (type pi0 or pi05) and two processor files how the "
            "policy was trained: copy those beside the weights. If openpi trained it, save the names without the prefix"
        )
    else:
        remedy = "save them without it: {name.removeprefix(prefix): tensor for name, tensor in state_dict.items()}"
    return InputError(f"{weights.path}: the names of its tensors begin with {prefix!r}; {remedy}")


def action_dim(weights: Weights) -> int:
    """Return the network's width of one action, `Pi0Config.action_dim`.

    Raises:
        InputError: the layer that shows it is not there.
    """
    return shape_of(weights, "action_in_proj.weight")[1]


def shape_of(weights: Weights, *names: str) -> tuple[int, ...]:
    """Return the shape of the first of these tensors that is there, which must have two dimensions.

    Raises:
        InputError: none is, or it has others.
    """
    held = set(weights.names())
    name = next((name for name in names if name in held), None)
    if name is None:
        raise InputError(f"{weights.path}: lacks {' or '.join(names)}; copy the file again, it is not complete")
    if len(shape := weights.shape(name)) != 2:
        raise InputError(f"{weights.path}: {name} has shape {list(shape)}; it must have two dimensions")
    return shape


def mismatches(weights: Weights, architecture: Pi0Config) -> dict[str, tuple[int, ...]]:
    """Return the tensors of another shape than the architecture's, with that shape; absent ones do not count."""
    expected = {canonical_name(name): shape for name, (shape, _) in openpi_tensors(architecture).items()}
    return {
        name: expected[canonical_name(name)]
        for name in weights.names()
        if canonical_name(name) in expected and expected[canonical_name(name)] != weights.shape(name)
    }


def require_depths(weights: Weights, architecture: Pi0Config) -> None:
    """Refuse an architecture with another number of layers than the tensors name, before a network of it is built.

    Its cost would not depend on the file's size: a configuration can ask for a billion layers.

    Raises:
        InputError: it names the stack, and both numbers.
    """
    names = [canonical_name(name) for name in weights.names()]
    for field, stack in STACKS.items():
        inside = f"{stack}.layers."
        found = {name[len(inside) :].partition(".")[0] for name in names if name.startswith(inside)}
        if (depth := getattr(architecture, field).depth) != len(found):
            raise InputError(
                f"{weights.path}: its tensors are of {len(found)} layers below {stack}, and the configuration's "
                f"{field}.depth is {depth}; {REMEDY}"
            )


def check(path: Path, weights: Weights, config: PolicyConfig, stated: Mapping[str, tuple[Any, str]]) -> None:
    """Refuse a configuration that the weights, or what the folder states, contradict.

    Args:
        path: the folder.
        weights: its tensors.
        config: what the policy is said to be.
        stated: field of the architecture → value, and the file that states it.

    Raises:
        InputError: it names the field or tensor, what is expected and what was found.
    """
    variant = variant_of(weights)
    proven: dict[str, tuple[Any, str]] = {
        "variant": (variant, f"{MARKS[variant]} in {weights.path.name}"),
        "action_dim": (action_dim(weights), weights.path.name),
        **stated,
    }
    for field, (value, source) in proven.items():
        if (said := getattr(config.architecture, field)) != value:
            raise InputError(
                f"{path}: configuration {config.name} has {field} {said}, but {source} proves {value}; {REMEDY}"
            )
    require_depths(weights, config.architecture)
    if wrong := mismatches(weights, config.architecture):
        name, expected = next(iter(wrong.items()))
        raise InputError(
            f"{weights.path}: {len(wrong)} of the tensors do not have configuration {config.name}'s shapes; the first "
            f"is {name}: {list(weights.shape(name))} instead of {list(expected)}; {REMEDY}"
        )
    try:
        check_names(build(config.architecture), stored_names(weights.names()))
        for name in weights.names():
            require_float(weights.dtype(name), name)
    except InputError as error:
        raise InputError(f"{weights.path}: {error}") from error
