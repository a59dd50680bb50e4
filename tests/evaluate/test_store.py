from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from fakes import Drunkard, contender, plan

from vlapack.errors import InputError, WorkError
from vlapack.evaluate.ledger import Record
from vlapack.evaluate.plan import Case
from vlapack.evaluate.store import Store

PLAN = plan([contender("policy", Drunkard()), contender("baseline", Drunkard())], tasks=1)


def record(init_state: int, role: str = "policy", error: str | None = None) -> Record:
    return Record(
        role=role,
        suite="libero_spatial",
        task_id=0,
        init_state=init_state,
        success=None if error else True,
        steps=9,
        infer_ms=(1.5, 2.5),
        seconds=3.0,
        held_bytes=10,
        mapped_bytes=0,
        error=error,
    )


def fill(out: Path, *records: Record) -> None:
    with Store(out, PLAN) as store:
        for one in records:
            store.append(one)


def test_what_was_written_is_read_back(tmp_path: Path) -> None:
    fill(tmp_path, record(0), record(2), record(0, "baseline"))
    with Store(tmp_path, PLAN) as store:
        assert store.records("policy") == [record(0), record(2)]
        assert store.missing("policy") == [Case("libero_spatial", 0, 1)]
        assert len(store.missing("baseline")) == 2


def test_lines_know_their_noise_seed_and_those_of_the_first_look_as_ever(tmp_path: Path) -> None:
    many = replace(PLAN, noise_seeds=2)
    with Store(tmp_path, many) as store:
        store.append(record(0))
        store.append(replace(record(0), noise=1))
    first, second = (tmp_path / "episodes.jsonl").read_text().splitlines()
    assert '"noise"' not in first
    assert second == first.removesuffix("}") + ', "noise": 1}'
    with Store(tmp_path, many) as store:
        assert [one.noise for one in store.records("policy")] == [0, 1]
        assert store.missing("policy") == [case for case in many.cases() if case.init_state]


def test_a_torn_last_line_is_dropped_and_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fill(tmp_path, record(0), record(1))
    path = tmp_path / "episodes.jsonl"
    path.write_bytes(path.read_bytes()[:-20])
    with Store(tmp_path, PLAN) as store:
        assert store.records("policy") == [record(0)]
        store.append(record(2))
    assert "torn last line" in capsys.readouterr().err
    with Store(tmp_path, PLAN) as store:
        assert store.records("policy") == [record(0), record(2)]


def test_damage_in_the_middle_is_an_error_that_names_the_line(tmp_path: Path) -> None:
    fill(tmp_path, record(0), record(1))
    path = tmp_path / "episodes.jsonl"
    path.write_text("{torn\n" + path.read_text())
    with pytest.raises(InputError, match="line 1 is damaged"):
        Store(tmp_path, PLAN)


def test_an_error_is_run_again_and_its_result_replaces_it(tmp_path: Path) -> None:
    fill(tmp_path, record(0), record(1, error="no more"), record(2))
    with Store(tmp_path, PLAN) as store:
        assert store.missing("policy") == [Case("libero_spatial", 0, 1)]
        store.append(record(1))
        assert store.missing("policy") == []
        assert store.records("policy") == [record(0), record(1), record(2)]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"seed": 8}, "seed: 7 there, 8 here"),
        ({"policies": {"policy": {"weights": "d"}, "baseline": {"weights": "other"}}}, "baseline.weights"),
    ],
)
def test_another_plans_folder_is_refused_with_what_differs(
    tmp_path: Path, change: dict[str, object], said: str
) -> None:
    fill(tmp_path, record(0))
    before = (tmp_path / "episodes.jsonl").read_bytes()
    with pytest.raises(InputError, match=said):
        Store(tmp_path, replace(PLAN, **change))  # type: ignore[arg-type]
    assert (tmp_path / "episodes.jsonl").read_bytes() == before


def test_two_runs_cannot_write_at_once(tmp_path: Path) -> None:
    with Store(tmp_path, PLAN), pytest.raises(WorkError, match="another evaluation is writing"):
        Store(tmp_path, PLAN)
    Store(tmp_path, PLAN).__exit__(None, None, None)


def test_a_foreign_folder_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "episodes.jsonl").write_text("mine\n")
    with pytest.raises(InputError, match=r"no plan\.json"):
        Store(tmp_path, PLAN)
    assert (tmp_path / "episodes.jsonl").read_text() == "mine\n"


def test_unicode_line_separators_in_an_error_do_not_split_its_line(tmp_path: Path) -> None:
    fill(tmp_path, record(0, error="one\u2028two\u0085three"))
    with Store(tmp_path, PLAN) as store:
        assert store.records("policy") == [record(0, error="one\u2028two\u0085three")]
