"""What the network leaves out must not change its result, and what training shares must not either."""

from __future__ import annotations

import pytest
import torch

from vlapack.errors import InputError
from vlapack.pi0.config import CONFIGS
from vlapack.pi0.flow import Pi0
from vlapack.pi0.init import init_weights
from vlapack.pi0.load import build
from vlapack.pi0.names import never_executed

CLOSE = {"rtol": 0, "atol": 2e-6}


def test_a_missing_camera_is_not_encoded_and_its_picture_does_not_matter(model, batch):
    batch["image_masks"][:, 1] = False
    seen = []
    model.vision.register_forward_pre_hook(lambda _, args: seen.append(len(args[0])))
    expected = model.sample_actions(**batch)
    batch["images"][:, 1] = float("nan")
    torch.testing.assert_close(model.sample_actions(**batch), expected, **CLOSE)
    assert seen == [2, 2]


def test_a_camera_missing_in_one_observation_equals_leaving_it_out_there(model, batch):
    batch["image_masks"][1, 1] = False
    together = model.sample_actions(**batch)
    for row in range(2):
        alone = model.sample_actions(**{key: value[row : row + 1] for key, value in batch.items()})
        torch.testing.assert_close(together[row : row + 1], alone, **CLOSE)


def test_padding_of_the_prompt_does_not_matter(model, batch):
    batch["token_masks"][0, 4:] = False
    batch["token_masks"][1, 3:] = False
    expected = model.sample_actions(**batch)
    batch["tokens"][:, 5:] = 0
    padded = dict(batch)
    padded["tokens"] = torch.nn.functional.pad(batch["tokens"], (0, 20))
    padded["token_masks"] = torch.nn.functional.pad(batch["token_masks"], (0, 20))
    torch.testing.assert_close(model.sample_actions(**padded), expected, **CLOSE)


def test_layers_said_never_to_run_do_not(model, batch):
    expected = model.sample_actions(**batch)
    for name in never_executed(model.config):
        model.get_submodule(name).to("meta")
    torch.testing.assert_close(model.sample_actions(**batch), expected, **CLOSE)


def test_only_pi0_reads_the_state(model, batch):
    before = model.sample_actions(**batch)
    batch["state"] += 1
    assert torch.equal(model.sample_actions(**batch), before) == (model.config.variant == "pi05")


def test_samples_that_share_a_prefix_have_the_loss_and_gradients_of_separate_passes(model, batch):
    generator = torch.Generator().manual_seed(4)
    noise = torch.randn(3, *batch.pop("noise").shape, generator=generator)
    time = torch.rand(3, 2, generator=generator)
    actions = torch.randn(noise.shape[1:], generator=generator)
    batch["image_masks"][1, 0] = False
    together = model.flow_matching_loss(**batch, actions=actions, noise=noise, time=time)
    together.mean().backward()
    gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    alone = torch.cat(
        [
            model.flow_matching_loss(**batch, actions=actions, noise=noise[i : i + 1], time=time[i : i + 1])
            for i in range(3)
        ]
    )
    alone.mean().backward()
    torch.testing.assert_close(together, alone, rtol=1e-5, atol=1e-5)
    for name, gradient in gradients.items():
        torch.testing.assert_close(model.get_parameter(name).grad, gradient, rtol=1e-4, atol=1e-6)
    without = {name.rpartition(".")[0] for name, p in model.named_parameters() if p.grad is None}
    assert without == never_executed(model.config)


def test_the_gradient_is_the_slope_of_the_loss(model, batch):
    arguments = {**batch, "actions": torch.zeros_like(batch["noise"]), "noise": batch["noise"][None]}
    arguments["time"] = torch.full((1, 2), 0.3)
    model.flow_matching_loss(**arguments).sum().backward()
    generator = torch.Generator().manual_seed(5)
    values = []
    steps = [(p, torch.randn(p.shape, generator=generator) * 1e-3) for p in model.parameters() if p.grad is not None]
    slope = sum((p.grad * step).sum().item() for p, step in steps)
    with torch.no_grad():
        for sign in (1, -2):
            for parameter, step in steps:
                parameter.add_(step, alpha=sign)
            values.append(model.flow_matching_loss(**arguments).sum().item())
    assert (values[0] - values[1]) / 2 == pytest.approx(slope, rel=2e-2)


