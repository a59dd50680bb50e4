"""The picture of a frontier: well-formed, complete, and drawn for whatever points there are."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest
from extras import needs

from vlapack.drawing import figure
from vlapack.recipe.presets import preset
from vlapack.tune.picture import picture
from vlapack.tune.record import write_frontier
from vlapack.tune.results import Candidate, Kind, Measured, Tuned
from vlapack.tune.target import Target

needs("matplotlib", remedy="pip install '.[report]'")


def point(name: str, held: int, predicted: float, kind: Kind = "allocation", median: float | None = None) -> Candidate:
    measured = None if median is None else Measured(median, 2 * median, 16)
    return Candidate(name, kind, {"layer": 4}, 2 * held, held, predicted, measured, 12.0)


def drawn(*points: Candidate) -> ElementTree.Element:
    tuned = Tuned(preset("full"), Target("error", 0.01), points[0], points, {}, {}, {"float": 1, "packed": 1})
    return ElementTree.fromstring(picture(tuned))


def tagged(root: ElementTree.Element, tag: str) -> Iterator[ElementTree.Element]:
    return root.iter(f"{{http://www.w3.org/2000/svg}}{tag}")


def texts(root: ElementTree.Element) -> list[str]:
    return [element.text or "" for element in tagged(root, "text")]


def dots(root: ElementTree.Element) -> dict[str, tuple[float, float]]:
    """Where each dot is, by its tooltip up to the colon."""
    found = {}
    for group in tagged(root, "g"):
        title = group.find("{http://www.w3.org/2000/svg}title")
        if title is not None:
            (place,) = tagged(group, "use")
            found[(title.text or "").split(":")[0]] = float(place.attrib["x"]), float(place.attrib["y"])
    return found


def test_every_point_is_there_and_says_what_it_is() -> None:
    points = [
        point("allocation", 1_300_000_000, 0.004, median=0.009),
        point("1.10 GB", 1_100_000_000, 0.03),
        point("2.60 GB", 2_600_000_000, 0.0004),
        point("full <4>", 1_300_000_000, 0.02, "preset", 0.066),
        point("uniform W8", 2_620_000_000, 0.0045, "uniform"),
    ]
    root = drawn(*points)
    assert list(dots(root)) == [one.name for one in points]
    assert all(0 <= value <= 820 for place in dots(root).values() for value in place)
    assert {"allocation", "full <4>", "uniform W8"} <= set(texts(root))
    assert {"1.2 GB", "2 GB"} <= set(texts(root))


def test_a_screen_reader_gets_what_the_eye_gets() -> None:
    root = drawn(point("allocation", 1_300_000_000, 0.004, median=0.009), point("1.10 GB", 1_100_000_000, 0.03))
    assert root.attrib["role"] == "img"
    title, description = (next(tagged(root, tag)) for tag in ("title", "desc"))
    assert root.attrib["aria-labelledby"].split() == [title.attrib["id"], description.attrib["id"]]
    said = "1.3 GB held, 2.6 GB file, predicted 0.40%, measured 0.90% (95 %: 1.80%), 12 ms"
    assert said in (description.text or "")
    assert "1.10 GB: 1.1 GB held" in (description.text or "")


def test_the_same_frontier_is_the_same_file() -> None:
    one = point("allocation", 4_000_000, 0.01, median=0.01)
    assert ElementTree.tostring(drawn(one)) == ElementTree.tostring(drawn(one))


def test_the_line_goes_through_what_was_measured_only_if_everything_was() -> None:
    chosen, other = point("allocation", 1_300_000, 0.004, median=0.009), point("1.1 MB", 1_100_000, 0.01, median=0.03)
    for last, predicted in ((other, False), (replace(other, measured=None), True)):
        root = drawn(chosen, last)
        (line,) = (path for path in tagged(root, "path") if "stroke-dasharray" in path.get("style", ""))
        end = float(line.attrib["d"].split()[-1])  # of the larger one, which is chosen
        assert (abs(end - dots(root)["allocation"][1]) < 0.01) is not predicted
        assert any("dashed line: predicted" in text for text in texts(root)) is predicted


@pytest.mark.parametrize("predicted", [0.0, 0.01])
def test_one_point_or_an_error_of_nothing_is_drawn_too(predicted: float) -> None:
    assert "allocation" in " ".join(texts(drawn(point("allocation", 4_000_000, predicted, median=0.01))))


def test_names_of_points_that_coincide_do_not() -> None:
    root = drawn(*(point(f"preset {number}", 3_000_000, 0.03, "preset", 0.06) for number in range(5)))
    labels = [element for element in tagged(root, "text") if (element.text or "").startswith("preset")]
    assert len(labels) == 5
    heights = sorted(float(element.get("y", 0)) for element in labels)
    assert all(after - before >= 11 for before, after in itertools.pairwise(heights))


def test_without_matplotlib_there_is_a_table_and_no_old_picture(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    chosen = point("allocation", 4_000_000, 0.01, median=0.01)
    tuned = Tuned(preset("full"), Target("error", 0.01), chosen, [chosen], {}, {}, {})
    table, drawing = write_frontier(tuned, tmp_path / "r.json")
    assert drawing.exists()
    monkeypatch.setattr(figure, "find_spec", lambda name: None)
    assert write_frontier(tuned, tmp_path / "r.json") == [table]
    assert not drawing.exists()
    said = capsys.readouterr().err
    assert "r.frontier.svg is not written: a picture needs matplotlib" in said
    assert "'.[report]'" in said
