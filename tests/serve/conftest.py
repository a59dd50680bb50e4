"""A server on a thread of its own, around the random policy or a fake."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from vlapack.policy.policy import Policy

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(scope="session")
def policy(random_checkpoint: Path) -> Policy:
    """The random policy; its own noise generator is nobody's business here."""
    return Policy.from_pretrained(random_checkpoint)
