"""`vlapack clean`: what interrupted runs left behind."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import tyro

from vlapack.console import emit_json, emit_text
from vlapack.errors import InputError


def clean(
    folders: tyro.conf.Positional[tuple[Path, ...]] = (Path(),),
    *,
    yes: bool = False,
    json: bool = False,
) -> int:
    """List the unfinished packs (`NAME.partial/`) in and below folders; with --yes, remove them.

    The `vlapack quantize` command that began such work would continue it, so remove only what you no longer need. Work
    in use by a running process is never removed.

    Args:
        folders: Where to look, or the `.partial` folders themselves.
        yes: Remove what is listed.
        json: Write one JSON document to stdout instead of text.
    """
    from vlapack.checkpoints.pack.writer import leftovers
    from vlapack.files import is_claimed, sweep

    found = []
    for folder in folders:
        if not folder.is_dir():
            raise InputError(f"there is no folder {folder}")
        found += leftovers(folder)
    rows: list[dict[str, Any]] = []
    for partial in found:
        size = sum(path.stat().st_blocks * 512 for path in partial.rglob("*") if path.is_file())
        busy = not sweep(partial) if yes else is_claimed(partial)
        rows.append({"path": str(partial), "bytes": size, "state": "in use" if busy else "removed" if yes else "left"})
    if json:
        emit_json({"leftovers": rows})
        return 0
    for row in rows:
        emit_text(f"{row['state']:8s}{row['bytes'] / 1e6:10.1f} MB  {row['path']}")
    if not rows:
        emit_text("nothing is left over")
    elif not yes:
        emit_text("--yes removes these; the command that began one continues it")
    return 0
