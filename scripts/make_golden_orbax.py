"""Write small policies with openpi's JAX model and Orbax, and keep what they computed: tests/golden/orbax.

In the environment of scripts/openpi_reference.py, with chex and orbax-checkpoint added; from the repository's root:

    PYTHONPATH=src:scripts openpi-env/bin/python scripts/make_golden_orbax.py tests/golden/orbax

`pi05` is a plain policy, `pi0-lora` has LoRA on both transformers, with openpi's ranks. Each is a step's folder as
openpi's training saves it: `params/` without `assets/`. A safetensors file beside it holds the inputs (without the
pictures, which are `pictures(SEED)`) and the actions; its header holds the sizes.
"""

from __future__ import annotations

import json
import shutil
import sys
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import jax
import numpy as np
import orbax.checkpoint as ocp
import torch
from flax import nnx
from openpi.models import gemma, lora, model, pi0, pi0_config, siglip
from safetensors.numpy import save_file

from vlapack.pi0.config import GemmaConfig, Pi0Config, VisionConfig

SEED = 9


def sizes(variant: str) -> Pi0Config:
    """Return odd widths; openpi's JAX model fixes the pictures' size."""
    return Pi0Config(
        variant=variant,  # type: ignore[arg-type]
        vision=VisionConfig(width=12, depth=2, mlp_dim=22, num_heads=2, patch_size=14, image_size=224),
        llm=GemmaConfig(width=24, depth=2, mlp_dim=38, num_heads=4, num_kv_heads=1, head_dim=8),
        expert=GemmaConfig(width=16, depth=2, mlp_dim=26, num_heads=4, num_kv_heads=1, head_dim=8),
        vocab_size=64,
        action_dim=32,
        action_horizon=4,
        max_token_len=9,
        num_cameras=3,
    )


def pictures(seed: int) -> torch.Tensor:
    """Return [2, 3, 3, 224, 224] in [-1, 1]."""
    return torch.rand(2, 3, 3, 224, 224, generator=torch.Generator().manual_seed(seed)) * 2 - 1


@contextmanager
def patched(config: Pi0Config, *, with_lora: bool) -> Iterator[None]:
    """Let openpi's JAX classes be built and run at these sizes while the context lasts."""

    def of(name: str) -> gemma.Config:
        part: GemmaConfig = getattr(config, name)
        rank = {"llm": 16, "expert": 32}[name]
        adapter = lora.LoRAConfig(rank=rank, alpha=float(rank))
        return gemma.Config(
            width=part.width,
            depth=part.depth,
            mlp_dim=part.mlp_dim,
            num_heads=part.num_heads,
            num_kv_heads=part.num_kv_heads,
            head_dim=part.head_dim,
            lora_configs={"attn": adapter, "ffn": adapter} if with_lora else {},
        )

    vision = config.vision
    tower = {"width": vision.width, "depth": vision.depth, "mlp_dim": vision.mlp_dim, "num_heads": vision.num_heads}
    patch = {"patch_size": (vision.patch_size,) * 2}
    with (
        mock.patch.object(gemma, "get_config", of),
        mock.patch.object(gemma, "PALIGEMMA_VOCAB_SIZE", config.vocab_size),
        mock.patch.object(siglip, "decode_variant", return_value=tower | patch),
    ):
        yield


def jax_model(config: Pi0Config) -> pi0.Pi0:
    """Build openpi's JAX class."""
    return pi0.Pi0(
        pi0_config.Pi0Config(
            dtype="float32",
            pi05=config.variant == "pi05",
            paligemma_variant="llm",  # type: ignore[arg-type]
            action_expert_variant="expert",  # type: ignore[arg-type]
            action_horizon=config.action_horizon,
            max_token_len=config.max_token_len,
        ),
        nnx.Rngs(0),
    )


def drawn(path: tuple[Any, ...], shape: tuple[int, ...]) -> np.ndarray:
    """Draw one parameter from its name: none is left at a value that would hide a mistake."""
    name = "/".join(map(str, path))
    draw = np.random.default_rng(zlib.crc32(f"{SEED}:{name}".encode()))
    fan_in = {"scale": 12, "bias": 25}.get(str(path[-1]), int(np.prod(shape[-2:-1])) or 1)
    return draw.normal(size=shape, scale=fan_in**-0.5).astype(np.float32)


def run(network: pi0.Pi0, inputs: dict[str, np.ndarray]) -> np.ndarray:
    """Return the action chunk."""
    images = pictures(SEED).permute(1, 0, 3, 4, 2).numpy()
    observation = model.Observation(
        images=dict(zip(model.IMAGE_KEYS, images, strict=True)),
        image_masks=dict(zip(model.IMAGE_KEYS, inputs["image_masks"].T, strict=True)),
        state=inputs["state"],
        tokenized_prompt=inputs["tokens"].astype(np.int32),
        tokenized_prompt_mask=inputs["token_masks"],
    )
    observation, noise = jax.tree.map(jax.numpy.asarray, (observation, inputs["noise"]))
    with jax.default_matmul_precision("highest"):
        return np.asarray(network.sample_actions(jax.random.key(0), observation, noise=noise))


def random_inputs(config: Pi0Config) -> dict[str, np.ndarray]:
    """Return a batch of two, of which each lacks another camera."""
    draw = torch.Generator().manual_seed(SEED)
    return {
        "image_masks": np.array([[True, True, False], [True, False, True]]),
        "tokens": torch.randint(0, config.vocab_size, (2, config.max_token_len), generator=draw).numpy(),
        "token_masks": np.arange(config.max_token_len)[None] < np.array([[9], [5]]),
        "state": torch.randn(2, config.action_dim, generator=draw).numpy(),
        "noise": torch.randn(2, config.action_horizon, config.action_dim, generator=draw).numpy(),
    }


def main(out: Path) -> None:
    shutil.rmtree(out, ignore_errors=True)
    for name, with_lora in (("pi05", False), ("pi0-lora", True)):
        config = sizes(name.partition("-")[0])
        with patched(config, with_lora=with_lora):
            graph, state = nnx.split(jax_model(config))
            for path, value in state.flat_state().items():
                value.value = jax.numpy.asarray(drawn(path, value.value.shape))
            with ocp.PyTreeCheckpointer() as checkpointer:
                checkpointer.save((out / name / "params").absolute(), {"params": state})
            inputs = random_inputs(config)
            arrays = {**inputs, "actions": run(nnx.merge(graph, state), inputs)}
        save_file(arrays, out / f"{name}.safetensors", {"sizes": json.dumps(config.to_dict())})


if __name__ == "__main__":
    main(Path(sys.argv[1]))
