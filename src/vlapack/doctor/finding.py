"""What a check tells: good or wrong, what was found, and what to do."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        name: what.
        ok: whether vlapack can work with it.
        value: what was found.
        remedy: what to do; None where there is nothing to do.
    """

    name: str
    ok: bool
    value: str
    remedy: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """JSON form."""
        return asdict(self)
