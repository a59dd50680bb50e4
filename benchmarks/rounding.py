"""What 4 bits can still gain: ways of rounding that cost neither bytes nor time when the network runs.

    python benchmarks/rounding.py --observations DIR [--policy FOLDER] [--language FOLDER] [--targets …] [--only …]

Every row is one way on one target from one calibration seed, at uniform 4 bits with `full`'s transforms; targets and
arguments are those of benchmarks/presets.py. What does not win on all targets is not in the library, and the way stays
here. The result goes to benchmarks/results/rounding.json and as a table into benchmarks/results/README.md.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any
from unittest.mock import patch

import torch
import tyro
from common.mixing import ModuleMixes, PolicyMixes, chosen
from common.results import ROOT, Rows, origin, read_rows, write_between, write_result
from common.targets import targets as networks
from presets import SEEDS
from torch import Tensor

from vlapack.commands.spelling import with_flags
from vlapack.console import exit_code, stdout
from vlapack.fingerprint import digest
from vlapack.methods import gptq
from vlapack.methods.gptq import HessianFactor, gptq_weight, hessian_factor
from vlapack.methods.round import choose_scale, round_weight
from vlapack.observations.folder import SHIPPED_OBSERVATIONS
from vlapack.progress import progress

RESULT = ROOT / "benchmarks" / "results" / "rounding.json"
DOCS = RESULT.with_name("README.md")
KEPT = ROOT / "outputs" / "rounding.jsonl"
Round = Callable[..., tuple[Tensor, Tensor]]
Factor = Callable[[Tensor], HessianFactor]


def with_scales(weight: Tensor, factor: HessianFactor, scale: Tensor, *, lowest: int = -8, highest: int = 7) -> Tensor:
    """Round by GPTQ with given scales: `gptq_weight` as a plain loop over columns, integers [N, K] float."""
    order, lower = factor.order, factor.lower
    errors = weight.T.to(lower.dtype)[order].clone()
    integers = torch.empty_like(errors)
    step = scale.to(lower.dtype).flatten()
    for i in range(len(order) - 1, -1, -1):
        wanted = errors[i] + lower[i + 1 :, i] @ errors[i + 1 :]
        integers[i] = (wanted / step).round().clamp(lowest, highest)
        errors[i] -= integers[i] * step
    return integers[torch.argsort(order)].T


def loss(weight: Tensor, rounded: Tensor, hessian: Tensor) -> Tensor:
    """Return each row's e H eᵀ [N]."""
    error = (weight - rounded).to(hessian.dtype)
    return ((error @ hessian) * error).sum(1)


class BestRows:
    """Of each row of a weight [N, K] the integers and the scale with the least `loss` that were offered."""

    def __init__(self, weight: Tensor, scales: Tensor, hessian: Tensor) -> None:
        self._weight, self._hessian = weight, hessian
        self._least = torch.full((len(weight),), torch.inf, dtype=hessian.dtype)
        self.integers, self.scales = torch.zeros_like(weight), scales.clone()

    def offer(self, integers: Tensor, scales: Tensor) -> None:
        """Take over the rows that are better; integers [N, K], scales [N, 1]."""
        found = loss(self._weight, integers * scales, self._hessian)
        better = found < self._least
        self._least = torch.where(better, found, self._least)
        self.integers = torch.where(better[:, None], integers, self.integers)
        self.scales = torch.where(better[:, None], scales, self.scales)


def remembering(inputs: Tensor) -> HessianFactor:
    """Return `hessian_factor`'s, with H = xᵀx beside it."""
    found = hessian_factor(inputs)
    object.__setattr__(found, "hessian", inputs.T @ inputs)
    return found


def refitted(weight: Tensor, factor: HessianFactor, bits: int, clip: str = "mse", group: int | None = None) -> Any:
    """GPTQ, then each row's scale by least squares in H's norm, then GPTQ again with it; of each row the best round."""
    assert group is None
    hessian, scale = factor.hessian, choose_scale(weight, bits, clip)  # type: ignore[attr-defined]
    best = BestRows(weight, scale, hessian)
    for _ in range(4):
        q = with_scales(weight, factor, scale)
        best.offer(q, scale)
        turned = q.to(hessian.dtype) @ hessian
        scale = ((turned * weight).sum(1) / (turned * q).sum(1).clamp_min(1e-30)).abs()[:, None].float()
        scale = torch.where(scale > 0, scale, best.scales)
    return best.integers.to(torch.int8), best.scales


