"""How fast is π0.5 on this card, are its integers right, and what could the card do at best? `make bench-gpu`.

First every kernel's integers against the reference's, on the card: a wrong one ends the run. Then the products at the
network's shapes, cold and warm, beside torch's own; then whole chunks in captured graphs, beside openpi's class. All on
random weights made on the card: they cost the same time and memory as real ones. It imports torch, Triton and numpy and
no other package, so that it runs where nothing else is installed (`scripts/device_check.sh`).

`VLAPACK_BENCH_DRY=1` runs all of it on `dry.DryCard`, a card that computes on the CPU and has no clock of its own.
"""

from __future__ import annotations

import sys
from pathlib import Path

import vlapack  # noqa: F401  sets how OpenMP waits: before torch reads it

sys.path.insert(0, str(Path(__file__).parents[2] / "scripts"))  # the gate's peaks and floors
