"""What goes into the language model of images and prompt, and what it leaves behind for the action expert."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from vlapack.errors import InputError
from vlapack.pi0.cache import Past
from vlapack.pi0.config import Pi0Config
from vlapack.pi0.savings import Savings


@dataclass(frozen=True)
class Seen:
    """The part of a batch that can influence its actions.

    Attributes:
        images: [B · cameras, 3, S, S], the cameras that at least one observation has.
        tokens: [B, L], the prompt slots that at least one observation uses.
        exists: [B, T] boolean, which tokens of images and prompt together exist; None when all do.
        length: [B], how many exist.
    """

    images: Tensor
    tokens: Tensor
    exists: Tensor | None
    length: Tensor


def look(
    images: Tensor, image_masks: Tensor, tokens: Tensor, token_masks: Tensor, *, config: Pi0Config, savings: Savings
) -> Seen:
    """Leave out the cameras and prompt slots that nobody has; arguments as in `Pi0.embed_prefix`.

    Raises:
        InputError: the shapes do not fit the configuration or each other, or an observation shows nothing at all.
    """
    _check(images, image_masks, tokens, token_masks, config)
    if savings.missing_cameras:
        cameras = image_masks.any(dim=0)
        images, image_masks = images[:, cameras], image_masks[:, cameras]
    if savings.prompt_padding:
        slots = token_masks.any(dim=0)
        tokens, token_masks = tokens[:, slots], token_masks[:, slots]
    exists = torch.cat((image_masks.repeat_interleave(config.vision.num_patches, dim=1), token_masks), dim=1)
    return Seen(images.flatten(0, 1), tokens, None if bool(exists.all()) else exists, exists.sum(dim=1))


@dataclass(frozen=True)
class Prefix:
    """What the expert needs to know of images and prompt: computed once, read by every denoise step.

    Attributes:
        layers: Per layer the keys after RoPE and the values.
        mask: [B, P] boolean, true for tokens that exist; None when all do.
        length: [B], how many tokens exist: the position of the first suffix token.
    """

    layers: list[Past]
    mask: Tensor | None
    length: Tensor

    def repeat(self, times: int) -> Prefix:
        """Return the prefix of a batch that holds every observation `times` times: [times · B], B running fastest."""
        if times == 1:
            return self
        return replace(
            self,
            layers=[past.repeat(times) for past in self.layers],
            mask=None if self.mask is None else self.mask.repeat(times, 1),
            length=self.length.repeat(times),
        )


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
