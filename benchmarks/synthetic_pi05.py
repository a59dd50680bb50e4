"""A full π0 / π0.5 checkpoint from a seed, in openpi's exact file format: for every measurement at full size.

    python benchmarks/synthetic_pi05.py OUT [--seed 0] [--config pi05_libero]

Real checkpoints are gigabytes that a benchmark cannot fetch. What quantization meets in them is drawn here instead:
weights whose input directions differ widely in strength (a power law, mixed over blocks of channels so that no single
channel shows it), rows of different sizes, and a few channels that are many times larger than the others, in weights
and in activations. The layers are scaled so that activations neither vanish nor grow; the actions mean nothing.
pi05_libero takes 7.5 GB of disk; tensors are written one by one, so memory holds the largest only.
"""

from __future__ import annotations

import json
import shutil
import zlib
from pathlib import Path

import common  # noqa: F401  loads vlapack, which sets how OpenMP waits: before torch reads it
import numpy as np
import torch
import tyro
from torch import Tensor

from vlapack.checkpoints import SHIPPED
from vlapack.checkpoints.assets import NORM_STATS_FILE, TOKENIZER_FILE, WEIGHTS_FILE
from vlapack.checkpoints.configs import policy_config
from vlapack.checkpoints.normalization import Normalization, Statistics
from vlapack.checkpoints.policy_config import PolicyConfig
from vlapack.checkpoints.tensorlayout import DTYPE_NAMES, TensorSpec, place
from vlapack.console import say
from vlapack.errors import InputError
from vlapack.files import raw_bytes
from vlapack.methods.rotate import hadamard
from vlapack.pi0.names import EMBEDDING, TIED_EMBEDDING, openpi_tensors
from vlapack.progress import progress

MIXED = 16
"""Neighbouring channels that an anisotropic weight mixes; it divides every width there is."""
STRENGTH_DECAY = 0.3
"""The k-th strongest input direction has strength k^-0.3."""
OUTLIERS = 4
WEIGHT_OUTLIER, NORM_OUTLIER = 6.0, 12.0
RESIDUAL_OUTPUTS = ("o_proj", "out_proj", "down_proj", "fc2")


def main(out: tyro.conf.Positional[Path], *, seed: int = 0, config: str = "pi05_libero") -> None:
    """Write the checkpoint.

    Args:
        out: The folder to make.
        seed: Decides every weight, each tensor's by its name alone.
        config: The name of one of openpi's configurations, or tiny_libero.
    """
    chosen = policy_config(config)
    if out.exists():
        raise InputError(f"{out}: exists already; name a new folder")
    partial = out.with_name(f"{out.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    _write_weights(partial / WEIGHTS_FILE, chosen, seed)
    place_of_statistics = partial / "assets" / (chosen.asset_id or "")
    place_of_statistics.mkdir(parents=True)
    document = _normalization(chosen, seed).to_dict()
    (place_of_statistics / NORM_STATS_FILE).write_text(json.dumps(document, indent=2) + "\n")
    shutil.copyfile(SHIPPED["tiny-libero"] / TOKENIZER_FILE, partial / TOKENIZER_FILE)
    partial.rename(out)
    say(f"{out}: vlapack quantize {out} --config {config} …")


def _write_weights(path: Path, config: PolicyConfig, seed: int) -> None:
    """Write what openpi's `save_model` writes: the embedding under its tied name, lm_heads and all."""
    specs = [
        TensorSpec(name, getattr(torch, dtype), shape)
        for name, (shape, dtype) in openpi_tensors(config.architecture).items()
    ]
    placed = place(specs)
    header: dict[str, object] = {"__metadata__": {"format": "pt", EMBEDDING: TIED_EMBEDDING}}
    for name, (spec, start) in placed.items():
        offsets = [start, start + spec.nbytes]
        header[name] = {"dtype": DTYPE_NAMES[spec.dtype], "shape": spec.shape, "data_offsets": offsets}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file, progress("drawing", len(placed)) as advance:
        file.write(len(text).to_bytes(8, "little") + text)
        for name, (spec, _) in placed.items():
            file.write(raw_bytes(drawn(name, spec.shape, config, seed).to(spec.dtype)))
            advance(name)


def drawn(name: str, shape: tuple[int, ...], config: PolicyConfig, seed: int) -> Tensor:
    """Draw one tensor by its name, fp32."""
    generator = torch.Generator().manual_seed(zlib.crc32(f"{seed}:{name}".encode()))
    values = torch.randn(shape, generator=generator)
    module, _, leaf = name.rpartition(".")
    if "norm" in module:
        return _of_a_norm(values, module, leaf, generator)
    if leaf == "bias":
        return values.mul_(0.02)
    if "position_embedding" in module:
        return values.mul_(0.1)
    fan_in = values[0].numel()
    if len(shape) == 2 and "lm_head" not in module:
        values = _anisotropic(values, generator)
    scale = fan_in**-0.5
    if module.endswith(RESIDUAL_OUTPUTS):
        depth = config.architecture.vision.depth if "vision_tower" in module else config.architecture.llm.depth
        scale *= (2 * depth) ** -0.5
    return values.mul_(scale)


def _anisotropic(values: Tensor, generator: torch.Generator) -> Tensor:
    """Give normal values [N, K] strong and weak input directions, uneven rows and outlier columns; the rms stays 1."""
    rows, columns = values.shape
    strength = torch.arange(1, columns + 1).float().pow(-STRENGTH_DECAY)
    values *= strength[torch.randperm(columns, generator=generator)]
    mixed = values.view(rows, -1, MIXED) @ hadamard(MIXED)[0].float()
    values = mixed.view(rows, columns)
    values *= torch.randn(rows, 1, generator=generator).mul_(0.3).exp_()
    values[:, torch.randperm(columns, generator=generator)[:OUTLIERS]] *= WEIGHT_OUTLIER
    return values / values.square().mean().sqrt()


def _of_a_norm(values: Tensor, module: str, leaf: str, generator: torch.Generator) -> Tensor:
    """Norm weights near what leaves their input alone, save a few; adaptive ones with gates near 1."""
    if module.endswith("dense"):
        if leaf == "weight":
            return values.mul_(0.1 * values.shape[1] ** -0.5)
        values.mul_(0.1).chunk(3)[2].add_(1.0)
        return values
    values.mul_(0.1)
    if leaf == "bias":
        return values
    neutral = 1.0 if "vision_tower" in module else 0.0  # Gemma's RMSNorm multiplies by 1 + weight
    values[torch.randperm(len(values), generator=generator)[:OUTLIERS]] = NORM_OUTLIER - 1.0
    return values.add_(neutral)


def _normalization(config: PolicyConfig, seed: int) -> Normalization:
    """Plausible statistics for a state of 8 and actions of 7 dimensions, LIBERO's."""
    draw = np.random.default_rng(seed)

    def statistics(size: int) -> Statistics:
        low = draw.normal(-1.0, 0.2, size)
        return Statistics(mean=low + 1.0, std=np.full(size, 0.5), q01=low, q99=low + 2.0)

    return Normalization(config.normalization, {"state": statistics(8), "actions": statistics(7)})


if __name__ == "__main__":
    tyro.cli(main)
