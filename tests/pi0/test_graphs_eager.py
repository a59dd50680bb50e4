"""What cannot be captured runs eagerly and says so, and ends no capturing of the rest."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from openpi_golden import Golden, read_golden, sample
from recorded import rows

from vlapack.errors import InputError
from vlapack.pi0.graphs import Runner, runner
from vlapack.pi0.recorder import Recorder
from vlapack.pi0.savings import Savings


def test_a_failed_capture_is_said_once_and_runs_eagerly(pi05: Golden, capsys: pytest.CaptureFixture[str]) -> None:
    def fail(run: Callable[[], Any]) -> Any:
        run()
        raise RuntimeError("CUDA error: operation not permitted when stream is capturing\nmore")

    acting, batch = Runner(pi05.load(), fail), rows(pi05.batches["libero"], 0)
    expected = sample(pi05.load(), batch)
    for _ in range(2):
        assert torch.equal(acting.sample_actions(**batch), expected)
        assert acting.how.startswith("eager (capture failed: RuntimeError: CUDA error: operation not permitted")
    said = capsys.readouterr().err
    assert said.count("preparing the GPU") == said.count("could not be captured") == 1
    assert said.count("\n") == 2


def test_one_bad_observation_does_not_end_capturing(pi05: Golden) -> None:
    acting, batch = Runner(pi05.load(), Recorder), rows(pi05.batches["libero"], 0)
    with pytest.raises(InputError, match="without any camera"):
        acting.sample_actions(
            **{**batch, "image_masks": batch["image_masks"] & False, "token_masks": batch["token_masks"] & False}
        )
    with pytest.raises(RuntimeError):
        acting.sample_actions(**{**batch, "noise": batch["noise"][:, :2]})
    acting.sample_actions(**batch)
    assert acting.how == "graph"


@pytest.mark.parametrize(
    ("savings", "numbers", "options", "how"),
    [
        (Savings(), [0] * 9, {}, "eager (9 observations, more than 8)"),
        (Savings().without("time_table"), [0], {"num_steps": 7}, "eager (a saving that the captured runs need is off)"),
        (Savings().without("prefix_once"), [0], {}, "eager (a saving that the captured runs need is off)"),
    ],
)
def test_what_has_no_graph_runs_eagerly_and_says_so(
    golden: Golden, savings: Savings, numbers: list[int], options: dict[str, Any], how: str
) -> None:
    model, batch = golden.load(savings=savings), rows(golden.batches["libero"], *numbers)
    acting = Runner(model, Recorder)
    assert torch.equal(acting.sample_actions(**batch, **options), model.sample_actions(**batch, **options))
    assert acting.how == how


def test_another_number_of_steps_runs_eagerly() -> None:
    golden = read_golden("pi0")
    acting, batch = Runner(golden.load(), Recorder), rows(golden.batches["libero"], 0)
    assert torch.equal(acting.sample_actions(**batch, num_steps=7), golden.load().sample_actions(**batch, num_steps=7))
    assert acting.how == "eager (7 steps, not 10)"


def test_there_is_no_runner_without_a_gpu(pi05: Golden) -> None:
    assert runner(pi05.load()) is None


def test_a_hook_sees_the_network_run_eagerly(pi05: Golden) -> None:
    model, seen, batch = pi05.load(), [], rows(pi05.batches["libero"], 0)
    model.fuse()
    acting = Runner(model, Recorder)
    before = acting.sample_actions(**batch)
    handle = model.expert.layers[0].register_forward_pre_hook(lambda *_: seen.append(1))
    torch.testing.assert_close(acting.sample_actions(**batch), before, rtol=1e-5, atol=1e-5)
    assert (len(seen), acting.how) == (model.config.num_steps, "eager (a hook watches the network)")
    handle.remove()
    assert torch.equal(acting.sample_actions(**batch), before)
    assert acting.how == "graph"


def test_a_shape_that_memory_is_short_for_leaves_the_others_captured(pi05: Golden) -> None:
    short = False

    def capture(run: Callable[[], Any]) -> Recorder:
        if short:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
        return Recorder(run)

    acting, batch = Runner(pi05.load(), capture), pi05.batches["libero"]
    before = acting.sample_actions(**rows(batch, 0))
    short = True
    with pytest.raises(torch.OutOfMemoryError):
        acting.sample_actions(**rows(batch, 0, 1))
    assert torch.equal(acting.sample_actions(**rows(batch, 0)), before)
    short = False
    acting.sample_actions(**rows(batch, 0, 1))
    assert acting.how == "graph"
