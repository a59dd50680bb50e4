"""The notebook is the first thing that many people run: it must run from top to bottom, and keep no old outputs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from extras import needs

NOTEBOOK = Path(__file__).parents[2] / "examples" / "quickstart.ipynb"


def test_no_output_is_kept_that_another_version_computed() -> None:
    cells = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
    assert [cell for cell in cells if cell.get("outputs") or cell.get("execution_count")] == []


@pytest.mark.slow
def test_it_runs_from_top_to_bottom_and_shows_what_it_promises(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    needs("nbclient", "ipykernel", "matplotlib", remedy="pip install '.[docs,dev]'")
    import nbformat
    from nbclient import NotebookClient

    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    NotebookClient(notebook, timeout=900, resources={"metadata": {"path": str(tmp_path)}}).execute()
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    said = "".join(output.text for output in outputs if output.output_type == "stream" and output.name == "stdout")
    assert "the pack moves a chunk by" in said
    assert "cosine of the chunks: 0.9" in said
    assert any("image/png" in output.get("data", {}) for output in outputs)
