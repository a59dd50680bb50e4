"""Run a pack through LeRobot's own loaders and processors, as `lerobot-eval --policy.path=PACK` does.

    PYTHONPATH=src:plugins/lerobot_policy_vlapack/src lerobot-env/bin/python scripts/check_plugin.py PACK SEEN PARENT

SEEN is a .npz of observations (`image`, `image2`, `state`, `task`), the noise, and the `actions` that the pack chooses
outside of LeRobot; the last line of the output says how far LeRobot's are from them. It also says how far the plugin's
real-time chunks are from those of LeRobot's own `RTCProcessor` around the same network, which is PACK's float PARENT: a
pack turns differences in the last bit into larger ones, where they flip an int8 value.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import torch
from lerobot.configs import PreTrainedConfig
from lerobot.envs.configs import LiberoEnv
from lerobot.policies.common.flow_matching import euler_integrate
from lerobot.policies.factory import make_policy, make_pre_post_processors
from lerobot.policies.rtc.configuration_rtc import RTCConfig
from lerobot.policies.rtc.modeling_rtc import RTCProcessor
from lerobot_policy_vlapack import VlapackConfig, VlapackPolicy

from vlapack import Policy
from vlapack.lerobot import read_batch
from vlapack.pi0.positions import euler_times
from vlapack.policy.inputs import Inputs

SCHEDULES = ("LINEAR", "EXP", "ONES", "ZEROS")
# The first so many left-over actions, the delay, the horizon: LeRobot clips the last two.
TIMES = ((3, 1, 10), (3, 12, 2), (2, 1, 2), (3, 0, 3))


def main(pack: Path, seen: Path, parent: Path) -> None:
    config = PreTrainedConfig.from_pretrained(pack)
    assert isinstance(config, VlapackConfig)
    config.pretrained_path = pack
    policy = make_policy(config, env_cfg=LiberoEnv())  # which also moves it to a device
    overrides = {
        "device_processor": {"device": str(config.device)},
        "rename_observations_processor": {"rename_map": {}},
    }
    before, after = make_pre_post_processors(config, pretrained_path=str(pack), preprocessor_overrides=overrides)
    data = np.load(seen)
    batch = before(
        {
            **{
                f"observation.images.{name}": torch.from_numpy(data[name]).permute(0, 3, 1, 2).float() / 255
                for name in ("image", "image2")
            },
            "observation.state": torch.from_numpy(data["state"]).float(),
            "task": [str(task) for task in data["task"]],
        }
    )
    chunk = policy.predict_action_chunk(batch, noise=torch.from_numpy(data["noise"]))
    actions = torch.stack([after(chunk[:, step]) for step in range(chunk.shape[1])], dim=1)
    policy.reset()
    first = policy.select_action(batch)
    taken = [first, *(policy.select_action(batch) for _ in range(config.n_action_steps))]
    policy.reset()
    assert torch.equal(policy.select_action(batch), first)
    assert not torch.equal(taken[-1], first)  # of a new chunk
    found = {"largest_difference": float(np.abs(actions.numpy() - data["actions"]).max())}
    float_policy = VlapackPolicy(config, Policy.from_pretrained(parent)).eval()
    print(json.dumps(found | real_time(float_policy, batch, torch.from_numpy(data["noise"]), chunk)))


def real_time(
    policy: VlapackPolicy,
    batch: dict[str, torch.Tensor],
    noise: torch.Tensor,
    last: torch.Tensor,
) -> dict[str, object]:
    """Return how far chunks that continue `last` are from LeRobot's, and how far those are from plain ones."""
    pack, dims = policy.pack, last.shape[-1]
    inputs = Inputs.stack([pack.observe(observation) for observation in read_batch(pack, batch)])
    prefix, times = pack.model.embed_prefix(*inputs.network[:4]), euler_times(pack.model.config.num_steps)

    def denoise(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        # The pack knows its own ten times only, and LeRobot's differ in the last bit.
        return pack.model.denoise_step(prefix, inputs.state, x, times[(times - t[:1]).abs().argmin()].expand(len(x)))

    apart, moved = [], []
    noise = noise.flip(0).float()  # not the one of `last`
    for schedule in SCHEDULES:
        for left, delay, horizon in TIMES:
            rtc = RTCConfig(prefix_attention_schedule=schedule, execution_horizon=horizon)
            told = {"inference_delay": delay, "prev_chunk_left_over": last[:, 1 : 1 + left]}
            with torch.no_grad():
                theirs = euler_integrate(
                    denoise, noise, len(times), rtc_processor=RTCProcessor(rtc), rtc_enabled=True, **told
                )
            policy.config.rtc_config = rtc
            ours = policy.predict_action_chunk(batch, noise=noise, **told)
            policy.config.rtc_config = None
            plain = policy.predict_action_chunk(batch, noise=noise)
            apart.append(float((ours - theirs[..., :dims]).abs().max()))
            moved.append(float((ours - plain).abs().max()))
    return {"real_time_difference": max(apart), "real_time_effect": max(moved)}


if __name__ == "__main__":
    main(*(Path(argument) for argument in sys.argv[1:]))