def searched(weight: Tensor, factor: HessianFactor, bits: int, clip: str = "mse", group: int | None = None) -> Any:
    """GPTQ at seven clips around the one of least squared error; of each row the one with the least e H eᵀ."""
    assert group is None
    hessian, base = factor.hessian, choose_scale(weight, bits, clip)  # type: ignore[attr-defined]
    best = BestRows(weight, base, hessian)
    for part in (1.0, 0.94, 0.88, 0.82, 1.06, 1.12, 1.18):
        best.offer(with_scales(weight, factor, base * part), base * part)
    return best.integers.to(torch.int8), best.scales


def asymmetric(weight: Tensor, factor: HessianFactor, bits: int, clip: str = "mse", group: int | None = None) -> Any:
    """Sixteen levels with a zero point of their own per row; stored as 8 bits, which hold them exactly."""
    assert (bits, group) == (8, None)
    low, high = weight.amin(1, keepdim=True).clamp_max(0), weight.amax(1, keepdim=True).clamp_min(0)
    best = torch.full((len(weight), 1), torch.inf)
    scales, zeros = torch.ones(len(weight), 1), torch.zeros(len(weight), 1)
    for part in [i / 40 for i in range(20, 41)]:
        scale = ((high - low) * part / 15).clamp_min(1e-12)
        zero = (-low * part / scale).round().clamp(0, 15)
        q = (weight / scale + zero).round().clamp(0, 15) - zero
        found = (q * scale - weight).square().sum(1, keepdim=True)
        better = found < best
        best, scales, zeros = (torch.where(better, a, b) for a, b in ((found, best), (scale, scales), (zero, zeros)))
    integers = torch.empty_like(weight)
    for zero in zeros.unique():
        rows = (zeros == zero).flatten()
        integers[rows] = with_scales(
            weight[rows], factor, scales[rows], lowest=-int(zero), highest=15 - int(zero)
        ).float()
    return integers.to(torch.int8), scales


def ordered(choose: Callable[[Tensor, Tensor], Tensor]) -> Factor:
    """Return `hessian_factor` with another order of columns; `choose` gets H's energies and inputs."""

    def factor(inputs: Tensor) -> HessianFactor:
        order = choose(inputs.square().sum(0), inputs)
        with patch.object(gptq.torch, "argsort", lambda *_a, **_k: order.flip(0)):
            return hessian_factor(inputs)

    return factor


def damped(amount: float) -> Factor:
    """Return `hessian_factor` with another damping."""

    def factor(inputs: Tensor) -> HessianFactor:
        with patch.object(gptq, "DAMPING", (amount, *gptq.DAMPING)):
            return hessian_factor(inputs)

    return factor


def centred(inputs: Tensor) -> HessianFactor:
    """Count the mean over the tokens a tenth: it is most of the energy, and tells no token from another."""
    mean = inputs.mean(0)
    return hessian_factor(inputs - 0.9 * mean)


def nearest(weight: Tensor, _factor: HessianFactor, bits: int, clip: str = "mse", group: int | None = None) -> Any:
    """Round to nearest in the same basis."""
    return round_weight(weight, bits, clip, group)


def evened(inputs: Tensor) -> HessianFactor:
    """Let every token count alike, whatever its size."""
    return hessian_factor(inputs / inputs.norm(dim=1, keepdim=True).clamp_min(1e-12))


@dataclass(frozen=True)
class Way:
    """How weights are rounded: what stands for GPTQ's two functions, how it is stored, how many observations."""

    note: str
    round: Round = gptq_weight
    factor: Factor = hessian_factor
    bits: int = 4
    steps: int | None = None


WAYS: Mapping[str, Way] = {
    "rtn, no rotation": Way("round-to-nearest as other tools do it: largest weight as the range, no transform"),
    "hadamard + rtn": Way("round-to-nearest after the same transform", round=nearest),
    "gptq": Way("the default"),
    "scales refitted": Way(str(refitted.__doc__), refitted, remembering),
    "clip searched": Way(str(searched.__doc__), searched, remembering),
    "asymmetric": Way(f"{asymmetric.__doc__} Costs a zero point a row and Σq_x", asymmetric, bits=8),
    "order: as they stand": Way("no order of columns", factor=ordered(lambda e, _x: torch.arange(len(e)))),
    "order: least energy first": Way(
        "the opposite order", factor=ordered(lambda e, _x: torch.argsort(e, descending=True))
    ),
    "damping 0.001": Way("a tenth of the default", factor=damped(1e-3)),
    "damping 0.1": Way("ten times the default", factor=damped(0.1)),
    "mean counted a tenth": Way(str(centred.__doc__), factor=centred),
    "tokens counted alike": Way(str(evened.__doc__), factor=evened),
    "half the observations": Way("16 instead of 32", steps=16),
    "twice the observations": Way("64 instead of 32", steps=64),
}


