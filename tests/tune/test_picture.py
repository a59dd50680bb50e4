"""The picture of a frontier: well-formed, complete, and drawn for whatever points there are."""

from __future__ import annotations

import itertools
import re
from dataclasses import replace
from xml.etree import ElementTree

import pytest

from vlapack.recipe.presets import preset
from vlapack.tune.picture import picture
from vlapack.tune.results import Candidate, Kind, Measured, Tuned
from vlapack.tune.target import Target


def point(name: str, held: int, predicted: float, kind: Kind = "allocation", median: float | None = None) -> Candidate:
    measured = None if median is None else Measured(median, 2 * median, 16)
    return Candidate(name, kind, {"layer": 4}, 2 * held, held, predicted, measured, 12.0)


def drawn(*points: Candidate) -> ElementTree.Element:
    tuned = Tuned(preset("full"), Target("error", 0.01), points[0], points, {}, {}, {"float": 1, "packed": 1})
    return ElementTree.fromstring(picture(tuned))


def texts(root: ElementTree.Element) -> list[str]:
    return [element.text or "" for element in root.iter("{http://www.w3.org/2000/svg}text")]


def test_every_point_is_there_and_says_what_it_is() -> None:
    points = [
        point("allocation", 1_300_000_000, 0.004, median=0.009),
        point("1.10 GB", 1_100_000_000, 0.03),
        point("2.60 GB", 2_600_000_000, 0.0004),
        point("full <4>", 1_300_000_000, 0.02, "preset", 0.066),
        point("uniform W8", 2_620_000_000, 0.0045, "uniform"),
    ]
    root = drawn(*points)
    titles = [element.text or "" for element in root.iter("{http://www.w3.org/2000/svg}title")]
    assert [title.split(":")[0] for title in titles] == [one.name for one in points]
    assert "1.3 GB held, 2.6 GB file, predicted 0.40%, measured 0.90% (95 %: 1.80%), 12 ms" in titles[0]
    assert {"allocation", "full <4>", "uniform W8"} <= set(texts(root))
    numbers = [float(value) for value in re.findall(r'c[xy]="([^"]+)"', ElementTree.tostring(root, encoding="unicode"))]
    assert all(0 <= value <= 820 for value in numbers)


def test_the_line_goes_through_what_was_measured_only_if_everything_was() -> None:
    chosen, other = point("allocation", 1_300_000, 0.004, median=0.009), point("1.1 MB", 1_100_000, 0.01, median=0.03)
    for last, predicted in ((other, False), (replace(other, measured=None), True)):
        root = drawn(chosen, last)
        (line,) = root.iter("{http://www.w3.org/2000/svg}polyline")
        circles = root.iter("{http://www.w3.org/2000/svg}circle")
        (dot,) = (float(one.attrib["cy"]) for one in circles if one.attrib["r"] == "6")
        assert (f",{dot:.1f}" in line.attrib["points"]) is not predicted
        assert any("dashed line: predicted" in text for text in texts(root)) is predicted


@pytest.mark.parametrize("predicted", [0.0, 0.01])
def test_one_point_or_an_error_of_nothing_is_drawn_too(predicted: float) -> None:
    assert "allocation" in " ".join(texts(drawn(point("allocation", 4_000_000, predicted, median=0.01))))


def test_names_of_points_that_coincide_do_not() -> None:
    root = drawn(*(point(f"preset {number}", 3_000_000, 0.03, "preset", 0.06) for number in range(5)))
    labels = [element for element in root.iter("{http://www.w3.org/2000/svg}text") if "preset" in (element.text or "")]
    heights = sorted(float(element.get("y", 0)) for element in labels[1:])
    assert all(after - before >= 11 for before, after in itertools.pairwise(heights))
