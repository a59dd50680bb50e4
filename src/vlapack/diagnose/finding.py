"""What a diagnosis says: a cause, the numbers that show it, and what helps."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Severity = Literal["critical", "major", "minor", "undecided"]
ORDER: tuple[Severity, ...] = ("critical", "major", "minor", "undecided")


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong, or that could not be decided.

    Attributes:
        severity: `critical`: no figure means anything until it is repaired; `major`: it puts the action error above the
            target, or most of it comes from there; `minor`: it is so, and does not explain the error; `undecided`: the
            evidence does not say.
        kind: a word for programs.
        cause: what is wrong, in one sentence.
        evidence: the numbers, in words.
        remedy: what helps.
        numbers: the same for programs.
        layers: the layers that it is about.
    """

    severity: Severity
    kind: str
    cause: str
    evidence: str
    remedy: str
    numbers: Mapping[str, Any] = field(default_factory=dict)
    layers: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form."""
        return {
            "severity": self.severity,
            "kind": self.kind,
            "cause": self.cause,
            "evidence": self.evidence,
            "remedy": self.remedy,
            "numbers": dict(self.numbers),
            "layers": list(self.layers),
        }


def by_severity(findings: Iterable[Finding]) -> list[Finding]:
    """Return findings, the worst first; those that are equally bad in the order in which they were found."""
    return sorted(findings, key=lambda one: ORDER.index(one.severity))
