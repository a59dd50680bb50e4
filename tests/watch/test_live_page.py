"""The page that follows a run, as a text: when it is composed, what is in it, and what is left to the server."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from pathlib import Path

import pytest
from extras import needs
from growing import Clock, Growing
from made_runs import HOSTILE, benched

from vlapack.evaluate.plan import Plan
from vlapack.report.evidence import Evidence, gather
from vlapack.report.report import Composer
from vlapack.watch import live_page
from vlapack.watch.board import Board
from vlapack.watch.followed import Followed
from vlapack.watch.live_page import LivePage
from vlapack.watch.standing import standing

needs("matplotlib", "jinja2", remedy="pip install '.[report]'")


class Shown:
    """A run, its board and what puts it there."""

    def __init__(self, folder: Path, evidence: Evidence | None = None) -> None:
        self.run = Followed(folder, keep=True)
        self.board = Board()
        self.page = LivePage(self.run, Composer(evidence or Evidence(), command="vlapack watch RUN --page"), self.board)
        self.show()

    def show(self) -> str:
        """Look and put up; return the page."""
        self.run.look()
        self.page.show(standing(self.run))
        return self.board._page.decode()

    @property
    def state(self) -> dict[str, object]:
        return dict(self.board.next_state(None, 0.0) or {})


def test_a_run_without_episodes_has_a_page(growing: Growing) -> None:
    shown = Shown(growing.folder)
    text = shown.show()
    assert "No episode has ended yet." in text
    assert "No episode has failed yet." in text
    assert str(shown.state["says"]).endswith(
        "stopped after 0 of 12 episodes. No process is writing there; the same command again plays the rest"
    )


def test_the_page_is_composed_again_only_while_somebody_reads_it(
    growing: Growing, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock()
    monkeypatch.setattr(live_page.time, "monotonic", clock)
    growing.play(2)
    shown = Shown(growing.folder)
    first = shown.state["version"]
    growing.play()
    shown.show()
    assert shown.state["version"] == first, "nobody reads"
    assert "3 of 12 episodes" in str(shown.state["says"]), "how far it is costs nothing"
    assert shown.board.enter(1)
    shown.show()
    assert shown.state["version"] == first, "it is too soon"
    clock.now += live_page.SECONDS_BETWEEN_PAGES
    shown.show()
    second = shown.state["version"]
    assert second != first
    clock.now += 100
    shown.show()
    assert shown.state["version"] == second, "nothing is new"


def test_failures_come_first_and_their_videos_from_the_server(tmp_path: Path) -> None:
    needs("imageio_ffmpeg", remedy="pip install '.[report]'")
    growing = Growing(tmp_path, videos=True)
    growing.play(12)
    (growing.folder / "videos" / "libero_spatial_0" / "eval_episode_2.mp4").unlink()
    text = Shown(growing.folder).show()
    assert text.index('id="worst"') < text.index('id="episodes"') < text.index('id="success"')
    assert 'src="./file/videos/libero_spatial_1/eval_episode_2.mp4"' in text
    assert "libero_spatial_0/eval_episode_2.mp4" not in text.replace("baseline/libero_spatial_0", ""), "it is gone"
    assert '<script type="application/json" id="videos">{}</script>' in text
    assert "part ways at" not in text, "nobody has compared the pictures"


def test_failures_are_told_apart_and_counted_at_the_top(growing: Growing) -> None:
    row = json.loads(growing.lines[0])
    played = (
        ("baseline", 0, True),
        ("baseline", 1, False),
        ("baseline", 2, False),
        ("policy", 0, False),
        ("policy", 1, False),
    )
    for role, state, won in played:
        growing.write(json.dumps(row | {"role": role, "init_state": state, "success": won}).encode() + b"\n")
    text = Shown(growing.folder).show()
    worst = text[text.index('id="worst"') : text.index('id="episodes"')]
    found = re.findall(r"<h3>(.*?)</h3>|<article .*?aria-label=\"(.*?)\"", worst)
    assert [heading or title.partition(": ")[0] for heading, title in found] == [
        "Only float succeeds",
        "libero_spatial task 0 init state 0",
        "Both fail",
        "libero_spatial task 0 init state 1",
        "Float fails, and packed has not played it yet",
        "libero_spatial task 0 init state 2",
    ]
    assert "In 1 of 2 pairs only the float policy succeeds, in 0 only the packed one; both fail in 1." in text
    links = re.findall(r'<a href="#(pair-.*?)">', text)
    assert len(links) == 1
    assert f'id="{links[0]}"' in worst


def test_one_known_script_runs_and_only_this_server_is_asked(growing: Growing) -> None:
    growing.play(12)
    text = Shown(growing.folder).show()
    policy = re.findall(r'Content-Security-Policy" content="([^"]*)"', text)[0]
    [script] = re.findall(r"<script>(.*?)</script>", text, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in policy
    assert "media-src 'self'; connect-src 'self'" in policy
    assert not re.findall(r"https?:", text)


def test_nothing_from_a_file_becomes_markup(tmp_path: Path) -> None:
    growing = Growing(tmp_path, suite=HOSTILE, name=HOSTILE, baseline=HOSTILE)
    growing.play(11)
    shown = Shown(growing.folder)
    assert "<img" not in shown.show()
    assert HOSTILE in json.dumps(shown.state, ensure_ascii=False).replace('\\"', '"').replace("\\\\", "\\")


def test_what_does_not_follow_from_the_run_stays_on_the_page(growing: Growing, tmp_path: Path) -> None:
    (tmp_path / "b.json").write_text(json.dumps(benched()))
    growing.play(7)
    shown = Shown(growing.folder, gather([str(tmp_path / "b.json")]))
    assert "int8 products" in shown.show()
    assert "not measured" not in shown.show()


def test_every_pack_of_a_sweep_has_its_answer(tmp_path: Path) -> None:
    policies = {
        "a": {"name": "a", "weights": "1", "against": ""},
        "a+full": {"name": "a+full", "weights": "2", "against": "a"},
        "a+dit": {"name": "a+dit", "weights": "4", "against": "a"},
    }
    plan = Plan(tasks=(("libero_spatial", 0),), init_states=(0, 1), policies=policies)
    growing = Growing(tmp_path)
    (growing.folder / "plan.json").write_text(json.dumps(plan.to_dict()))
    row = json.loads(growing.lines[0])
    for role, state, won in (("a", 0, True), ("a", 1, False), ("a+full", 0, False)):
        growing.write(json.dumps(row | {"role": role, "init_state": state, "success": won}).encode() + b"\n")
    text = Shown(growing.folder).show()
    assert re.findall(r'aria-label="Answer for (.*?)"', text) == ["a+full", "a+dit"]
    titles = re.findall(r'<article class="pair".*?aria-label="(.*?)"', text)
    assert titles == [
        "libero_spatial task 0 init state 0: only float succeeds",
        "libero_spatial task 0 init state 1: the packed policy has not played it",
    ]
