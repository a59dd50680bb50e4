"""What goes into the language model of images and prompt, and what it leaves behind for the action expert."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn.functional import pad

from vlapack.errors import InputError
from vlapack.pi0.cache import Past
from vlapack.pi0.config import Pi0Config
from vlapack.pi0.savings import Savings


class Scaling:
    """How pictures of uint8 become numbers from -1 to 1, to the bit as `robots.images` makes them."""

    def __init__(self, device: torch.device) -> None:
        """Make the two numbers that it needs as tensors on the device."""
        # CUDA multiplies by the reciprocal of a number, which rounds otherwise; and a sum begins with a tensor.
        self._largest = torch.full((), 255.0, device=device)
        self._least = torch.full((), -1.0, device=device)

    def __call__(self, images: Tensor) -> Tensor:
        """Return fp32 pictures; those that are not uint8 are taken as scaled."""
        if images.dtype != torch.uint8:
            return images
        return torch.add(self._least, images / self._largest, alpha=2)  # 2 x is exact


@dataclass(frozen=True)
class Seen:
    """The part of a batch that can influence its actions, on the devices of what was given.

    Attributes:
        images: [B, cameras, 3, S, S], the cameras that at least one observation has.
        tokens: [B, L], the prompt slots that at least one observation uses.
        exists: [B, T] boolean on the CPU, which tokens of images and prompt together exist; None when all do.
    """

    images: Tensor
    tokens: Tensor
    exists: Tensor | None


def look(
    images: Tensor, image_masks: Tensor, tokens: Tensor, token_masks: Tensor, *, config: Pi0Config, savings: Savings
) -> Seen:
    """Leave out the cameras and prompt slots that nobody has; arguments as in `Pi0.embed_prefix`.

    What is left out decides shapes, so the masks are read here, on the CPU; masks of another device are waited for.

    Raises:
        InputError: the shapes do not fit the configuration or each other, or an observation shows nothing at all.
    """
    image_masks, token_masks = image_masks.cpu(), token_masks.cpu()
    _check(images, image_masks, tokens, token_masks, config)
    if savings.missing_cameras:
        images, image_masks = _used(images, image_masks)
    if savings.prompt_padding:
        tokens, token_masks = _used(tokens, token_masks)
    exists = torch.cat((image_masks.repeat_interleave(config.vision.num_patches, dim=1), token_masks), dim=1)
    return Seen(images, tokens, None if bool(exists.all()) else exists)


def _used(values: Tensor, masks: Tensor) -> tuple[Tensor, Tensor]:
    """Keep the columns of `values` [B, N, …] and `masks` [B, N] that some row has."""
    used = masks.any(dim=0)
    if bool(used.all()):
        return values, masks
    kept = used.nonzero()[:, 0]
    return values[:, kept.to(values.device)], masks[:, kept]


@dataclass(frozen=True)
class Prefix:
    """What the expert needs to know of images and prompt: computed once, read by every denoise step.

    Attributes:
        layers: Per layer the keys after RoPE and the values.
        rope: The rotary table of the expert's tokens, each [B or 1, suffix length, 1, D].
        mask: What the expert's tokens see, as `suffix_mask` has it; None where `seen` has yet to make it.
        exists: [B, P] boolean, which tokens of the prefix exist; None when all do.
    """

    layers: list[Past]
    rope: tuple[Tensor, Tensor]
    mask: Tensor | None
    exists: Tensor | None = None

    def seen(self, config: Pi0Config) -> Tensor | None:
        """Return the mask for the plain expert; the fused one reads `exists`, and its prefix has none."""
        if self.mask is not None:
            return self.mask
        past = self.layers[0]
        return suffix_mask(len(past.keys), past.length, self.exists, config=config, device=self.device)

    @property
    def device(self) -> torch.device:
        """Where its tensors are."""
        return self.layers[0].keys.device

    def first(self, count: int) -> Prefix:
        """Return a view of the first `count` observations."""
        cos, sin = (table if len(table) == 1 else table[:count] for table in self.rope)
        return replace(
            self,
            layers=[Past(past.keys[:count], past.values[:count], past.room) for past in self.layers],
            rope=(cos, sin),
            mask=None if self.mask is None else self.mask[:count],
            exists=None if self.exists is None else self.exists[:count],
        )

    def repeat(self, times: int) -> Prefix:
        """Return the prefix of a batch that holds every observation `times` times: [times · B], B running fastest."""
        if times == 1:
            return self
        cos, sin = (table if len(table) == 1 else table.repeat(times, 1, 1, 1) for table in self.rope)
        return replace(
            self,
            layers=[past.repeat(times) for past in self.layers],
            rope=(cos, sin),
            mask=None if self.mask is None else self.mask.repeat(times, 1, 1, 1),
            exists=None if self.exists is None else self.exists.repeat(times, 1),
        )


def suffix_mask(
    batch: int, length: int, exists: Tensor | None, *, config: Pi0Config, device: torch.device
) -> Tensor | None:
    """Say what each of the expert's tokens sees: the prefix's tokens that exist, and the expert's own.

    π0's state token sees no action. Otherwise all see all.

    Args:
        batch: B.
        length: P, the prefix's tokens.
        exists: [B, P] boolean; None when all do.
        config: of the network.
        device: of the result.

    Returns:
        Boolean [B, 1, 1, P + suffix] for π0.5, and [B, 1, suffix · heads per kv head, P + suffix] for π0: a row for
        each query (`gemma.Attention`). None when all see all.
    """
    suffix = config.suffix_length
    if config.adaptive_norms:
        return None if exists is None else pad(exists, (0, suffix), value=True)[:, None, None, :]
    mask = torch.ones(batch, 1, suffix, length + suffix, dtype=torch.bool, device=device)
    if exists is not None:
        mask[:, 0, :, :length] = exists[:, None]
    mask[:, :, 0, length + 1 :] = False
    return mask.repeat_interleave(config.expert.num_heads // config.expert.num_kv_heads, dim=2)


def _check(images: Tensor, image_masks: Tensor, tokens: Tensor, token_masks: Tensor, config: Pi0Config) -> None:
    cameras, size = config.num_cameras, config.vision.image_size
    if images.dim() != 5 or images.shape[1:] != (cameras, 3, size, size):
        raise InputError(f"images: expected [B, {cameras}, 3, {size}, {size}], found {list(images.shape)}.")
    if image_masks.shape != images.shape[:2]:
        raise InputError(f"image_masks: expected {list(images.shape[:2])}, found {list(image_masks.shape)}.")
    if tokens.shape != token_masks.shape or tokens.dim() != 2 or len(tokens) != len(images):
        raise InputError(
            f"tokens and token_masks: expected [{len(images)}, L] both, "
            f"found {list(tokens.shape)} and {list(token_masks.shape)}."
        )
    if not bool((image_masks.any(dim=1) | token_masks.any(dim=1)).all()):
        raise InputError("An observation without any camera and without a prompt gives the expert nothing to see.")
