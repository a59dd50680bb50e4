"""Attention temperature matching and output head balancing (QuantVLA): measured on an ordinary pack, folded into it.

Float parent and pack run the same observations from the same noise, and of the action expert's attention running sums
are kept: of every head's logits (those that no mask hides, the prefix's keys included, in all denoise steps) and of
every o_proj's output. α then goes into q_proj's rows and β into o_proj's: into the scales of a packed layer, into the
weights of a float one. A pack that is balanced is no larger than before, nor slower, and loads as any other.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vlapack.checkpoints.pack.checkpoint import PackedCheckpoint
from vlapack.console import say
from vlapack.errors import InputError
from vlapack.files import write_atomically
from vlapack.machine.gpu import CPU
from vlapack.methods.balance import matching_factor, scale_rows
from vlapack.packing.attention import Strengths, attention_name, attention_strengths
from vlapack.packing.parent import Parent
from vlapack.packing.streaming import compute_dtype
from vlapack.pi0.config import Pi0Config
from vlapack.pi0.load import build
from vlapack.plan.selected import Selected
from vlapack.policy.policy import Policy
from vlapack.recipe.recipe import Recipe

Factors = dict[str, dict[str, list[float]]]
"""`alpha`: q_proj's name → one factor per head; `beta`: o_proj's name → its one factor. Absent: not asked for."""


def require_foldable(selected: Iterable[Selected], recipe: Recipe, architecture: Pi0Config) -> None:
    """Refuse row rotations that mix the heads of a q_proj, since no scale of a row is then a head's.

    Raises:
        InputError: naming the layer, its row block, and one that fits.
    """
    head_dim = architecture.expert.head_dim
    queries = {_layer(index, "q_proj") for index in range(architecture.expert.depth)} if recipe.atm else set()
    for layer in selected:
        if layer.name in queries and layer.block_out and head_dim % layer.block_out:
            raise InputError(
                f"{layer.name}: row blocks of {layer.block_out} mix its heads of {head_dim} rows, so that attention "
                f"temperature matching cannot scale one head: give `block_out={head_dim & -head_dim}` or less, "
                "`row_rot='0'`, or `atm=False`"
            )


def measure_factors(
    parent: Parent,
    pack: PackedCheckpoint,
    recipe: Recipe,
    observations: Sequence[Mapping[str, Any]],
    *,
    keep: Path,
    device: torch.device = CPU,
) -> Factors:
    """Run parent and pack, and return the factors that bring the pack's attention to the parent's.

    Args:
        parent: the float checkpoint.
        pack: made of it, without balancing.
        recipe: says which factors, and its seed draws the noise.
        observations: each is one chunk with its ten denoise steps.
        keep: a folder for what each of the two runs finds; a run that is there already is not made again.
        device: where both run.

    Raises:
        InputError: an observation that the policy cannot use, or logits or outputs that are NaN or infinite.
    """
    dtype = compute_dtype(parent, device)
    seed = recipe.seed

    def in_float() -> Strengths:
        model = build(parent.config.architecture)
        policy = Policy(model, parent.config, normalization=parent.normalization, tokenizer=parent.tokenizer)
        read = parent.reader(device)
        return attention_strengths(
            policy, observations, seed, dtype, title="attention, float", read=read, device=device
        )

    def packed() -> Strengths:
        policy = Policy.from_checkpoint(pack, dtype=dtype, device=device)
        return attention_strengths(policy, observations, seed, dtype, title="attention, packed", device=device)

    both = match_strengths(
        _kept(keep / "attention-float.json", in_float), _kept(keep / "attention-packed.json", packed)
    )
    factors = {kind: both[kind] for kind, asked in (("alpha", recipe.atm), ("beta", recipe.ohb)) if asked}
    for kind, by_layer in factors.items():
        values = [value for layer in by_layer.values() for value in layer]
        changed = sum(value != 1 for value in values)
        say(f"{kind}: {changed} of {len(values)} factors differ from 1; {min(values):.3f} to {max(values):.3f}")
    return factors


def match_strengths(wanted: Strengths, found: Strengths) -> Factors:
    """Return α and β by the names of the layers that take them."""
    alpha, beta = (
        matching_factor(torch.tensor(ours, dtype=torch.float64), torch.tensor(theirs, dtype=torch.float64))
        for ours, theirs in ((wanted.logits, found.logits), (wanted.outputs, found.outputs))
    )
    return {
        "alpha": {_layer(index, "q_proj"): heads.tolist() for index, heads in enumerate(alpha)},
        "beta": {_layer(index, "o_proj"): [float(factor)] for index, factor in enumerate(beta)},
    }


def balanced_reader(pack: PackedCheckpoint, factors: Factors) -> Callable[[str], Tensor]:
    """Return what reads a tensor of the balanced pack, given the pack that was measured."""
    names = set(pack.names())
    rows = {
        f"{layer}.{'weight_scale' if f'{layer}.weight_scale' in names else 'weight'}": torch.tensor(
            found, dtype=torch.float64
        )
        for layers in factors.values()
        for layer, found in layers.items()
    }

    def read(name: str) -> Tensor:
        tensor = pack.read(name)
        return scale_rows(tensor, rows[name]) if name in rows else tensor

    return read


def _kept(path: Path, find: Callable[[], Strengths]) -> Strengths:
    """Return what `path` holds; if nothing, find it and put it there."""
    if not path.exists():
        write_atomically(path, json.dumps(dataclasses.asdict(find())).encode())
    return Strengths(**json.loads(path.read_text()))


def _layer(index: int, kind: str) -> str:
    return f"{attention_name(index)}.{kind}"
