"""Videos inside the page: which ones, how many bytes, and where two of them part."""

from __future__ import annotations

import base64
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from extras import needs
from made_runs import PARTING_STEP, write_run

from vlapack.errors import InputError
from vlapack.report.episodes import episodes
from vlapack.report.runs import Run
from vlapack.report.videos import Budget, parting


def clip(levels: list[int]) -> np.ndarray:
    return np.array([np.full((32, 64), level) for level in levels], dtype=float)


def test_the_first_visible_difference_is_where_two_videos_part() -> None:
    one, other = clip([50] * 6), clip([50] * 6)
    other[2] += 10  # what compression may do
    other[4, :10, :10] += 90
    assert parting(one, other) == 4


def test_one_block_alone_is_no_difference() -> None:
    one, other = clip([50] * 3), clip([50] * 3)
    other[1, 0, 0] += 200
    assert parting(one, other) is None


def test_a_shorter_video_parts_at_its_end() -> None:
    assert parting(clip([50] * 3), clip([50] * 5)) == 3


def test_the_step_at_which_policies_part_is_marked(run_with_videos: Path) -> None:
    run = Run.read(run_with_videos)
    [comparison] = run.comparisons
    worst = comparison.disagreements()[0]
    watched = Budget(10**7, run_with_videos / "report.html").watch(run, worst)
    assert watched.parts == PARTING_STEP
    assert watched.packed is not None
    assert watched.packed.still is not None
    assert base64.b64decode(watched.packed.still).startswith(b"\xff\xd8")


def test_a_video_of_every_fifth_step_names_the_step_too(tmp_path: Path) -> None:
    needs("imageio_ffmpeg", remedy="pip install '.[report]'")
    run = Run.read(write_run(tmp_path / "run", videos=True, film_every=5))
    watched = Budget(10**7, tmp_path / "report.html").watch(run, run.comparisons[0].disagreements()[0])
    assert watched.parts == PARTING_STEP


def test_the_budget_goes_to_the_worst_and_the_others_are_links(run_with_videos: Path, tmp_path: Path) -> None:
    [comparison] = Run.read(run_with_videos).comparisons
    sizes = [path.stat().st_size for path in (run_with_videos / "videos").rglob("*.mp4")]
    budget = Budget(4 * max(sizes) * 4 // 3 + 16, tmp_path / "page" / "report.html")
    shown = episodes([comparison], budget)
    inside = [row.inside for row in shown.rows]
    assert inside[0]
    assert inside == sorted(inside, reverse=True)
    assert not all(inside)
    linked = next(row.watched.packed for row in shown.rows if not row.inside)
    assert linked is not None
    assert linked.link is not None
    assert (tmp_path / "page" / linked.link).resolve().is_file()
    assert any("more would have made it larger than its budget" in note for note in shown.notes)


def test_a_video_inside_is_the_file_byte_for_byte(run_with_videos: Path) -> None:
    run = Run.read(run_with_videos)
    pair = run.comparisons[0].pairs[0]
    watched = Budget(10**7, run_with_videos / "report.html").watch(run, pair)
    assert pair.packed is not None
    assert pair.packed.video is not None
    assert watched.packed is not None
    assert watched.packed.data is not None
    assert base64.b64decode(watched.packed.data) == (run_with_videos / pair.packed.video).read_bytes()


@pytest.mark.parametrize("name", ["../secret.mp4", "/etc/passwd", "episodes.jsonl"])
def test_no_file_outside_of_the_videos_gets_into_the_page(tmp_path: Path, name: str) -> None:
    folder = write_run(tmp_path / "run")
    (tmp_path / "secret.mp4").write_text("secret")
    rows = [json.loads(line) for line in (folder / "episodes.jsonl").read_text().splitlines()]
    rows[0]["video"] = name
    (folder / "episodes.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    run = Run.read(folder)
    with pytest.raises(InputError, match=r"no \.mp4 file below"):
        episodes(run.comparisons, Budget(10**6, tmp_path / "report.html"))


def test_a_link_out_of_the_run_is_not_followed(run_with_videos: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(run_with_videos, folder)
    secret = tmp_path / "secret.mp4"
    secret.write_text("secret")
    video = next((folder / "videos" / "libero_spatial_0").glob("*.mp4"))
    video.unlink()
    video.symlink_to(secret)
    run = Run.read(folder)
    with pytest.raises(InputError, match=r"no \.mp4 file below"):
        episodes(run.comparisons, Budget(10**6, tmp_path / "report.html"))


def test_a_video_that_is_none_has_no_still_and_names_no_step(run_with_videos: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(run_with_videos, folder)
    for path in (folder / "videos").rglob("*.mp4"):
        path.write_text("#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n")  # a playlist, which ffmpeg would follow
    run = Run.read(folder)
    watched = Budget(10**7, tmp_path / "report.html").watch(run, run.comparisons[0].disagreements()[0])
    assert watched.parts is None
    assert watched.packed is not None
    assert watched.packed.still is None


def test_videos_that_were_removed_are_said(run_with_videos: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(run_with_videos, folder)
    shutil.rmtree(folder / "videos")
    shown = episodes(Run.read(folder).comparisons, Budget(10**7, tmp_path / "report.html"))
    assert any("are not in its folder any more" in note for note in shown.notes)