@contextmanager
def by(way: Way) -> Iterator[None]:
    """Let layers be rounded this way."""
    with ExitStack() as stack:
        stack.enter_context(patch("vlapack.quantize.groups.gptq_weight", way.round))
        stack.enter_context(patch("vlapack.quantize.groups.hessian_factor", way.factor))
        yield


def main(
    observations: Path,
    *,
    policy: str = "tiny-libero",
    calibration: Path = SHIPPED_OBSERVATIONS,
    language: Path = ROOT / "outputs" / "language",
    targets: str = "policy",
    only: str = "",
    seeds: int = len(SEEDS),
    every: int = 1,
    result: Path = RESULT,
    kept: Path = KEPT,
) -> int:
    """Measure what is missing; the arguments are those of presets.py, and `only` matches a way's name."""
    done = Rows(result, kept)
    for target in networks(
        targets, policy=policy, calibration=calibration, observations=observations, language=language, every=every
    ):
        measure(target, re.compile(only), seeds, done)
    rows = [*last(done).values()]
    write_result(result, rows, ways={name: " ".join(way.note.split()) for name, way in WAYS.items()})
    stdout.print(table(rows), markup=False, soft_wrap=True)
    if result == RESULT:
        write_tables()
    return 0


def write_tables() -> None:
    """Write the result's table into the docs."""
    write_between(DOCS, "rounding", table(read_rows(RESULT)))


def measure(target: PolicyMixes | ModuleMixes, only: re.Pattern[str], seeds: int, done: Rows) -> None:
    """Add every row of a target that is wanted and not there yet."""
    there, recipe = last(done), target.recipe
    wanted = {}
    for seed in range(seeds):
        for name, way in WAYS.items():
            if way.steps is not None and not isinstance(target, PolicyMixes):
                continue
            made_of = digest({"target": target.identity, "way": name, "method": recipe.digest()})
            if only.search(name) and there.get((target.name, name, seed), {}).get("made_of") != made_of:
                wanted[name, seed] = made_of
    here = origin()
    with progress(target.name, len(wanted)) as advance:
        for (name, seed), made_of in wanted.items():
            way = WAYS[name]
            target.recipe = recipe if way.steps is None else replace(recipe, calib_steps=way.steps)
            if name.startswith("rtn"):
                target.recipe = replace(recipe, rotation="none", permute=False, rounding="rtn", clip="absmax")
            target.forget()
            with by(way):
                found = target.measure(chosen(target.layers, [(".", way.bits)]), seed)
            done.add({"target": target.name, "way": name, "seed": seed, **found, **here, "made_of": made_of})
            advance(f"{name}, seed {seed}: {found['error']:.4g}")
    target.recipe = recipe


def last(done: Rows) -> dict[tuple[str, str, int], dict[str, Any]]:
    """Return the last finished row of every target, way and seed."""
    return {(row["target"], row["way"], row["seed"]): row for row in done.read()}


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return ways against targets in Markdown: error over that of the default, mean of the seeds; medians behind it."""
    targets = list(dict.fromkeys(row["target"] for row in rows))
    lines = [f"| way | {' | '.join(targets)} |", "|---" * (len(targets) + 1) + "|"]
    for way in dict.fromkeys(row["way"] for row in rows):
        cells = []
        for target in targets:
            cells.append(", ".join(filter(None, (_ratio(rows, target, way, field) for field in ("error", "median")))))
        lines.append(f"| {way} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _ratio(rows: Sequence[Mapping[str, Any]], target: str, way: str, field: str) -> str:
    def mean(name: str) -> float | None:
        found = [row[field] for row in rows if (row["target"], row["way"]) == (target, name) and field in row]
        return fmean(found) if found else None

    one, plain = mean(way), mean("gptq")
    return f"{one / plain:.2f}" if one is not None and plain else ""


if __name__ == "__main__":
    raise SystemExit(exit_code(lambda: tyro.cli(main), partial(with_flags, main)))
