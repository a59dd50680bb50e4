"""Run a pack through LeRobot's own loaders and processors, as `lerobot-eval --policy.path=PACK` does.

    PYTHONPATH=src:plugins/lerobot_policy_vlapack/src lerobot-env/bin/python scripts/check_plugin.py PACK SEEN.npz

SEEN.npz holds observations (`image`, `image2`, `state`, `task`), the noise, and the `actions` that the pack chooses
outside of LeRobot; the last line of the output says how far LeRobot's are from them.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import lerobot_policy_vlapack
import numpy as np
import torch
from lerobot.configs import PreTrainedConfig
from lerobot.envs.configs import LiberoEnv
from lerobot.policies.factory import make_policy, make_pre_post_processors


def main(pack: Path, seen: Path) -> None:
    config = PreTrainedConfig.from_pretrained(pack)
    assert isinstance(config, lerobot_policy_vlapack.VlapackConfig)
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
    print(json.dumps({"largest_difference": float(np.abs(actions.numpy() - data["actions"]).max())}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
