"""What a command shows of an evaluation that is finished: a table, a few sentences, or one JSON document."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vlapack.console import emit_json, emit_text, say, spelled


def show_results(found: Mapping[str, Any], out: Path, *, json: bool) -> int:
    """Print what `conclusions.conclude_all` found; return the exit code.

    Args:
        found: the `summary.json` of an evaluation or of a sweep.
        out: its folder.
        json: write it to stdout instead of a table.
    """
    from vlapack.evaluate.summary import FAILED_VERDICTS
    from vlapack.evaluate.table import print_table, sentences

    if json:
        emit_json(found)
    else:
        summaries: dict[str, Any] = dict(found.get("policies") or {found["policy"]: found})
        baselines = dict.fromkeys(summary["baseline"] for summary in summaries.values())
        for baseline in baselines:
            # In a sweep, a baseline has its row above those compared with it.
            sweep = len(summaries) > 1
            group = {
                name: summary
                for name, summary in summaries.items()
                if summary["baseline"] == baseline and not (sweep and baseline is None and name in baselines)
            }
            if not group:
                continue
            first = next(iter(group.values()))
            counts = sorted({summary["episodes"] for summary in group.values()})
            print_table(f"{first['suite']}, episodes: {' to '.join(map(str, counts[:1] + counts[1:][-1:]))}", group)
            for name, summary in group.items():
                for said in sentences(summary):
                    emit_text((f"{name}: " if sweep else "") + spelled(said))
        emit_text(str(out))
    if (remedy := FAILED_VERDICTS.get(found["verdict"])) is not None:
        say(f"failed: {remedy}")
        return 1
    return 0
