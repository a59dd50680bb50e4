"""What a report reads of `vlapack diagnose --json`."""

from __future__ import annotations

from pydantic import BaseModel, FiniteFloat, NonNegativeInt


class Deviation(BaseModel):
    """Relative error of a chunk over the observations that were kept."""

    median: FiniteFloat
    p95: FiniteFloat
    frames: NonNegativeInt


class Cause(BaseModel):
    """One thing that is wrong."""

    severity: str
    cause: str
    evidence: str
    remedy: str


class LayerShare(BaseModel):
    """What one layer adds to the squared error of the chunk; all layers' shares make 1."""

    name: str
    bits: str
    share: FiniteFloat
    error: FiniteFloat


class Remedy(BaseModel):
    """One that was tried."""

    name: str
    kind: str
    median: FiniteFloat
    p95: FiniteFloat
    held_bytes: NonNegativeInt
    helps: bool


class Diagnosed(BaseModel):
    """The document.

    Attributes:
        error: of the pack; None where nothing was measured.
        spread: the float policy's own, under another noise.
        chosen: the name of the cheapest remedy that helps.
        recipe: the file that it was written to.
        command: makes that pack.
    """

    pack: str
    baseline: str
    data: str
    verdict: str
    target: FiniteFloat
    target_from: str
    error: Deviation | None
    spread: Deviation | None
    held_bytes: NonNegativeInt | None
    findings: list[Cause]
    layers: list[LayerShare]
    remedies: list[Remedy]
    chosen: str | None
    recipe: str | None
    command: str | None

    @property
    def cure(self) -> Remedy | None:
        """The cheapest remedy that helps; None: none does, or nothing is wrong."""
        return next((one for one in self.remedies if one.name == self.chosen), None)
