"""The tools that benchmarks/rivals.py compares with: what is installed of each, and the process that runs it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from common.results import ROOT

from vlapack.console import say
from vlapack.errors import WorkError

WORKERS = ROOT / "benchmarks" / "rival_workers"
TORCH = "torch==2.13.0"
FOR_GGML = "-DGGML_BUILD_TESTS=OFF -DGGML_BUILD_EXAMPLES=OFF -DGGML_LLAMAFILE=ON"
"""ggml alone, for this very CPU; llama.cpp has llamafile's products, too."""


@dataclass(frozen=True)
class Tool:
    """A rival.

    Attributes:
        requirements: pinned, from PyPI; none: it runs in this process's environment.
        worker: its file in `WORKERS`, and arguments.
        building: variables of the environment while it is installed.
    """

    requirements: tuple[str, ...]
    worker: tuple[str, ...]
    building: Mapping[str, str] = field(default_factory=dict)


OURS = "vlapack"
TOOLS = {
    OURS: Tool((), ("our_worker.py",)),
    "openvino": Tool(("openvino==2026.4.1", "numpy==2.4.6"), ("openvino_worker.py",)),
    "onnxruntime": Tool(("onnxruntime==1.32.0", "onnx==1.23.2", "numpy==2.4.6"), ("onnxruntime_worker.py",)),
    "onednn": Tool((TORCH, "numpy==2.4.6"), ("torch_worker.py", "onednn")),
    "zentorch": Tool((TORCH, "zentorch==2.13.0.2", "numpy==2.4.6"), ("torch_worker.py", "zentorch")),
    "ggml": Tool(("ggml-python==0.0.45", "numpy==2.4.6"), ("ggml_worker.py",), {"CMAKE_ARGS": FOR_GGML}),
}


def environment(name: str, folder: Path, torch_index: str = "") -> Path:
    """Return the Python of a tool's environment, which is made where there is none or where the versions changed.

    Args:
        name: of `TOOLS`.
        folder: of all environments.
        torch_index: where torch's wheels come from; empty: pip's own choice.

    Raises:
        WorkError: pip could not install it; with the last line of what it said.
    """
    tool, place = TOOLS[name], folder / name
    if not tool.requirements:
        return Path(sys.executable)
    python, note = place / "bin" / "python", place / "installed.txt"
    wanted = "\n".join((*tool.requirements, *tool.building.values()))
    if note.exists() and note.read_text(encoding="utf-8") == wanted:
        return python
    say(f"installing {' '.join(tool.requirements)}")
    subprocess.run([sys.executable, "-m", "venv", "--clear", str(place)], check=True)
    torch, rest = ([each for each in tool.requirements if (each == TORCH) is first] for first in (True, False))
    for requirements, index in ((torch, torch_index), (rest, "")):
        if not requirements:
            continue
        words = [str(python), "-m", "pip", "install", "--quiet", *requirements]
        words += ["--index-url", index] if index else []
        done = subprocess.run(words, env={**os.environ, **tool.building}, capture_output=True, text=True, check=False)
        if done.returncode:
            lines = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
            raise WorkError(f"pip cannot install {' '.join(requirements)}: {' '.join(lines)[-500:]}")
    note.write_text(wanted, encoding="utf-8")
    return python


class Worker:
    """A tool's process (rival_workers/rival_serving.py).

    Args:
        name: of `TOOLS`.
        python: of its environment.
        threads: that compute.

    Attributes:
        versions: of the packages that compute.
    """

    def __init__(self, name: str, python: Path, threads: int) -> None:
        self.name, self.threads = name, threads
        file, *arguments = TOOLS[name].worker
        # Ours imports `common`, the others find what they share beside themselves.
        path = {"PYTHONPATH": str(WORKERS.parent)} if name == OURS else {}
        self._process = subprocess.Popen(
            [str(python), str(WORKERS / file), *arguments],
            env={**os.environ, **path, "OMP_NUM_THREADS": str(threads)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.versions: dict[str, str] = self._answer()["versions"]

    def ask(self, **request: Any) -> dict[str, Any]:
        """Send a request and wait for the answer.

        Raises:
            WorkError: the process ended.
        """
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            pass  # the answer says how it ended
        return self._answer()

    def stop(self) -> None:
        """End the process."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise WorkError(f"{self.name} ended with exit code {self._process.wait()}")
        found: dict[str, Any] = json.loads(line)
        return found


def stop(workers: Sequence[Worker]) -> None:
    """End all of them."""
    for worker in workers:
        worker.stop()
