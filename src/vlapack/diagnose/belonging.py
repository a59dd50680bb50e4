"""Do pack and parent belong together? By fingerprint, and where that says no, by the tensors that both hold."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from vlapack.checkpoints.pack.checkpoint import PackedCheckpoint
from vlapack.checkpoints.pack.contents import untouched
from vlapack.diagnose.finding import Finding
from vlapack.packing.parent import Parent
from vlapack.pi0.names import EMBEDDING
from vlapack.recipe.recipe import Recipe

MOST_NAMED = 3


def foreign_network(pack: PackedCheckpoint, parent: Parent) -> Finding | None:
    """Return what is wrong if the two networks do not even have the same sizes, or serve another robot."""
    ours, theirs = pack.config, parent.config
    for what, one, other in (
        ("robot layout", ours.layout, theirs.layout),
        ("architecture", ours.architecture, theirs.architecture),
    ):
        if one != other:
            return Finding(
                "critical",
                "wrong_parent",
                f"{parent.checkpoint.path} is not the parent of this pack: its {what} is another",
                f"the pack has {one!s:.300}; the baseline has {other!s:.300}",
                _right_parent(pack),
                {"differs": [what]},
            )
    return None


def belonging(pack: PackedCheckpoint, parent: Parent, recipe: Recipe) -> list[Finding]:
    """Compare the fingerprints.

    Args:
        pack: the pack.
        parent: what is said to be its float parent, of the same architecture.
        recipe: the pack's.

    Returns:
        A critical finding where the parent is another policy, a minor one where it is a copy in another dtype or only
        the configuration differs; nothing where all is the same.
    """
    stated = pack.document["fingerprint"]
    found = parent.fingerprint(recipe, None)
    findings = []
    if stated["weights"] != found.weights:
        findings.append(_other_weights(pack, parent, recipe, stated["weights"], found.weights))
    if stated["policy"] != found.policy:
        differing = _other_settings(pack, parent)
        findings.append(
            Finding(
                "critical" if {"normalization", "tokenizer"} & set(differing) else "minor",
                "other_settings",
                f"the baseline is opened with another {' and '.join(differing)} than the pack was made with",
                f"fingerprint of configuration, statistics and tokenizer: {stated['policy'][:12]}… in the pack, "
                f"{found.policy[:12]}… in the baseline",
                "open the baseline with the settings that the pack was made with (`config`, `norm_stats`, "
                "`tokenizer`), or quantize again with these",
                {"differs": differing},
            )
        )
    return findings


def _other_weights(pack: PackedCheckpoint, parent: Parent, recipe: Recipe, stated: str, found: str) -> Finding:
    distances = dict(_distances(pack, parent, recipe))
    differing = {name: distance for name, distance in distances.items() if distance > 0}
    recast = [name for name in distances if name in parent.tensors and parent.tensors[name][1] != pack.dtype(name)]
    prints = f"weights {stated[:12]}… in the pack's fingerprint, {found[:12]}… in {parent.checkpoint.path}"
    numbers = {
        "pack": stated,
        "baseline": found,
        "tensors_compared": len(distances),
        "tensors_differing": len(differing),
        "largest_distance": max(distances.values(), default=None),
    }
    if distances and not differing and recast:
        return Finding(
            "minor",
            "other_dtype",
            "the baseline holds the parent's weights in another dtype",
            f"{prints}; all {len(distances)} float tensors of the pack are the baseline's, {len(recast)} of them in "
            "another dtype",
            "nothing to do; give the very folder that the pack was made of to be sure",
            numbers,
        )
    if differing:
        worst = sorted(differing, key=lambda name: -differing[name])[:MOST_NAMED]
        shown = ", ".join(f"{name} by {differing[name]:.1%}" for name in worst)
        evidence = f"{prints}; {len(differing)} of {len(distances)} float tensors differ, most of all {shown}"
    elif distances:
        evidence = (
            f"{prints}; the {len(distances)} tensors that the pack holds in float are equal, the packed ones are not"
        )
    else:
        evidence = prints
    return Finding(
        "critical",
        "wrong_parent",
        f"{parent.checkpoint.path} is not the parent of this pack: its weights are others",
        evidence,
        _right_parent(pack),
        numbers,
        tuple(name.rpartition(".")[0] for name in sorted(differing, key=lambda name: -differing[name])[:MOST_NAMED]),
    )


def _distances(pack: PackedCheckpoint, parent: Parent, recipe: Recipe) -> list[tuple[str, float]]:
    """Return how far each tensor that the pack took over unchanged is from the baseline's, relative."""
    selected = list(pack.contents.layers.values())
    names = [name for name in untouched(parent.tensors, selected, recipe) if name != EMBEDDING]
    return [(name, _distance(pack.read(name), parent.read(name))) for name in names]


def _distance(ours: Tensor, theirs: Tensor) -> float:
    """‖difference‖ / ‖theirs‖; 0 where they are equal in the narrower of their dtypes."""
    narrow = min(ours.dtype, theirs.dtype, key=lambda dtype: dtype.itemsize)
    if torch.equal(ours.to(narrow), theirs.to(narrow)):
        return 0.0
    size = float(theirs.double().norm())
    return float((ours.double() - theirs.double()).norm()) / size if size else 1.0


def _other_settings(pack: PackedCheckpoint, parent: Parent) -> list[str]:
    pairs: dict[str, tuple[Any, Any]] = {
        "configuration": (pack.config.to_dict(), parent.config.to_dict()),
        "normalization": (pack.normalization.to_dict(), parent.normalization.to_dict()),
        "tokenizer": (pack.tokenizer.read_bytes(), parent.tokenizer.read_bytes()),
    }
    return [name for name, (one, other) in pairs.items() if one != other] or ["configuration"]


def _right_parent(pack: PackedCheckpoint) -> str:
    return (
        f"give the checkpoint that the pack was made of (weights {pack.document['fingerprint']['weights'][:12]}…) as "
        "`baseline`, or quantize this one: nothing else is measured until then"
    )
