"""Evaluations with a moving target: frozen in the plan, repeatable, and nothing at all where nothing moves."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import simulators
from fakes import Drunkard, contender, plan

from vlapack.errors import InputError
from vlapack.evaluate.conclusions import conclude_all
from vlapack.evaluate.ledger import Record
from vlapack.evaluate.plan import plan_of
from vlapack.evaluate.run import evaluate
from vlapack.evaluate.store import Store
from vlapack.evaluate.table import sentences
from vlapack.report.reading import read_plan


def played(out: Path, drift: float, **settings: Any) -> list[Record]:
    entry = contender("policy", Drunkard())
    how = {"workers": 1, "factory": simulators.fleeing, "videos": False, **settings}
    return evaluate(plan([entry], drift=drift), [entry], out, **how)["policy"]


def courses(records: list[Record]) -> list[tuple[object, ...]]:
    return sorted((record.case, record.success, record.steps) for record in records)


@pytest.mark.parametrize("drift", [0.0, 0.05])
def test_a_plan_keeps_its_drift_and_an_old_plan_stands_still(tmp_path: Path, drift: float) -> None:
    document = json.loads(json.dumps(plan([contender("policy", Drunkard())], drift=drift).to_dict()))
    assert document.get("drift") == (drift or None)
    (tmp_path / "plan.json").write_text(json.dumps(document))
    assert plan_of(document).drift == read_plan(tmp_path / "plan.json").drift == drift


@pytest.mark.parametrize("drift", ["fast", -1, None, [0.1]])
def test_a_damaged_drift_is_refused_by_every_reader(tmp_path: Path, drift: object) -> None:
    document = {**plan([contender("policy", Drunkard())]).to_dict(), "drift": drift}
    (tmp_path / "plan.json").write_text(json.dumps(document))
    with pytest.raises(InputError, match="damaged"):
        plan_of(document)
    with pytest.raises(InputError, match="damaged"):
        read_plan(tmp_path / "plan.json")


def test_a_simulator_that_knows_no_drift_is_not_asked_for_one(tmp_path: Path) -> None:
    assert courses(played(tmp_path / "one", 0.0)) == courses(played(tmp_path / "two", 0.0, factory=simulators.walk))
    assert "drift" not in (tmp_path / "one" / "plan.json").read_text()


def test_the_target_moves_in_the_workers_and_a_run_goes_on_where_it_was_killed(tmp_path: Path) -> None:
    whole = played(tmp_path / "one", 0.05)
    assert courses(whole) != courses(played(tmp_path / "still", 0.0))
    path = tmp_path / "one" / "episodes.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[:2]) + lines[2][:30])
    assert courses(played(tmp_path / "one", 0.05, workers=2)) == courses(whole)


@pytest.mark.parametrize(("there", "here"), [(0.0, 0.1), (0.1, 0.0), (0.1, 0.2)])
def test_another_drift_does_not_continue_a_run(tmp_path: Path, there: float, here: float) -> None:
    with Store(tmp_path, plan([contender("policy", Drunkard())], drift=there)):
        pass
    with pytest.raises(InputError, match=f"drift: {there} there, {here} here"):
        Store(tmp_path, plan([contender("policy", Drunkard())], drift=here))


def test_the_summary_says_in_one_line_that_the_target_moves(tmp_path: Path) -> None:
    entries = [contender("baseline", Drunkard()), contender("policy", Drunkard())]
    for drift in (0.0, 0.05):
        wanted = plan(entries, drift=drift)
        out = tmp_path / str(drift)
        found = evaluate(wanted, entries, out, workers=1, factory=simulators.fleeing, videos=False)
        summary = conclude_all(wanted, found, out)
        told = [line for line in sentences(summary) if "moving target" in line]
        assert told == (["moving target: the object to pick up drifts at 0.05 m/s"] if drift else [])
        assert summary.get("drift", 0.0) == drift