def test_bf16_autocast_stays_near_fp32(model, batch):
    time = torch.full((1, 2), 0.5)
    arguments = {**batch, "actions": torch.zeros_like(batch["noise"]), "noise": batch["noise"][None], "time": time}
    expected = model.flow_matching_loss(**arguments)
    with torch.autocast("cpu", torch.bfloat16):
        loss = model.flow_matching_loss(**arguments)
    assert loss.dtype == torch.float32
    assert (loss - expected).norm() < 0.05 * expected.norm()


def test_a_step_wraps_every_velocity_and_may_differentiate(model, batch):
    times = []

    def guided(denoise, x_t, t):
        times.append(round(t[0].item(), 5))
        with torch.enable_grad():
            x_t = x_t.requires_grad_()
            (gradient,) = torch.autograd.grad(denoise(x_t, t).square().sum(), x_t)
        assert gradient.abs().sum() > 0
        return denoise(x_t, t)

    wrapped = model.sample_actions(**batch, num_steps=4, step=guided)
    assert times == [1.0, 0.75, 0.5, 0.25]
    assert not wrapped.requires_grad
    torch.testing.assert_close(wrapped, model.sample_actions(**batch, num_steps=4), **CLOSE)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"images": torch.zeros(2, 2, 3, 14, 15)}, r"images: expected \[B, 2, 3, 14, 14\]"),
        ({"image_masks": torch.ones(2, 3, dtype=torch.bool)}, "image_masks"),
        ({"token_masks": torch.ones(2, 3, dtype=torch.bool)}, "token_masks"),
        ({"num_steps": 0}, "num_steps is 0"),
    ],
)
def test_inputs_that_do_not_fit_are_refused(model, batch, change, message):
    with pytest.raises(InputError, match=message):
        model.sample_actions(**{**batch, **change})


def test_an_observation_that_shows_nothing_is_refused(model, batch):
    batch["image_masks"][1] = False
    batch["token_masks"][1] = False
    with pytest.raises(InputError, match="without any camera"):
        model.sample_actions(**batch)


def test_initial_values_depend_on_the_generator_alone_and_start_at_the_loss_of_standing_still():
    config = CONFIGS["tiny"]
    models = [build(config).to_empty(device="cpu") for _ in range(2)]
    for number, model in enumerate(models):
        torch.manual_seed(number)
        init_weights(model, torch.Generator().manual_seed(7))
    first, second = (model.state_dict() for model in models)
    assert all(torch.equal(first[name], second[name]) for name in first)
    generator = torch.Generator().manual_seed(8)
    noise = torch.randn(1, 2, config.action_horizon, 32, generator=generator)
    side = config.vision.image_size
    loss = models[0].flow_matching_loss(
        images=torch.rand(2, 3, 3, side, side, generator=generator) * 2 - 1,
        image_masks=torch.tensor([[True, True, False]] * 2),
        tokens=torch.randint(0, 512, (2, 48), generator=generator),
        token_masks=torch.ones(2, 48, dtype=torch.bool),
        state=torch.zeros(2, 32),
        actions=torch.zeros(2, config.action_horizon, 32),
        noise=noise,
        time=torch.rand(1, 2, generator=generator),
    )
    assert loss.mean().item() == pytest.approx(noise.square().mean().item(), rel=0.1)


def test_the_tiny_network_has_a_few_million_parameters():
    with torch.device("meta"):
        assert 3e6 < sum(p.numel() for p in Pi0(CONFIGS["tiny"]).parameters()) < 6e6
