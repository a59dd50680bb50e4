"""Train `tiny-libero`, the shipped policy, from the demonstrations of `collect_demos.py`.

    python scripts/train_tiny.py --demos data/demos --work data/train --steps 6000
    python scripts/train_tiny.py --demos data/demos --work data/train --steps 6000 --export FOLDER
    python scripts/train_tiny.py --demos data/demos --work data/more --steps 2000 --init src/vlapack/assets/tiny-libero

A π0.5-architecture network (configuration `tiny_libero`) learns from random weights, or from those of `--init`, by
`tiny_learner.py`. The state of the run is saved every few minutes; the same command again continues at the very step
and would end in the same weights.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro
from demonstrations import Dataset, build_dataset, draw, read_episodes
from tiny_learner import TOKENIZER, Learner, autocasts
from torch import Tensor

from vlapack import open_checkpoint
from vlapack.checkpoints.configs import policy_config
from vlapack.checkpoints.normalization import Normalization, Statistics
from vlapack.checkpoints.policy_config import PolicyConfig
from vlapack.checkpoints.write import write_folder
from vlapack.console import say
from vlapack.pi0.names import EMBEDDING, EXPERT_HEAD, TIED_EMBEDDING, openpi_tensors
from vlapack.progress import progress


@dataclass(frozen=True)
class Args:
    """A training run.

    Attributes:
        demos: folder written by `collect_demos.py`.
        config: name or JSON file of the policy's configuration.
        work: where checkpoint, log and loss curve go.
        steps: optimizer steps; the cosine schedule ends there.
        batch: observations a step.
        samples: flow times per observation; they share one pass of the prefix.
        lr: peak learning rate.
        warmup: steps of linear warm-up.
        ema: decay of the averaged weights, which are the ones exported.
        shifts: how far the pictures of the agent's and the wrist's camera are moved at random, pixels. A pixel of the
            first is 0.7 cm of the table, and the action does not move along.
        emphasis: tasks drawn twice as often as the others, `libero_spatial_7,libero_spatial_8`.
        seed: of initial weights, batches and noise.
        threads: torch threads; 0 leaves torch's choice.
        save_every: steps between checkpoints.
        minutes: stop (and save) after so long; 0 runs to the end.
        init: start from the averaged weights of another run's checkpoint (a takeover round), or from a policy's folder,
            whose patches may have another size.
        compile: fuse the network's small operations, a quarter of the time on a CPU; a few minutes once.
        export: write the averaged weights as a policy folder here once the steps are done.
    """

    demos: Path
    work: Path
    config: str = "tiny_libero"
    steps: int = 6000
    batch: int = 64
    samples: int = 4
    lr: float = 1.2e-3
    warmup: int = 200
    ema: float = 0.999
    shifts: tuple[int, int] = (1, 4)
    emphasis: str = ""
    seed: int = 0
    threads: int = 0
    save_every: int = 250
    minutes: float = 0.0
    init: Path | None = None
    compile: bool = False
    export: Path | None = None


def main(args: Args) -> None:
    if args.threads:
        torch.set_num_threads(args.threads)
    config = policy_config(args.config)
    args.work.mkdir(parents=True, exist_ok=True)
    episodes = read_episodes(args.demos)
    normalization = fix_normalization(args, episodes)
    data = build_dataset(episodes, config, normalization, TOKENIZER, args.emphasis.split(","))
    say(f"{len(episodes)} demonstrations, {len(data.weights)} observations; {precision_note()}")
    average = train(args, config, data)
    plot_loss(args.work)
    if args.export:
        export(args.export, config, normalization, average, episodes)
        say(f"wrote {args.export}")


def fix_normalization(args: Args, episodes: list[dict[str, Any]]) -> Normalization:
    """Take the statistics that this run, or the one it starts from, began with; more data must not shift them."""
    file = args.work / "norm_stats.json"
    if not file.exists():
        begun = normalization_of(args.init) if args.init else fit_normalization(episodes)
        file.write_text(json.dumps(begun.to_dict()) + "\n")
    return Normalization.load(file, "quantile")


def normalization_of(start: Path) -> Normalization:
    """Statistics of the run, or of the policy folder, that this run starts from."""
    if start.is_dir():
        return open_checkpoint(start).normalization
    return Normalization.load(start.parent / "norm_stats.json", "quantile")


def fit_normalization(episodes: list[dict[str, Any]]) -> Normalization:
    """Quantile statistics over all steps of all demonstrations, as openpi's compute_norm_stats."""
    stats = {}
    for key, source in (("state", "states"), ("actions", "actions")):
        values = np.concatenate([episode[source] for episode in episodes]).astype(np.float64)
        q01, q99 = np.quantile(values, [0.01, 0.99], axis=0)
        stats[key] = Statistics(values.mean(axis=0), values.std(axis=0), q01, q99)
    return Normalization("quantile", stats)


