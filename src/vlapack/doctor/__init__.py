"""What is wrong with a machine, an installation or a policy, and what to type."""

from __future__ import annotations

from vlapack.doctor.finding import Finding
from vlapack.doctor.findings import examine, waiting_threads

__all__ = ["Finding", "examine", "waiting_threads"]
