"""`vlapack report`: one HTML page that answers whether a pack may be shipped, from what the other commands wrote."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import tyro

from vlapack.commands.eval import eval as eval_command
from vlapack.commands.shared_flags import CheckpointFlags, Flat
from vlapack.commands.spelling import line
from vlapack.console import emit_json, emit_text, say, spelled
from vlapack.errors import InputError

MOST_VIDEO_MB = 2000


def report(
    inputs: tyro.conf.Positional[
        Annotated[tuple[str, ...], tyro.conf.arg(metavar="RUN|PACK|FLOAT|FILE", help_behavior_hint="")]
    ],
    *,
    out: Annotated[Path, tyro.conf.arg(metavar="PAGE")],
    data: Path | None = None,
    video_mb: float = 25.0,
    json: bool = False,
    flags: Flat[CheckpointFlags] = CheckpointFlags(),  # noqa: B008  (frozen)
) -> int:
    """Write one self-contained HTML page that answers "may I ship this pack?".

    The page opens from disk and loads nothing. INPUTS are recognized by what they are, in any order: folders that
    `vlapack eval` wrote (even while it is still running), packs, their float parent, what `vlapack compare --json`,
    `bench --json`, `inspect --json` and `diagnose --json` wrote, and the frontier of a tuning (NAME.frontier.json).
    What is missing is named on the page, with the command that provides it.

        vlapack report outputs/eval/full --out report.html
        vlapack report outputs/eval/full packs/tiny-full tiny-libero compare.json diagnosis.json --out report.html

    Args:
        inputs: Runs, packs, their float parent, JSON documents.
        out: The file to write; an older one is replaced.
        data: Recorded observations (as --calib of `quantize`). The pack acts on two of them, to show its outliers.
        video_mb: Megabytes of video to embed in the page, pairs that ended differently first; the others become links.
            With 0, all of them are links.
        json: Write the answers as one JSON document to stdout instead of text.
        flags: What the parent's folder does not say.
    """
    if not inputs:
        raise InputError("nothing to report on: give a folder that `vlapack eval` wrote")
    if not 0 <= video_mb <= MOST_VIDEO_MB:
        raise InputError(f"--video-mb {video_mb:g}: give 0 to {MOST_VIDEO_MB}; browsers refuse larger pages")
    if out.is_dir():
        raise InputError(f"--out {out} is a folder; give the file to write, such as {out / 'report.html'}")
    if not out.absolute().parent.is_dir():
        raise InputError(f"--out {out}: there is no folder {out.absolute().parent}; make it first")

    from vlapack.report.report import write_report

    headlines = write_report(
        inputs,
        out,
        data=data,
        video_bytes=round(1e6 * video_mb),
        command=line(report, inputs, {"out": out, "data": data, **flags.checkpoint_options()}),
        options=flags.checkpoint_options(),
        shell_line=lambda policy, settings: line(eval_command, [policy], settings),
    )
    if json:
        answers = [{"policy": one.policy, "baseline": one.baseline, **vars(one.answer)} for one in headlines]
        emit_json({"page": str(out), "bytes": out.stat().st_size, "answers": answers})
        return 0
    for headline in headlines:
        emit_text(spelled(f"{headline.policy}: {headline.answer.short}. {headline.answer.reason}"))
    say(f"{out.stat().st_size / 1e6:.1f} MB")
    emit_text(str(out))
    return 0
