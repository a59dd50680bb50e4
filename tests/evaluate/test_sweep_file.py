"""What a person may write into a sweep file, and what they are told where it is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from vlapack.errors import InputError
from vlapack.evaluate.sweep_file import Sweep, read_sweep


def read(folder: Path, text: str) -> Sweep:
    path = folder / "sweep.yaml"
    path.write_text(text)
    return read_sweep(path)


def test_short_forms_are_the_long_ones(tmp_path: Path) -> None:
    short = read(tmp_path, "policies: {a: x}\nsuites: [libero_goal]\ninit_states: [0, 3]\n")
    long = read(tmp_path, "policies: {a: {target: x}}\nsuites: {libero_goal: null}\ninit_states: '0,3'\n")
    assert short == long
    assert read(tmp_path, "policies: {a: x}\nsuites: {libero_goal: 3}").suites == {"libero_goal": "3"}
    assert read(tmp_path, "policies: {a: x}\nsuites: {libero_goal: 0-3}").suites == {"libero_goal": "0-3"}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("policies: {a: x}\ntrails: 3", "trails = 3: there is no such key; did you mean 'trials'?"),
        ("policies: {a: {targt: x}}", "policies.a.targt = 'x': there is no such key; did you mean 'target'?"),
        ("policies: {a: {targt: x}}", "policies.a.target is missing"),
        ("policies: {a: x}\nseeds: [1, 2]", "seeds = [1, 2]: there is no such key; `noise_seeds: N` plays each start"),
        ("policies: {a: x}\nxyz: 1", "; keys: policies, baseline, recipes"),
        ("policies: {a: x}\ntrials: yes", "trials = True: input should be a valid integer"),
        ("policies: {a: x}\nnoise_seeds: 0", "noise_seeds = 0: input should be greater than or equal to 1"),
        ("policies: {a: x}\nuntil_ci: 3", "until_ci = 3: input should be less than 1"),
        ("policies: {a: x}\ndtype: fp16", "dtype = 'fp16': input should be 'float32' or 'bfloat16'"),
        ("policies: {a: x}\ndrift: -0.1", "`drift=-0.1`: meters a second, from 0"),
        ("policies: {a: x}\ndrift: .nan", "`drift=nan`: meters a second, from 0"),
        ("policies: {a: x}\nmode: rct", "mode = 'rct': input should be 'sync-free', 'wait', 'async' or 'rtc'"),
        ("policies: {a: x}\nlatency: 80ms", "`latency='80ms'` does nothing while time stands still"),
        ("policies: {a: x}\nmode: wait\nlatency: 80", "latency = 80: input should be a valid string"),
        ("policies: [a]", "policies = ['a']: expected keys and values below it"),
        ("policies: {}", "policies = {}"),
        ("recipes: [full]", "policies is missing"),
        ("policies: {policy: x}", "the name 'policy' cannot be used"),
        ("policies: {a.b: x}", "the name 'a.b' cannot be used"),
        (
            "policies: {a: x, abc: y}\nbaseline: abd",
            "baseline = 'abd' is none of the policies a, abc; did you mean 'abc'?",
        ),
        ("policies: {a: x}\nrecipes: [full, p/full.json]", "full, full has a name twice"),
        ("policies: {a: x}\nnoise_floor: true", "there is no baseline"),
        ("policies: {a: x}\npolicies: {b: y}", "line 1: the key 'policies' appears twice"),
        ("policies: &p {a: x}\nsuites: *p", "aliases (&, *) are not read"),
        ("policies: {a: x", "cannot be read as YAML"),
        ("- a\n- b", "expected keys such as `policies`, found list"),
        ("", "expected keys such as `policies`, found NoneType"),
    ],
)
def test_a_mistake_is_named_by_key_and_value(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(InputError) as found:
        read(tmp_path, text)
    assert said in str(found.value)


def test_hostile_yaml_ends_at_once(tmp_path: Path) -> None:
    for text in ("[" * 100_000, "a: " + "x" * (1 << 21), "!!python/object/apply:os.system [true]"):
        with pytest.raises(InputError):
            read(tmp_path, text)


def test_no_file_is_bad_input(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read"):
        read_sweep(tmp_path / "none.yaml")


def test_a_clock_has_the_keys_of_the_flags(tmp_path: Path) -> None:
    still = read(tmp_path, "policies: {a: x}").clock()
    late = read(
        tmp_path, "policies: {a: x}\nmode: rtc\nlatency: 80ms\ncontrol_hz: 50\nexecution_horizon: 8\nguidance: vjp"
    ).clock()
    assert still == {
        "mode": "sync-free",
        "latency": None,
        "control_hz": 20.0,
        "execution_horizon": None,
        "guidance": None,
    }
    assert late == {"mode": "rtc", "latency": "80ms", "control_hz": 50.0, "execution_horizon": 8, "guidance": "vjp"}
