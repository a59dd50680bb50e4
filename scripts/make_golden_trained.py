"""Act with a small policy of LeRobot's training-time real-time chunking: tests/golden/lerobot-trained.safetensors.

Only LeRobot's main branch has it. In the environment of scripts/lerobot_reference.py, with its sources before the
installed ones:

    git clone https://github.com/huggingface/lerobot
    PYTHONPATH=lerobot/src:src:scripts lerobot-env/bin/python scripts/make_golden_trained.py tests/golden

The weights are `seeded.seeded_tensor`s; the file's header says the sizes. It holds what `sample_actions` was given, and
for each delay the chunk that it made: normalized, of all dimensions.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
from lerobot.policies.rtc.configuration_rtc import RTCConfig
from lerobot_reference import reference_config, reference_policy
from make_golden_lerobot import SEED, sizes
from safetensors.torch import save_file

MAX_DELAY, DIMS = 2, 7


@torch.no_grad()
def main(out: Path) -> None:
    torch.set_num_threads(1)
    small = sizes("pi05")
    rtc = {"rtc_training_max_delay": MAX_DELAY, "rtc_config": RTCConfig(mode="trained")}
    policy = reference_policy(small, reference_config(small, actions=DIMS, **rtc), SEED)
    draw = torch.Generator().manual_seed(SEED)
    given = {
        "images": torch.rand(2, 2, 3, 28, 28, generator=draw) * 2 - 1,
        "tokens": torch.randint(0, small.vocab_size, (2, 9), generator=draw),
        "noise": torch.randn(2, small.action_horizon, small.action_dim, generator=draw),
        "previous": torch.randn(2, 3, DIMS, generator=draw),
    }
    images, masks = [*given["images"].unbind(1)], [torch.ones(2, dtype=torch.bool)] * 2
    there = torch.ones_like(given["tokens"], dtype=torch.bool)
    chunks = {
        f"delay {delay}": policy.model.sample_actions(
            images,
            masks,
            given["tokens"],
            there,
            noise=given["noise"],
            inference_delay=delay,
            prev_chunk_left_over=given["previous"],
        )
        for delay in range(MAX_DELAY + 1)
    }
    header = {"sizes": json.dumps({**small.to_dict(), "num_cameras": 2, "max_delay": MAX_DELAY})}
    kept = {name: tensor.contiguous() for name, tensor in (given | chunks).items()}
    save_file(kept, out / "lerobot-trained.safetensors", header)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