def precision_note() -> str:
    return f"{'bf16 autocast' if autocasts() else 'fp32'} on {torch.get_num_threads()} threads"


def learning_rate(step: int, args: Args) -> float:
    if step < args.warmup:
        return args.lr * (step + 1) / args.warmup
    return args.lr * 0.5 * (1.0 + math.cos(math.pi * (step - args.warmup) / max(args.steps - args.warmup, 1)))


def train(args: Args, config: PolicyConfig, data: Dataset) -> dict[str, Tensor]:
    """Run to `args.steps` or out of `args.minutes`; return the averaged weights."""
    learner = Learner(config.architecture, seed=args.seed, ema=args.ema, compiled=args.compile)
    saved, log = args.work / "state.pt", args.work / "loss.jsonl"
    first = 0
    if saved.exists():
        first = learner.restore(saved)
        kept = [line for line in log.read_text().splitlines() if json.loads(line)["step"] < first]
        log.write_text("".join(f"{line}\n" for line in kept))
        say(f"continuing at step {first} of {args.steps}")
    elif args.init:
        learner.start_from(args.init)
    start = time.monotonic()
    with progress("training", args.steps, done=first) as advance, log.open("a") as lines:
        for step in range(first, args.steps):
            rng = np.random.default_rng([args.seed, step])
            drawn = draw(data, rng, config, batch=args.batch, samples=args.samples, shifts=args.shifts)
            loss, off = learner.learn(*drawn, rate=learning_rate(step, args), step=step)
            row = {"step": step, "loss": loss, "places": off, "seconds": time.monotonic() - start}
            lines.write(json.dumps(row) + "\n")
            lines.flush()
            advance(note=f"loss {loss:.4f}, places {off:.4f}")
            out_of_time = args.minutes and time.monotonic() - start > 60 * args.minutes
            if (step + 1) % args.save_every == 0 or step + 1 == args.steps or out_of_time:
                learner.save(saved, step + 1)
            if out_of_time:
                say(f"out of time at step {step + 1}; the same command continues")
                break
    return learner.average


def plot_loss(work: Path) -> None:
    """Draw the smoothed loss over the steps."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    rows = [json.loads(line) for line in (work / "loss.jsonl").read_text().splitlines()]
    losses = np.array([row["loss"] for row in rows])
    window = min(100, len(losses))
    smooth = np.convolve(losses, np.ones(window) / window, mode="valid")
    figure, axis = plt.subplots(figsize=(7, 3.5), layout="constrained")
    axis.plot([row["step"] for row in rows], losses, alpha=0.2, label="batch")
    axis.plot(np.arange(len(smooth)) + window - 1, smooth, label=f"mean of {window}")
    axis.set(xlabel="step", ylabel="flow-matching loss (7 action dimensions)", yscale="log")
    axis.legend()
    axis.grid(alpha=0.3)
    figure.savefig(work / "loss.png", dpi=130)


def export(
    folder: Path, config: PolicyConfig, normalization: Normalization, weights: Mapping[str, Tensor], episodes: list[Any]
) -> None:
    """Write openpi's PyTorch folder: every tensor that its class holds, in the precision in which it holds it."""
    tensors = {}
    for name, (shape, dtype) in openpi_tensors(config.architecture).items():
        source = EMBEDDING if name == TIED_EMBEDDING else name
        value = torch.zeros(shape) if name == EXPERT_HEAD else weights[source].detach().cpu()
        tensors[name] = value.to(getattr(torch, dtype)).reshape(shape)
    tasks: dict[str, list[int]] = {}
    for task in sorted({episode["task"] for episode in episodes}):
        suite, _, index = task.rpartition("_")
        tasks.setdefault(suite, []).append(int(index))
    config = replace(config, policy_metadata={"tasks": tasks})
    write_folder(folder, config, tensors, normalization=normalization, tokenizer=TOKENIZER)


if __name__ == "__main__":
    main(tyro.cli(Args))
