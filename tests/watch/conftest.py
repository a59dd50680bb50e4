from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from growing import Growing


@pytest.fixture
def growing(tmp_path: Path) -> Growing:
    """A run of twelve episodes, of which none has ended."""
    return Growing(tmp_path)
