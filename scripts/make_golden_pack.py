"""Make the pack of format 1 that every later version must read: tests/golden/pack-format-1/, and what it holds.

It was made once, with the first release; making it again with a newer vlapack would defeat its purpose. It wants
compressed-tensors (0.20.0 then) beside vlapack, since the integers are those that *their* unpacking returns:

    PYTHONPATH=src:tests python scripts/make_golden_pack.py tests/golden

`pack-format-1.safetensors` holds `integers/LAYER` [N, K] int8 (by compressed-tensors), and for some layers
`inputs/LAYER` [3, K] and `outputs/LAYER` [3, N], fp32.
"""

from __future__ import annotations

import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import torch
from compressed_tensors.compressors.pack_quantized.helpers import unpack_from_int32
from safetensors.torch import save_file
from small import SMALL, random_observations, small_policy, write_random_checkpoint

from vlapack import make_pack, open_checkpoint
from vlapack.checkpoints.pack.checkpoint import PackedCheckpoint
from vlapack.policy.packed import load_packed_model
from vlapack.recipe.presets import preset

# One layer of each transformer's kind, and every kind of tensor that the format knows.
ARCHITECTURE = replace(
    SMALL,
    vision=replace(SMALL.vision, width=24, depth=1, mlp_dim=40),
    llm=replace(SMALL.llm, width=32, depth=2, mlp_dim=48, head_dim=8),
    expert=replace(SMALL.expert, width=16, depth=2, mlp_dim=24, head_dim=8),
)
RECIPE = replace(
    preset("everything"),
    block=8,
    shared_block=False,
    row_rot="restore",
    smooth=0.15,
    act_scale="static",
    calib_steps=4,
    overrides=(*preset("everything").overrides, (r"down_proj$", 8)),
)
EXPERT = "paligemma_with_expert.gemma_expert.model.layers.0"
PROBED = (f"{EXPERT}.self_attn.q_proj", f"{EXPERT}.self_attn.v_proj", f"{EXPERT}.mlp.down_proj", "action_in_proj")


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as scratch:
        parent = write_random_checkpoint(Path(scratch) / "parent", small_policy(architecture=ARCHITECTURE), seed=4)
        make_pack(open_checkpoint(parent), RECIPE, folder / "pack-format-1", random_observations(4, seed=4))
    pack = PackedCheckpoint.open(folder / "pack-format-1")
    found = {}
    for name in pack.names():
        layer, _, kind = name.rpartition(".")
        if kind == "weight_packed":
            shape = torch.Size(pack.read(f"{layer}.weight_shape").tolist())
            found[f"integers/{layer}"] = unpack_from_int32(pack.read(name), 4, shape).contiguous()
    model = load_packed_model(pack)
    draw = torch.Generator().manual_seed(4)
    for layer in PROBED:
        module = model.get_submodule(layer)
        x = torch.randn(3, module.in_features, generator=draw)
        found |= {f"inputs/{layer}": x, f"outputs/{layer}": module(x)}
    save_file(found, folder / "pack-format-1.safetensors")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
