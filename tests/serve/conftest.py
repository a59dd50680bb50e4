"""A server on a thread of its own, around the random policy or a fake."""

from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

if find_spec("websockets") is None or find_spec("msgpack") is None:
    collect_ignore_glob = ["test_*.py"]
else:
    sys.path.insert(0, str(Path(__file__).parent))

    from vlapack.policy.policy import Policy

    @pytest.fixture(scope="session")
    def policy(random_checkpoint: Path) -> Policy:
        """The random policy; its own noise generator is nobody's business here."""
        return Policy.from_pretrained(random_checkpoint)
