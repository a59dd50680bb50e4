from __future__ import annotations

import pytest
from fakes import Drunkard, contender, plan

from vlapack.evaluate.store import Record
from vlapack.evaluate.summary import FAILED_VERDICTS, summarize
from vlapack.evaluate.table import VERDICTS, print_table, sentence

PLAN = plan([contender("policy", Drunkard()), contender("baseline", Drunkard())], tasks=1, trials=2)


def records(role: str, error: str | None = None) -> list[Record]:
    return [
        Record(
            role=role,
            suite=case.suite,
            task_id=case.task_id,
            init_state=case.init_state,
            success=None if error else True,
            steps=87,
            infer_ms=(41.0,),
            seconds=1.0,
            held_bytes=13_570_000,
            mapped_bytes=0,
            error=error,
        )
        for case in PLAN.cases()
    ]


def test_off_a_terminal_no_row_is_folded(capsys: pytest.CaptureFixture[str]) -> None:
    summary = summarize(PLAN, records("policy"), records("baseline"), names=("pack", "float"))
    print_table("two episodes", {"a rather long name of a pack folder": summary})
    rows = capsys.readouterr().out.splitlines()
    [row] = [row for row in rows if "a rather long name of a pack folder" in row]
    for cell in ("100.0 %", "34-100 %", "+0.0 (-66 to +66)", "13.57", "41", "87"):
        assert cell in row
    assert sum("float (baseline)" in row for row in rows) == 1


def test_a_policy_without_any_result_still_prints(capsys: pytest.CaptureFixture[str]) -> None:
    summary = summarize(PLAN, records("policy", error="died"), None, names=("pack", None))
    print_table("nothing", {"pack": summary})
    assert "0-100 %" in capsys.readouterr().out
    assert "simulator failed" in sentence(summary)


def test_every_verdict_has_its_words() -> None:
    assert set(FAILED_VERDICTS) < set(VERDICTS)
