from __future__ import annotations

import pytest
from fakes import Drunkard, contender, plan, records

from vlapack.evaluate.floor import noise_floor
from vlapack.evaluate.summary import FAILED_VERDICTS, summarize
from vlapack.evaluate.table import VERDICTS, print_table, sentence

PLAN = plan([contender("policy", Drunkard()), contender("baseline", Drunkard())], tasks=1, trials=2)


def test_off_a_terminal_no_row_is_folded(capsys: pytest.CaptureFixture[str]) -> None:
    summary = summarize(
        PLAN,
        records(PLAN, "policy", [True, True], ms=41.0, held=13_570_000),
        records(PLAN, "baseline", [True, True]),
        names=("pack", "float"),
    )
    print_table("two episodes", {"a rather long name of a pack folder": summary})
    rows = capsys.readouterr().out.splitlines()
    [row] = [row for row in rows if "a rather long name of a pack folder" in row]
    for cell in ("100.0 %", "34-100 %", "+0.0 (-66 to +66)", "13.57", "41", "10"):
        assert cell in row
    assert sum("float (baseline)" in row for row in rows) == 1


def test_a_policy_without_any_result_still_prints(capsys: pytest.CaptureFixture[str]) -> None:
    summary = summarize(PLAN, records(PLAN, "policy", [None, None]), None, names=("pack", None))
    print_table("nothing", {"pack": summary})
    assert "0-100 %" in capsys.readouterr().out
    assert "simulator failed" in sentence(summary)


def test_every_verdict_has_its_words() -> None:
    assert set(FAILED_VERDICTS) < set(VERDICTS)


def test_only_a_floor_of_the_same_episodes_stands_among_them(capsys: pytest.CaptureFixture[str]) -> None:
    baseline = records(PLAN, "baseline", [True, True])
    for source, there in (("this run", True), ("elsewhere", False)):
        floor = noise_floor(baseline, baseline, kind="another noise seed", source=source)
        ours = records(PLAN, "policy", [True, True])
        print_table("two", {"pack": summarize(PLAN, ours, baseline, names=("pack", "float"), floor=floor)})
        out = capsys.readouterr().out
        assert ("noise floor" in out) == there
        assert "-0.0" not in out
