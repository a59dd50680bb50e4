"""The policy around its network: whose noise, which bytes, what a copy needs, what is missing."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from vlapack.checkpoints.tensorfile import TensorFile
from vlapack.errors import InputError
from vlapack.observations.folder import load_observations
from vlapack.pi0.load import build, load_weights
from vlapack.pi0.names import EMBEDDING, TIED_EMBEDDING, canonical_name, linears
from vlapack.policy.policy import Policy


@pytest.fixture(scope="module")
def policy(random_checkpoint: Path) -> Policy:
    torch.set_num_threads(1)
    return Policy.from_pretrained(random_checkpoint)


@pytest.fixture(scope="module")
def observations(observation_folder: Path) -> list[dict[str, Any]]:
    return load_observations(observation_folder)


def test_a_chunk_has_the_robots_shape(policy: Policy, observations: list[dict[str, Any]]) -> None:
    result = policy.infer(observations[0])
    assert result["actions"].shape == (4, 7)
    assert np.isfinite(result["actions"]).all()
    assert result["policy_timing"]["infer_ms"] > 0


def test_noise_repeats_after_reset_and_ignores_the_global_generator(
    policy: Policy, observations: list[dict[str, Any]]
) -> None:
    policy.reset(seed=3)
    first, second = (policy.infer(observations[0])["actions"] for _ in range(2))
    policy.reset(seed=3)
    torch.manual_seed(99)
    before = torch.random.get_rng_state()
    np.testing.assert_array_equal(policy.infer(observations[0])["actions"], first)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert (first != second).any()


def test_given_noise_is_what_the_generator_would_have_drawn(policy: Policy, observations: list[dict[str, Any]]) -> None:
    noise = torch.randn(4, 32, generator=torch.Generator().manual_seed(5))
    drawn = policy.infer(observations[0], generator=torch.Generator().manual_seed(5))["actions"]
    np.testing.assert_array_equal(policy.infer(observations[0], noise=noise.numpy())["actions"], drawn)


def test_a_batch_draws_and_answers_like_one_at_a_time(policy: Policy, observations: list[dict[str, Any]]) -> None:
    policy.reset(seed=1)
    single = [policy.infer(observation)["actions"] for observation in observations]
    policy.reset(seed=1)
    batch = [result["actions"] for result in policy.infer_batch(observations)]
    np.testing.assert_allclose(batch, single, atol=1e-4)
    assert policy.infer_batch([]) == []


@pytest.mark.parametrize("shape", [(3, 32), (4, 7), (1, 4, 32)])
def test_noise_of_another_shape_is_refused(
    policy: Policy, observations: list[dict[str, Any]], shape: tuple[int, ...]
) -> None:
    with pytest.raises(InputError, match=r"this policy needs 1 of shape \(4, 32\)"):
        policy.infer(observations[0], noise=np.zeros(shape))


def test_an_observation_without_prompt_is_refused(policy: Policy, observations: list[dict[str, Any]]) -> None:
    with pytest.raises(InputError, match="no 'prompt'"):
        policy.infer({key: value for key, value in observations[0].items() if key != "prompt"})


def test_held_bytes_are_those_of_the_tensors_that_run(policy: Policy, random_checkpoint: Path) -> None:
    weights = TensorFile(random_checkpoint / "model.safetensors")
    stored = {canonical_name(name).replace(TIED_EMBEDDING, EMBEDDING): name for name in weights.names()}
    linear = {f"{name}.{kind}" for name in linears(policy.config.architecture) for kind in ("weight", "bias")}
    expected = 0
    for name, tensor in (*policy.model.named_parameters(), *policy.model.named_buffers()):
        if name == "time_table":
            expected += 10 * 5 * 3 * policy.config.architecture.expert.width * 4
        elif not tensor.is_meta and name != EMBEDDING:  # a linear is held as stored, all else in the arithmetic's fp32
            width = weights.dtype(stored[name]).itemsize if name in linear else 4
            expected += width * int(np.prod(weights.shape(stored[name])))
    assert policy.held_bytes() == expected
    assert policy.mapped_bytes() == 512 * 64 * 2  # the embedding's rows


def test_linears_held_as_stored_act_as_if_widened(policy: Policy, observations: list[dict[str, Any]]) -> None:
    weights = TensorFile(policy.checkpoint.path / "model.safetensors")
    widened = build(policy.config.architecture)
    load_weights(widened, lambda name: weights.read(name).float(), weights.names())
    inputs, noise = policy.observe(observations[0]), torch.randn(1, 4, 32, generator=torch.Generator().manual_seed(1))
    ours, theirs = (model.sample_actions(*inputs.network, noise) for model in (policy.model, widened))
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-6)


def test_mapped_weights_are_counted_apart_and_shared_storage_once(random_checkpoint: Path) -> None:
    policy = Policy.from_pretrained(random_checkpoint)
    before, rows = policy.held_bytes(), policy.mapped_bytes()
    out = policy.model.action_out_proj
    mapped = TensorFile(random_checkpoint / "model.safetensors").mapped("action_out_proj.weight")
    nbytes = mapped.untyped_storage().nbytes()
    policy.model.register_buffer("alias", out.weight.detach()[1:])
    assert policy.held_bytes() == before
    del policy.model.alias
    out.weight = torch.nn.Parameter(mapped, requires_grad=False)
    assert (policy.held_bytes(), policy.mapped_bytes()) == (before - nbytes, rows + nbytes)


def test_a_copy_opens_by_itself_and_acts_the_same(
    policy: Policy, observations: list[dict[str, Any]], tmp_path: Path
) -> None:
    policy.save_pretrained(tmp_path / "copy")
    copy = Policy.from_pretrained(tmp_path / "copy")
    for one in (policy, copy):
        one.reset(seed=2)
    np.testing.assert_array_equal(copy.infer(observations[0])["actions"], policy.infer(observations[0])["actions"])
    with pytest.raises(InputError, match="exists already"):
        policy.save_pretrained(tmp_path / "copy")


def test_missing_statistics_and_tokenizer_name_their_settings(
    random_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENPI_DATA_HOME", str(tmp_path / "openpi-cache"))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    folder = Path(shutil.copytree(random_checkpoint, tmp_path / "checkpoint"))
    (folder / "tokenizer.model").unlink()
    with pytest.raises(InputError, match=r"checkpoint/tokenizer.model.*openpi-cache.*hub.*`tokenizer=PATH`"):
        Policy.from_pretrained(folder)
    shutil.move(folder / "assets" / "small", folder / "assets" / "other")
    with pytest.raises(InputError, match=r"asset id 'small'.*statistics for other.*`norm_stats=PATH`"):
        Policy.from_pretrained(folder)
