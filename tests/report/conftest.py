from __future__ import annotations

from pathlib import Path

import pytest
from extras import needs
from made_runs import write_run


@pytest.fixture(scope="session")
def run_with_videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two tasks, in which the policies of some episodes part ways at step 15; do not write into it."""
    needs("imageio_ffmpeg", remedy="pip install '.[report]'")
    return write_run(tmp_path_factory.mktemp("runs") / "full", videos=True)
