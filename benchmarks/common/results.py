"""Where a benchmark's figures go: finished rows at once, the JSON of all of them, and a table in the docs."""

from __future__ import annotations

import datetime
import json
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vlapack.machine.cpu import describe_machine

ROOT = Path(__file__).parents[2]
FIRST_POLICY = ROOT / "tests" / "data" / "tiny-libero-1"
"""Version 1 of tiny-libero: results that were measured on it are reproduced with it, whatever ships by then."""
FIRST_OBSERVATIONS = FIRST_POLICY / "observations"
"""Those that came with it."""


class Rows:
    """Finished rows: a result's, then those of a file of lines; a kill loses none, and two processes may share it."""

    def __init__(self, result: Path, file: Path) -> None:
        self._of_result = read_rows(result) if result.exists() else []
        self._file = file
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()

    def read(self) -> list[dict[str, Any]]:
        """Return all rows, those of the result first."""
        return [*self._of_result, *(json.loads(line) for line in self._file.read_text(encoding="utf-8").splitlines())]

    def add(self, row: dict[str, Any]) -> None:
        """Keep a row."""
        with self._file.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")


def isa() -> str:
    """Return what the active engine multiplies with, by which files are named whose figures depend on it."""
    from vlapack.ops import engine

    return engine.kernels.isa() if engine.active() == "cpu" else "reference"


def stamp() -> dict[str, Any]:
    """Return what measured, when, and which code: the fields that every result begins with."""
    import torch  # pages are filled without it

    commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, check=True, capture_output=True, text=True)
    return {
        "machine": describe_machine(),
        "torch": torch.__version__,
        "date": datetime.datetime.now(datetime.timezone.utc).date().isoformat(),
        "commit": commit.stdout.strip(),
    }


def origin() -> dict[str, str]:
    """Return the same in three words, for a row of a result that several machines and days have made."""
    here = stamp()
    return {"family": here["machine"]["family"], "date": here["date"], "commit": here["commit"]}


def write_result(file: Path, rows: Sequence[dict[str, Any]], **facts: Any) -> None:
    """Write the JSON of a benchmark: what measured it when, facts about all rows, and the rows."""
    lines = ",\n".join(f"  {json.dumps(row, ensure_ascii=False, allow_nan=False)}" for row in rows)
    head = json.dumps({**stamp(), **facts}, indent=1, ensure_ascii=False).removesuffix("\n}")
    file.write_text(f'{head},\n "rows": [\n{lines}\n ]\n}}\n', encoding="utf-8")


def keep(document: dict[str, Any], file: Path) -> None:
    """Write a benchmark's one document to its file and to stdout."""
    text = json.dumps(document, indent=2) + "\n"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    sys.stdout.write(text)


def read_rows(file: Path) -> list[dict[str, Any]]:
    """Return the rows of a result."""
    rows: list[dict[str, Any]] = json.loads(file.read_text(encoding="utf-8"))["rows"]
    return rows


def write_between(page: Path, marker: str, text: str) -> None:
    """Put `text` into a page wherever it has `<!-- marker -->`.

    A marker at the end of its line begins a table, which ends at `<!-- /marker -->`. Any other begins a figure, which
    ends at `<!-- / -->`.

    Raises:
        ValueError: the page has no such marker, or one that does not end.
    """
    begin = re.escape(f"<!-- {marker} -->")
    table = re.compile(rf"{begin}\n.*?<!-- /{re.escape(marker)} -->", re.DOTALL)
    figure = re.compile(rf"{begin}(?!\n).*?<!-- / -->")
    before = page.read_text(encoding="utf-8")
    after, tables = table.subn(lambda _: f"<!-- {marker} -->\n{text}\n<!-- /{marker} -->", before)
    after, figures = figure.subn(lambda _: f"<!-- {marker} -->{text}<!-- / -->", after)
    if tables + figures != before.count(f"<!-- {marker} -->") or not tables + figures:
        raise ValueError(f"{page}: `<!-- {marker} -->` is missing, or does not end")
    page.write_text(after, encoding="utf-8")
