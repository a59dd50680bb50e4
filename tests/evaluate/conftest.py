from __future__ import annotations

import sys
from pathlib import Path

# Spawned workers import the fake simulators by name, and inherit this path.
sys.path.insert(0, str(Path(__file__).parent))
