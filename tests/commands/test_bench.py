"""`vlapack bench` on tiny random policies: the JSON that others read, turns, and what is refused."""

from __future__ import annotations

import json
from typing import Any

import pytest

from vlapack.bench.race import race
from vlapack.cli import main
from vlapack.errors import InputError, WorkError


def bench(capsys: pytest.CaptureFixture[str], *flags: str) -> tuple[int, str, str]:
    code = main(["bench", *flags])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_the_document_has_what_was_promised(capsys: pytest.CaptureFixture[str]) -> None:
    flags = ("--arch", "tiny_libero", "--policy", "full", "--baseline", "float", "--repeats", "1", "--threads", "1")
    code, out, _ = bench(capsys, *flags, "--json")
    found = json.loads(out)
    assert code == 0
    assert found.keys() >= {"cpu", "isa", "engine", "threads", "policy", "baseline", "ratio", "floor", "tokens"}
    for name in ("policy", "baseline"):
        one = found[name]
        assert one["ms_per_chunk"].keys() == {"median", "min", "max"}
        assert one["parts"].keys() == {"vision", "prefix", "denoise"}
        assert sum(one["parts"].values()) < one["ms_per_chunk"]["median"]
        assert 0 < one["weight_bytes"] == sum(one["bytes_by_part"].values()) < one["rss_bytes"] <= one["peak_rss_bytes"]
        assert one["guided"] is None
    assert (found["policy"]["name"], found["baseline"]["name"], found["threads"]) == ("full", "float", 1)
    milliseconds = [found[name]["ms_per_chunk"]["median"] for name in ("policy", "baseline")]
    assert found["ratio"] == pytest.approx(milliseconds[1] / milliseconds[0])
    floor = found["floor"]
    assert floor["seconds"] == pytest.approx(floor["ops"] / floor["peak_ops_per_s"])
    assert floor["times_floor"] == pytest.approx(milliseconds[0] / 1e3 / floor["seconds"])


def test_guided_chunks_are_timed_beside_the_plain_ones(capsys: pytest.CaptureFixture[str]) -> None:
    flags = ("--arch", "tiny_libero", "--policy", "full", "--repeats", "1", "--threads", "1", "--rtc", "vjp")
    code, out, err = bench(capsys, *flags, "--json")
    policy = json.loads(out)["policy"]
    guided = policy["guided"]
    assert code == 0
    assert guided.keys() == {"guidance", "ms_per_chunk", "parts", "how", "ratio", "step_ratio"}
    assert (guided["guidance"], guided["ms_per_chunk"].keys()) == ("vjp", {"median", "min", "max"})
    assert guided["parts"].keys() == {"vision", "prefix", "denoise", "flow"}
    assert guided["ratio"] == pytest.approx(guided["ms_per_chunk"]["median"] / policy["ms_per_chunk"]["median"])
    assert guided["step_ratio"] == pytest.approx(guided["parts"]["flow"] / policy["parts"]["flow"])
    assert ("compiled" in guided["how"], "compiled" in policy["how"]) == (False, False)
    assert "guided" in err


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (
            ("--arch", "tiny_libero", "--rtc", "trained"),
            "float ended (2): guidance is 'trained'; this policy was not trained to go on from given actions: use "
            "another",
        ),
        (
            ("--policy", "openpi", "--rtc", "lerobot"),
            "openpi ended (2): openpi: no such folder; a checkpoint is a folder with model.safetensors",
        ),
    ],
)
def test_what_cannot_be_guided_is_refused_by_name_in_one_line(
    capsys: pytest.CaptureFixture[str], flags: tuple[str, ...], message: str
) -> None:
    code, out, err = bench(capsys, *flags, "--threads", "1", "--repeats", "1")
    assert (code, out) == (2, "")
    assert err.splitlines()[1:] == [f"error: the process that runs {message}"]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ((), "nothing to measure"),
        (("--arch", "pi05_libero", "--repeats", "0"), "--repeats 0"),
        (("--policy", "tiny-libero", "--baseline", "tiny-libero"), "that is the policy itself"),
        (("--policy", "tiny-libero", "--without", "cameras"), "no saving 'cameras'"),
        (("--policy", "ws://robot:8000", "--rtc", "vjp"), "ws://robot:8000: the address of a server"),
        (("--policy", "tiny-libero", "--baseline", "ws://robot:8000"), "ws://robot:8000: the address of a server"),
        (("--arch", "pi05_libro"), "no configuration 'pi05_libro' (did you mean pi05_libero"),
    ],
)
def test_what_cannot_be_measured_is_refused_before_anything_starts(
    capsys: pytest.CaptureFixture[str], flags: tuple[str, ...], message: str
) -> None:
    code, out, err = bench(capsys, *flags)
    assert (code, out) == (2, "")
    assert message in err


class Fake:
    """A runner that notes its turns."""

    def __init__(self, name: str, turns: list[str]) -> None:
        self.name, self.turns = name, turns
        self.first: dict[str, Any] = {}
        self.chunks: list[dict[str, Any]] = []

    def run(self) -> dict[str, Any]:
        self.turns.append(self.name)
        return {"ms": float(len(self.turns))}


def test_policies_take_turns_and_the_first_chunk_does_not_count() -> None:
    turns: list[str] = []
    runners = [Fake("a", turns), Fake("b", turns)]
    race(runners, 2)
    assert "".join(turns) == "ababab"
    assert [chunk["ms"] for chunk in runners[0].chunks] == [3, 5]


@pytest.mark.parametrize(("code", "kind"), [(2, InputError), (1, WorkError)])
def test_what_a_worker_cannot_do_is_said_by_its_parent(code: int, kind: type[Exception]) -> None:
    import sys

    from vlapack.bench.race import started

    refuses = f"""print('{{"error": "give `config=NAME`"}}'); raise SystemExit({code})"""
    with (
        pytest.raises(kind, match=rf"that runs mine ended \({code}\): give `config=NAME`"),
        started({"mine": [sys.executable, "-c", refuses]}),
    ):
        pass


def test_a_worker_that_dies_is_named() -> None:
    import sys

    from vlapack.bench.race import started

    with (
        pytest.raises(WorkError, match=r"that runs broken ended \(3\)"),
        started({"broken": [sys.executable, "-c", "raise SystemExit(3)"]}),
    ):
        pass
