"""What is lost where in a pack, why, and what helps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch

from vlapack.diagnose.causes import (
    DAMAGED,
    OTHER_WEIGHTS,
    activations,
    calibration,
    damaged,
    has_gap,
    looks_damaged,
    worst_layers,
)
from vlapack.diagnose.coverage import Coverage, coverage
from vlapack.diagnose.diagnosis import Diagnosis, LayerReport
from vlapack.diagnose.finding import Finding
from vlapack.diagnose.given import Parts, Target, is_calibrated
from vlapack.diagnose.layers import Seen, look
from vlapack.diagnose.remedies import Share, Trials
from vlapack.diagnose.steps import along_the_flow
from vlapack.diagnose.tried import cheapest
from vlapack.diagnose.unfolded import UnfoldedPack
from vlapack.diagnose.workbench import PACK, Made, Workbench
from vlapack.policy.policy import Policy
from vlapack.progress import progress
from vlapack.robots.layouts import layout_of
from vlapack.tune.results import Measured

LOOKED = 8
"""Observations on which layers are looked at one by one."""
SENSED = 8
"""Observations on which each layer's share of the error is measured, and the steps of the flow."""
DISAGREES = 1.5
"""By which factor the pack may differ from its layers in the float network."""


class Examination:
    """Looks at a pack that belongs to its parent.

    Args:
        unfolded: the pack's layers.
        bench: puts them together.
        parts: the observations.
        target: for the median error of a chunk.
        findings: what is known already.
        device: where everything runs.
    """

    def __init__(
        self,
        unfolded: UnfoldedPack,
        bench: Workbench,
        *,
        parts: Parts,
        target: Target,
        findings: Sequence[Finding],
        device: torch.device,
    ) -> None:
        self._pack, self._parts, self._target = unfolded.pack, parts, target
        self._unfolded, self._bench, self._device = unfolded, bench, device
        self._findings = list(findings)
        self._kept = list(range(len(parts.kept)))
        self._trial = bench.trial
        self._agree = True

    def run(self) -> Diagnosis:
        """Look at everything; above the target, try what may help."""
        deviations = self._deviations()
        error = Measured.of(deviations)
        above = error.median > self._target.value
        layers, choices = self._unfolded.layers, self._bench.with_activations(16)
        unrounded = {name: self._trial.module(name, choices[name]) for name in layers}
        seen = look(self._trial, layers, unrounded, self._kept[:LOOKED], "layers, on the data")
        covered, before = self._coverage(seen)
        shares = self._shares()
        reports = self._reports(seen, before, shares)
        broken = self._damage(reports)
        steps = along_the_flow(self._trial, self._bench.own, self._kept[:SENSED])
        held = self._bench.held(self._bench.recipe)
        trials = Trials(self._bench, kept=self._kept, target=self._target.value, shares=shares, deviations=deviations)
        if broken:
            trials.again(broken)
        related = not any(one.kind == OTHER_WEIGHTS for one in self._findings)
        if above and related and not any(one.helps for one in trials.tried):
            if self._recalibrates(covered):
                trials.more_calibration(self._parts.given, expected=covered is not None and covered.is_narrow)
            trials.activations()
            trials.bits()
            trials.parts()
        again = next((one for one in trials.tried if one.kind == "calibration"), None)
        self._findings += calibration(covered, deviations, again, error, above=above)
        if above and self._agree:
            self._findings += activations(reports, self._bench.recipe)
        if above and self._agree and related and not broken:
            self._findings.append(worst_layers(reports))
        if trials.tried and self._bench.recipe.balances:
            self._findings.append(_unbalanced())
        chosen = cheapest(trials.tried)
        if above and related and chosen is None:
            self._findings.append(_helpless(trials))
        own = self._trial.spread(self._kept)
        return Diagnosis(
            target=self._target.value,
            target_from=self._target.source,
            findings=self._findings,
            error=error,
            spread=replace(Measured.of(own.ravel()), frames=len(own)),
            held=held,
            observations={
                "calibrating": len(self._parts.calibrating),
                "kept": len(self._parts.kept),
                "given": len(self._parts.given),
            },
            layers=reports,
            steps=steps,
            coverage=covered,
            tried=trials.tried,
            chosen=chosen,
        )

    def _deviations(self) -> np.ndarray:
        """Return the pack's own deviations [N], and see whether its layers in the float network do the same."""
        policy = Policy.from_checkpoint(self._pack, dtype=torch.float32, device=self._device)
        found = self._trial.deviations_of(policy, self._kept, "comparing the pack")
        del policy
        alike = self._trial.deviations({**self._bench.own}, self._kept, "comparing its layers")
        one, other = float(np.median(found)), float(np.median(alike))
        self._agree = max(one, other) <= DISAGREES * min(one, other)
        if not self._agree:
            self._findings.append(
                Finding(
                    "undecided",
                    "layers_disagree",
                    "the pack's layers in the float network do not act like the pack, so no layer can be blamed",
                    f"median error {other:.2%} with its layers in the float network, {one:.2%} of the pack itself",
                    "quantize again by the same recipe and diagnose that pack",
                    {"pack": one, "layers": other},
                )
            )
        return found

    def _coverage(self, seen: Mapping[str, Seen]) -> tuple[Coverage | None, Mapping[str, Seen]]:
        """Compare the data with what calibration saw."""
        if not self._parts.calibrating:
            return None, {}
        count = min(len(self._parts.calibrating), LOOKED)
        numbers = range(len(self._kept), len(self._kept) + count)
        before = look(self._trial, self._unfolded.layers, {}, numbers, "layers, on calibration's observations")
        layout = layout_of(self._pack.config)
        return coverage(self._parts.calibrating, self._parts.kept, layout, before, seen), before

    def _shares(self) -> dict[str, Share]:
        """Measure what each layer adds to the squared error of the chunk."""
        errors = self._trial.sensitivity(self._kept[:SENSED])
        found = {}
        for name, of in errors.items():
            own = {choice.by: error for choice, error in of.items() if isinstance(choice, Made)}
            whole = own[PACK]
            found[name] = Share(whole, min(own.get(f"{PACK}-act16", whole), whole))
        return found

    def _reports(
        self, seen: Mapping[str, Seen], before: Mapping[str, Seen], shares: Mapping[str, Share]
    ) -> list[LayerReport]:
        total = sum(share.whole for share in shares.values()) or 1.0
        steps = self._trial.steps
        found = []
        with progress("weights", len(seen)) as advance:
            for name, one in seen.items():
                layer = self._unfolded.layers[name]
                crests = one.crests
                found.append(
                    LayerReport(
                        name=name,
                        part=layer.selected.part,
                        bits=layer.selected.bits,
                        error=one.error,
                        weights=one.weights_error,
                        share=shares[name].whole / total,
                        weight_error=self._unfolded.weights.weight_error(name),
                        clipped_weights=self._unfolded.weights.clipped_weights(name),
                        clipped=None if layer.act_scale is None else one.clipped_part,
                        outlier=one.outlier,
                        crest_before=crests[0],
                        crest_after=crests[1],
                        reach=_reach(one, before.get(name)),
                        by_step=tuple(one.by_call) if len(one.calls) == steps else (),
                    )
                )
                advance()
        return found

    def _damage(self, reports: Sequence[LayerReport]) -> list[str]:
        """Find layers that are not what packing made, and say so; return their names."""
        noted = self._pack.document["measured"].get("weight_error", {})
        suspects = {
            one.name: self._unfolded.weights.rounded_anew(one.name) for one in reports if looks_damaged(one, noted)
        }
        self._findings += damaged(reports, noted, suspects)
        return [one.layers[0] for one in self._findings if one.kind == DAMAGED]

    def _recalibrates(self, covered: Coverage | None) -> bool:
        """Whether calibrating again is worth trying: there is something new to calibrate on, or nobody knows."""
        if not self._parts.given or not is_calibrated(self._pack):
            return False
        return covered is None or has_gap(covered)


def _reach(seen: Seen, before: Seen | None) -> float | None:
    """Return by what factor a layer's largest input exceeds the largest that calibration saw."""
    if before is None or not float(before.absmax.max()):
        return None
    return float(seen.absmax.max()) / float(before.absmax.max())


def _helpless(trials: Trials) -> Finding:
    best = min(trials.tried, key=lambda one: one.guarded, default=None)
    shown = "nothing was tried" if best is None else f"the best, {best.name}, leaves {best.median:.2%}"
    return Finding(
        "undecided",
        "no_remedy",
        f"none of {len(trials.tried)} remedies brings the error safely below the target",
        shown,
        "let vlapack choose all bits (`vlapack quantize --max-error`), or allow a larger error (`max_error`)",
        {"best": None if best is None else best.guarded},
    )


def _unbalanced() -> Finding:
    """Say of a pack with attention's factors what the remedies were tried without."""
    return Finding(
        "minor",
        "balance",
        "what attention's factors (`atm`, `ohb`) do in a remedied pack was not tried",
        "they are measured on a finished pack: here layers that a remedy leaves alone keep theirs, those that it packs "
        "have none, and the command's pack measures its own",
        "compare the remedied pack with its parent: `vlapack compare`",
    )
