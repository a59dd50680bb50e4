"""openpi's real `PI0Pytorch`, built at any size, seeded and run: what our network is compared with.

Runs in an environment of its own, because openpi pins what a policy runtime must not:

    python3.11 -m venv openpi-env
    openpi-env/bin/pip install torch==2.13.0
    openpi-env/bin/pip install --no-deps rpent-openpi==0.2.2
    openpi-env/bin/pip install transformers==4.57.6 jax==0.5.3 flax==0.10.2 jaxtyping==0.2.36 beartype==0.19.0 \
        einops augmax ml_collections==1.0.0 pytest sentencepiece safetensors "numpy<2"

openpi's class hard-codes its vision tower, 257152 tokens and 224 pixels; `reference_model` patches those where it
reads them, and nothing else. Its arithmetic is untouched.
"""

from __future__ import annotations

import types
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

import torch
from openpi.models import gemma as openpi_gemma
from openpi.models import pi0_config
from openpi.models_pytorch import gemma_pytorch, pi0_pytorch, preprocessing_pytorch
from safetensors.torch import load_file
from seeded import Inputs, seeded_tensor
from torch import Tensor

from vlapack.pi0.config import GemmaConfig, Pi0Config

EMBEDDING, TIED_EMBEDDING = (
    f"paligemma_with_expert.paligemma.{name}.weight" for name in ("model.language_model.embed_tokens", "lm_head")
)

CAMERAS = preprocessing_pytorch.IMAGE_KEYS


@contextmanager
def patched_sizes(sizes: Pi0Config) -> Iterator[None]:
    """Let openpi's class be built at these sizes while the context lasts, whatever variants its configuration names."""
    if sizes.num_cameras != len(CAMERAS) or sizes.action_dim != 32 or sizes.llm.num_heads != 8:
        raise ValueError("openpi's class fixes 3 cameras, 32 action dimensions and 8 heads")
    gemma = {"gemma_2b": sizes.llm, "gemma_300m": sizes.expert}
    real_paligemma, real_expert = gemma_pytorch.PaliGemmaForConditionalGeneration, gemma_pytorch.GemmaForCausalLM

    def paligemma(config):  # type: ignore[no-untyped-def]
        vision, tower = config.vision_config, sizes.vision
        vision.hidden_size, vision.intermediate_size = tower.width, tower.mlp_dim
        vision.num_hidden_layers, vision.num_attention_heads = tower.depth, tower.num_heads
        vision.patch_size, vision.image_size, vision.projection_dim = (
            tower.patch_size,
            tower.image_size,
            sizes.llm.width,
        )
        config.text_config.vocab_size = config._vocab_size = sizes.vocab_size
        return real_paligemma(config)

    def expert(config):  # type: ignore[no-untyped-def]
        config.vocab_size = sizes.vocab_size
        return real_expert(config)

    with (
        mock.patch.object(openpi_gemma, "get_config", lambda name: _openpi_sizes(gemma[name])),
        mock.patch.object(gemma_pytorch, "PaliGemmaForConditionalGeneration", paligemma),
        mock.patch.object(gemma_pytorch, "GemmaForCausalLM", expert),
    ):
        yield


def reference_model(sizes: Pi0Config, dtype: str = "float32") -> pi0_pytorch.PI0Pytorch:
    """Build openpi's class at these sizes, its images passed on as they are, without augmentation."""
    with patched_sizes(sizes):
        model = pi0_pytorch.PI0Pytorch(
            pi0_config.Pi0Config(
                dtype=dtype,
                pi05=sizes.variant == "pi05",
                paligemma_variant="gemma_2b",
                action_expert_variant="gemma_300m",
                action_horizon=sizes.action_horizon,
                max_token_len=sizes.max_token_len,
            )
        )
    # Its constructor lets fp32 products round ("high") for the whole process.
    torch.set_float32_matmul_precision("highest")
    model._preprocess_observation = lambda observation, train: (
        list(observation.images.values()),
        list(observation.image_masks.values()),
        observation.tokenized_prompt,
        observation.tokenized_prompt_mask,
        observation.state,
    )
    return model.eval()


@torch.no_grad()
def fill(model: torch.nn.Module, seed: int) -> None:
    """Give every parameter its `seeded_tensor`, tied ones once and under openpi's file name."""
    for name, parameter in model.named_parameters(remove_duplicate=False):
        if not name.endswith("embed_tokens.weight"):
            parameter.copy_(seeded_tensor(name, tuple(parameter.shape), seed))


def mapped_model(sizes: Pi0Config, path: Path) -> pi0_pytorch.PI0Pytorch:
    """Build openpi's class on meta, except its buffers, and assign it the fp32 tensors of a file, mapped."""
    register = torch.nn.Module.register_parameter

    def on_meta(module, name, parameter):  # type: ignore[no-untyped-def]
        register(module, name, None if parameter is None else torch.nn.Parameter(parameter.to("meta")))

    with mock.patch.object(torch.nn.Module, "register_parameter", on_meta):
        model = reference_model(sizes)
    weights = load_file(path)
    weights[EMBEDDING] = weights[TIED_EMBEDDING]
    model.load_state_dict(weights, assign=True)
    return model


def observation(inputs: Inputs) -> types.SimpleNamespace:
    """Return the batch under the names by which openpi reads it."""
    return types.SimpleNamespace(
        images={camera: inputs.images[:, index] for index, camera in enumerate(CAMERAS)},
        image_masks={camera: inputs.image_masks[:, index] for index, camera in enumerate(CAMERAS)},
        tokenized_prompt=inputs.tokens,
        tokenized_prompt_mask=inputs.token_masks,
        state=inputs.state,
    )


def sample(model: pi0_pytorch.PI0Pytorch, inputs: Inputs) -> tuple[Tensor, list[Tensor], list[Tensor]]:
    """Return the action chunk and, per denoise step, x_t and v_t."""
    points, velocities = [], []
    denoise_step = type(model).denoise_step.__get__(model)

    def recorded(state, masks, cache, x_t, t):  # type: ignore[no-untyped-def]
        velocity = denoise_step(state, masks, cache, x_t, t)
        points.append(x_t)
        velocities.append(velocity)
        return velocity

    model.denoise_step = recorded
    # Through the class: the instance's own method is wrapped by torch.compile.
    actions = type(model).sample_actions(model, inputs.state.device, observation(inputs), noise=inputs.noise)
    del model.denoise_step
    return actions, points, velocities


def _openpi_sizes(config: GemmaConfig) -> openpi_gemma.Config:
    return openpi_gemma.Config(
        width=config.width,
        depth=config.depth,
        mlp_dim=config.mlp_dim,
        num_heads=config.num_heads,
        num_kv_heads=config.num_kv_heads,
        head_dim=config.head_dim,
    )
