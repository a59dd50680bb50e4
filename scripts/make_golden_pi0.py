"""Run openpi's real class at a small size and keep what it computed: tests/golden/pi0.safetensors, pi05.safetensors.

How to install openpi: see scripts/openpi_reference.py. Then, from the repository's root:

    PYTHONPATH=src:scripts openpi-env/bin/python scripts/make_golden_pi0.py tests/golden

Each file holds, in fp32, `weights/…` (openpi's names, as its own files have them), and for two batches, `mixed/…`
(a camera missing in some rows) and `libero/…` (the third camera missing everywhere): the inputs, the actions, x_t and
v_t of every denoise step [steps, B, H, D], the actions of the same network in bf16, and the training loss at two points
of the flow [2, B, H, D]. The header's `config` is a `Pi0Config`. `openpi_pi05_tensors.json` lists the names, shapes
and dtypes of openpi's π0.5 at full size.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path

import openpi_reference as reference
import torch
from safetensors.torch import save_file
from seeded import Inputs, random_inputs
from torch import Tensor

from vlapack.pi0.config import CONFIGS, GemmaConfig, Pi0Config, VisionConfig

SEED = 20
# Widths that are no powers of two, an mlp that 16 does not divide, and three layers, so that two LLM layers run whole.
SMALL = Pi0Config(
    variant="pi05",
    vision=VisionConfig(width=36, depth=2, mlp_dim=74, num_heads=3, patch_size=7, image_size=28),
    llm=GemmaConfig(width=40, depth=3, mlp_dim=82, num_heads=8, num_kv_heads=1, head_dim=16),
    expert=GemmaConfig(width=24, depth=3, mlp_dim=54, num_heads=8, num_kv_heads=1, head_dim=16),
    vocab_size=64,
    action_dim=32,
    action_horizon=10,
    max_token_len=12,
    num_cameras=3,
)


def run(model: torch.nn.Module, inputs: Inputs, seed: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    result = {field.name: getattr(inputs, field.name) for field in dataclasses.fields(inputs)}
    result["actions"], points, velocities = reference.sample(model, inputs)
    result["x_t"], result["v_t"] = torch.stack(points), torch.stack(velocities)
    result["target"] = torch.randn(inputs.noise.shape, generator=generator)
    result["loss_noise"] = torch.randn(2, *inputs.noise.shape, generator=generator)
    result["loss_time"] = torch.rand(2, len(inputs.noise), generator=generator) * 0.999 + 0.001
    with torch.no_grad():
        result["loss"] = torch.stack(
            [
                model(reference.observation(inputs), result["target"], noise=noise, time=time)
                for noise, time in zip(result["loss_noise"], result["loss_time"], strict=True)
            ]
        )
    return result


def to_bf16(model: torch.nn.Module) -> None:
    """Use openpi's own mixed precision, less two accidents that shift every rotary angle.

    Its `.to(bfloat16)` also rounds the rotary frequencies, which its JAX original computes in fp32; and the package
    (unlike openpi's repository) builds the expert's rotary table before it casts the expert's input.
    """
    model.paligemma_with_expert.to_bfloat16_for_selected_params("bfloat16")
    for module in model.modules():
        if hasattr(module, "inv_freq"):
            module.inv_freq = module.original_inv_freq
    embed_suffix = model.embed_suffix

    def cast_first(state, noisy_actions, timestep):  # type: ignore[no-untyped-def]
        embeddings, *rest = embed_suffix(state, noisy_actions, timestep)
        return embeddings.to(torch.bfloat16), *rest

    model.embed_suffix = cast_first


def golden(config: Pi0Config, path: Path) -> None:
    model = reference.reference_model(config)
    reference.fill(model, SEED)
    tensors = {
        f"weights/{name}": value.clone()
        for name, value in model.state_dict().items()
        if not name.endswith("embed_tokens.weight")
    }
    batches = {
        "mixed": random_inputs(
            config, [[True, True, True], [True, False, True], [False, True, False]], [12, 5, 9], SEED + 1
        ),
        "libero": random_inputs(config, [[True, True, False], [True, True, False]], [7, 4], SEED + 2),
    }
    for name, inputs in batches.items():
        tensors |= {f"{name}/{key}": value for key, value in run(model, inputs, SEED + 3).items()}
    to_bf16(model)
    for name, inputs in batches.items():
        tensors[f"{name}/actions_bf16"] = reference.sample(model, inputs)[0]
    save_file(
        {key: value.contiguous() for key, value in tensors.items()}, path, {"config": json.dumps(config.to_dict())}
    )


def listing(path: Path) -> None:
    with torch.device("meta"):
        model = reference.reference_model(CONFIGS["pi05_libero"], dtype="bfloat16")
    rows = {name: [list(value.shape), str(value.dtype)[len("torch.") :]] for name, value in model.state_dict().items()}
    lines = ",\n".join(f"{json.dumps(name)}: {json.dumps(row)}" for name, row in rows.items())
    path.write_text(f"{{\n{lines}\n}}\n")


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    for variant in ("pi0", "pi05"):
        golden(dataclasses.replace(SMALL, variant=variant), folder / f"{variant}.safetensors")
    listing(folder / "openpi_pi05_tensors.json")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
