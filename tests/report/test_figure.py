"""Charts inside a page: text from files stays text, and two charts do not share names."""

from __future__ import annotations

import re
from importlib.resources import files
from xml.etree import ElementTree

from extras import needs

from vlapack.drawing.figure import _LIGHT, _VARIABLES, short
from vlapack.report.charts import ForestRow, before_and_after, categories, forest, heat, stacked

needs("matplotlib", "jinja2", remedy="pip install '.[report]'")

HOSTILE = '<script>x</script> $a^2$ & "\u202e'


def test_a_name_in_a_chart_stays_text() -> None:
    drawn = stacked({HOSTILE: {HOSTILE: 1.0}}, "MB").wide
    root = ElementTree.fromstring(drawn)
    texts = ["".join(node.itertext()) for node in root.iter() if node.tag.endswith("text")]
    assert any("<script>x</script> $a^2$" in text for text in texts)
    assert "\u202e" not in drawn
    assert not [node for node in root.iter() if node.tag.endswith("script")]


def test_no_placeholder_color_and_no_font_of_matplotlibs_is_left() -> None:
    row = ForestRow("task", None, None, None)
    charts = [forest([row], 0.1), heat({"llm": {("q", 0): 0.1}}, "error"), before_and_after([1.0, 2.0], [1.0, 1.0])]
    text = "".join(chart.wide + chart.narrow for chart in charts)
    assert not [color for color in _VARIABLES if color in text]
    assert "DejaVu" not in text
    assert "var(--heat)" in text


def test_files_have_the_colors_of_the_page_in_light() -> None:
    css = (files("vlapack") / "report" / "templates" / "page.css").read_text()
    for placeholder, name in _VARIABLES.items():
        assert f"--{name}: light-dark({_LIGHT[placeholder]}, " in css


def test_charts_of_one_page_share_no_id() -> None:
    drawn = [chart for _ in range(2) for chart in vars(stacked({"a": {"b": 1.0}}, "MB")).values()]
    names = [name for svg in drawn for name in re.findall(r' id="([^"]*)"', svg)]
    assert len(names) == len(set(names))
    referred = {name for svg in drawn for name in re.findall(r"(?:url\(|href=\")#([^)\"]*)", svg)}
    assert referred <= set(names)


def test_a_heat_strip_of_nothing_but_zeros_is_drawn() -> None:
    assert "<svg" in heat({"llm": {("q", 0): 0.0}}, "error").wide


def test_categories_name_every_kind() -> None:
    drawn = categories({"llm": {("q", 0): "W4A8", ("k", 0): "W8A8"}}, ["W4A8", "W8A8"]).narrow
    assert ">W4A8<" in drawn
    assert ">W8A8<" in drawn


def test_many_channels_stay_small_and_keep_their_outlier() -> None:
    channels = [0.5] * 16384
    channels[9999] = 40.0
    drawn = before_and_after(channels, [0.5] * 16384).wide
    assert len(drawn) < 200_000
    assert ">40<" in drawn


def test_a_long_name_keeps_its_end() -> None:
    assert short("a" * 100 + "layers.3.q_proj", 20) == "…" + ("a" * 100 + "layers.3.q_proj")[-19:]
