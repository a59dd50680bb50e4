"""What a diagnosis comes to, as one document."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from vlapack.diagnose.coverage import Coverage
from vlapack.diagnose.finding import Finding, by_severity
from vlapack.diagnose.steps import StepError
from vlapack.diagnose.tried import Tried
from vlapack.plan.selected import Part
from vlapack.tune.results import Measured

Verdict = Literal["sound", "ill"]


@dataclass(frozen=True)
class LayerReport:
    """One packed layer.

    Attributes:
        name: of the layer.
        part: of the network.
        bits: as `W4A8`.
        error: ‖packed − float‖ / ‖float‖ of its output, on the inputs that the float network gives it.
        weights: the part of it that is there without rounded activations.
        share: its part of the squared error of the chunk, to first order; all layers' make 1.
        weight_error: of its rounded weight, as packing prints it.
        clipped_weights: the part of its weights beyond the integers' range.
        clipped: the part of its inputs that a static scale cuts off; None where every token has its own.
        outlier: its largest input channel over its median one.
        crest_before: a token's largest magnitude over its root mean square, before the transform.
        crest_after: the same behind it.
        reach: how far a channel of its input exceeds what calibration saw, at most; None where that is not known.
        by_step: its error at each denoise step, of the layers that run in them.
    """

    name: str
    part: Part
    bits: str
    error: float
    weights: float
    share: float
    weight_error: float
    clipped_weights: float
    clipped: float | None
    outlier: float
    crest_before: float
    crest_after: float
    reach: float | None
    by_step: tuple[float, ...]


@dataclass(frozen=True)
class Diagnosis:
    """The whole of it.

    Attributes:
        target: for the median error of a chunk.
        target_from: where it comes from.
        error: the pack's; None where nothing was measured because pack and parent do not belong together.
        spread: median and 95 % point of the float policy's own, under other noises, on `frames` observations.
        held: bytes that a running policy of the pack holds.
        observations: how many `calibrating`, `kept` (errors are measured on them) and `given` (for calibrating again).
        findings: in any order.
        layers: all packed layers that run.
        steps: of the flow.
        coverage: None where calibration's observations are not known.
        tried: remedies.
        chosen: the cheapest that helps.
    """

    target: float
    target_from: str
    findings: Sequence[Finding]
    error: Measured | None = None
    spread: Measured | None = None
    held: int | None = None
    observations: Mapping[str, int] = field(default_factory=dict)
    layers: Sequence[LayerReport] = ()
    steps: Sequence[StepError] = ()
    coverage: Coverage | None = None
    tried: Sequence[Tried] = ()
    chosen: Tried | None = None

    @property
    def verdict(self) -> Verdict:
        """`sound` where the error is below the target and nothing is broken."""
        broken = any(one.severity in ("critical", "major") for one in self.findings)
        return "ill" if broken or self.error is None or self.error.median > self.target else "sound"

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON document."""
        return {
            "verdict": self.verdict,
            "target": self.target,
            "target_from": self.target_from,
            "error": None if self.error is None else self.error.to_dict(),
            "spread": None if self.spread is None else self.spread.to_dict(),
            "held_bytes": self.held,
            "observations": dict(self.observations),
            "findings": [finding.to_dict() for finding in by_severity(self.findings)],
            "layers": [asdict(layer) for layer in sorted(self.layers, key=lambda one: -one.share)],
            "steps": [asdict(step) for step in self.steps],
            "coverage": None if self.coverage is None else self.coverage.to_dict(),
            "remedies": [one.to_dict() for one in sorted(self.tried, key=lambda one: (one.held, one.median))],
            "chosen": None if self.chosen is None else self.chosen.name,
        }
