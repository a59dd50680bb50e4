"""The page as a text: what it says, what it keeps out, and that nothing from a file becomes markup."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from extras import needs
from made_runs import HOSTILE, benched, compared, write_run

from vlapack.report.report import write_report

needs("matplotlib", "jinja2", remedy="pip install '.[report]'")


class Reader(HTMLParser):
    """Collects tags, attributes and visible text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.said: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.said.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.said).split())


def written(tmp_path: Path, *inputs: str) -> str:
    out = tmp_path / "report.html"
    write_report(inputs, out, command="vlapack report RUN --out report.html")
    return out.read_text(encoding="utf-8")


def test_nothing_from_a_file_becomes_markup(tmp_path: Path) -> None:
    run = write_run(
        tmp_path / "run",
        suite=HOSTILE,
        name=HOSTILE,
        baseline=HOSTILE,
        packed_wins=(None, True, False, True, True, False),
    )
    rows = [json.loads(line) for line in (run / "episodes.jsonl").read_text().splitlines()]
    for row in rows:
        row["error"] = row["error"] and HOSTILE
    (run / "episodes.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    document = {**compared(), "policy": HOSTILE, "data": HOSTILE}
    document["dimensions"][0]["name"] = HOSTILE
    (tmp_path / "c.json").write_text(json.dumps(document))
    timed = benched()
    timed["cpu"] = timed["policy"]["name"] = HOSTILE
    (tmp_path / "b.json").write_text(json.dumps(timed))
    page = Reader(written(tmp_path, str(run), str(tmp_path / "c.json"), str(tmp_path / "b.json")))
    assert not [tag for tag, _ in page.tags if tag == "img"]
    assert not [name for _, attrs in page.tags for name in attrs if name.startswith("on")]
    assert sum(tag == "script" for tag, _ in page.tags) == 2
    assert "onerror=alert(1)>" in page.text


def test_the_page_loads_nothing_and_runs_one_known_script(tmp_path: Path) -> None:
    text = written(tmp_path, str(write_run(tmp_path / "run")))
    assert not re.findall(r"https?:", text)
    policy = next(attrs["content"] for tag, attrs in Reader(text).tags if attrs.get("http-equiv"))
    script = re.findall(r"<script>(.*?)</script>", text, re.DOTALL)
    assert len(script) == 1
    digest = base64.b64encode(hashlib.sha256(script[0].encode()).digest()).decode()
    assert policy is not None
    assert f"'sha256-{digest}'" in policy
    assert policy.startswith("default-src 'none'")


def test_the_answer_comes_first_with_its_numbers(tmp_path: Path) -> None:
    page = Reader(written(tmp_path, str(write_run(tmp_path / "run"))))
    head = page.text[page.text.index("May I ship this pack?") :]
    assert re.match(r"May I ship this pack\? Not yet\. Too few episodes to exclude a loss of 10 points", head)
    assert "Success 66.7 % packed, 83.3 % float" in head
    assert "About 385 more pairs (391 in all, from different starts) tell a drop of 10 points from none" in head


def test_every_section_without_data_names_the_command_that_provides_it(tmp_path: Path) -> None:
    (tmp_path / "b.json").write_text(json.dumps(benched()))
    text = written(tmp_path, str(tmp_path / "b.json"))
    missing = re.findall(r'<p class="missing">(.*?)</p>', text, re.DOTALL)
    said = [re.sub(r"<.*?>", "", line) for line in missing if "JavaScript" not in line]
    assert len(said) == 9, said
    commands = ("vlapack eval", "vlapack compare", "vlapack tune", "give the pack", "--data DIR")
    assert all(any(command in line for command in commands) for line in said), said


def test_charts_stand_only_where_there_is_data(tmp_path: Path) -> None:
    text = written(tmp_path, str(write_run(tmp_path / "run")))
    charts = re.findall(r'<section id="(\w+)".*?</section>', text, re.DOTALL)
    assert {"success", "actions", "memory", "times", "errors", "outliers", "bits"} <= set(charts)
    assert text.count("<svg") == 2, "the forest plot, in two widths"


@pytest.mark.parametrize("words", ["fingerprint", "seed", "simulator", "threads", "versions", "command"])
def test_the_page_says_where_it_is_from(tmp_path: Path, words: str) -> None:
    run = write_run(tmp_path / "run", finished=3)
    page = Reader(written(tmp_path, str(run)))
    if words == "fingerprint":
        assert "policy: weights" in page.text
    else:
        assert words in page.text[page.text.index("Where this is from") :]


def test_a_run_under_way_says_so_at_the_top(tmp_path: Path) -> None:
    page = Reader(written(tmp_path, str(write_run(tmp_path / "run", finished=4))))
    assert page.text.index("stopped after 10 of 12 episodes") < page.text.index("Success, task by task")


def test_several_runs_each_get_an_answer(tmp_path: Path) -> None:
    runs = [str(write_run(tmp_path / name, name=name)) for name in ("one", "two")]
    page = Reader(written(tmp_path, *runs))
    assert sum(attrs.get("class", "").startswith("answer") for tag, attrs in page.tags if tag == "section") == 2
    assert {"Answer for one", "Answer for two"} <= {attrs.get("aria-label") for _, attrs in page.tags}


def test_names_that_are_no_text_do_not_stop_the_page(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run\udcff")
    assert "run" in written(tmp_path, str(folder))


def test_a_report_that_fails_leaves_the_old_page(tmp_path: Path) -> None:
    out = tmp_path / "report.html"
    out.write_text("old")
    with pytest.raises(ValueError, match="there is no"):
        write_report(["nothing"], out)
    assert out.read_text() == "old"
    assert list(tmp_path.iterdir()) == [out]
