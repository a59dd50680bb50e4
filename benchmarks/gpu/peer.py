"""openpi's own class as openpi runs it: `PI0Pytorch.sample_actions`, which its constructor hands to `torch.compile`.

Its package pins what ours must not, so it is there only where somebody put both into one environment.
"""

from __future__ import annotations

import math
import types
from typing import Any

import torch
from torch import Tensor

from gpu.card import Card
from gpu.chunks import require_room
from gpu.inputs import Chunk, NotMeasuredError, chunk_inputs
from gpu.timing import CHUNK, measured
from vlapack.pi0.names import openpi_tensors

FP32 = 4
"""Bytes of a weight as its constructor makes it."""


def measure(card: Card, chunk: Chunk) -> dict[str, Any]:
    """Measure a chunk of openpi's class on random weights; all three cameras are encoded, as openpi does.

    Raises:
        NotMeasuredError: there is no such class here, it does not fit, or it does not run.
    """
    if card.dry:
        raise NotMeasuredError("a dry run")
    try:
        from openpi.models.pi0_config import Pi0Config
        from openpi.models_pytorch.pi0_pytorch import PI0Pytorch
        from openpi.models_pytorch.preprocessing_pytorch import IMAGE_KEYS
    except ImportError as error:
        raise NotMeasuredError(f"openpi's package is not installed: {error}") from error
    config = chunk.architecture(dry=False)
    require_room(card, FP32 * sum(math.prod(shape) for shape, _ in openpi_tensors(config).values()))
    precision = torch.get_float32_matmul_precision()  # which its constructor changes for the whole process
    card.forget_peak()
    try:
        with torch.device(card.device):
            model = PI0Pytorch(
                Pi0Config(
                    dtype="bfloat16",
                    pi05=chunk.variant == "pi05",
                    action_horizon=chunk.horizon,
                    max_token_len=config.max_token_len,
                )
            )
        model = model.to(card.device).eval()
        loaded = card.memory()
        inputs = chunk_inputs(config, cameras=chunk.cameras)
        start = card.now()
        _once(card, model, inputs, IMAGE_KEYS)
        compiling = card.now() - start
        card.forget_peak()
        times = measured(card, lambda: _once(card, model, inputs, IMAGE_KEYS), CHUNK)
    except (RuntimeError, TypeError, ValueError, AttributeError) as error:  # another version of it, or of Transformers
        first = str(error).strip().partition("\n")[0]
        raise NotMeasuredError(f"openpi's class did not run: {type(error).__name__}: {first:.200}") from error
    finally:
        torch.set_float32_matmul_precision(precision)
    running = card.memory()
    return {
        "how": "torch.compile, as its constructor asks for it",
        **times,
        "capture_seconds": compiling,
        "memory": {
            "held": loaded["allocated"],
            "loading_peak": loaded["peak"],
            "running_peak": running["peak"],
            "context": running["context"],
        },
        "state": card.state(),
    }


@torch.no_grad()
def _once(card: Card, model: Any, inputs: tuple[Tensor, ...], keys: Any) -> dict[str, float]:
    """Run one chunk as openpi's policy does, the observation's copy to the card and the actions' copy back included."""
    start = card.now()
    images, masks, tokens, token_masks, state, noise = (tensor.to(card.device) for tensor in inputs)
    pictures = images.float() / 255.0 * 2.0 - 1.0
    observation = types.SimpleNamespace(
        images={key: pictures[:, number] for number, key in enumerate(keys)},
        image_masks={key: masks[:, number] for number, key in enumerate(keys)},
        tokenized_prompt=tokens,
        tokenized_prompt_mask=token_masks,
        token_ar_mask=None,
        token_loss_mask=None,
        state=state,
    )
    first = card.mark()
    actions = model.sample_actions(card.device, observation, noise=noise)
    last = card.mark()
    actions.cpu()
    wall = 1e3 * (card.now() - start)
    card.synchronize()
    return {"wall": wall, "replay": card.elapsed(first, last)}
