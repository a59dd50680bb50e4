"""docs/api.md says what the docstrings say, of every public name."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest

import vlapack

SCRIPT = Path(__file__).parents[2] / "scripts" / "make_api_docs.py"
SPEC = importlib.util.spec_from_file_location("make_api_docs", SCRIPT)
assert SPEC is not None
assert SPEC.loader is not None
api = sys.modules[SPEC.name] = importlib.util.module_from_spec(SPEC)  # dataclasses look their module up
SPEC.loader.exec_module(api)


def test_the_page_is_what_the_docstrings_say() -> None:
    assert api.main(["--check"]) == 0


def test_a_stale_or_missing_page_fails_and_says_what_to_type(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "api.md"
    assert api.main(["--check", "--page", str(page)]) == 1
    assert api.main(["--page", str(page)]) == 0
    assert api.main(["--check", "--page", str(page)]) == 0
    page.write_text(page.read_text().replace("Compute the next action chunk", "Choose the next actions"))
    assert api.main(["--check", "--page", str(page)]) == 1
    assert "run python scripts/make_api_docs.py" in capsys.readouterr().err


def test_the_page_has_every_public_name_from_where_it_is_defined() -> None:
    assert api.PUBLIC["vlapack"] == vlapack._HOMES
    lines = api.page().splitlines()
    assert {f"### `{name}`" for name in vlapack.__all__ if name != "__version__"} <= set(lines)


@pytest.mark.parametrize(
    ("name", "source", "missing"),
    [
        (
            "f",
            'def f(a: int, *, b: int = 1) -> None:\n    """Do it.\n\n    Args:\n        a: one\n    """',
            "leaves out b",
        ),
        ("f", "def f() -> None: ...", "has no docstring"),
        ("C", 'class C:\n    """A class."""\n    x: int = 1', "C.x is not described"),
    ],
)
def test_what_no_docstring_describes_is_an_error(
    name: str, source: str, missing: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "m.py").write_text(source)
    monkeypatch.setattr(api, "ROOT", tmp_path)
    monkeypatch.setattr(api, "PUBLIC", {"m": {name: "m"}})
    with pytest.raises(SystemExit, match=missing):
        api.page()


def test_signatures_keep_types_defaults_and_the_keyword_marker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "m.py").write_text(
        "class C:\n"
        '    """A class."""\n'
        "    @classmethod\n"
        "    def make(cls, a: str | int, b: int = 2, *, c: float = 0.5, **rest: int) -> C:\n"
        '        """Make one.\n\n        Args:\n            a: first\n            b: second\n            c: third,\n'
        "                on two lines\n            rest: others\n"
        '        """\n'
    )
    monkeypatch.setattr(api, "ROOT", tmp_path)
    monkeypatch.setattr(api, "PUBLIC", {"m": {"C": "m"}})
    text = api.page()
    assert "C.make(a: str | int, b: int = 2, *, c: float = 0.5, **rest: int) -> C" in text
    assert "- `c`: third, on two lines\n" in text


def test_a_class_has_what_its_base_defines() -> None:
    lines = set(api.page().splitlines())
    public = {name for name in vars(vlapack.Policy) | vars(vlapack.Policy.__base__) if not name.startswith("_")}
    assert {f"#### `Policy.{name}`" for name in public} <= lines
    assert ") -> Policy" in lines
