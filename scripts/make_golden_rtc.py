"""Steer a small flow by LeRobot's and by Physical Intelligence's own code: tests/golden/rtc.safetensors.

Runs in LeRobot's environment (scripts/lerobot_reference.py), with JAX for the other, which is no package:

    lerobot-env/bin/pip install jax flax
    git clone https://github.com/Physical-Intelligence/real-time-chunking-kinetix
    PYTHONPATH=src:real-time-chunking-kinetix/src lerobot-env/bin/python scripts/make_golden_rtc.py tests/golden

The flow is tanh(x · w_in + mix · x · w_mix + t · w_time + w_bias) · w_out: nonlinear, and its rows see each other. Each
case is one chunk of ten Euler steps: LeRobot's by `euler_integrate` and `RTCProcessor` in fp32, the other by
`FlowPolicy.realtime_action` in fp64 and in its own time, which runs from 0 to 1. The latter is given an execution
horizon of at most the actions left, to which LeRobot reduces it by itself.
"""

from __future__ import annotations

import json
import sys
from itertools import product
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import torch
from lerobot.configs import RTCAttentionSchedule
from lerobot.policies.common.flow_matching import euler_integrate
from lerobot.policies.rtc.configuration_rtc import RTCConfig
from lerobot.policies.rtc.modeling_rtc import RTCProcessor
from model import FlowPolicy
from safetensors.numpy import save_file

BATCH, HORIZON, WIDTH, HIDDEN, STEPS = 2, 8, 5, 11, 10
SCHEDULES = ("linear", "exp", "ones", "zeros")
# Delay, execution horizon, actions left; and the bound of the weight.
TIMES = [(0, 8, 8), (0, 5, 6), (3, 6, 7), (2, 8, 4), (4, 4, 4), (8, 8, 8)]
BOUNDS = (10.0, 5.0)


def drawn() -> dict[str, np.ndarray]:
    """Return the flow's weights and the previous chunk."""
    draw = np.random.default_rng(7)
    shapes = {
        "w_in": (WIDTH, HIDDEN),
        "mix": (HORIZON, HORIZON),
        "w_mix": (WIDTH, HIDDEN),
        "w_time": (HIDDEN,),
        "w_bias": (HIDDEN,),
        "w_out": (HIDDEN, WIDTH),
        "previous": (BATCH, HORIZON, WIDTH),
    }
    return {name: draw.normal(0, 0.5, shape).astype(np.float32) for name, shape in shapes.items()}


def by_lerobot(tensors: dict[str, np.ndarray], noise: np.ndarray, case: dict[str, object]) -> np.ndarray:
    w = {name: torch.from_numpy(tensor) for name, tensor in tensors.items()}

    def velocity(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        inner = x @ w["w_in"] + w["mix"] @ x @ w["w_mix"] + t[:, None, None] * w["w_time"] + w["w_bias"]
        return torch.tanh(inner) @ w["w_out"]

    config = RTCConfig(
        prefix_attention_schedule=RTCAttentionSchedule[str(case["schedule"]).upper()],
        max_guidance_weight=case["bound"],
    )
    return euler_integrate(
        velocity,
        torch.from_numpy(noise.astype(np.float32)),
        STEPS,
        rtc_processor=RTCProcessor(config),
        rtc_enabled=True,
        inference_delay=case["delay"],
        prev_chunk_left_over=w["previous"][:, : case["left"]],
        execution_horizon=case["end"],
    ).numpy()


def by_kinetix(tensors: dict[str, np.ndarray], case: dict[str, object]) -> np.ndarray:
    w = {name: jnp.asarray(tensor, jnp.float64) for name, tensor in tensors.items()}

    class Flow(SimpleNamespace):
        def __call__(self, obs: jax.Array, x: jax.Array, tau: jax.Array) -> jax.Array:
            inner = x @ w["w_in"] + w["mix"] @ x @ w["w_mix"] + (1 - tau) * w["w_time"] + w["w_bias"]
            return -jnp.tanh(inner) @ w["w_out"]

    left = case["left"]
    return FlowPolicy.realtime_action(
        Flow(action_chunk_size=HORIZON, action_dim=WIDTH),
        jax.random.key(0),
        jnp.zeros((BATCH, 1)),
        STEPS,
        jnp.pad(w["previous"][:, :left], ((0, 0), (0, HORIZON - left), (0, 0))),
        case["delay"],
        min(case["end"], left),
        case["schedule"],
        case["bound"],
    )


def main(out: Path) -> None:
    jax.config.update("jax_enable_x64", True)
    torch.set_num_threads(1)
    tensors = drawn()
    noise = np.asarray(jax.random.normal(jax.random.key(0), (BATCH, HORIZON, WIDTH)))  # as `realtime_action` draws it
    cases = [
        {"schedule": schedule, "delay": delay, "end": end, "left": left, "bound": bound}
        for schedule, (delay, end, left), bound in product(SCHEDULES, TIMES, BOUNDS)
    ]
    chunks = {
        "lerobot": np.stack([by_lerobot(tensors, noise, case) for case in cases]),
        "vjp": np.stack([np.asarray(by_kinetix(tensors, case)) for case in cases]),
    }
    save_file({**tensors, "noise": noise, **chunks}, out / "rtc.safetensors", {"cases": json.dumps(cases)})


if __name__ == "__main__":
    main(Path(sys.argv[1]))
