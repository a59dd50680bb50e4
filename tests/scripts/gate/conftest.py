"""The gate is a package beside the scripts, and uses one of the benchmarks'; both are put on the path as they do it."""

from __future__ import annotations

import sys
from pathlib import Path

HERE = Path(__file__).parent
for folder in (HERE.parents[2] / "benchmarks", HERE.parents[2] / "scripts", HERE):
    sys.path.insert(0, str(folder))
