"""What the page says of a diagnosis: the cause, and what the cheapest remedy costs."""

from __future__ import annotations

import html
import json
import re
from pathlib import Path
from typing import Any

from extras import needs
from made_runs import diagnosed

from vlapack.diagnose.diagnosis import Diagnosis
from vlapack.diagnose.finding import Finding
from vlapack.report.evidence import gather
from vlapack.report.report import write_report

needs("matplotlib", "jinja2", remedy="pip install '.[report]'")


def sections(tmp_path: Path, document: dict[str, Any]) -> dict[str, str]:
    """The page's sections as text: by their ids, and `top` for everything above them."""
    (tmp_path / "diagnosis.json").write_text(json.dumps(document))
    out = tmp_path / "report.html"
    write_report([str(tmp_path / "diagnosis.json")], out)
    page = out.read_text(encoding="utf-8")
    pieces = re.findall(r'<section id="(\w+)"(.*?)</section>', page, re.DOTALL)
    found = {"top": page.partition("<main>")[0], **dict(pieces)}
    bare = {name: re.sub(r"<svg.*?</svg>|<[^>]*>", " ", text, flags=re.DOTALL) for name, text in found.items()}
    return {name: html.unescape(" ".join(text.split())) for name, text in bare.items()}


def test_a_diagnosis_is_read_as_the_command_writes_it(tmp_path: Path) -> None:
    (tmp_path / "diagnosis.json").write_text(json.dumps(diagnosed()))
    [found] = gather([str(tmp_path / "diagnosis.json")]).diagnosed
    assert found.cure is not None
    assert found.cure.name == "8 bits for the worst layer"
    assert [finding.severity for finding in found.findings] == ["major", "minor"]


def test_what_helps_and_its_price_are_at_the_top(tmp_path: Path) -> None:
    top = sections(tmp_path, diagnosed())["top"]
    assert "What would make it better, and what does that cost?" in top
    assert "8 bits for the worst layer: median error 0.8 % instead of 6 %, for +0.40 MB held (5.00 MB before)" in top


def test_the_cause_is_named_with_its_evidence(tmp_path: Path) -> None:
    causes = sections(tmp_path, diagnosed())["causes"]
    assert "packs/tiny-full is not sound against tiny-libero" in causes
    assert causes.index("Major: one layer makes 80% of the error") < causes.index("Minor: calibration did not see")
    assert "Evidence: it is off. What helps: more bits." in causes


def test_every_remedy_has_its_error_and_its_price(tmp_path: Path) -> None:
    better = sections(tmp_path, diagnosed())["better"]
    assert "the pack as it is 6 % 12 % 5.00 – –" in better
    assert "8 bits for the worst layer (proposed) 0.8 % 1.6 % 5.40 +0.40 yes" in better
    assert "expert left float 0.7 % 1.4 % 6.50 +1.50 yes" in better


def test_the_command_can_be_copied_as_it_is(tmp_path: Path) -> None:
    sections(tmp_path, diagnosed())
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "vlapack quantize tiny-libero --recipe &#39;tiny remedy.json&#39;</pre>" in page


def test_where_nothing_helps_nothing_is_proposed(tmp_path: Path) -> None:
    found = sections(tmp_path, diagnosed(helps=False))
    assert "No remedy that was tried brings packs/tiny-full safely below 1 %. The best, expert left" in found["top"]
    assert "proposed" not in found["better"]
    assert "This makes the pack" not in found["better"]


def test_a_wrong_parent_is_named_at_the_top(tmp_path: Path) -> None:
    wrong = Finding(
        "critical", "wrong_parent", "it is the parent of another pack", "the weights differ", "give its own"
    )
    document = diagnosed() | Diagnosis(0.01, "as given", [wrong]).to_dict() | {"recipe": None, "command": None}
    found = sections(tmp_path, document)
    assert "it is the parent of another pack. What helps: give its own." in found["top"]
    assert "do not belong together" in found["causes"]


def test_a_sound_pack_needs_nothing(tmp_path: Path) -> None:
    document = diagnosed() | {"verdict": "sound", "findings": [], "remedies": [], "chosen": None, "command": None}
    document["error"] = {"median": 0.005, "p95": 0.01, "frames": 16}
    found = sections(tmp_path, document)
    assert "packs/tiny-full needs nothing: a chunk's median error is 0.5 %" in found["top"]
    assert "below the target of 1 %" in found["causes"]
