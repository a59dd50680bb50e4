"""What `train_tiny.py` trains: the network, what stands beside it while it learns, and one step of that.

The network learns to act by flow matching. Beside it, a head that is thrown away afterwards reads where things are: a
few thousand demonstrations say how to act, but hardly teach a network from nothing to see, and the simulator knows the
places.
"""

from __future__ import annotations

import math
from pathlib import Path

import sentencepiece as spm
import torch
from demonstrations import PLACES, ROBOT_DIMS
from safetensors.torch import load_file
from torch import Tensor, nn

from vlapack.files import replaced
from vlapack.machine.cpu import fast_bf16
from vlapack.pi0.config import Pi0Config
from vlapack.pi0.flow import Pi0
from vlapack.pi0.init import init_weights
from vlapack.pi0.names import EMBEDDING, TIED_EMBEDDING
from vlapack.pi0.prefix import Prefix
from vlapack.pi0.savings import Savings

TOKENIZER = Path(__file__).parent.parent / "src/vlapack/assets/tiny-libero/tokenizer.model"
PATCHES = "paligemma_with_expert.paligemma.model.vision_tower.vision_model.embeddings.patch_embedding.weight"
PREFIX = ("images", "image_masks", "tokens", "token_masks")
PADDING_WEIGHT = 0.1  # the unused action dimensions need to be predicted, not to be good
PLACES_WEIGHT = 0.5
READ_LAYERS = 2  # the language model's last: no output of its last layer is ever computed, but its keys and values are
READERS = 8  # tokens that look for things


class Places(nn.Module):
    """Reads from a prefix where things are, as the action expert reads it: by attention to keys and values."""

    def __init__(self, config: Pi0Config) -> None:
        """Allocate; the weights are torch's usual random ones."""
        super().__init__()
        width = config.llm.head_dim
        self.query = nn.Parameter(torch.randn(READ_LAYERS, READERS, width))
        self.out = nn.Sequential(nn.Linear(READ_LAYERS * READERS * width, 256), nn.GELU(), nn.Linear(256, PLACES * 3))

    def forward(self, prefix: Prefix) -> Tensor:
        """Return [B, 3 · PLACES], in units of `demonstrations.REACH`."""
        found = []
        for query, past in zip(self.query, prefix.layers[-READ_LAYERS:], strict=True):
            keys, values = past.prefix  # [B, 1, P, head_dim]
            found.append(nn.functional.scaled_dot_product_attention(query.expand(len(keys), 1, -1, -1), keys, values))
        place: Tensor = self.out(torch.stack(found, dim=1).flatten(1))
        return place


class Learner:
    """The network and its head, their optimizer, and the average of the network's weights, which is what acts.

    Args:
        config: of the network.
        seed: of the initial weights.
        ema: decay of the average.
        compiled: fuse the network's small operations.
    """

    def __init__(self, config: Pi0Config, *, seed: int, ema: float, compiled: bool) -> None:
        self._ema = ema
        self._model = model = Pi0(config, Savings(prompt_padding=False))  # prompts of one length are compiled once
        generator = torch.Generator().manual_seed(seed)
        init_weights(model, generator)
        order_state_bins(model, generator)
        torch.manual_seed(seed)
        self._places = Places(config)
        self._device = "cuda" if torch.cuda.is_available() else "cpu"
        model.to(self._device).train()
        self._places.to(self._device)
        if compiled:
            for name in ("see", "understand", "velocity"):
                setattr(model, name, torch.compile(getattr(model, name), dynamic=False))
        self._weights = [*model.parameters(), *self._places.parameters()]
        self._optimizer = torch.optim.AdamW(self._weights, betas=(0.9, 0.95), weight_decay=0.01, fused=True)
        self.average = {name: value.detach().clone() for name, value in model.named_parameters()}

    def start_from(self, start: Path) -> None:
        """Take another run's weights; see `initial_weights`."""
        self._model.load_state_dict(initial_weights(start, self._model))
        self.average = {name: value.detach().clone() for name, value in self._model.named_parameters()}

    def learn(
        self, batch: dict[str, Tensor], valid: Tensor, truth: Tensor, *, rate: float, step: int
    ) -> tuple[float, float]:
        """Take one step.

        Args:
            batch: as the next two, from `demonstrations.draw`.
            valid: [B, H] boolean, which actions are learned.
            truth: [B, 3 · PLACES], where things are.
            rate: the learning rate.
            step: its number.

        Returns:
            The flow-matching loss of the robot's dimensions, and that of the places.
        """
        batch = {key: value.to(self._device) for key, value in batch.items()}
        with torch.autocast(self._device, dtype=torch.bfloat16, enabled=autocasts()):
            prefix = self._model.embed_prefix(*(batch.pop(key) for key in PREFIX))
            error = self._model.flow_loss(prefix, **batch)
            found = self._places(prefix)
        off = nn.functional.smooth_l1_loss(found.float(), truth.to(self._device), beta=0.1)
        error = error[:, valid.to(self._device)]  # [S, valid steps, D]
        loss = error[..., :ROBOT_DIMS].mean()
        for group in self._optimizer.param_groups:
            group["lr"] = rate
        self._optimizer.zero_grad(set_to_none=True)
        (loss + PADDING_WEIGHT * error[..., ROBOT_DIMS:].mean() + PLACES_WEIGHT * off).backward()
        torch.nn.utils.clip_grad_norm_(self._weights, 1.0)
        self._optimizer.step()
        decay = min(self._ema, (1 + step) / (10 + step))
        with torch.no_grad():
            torch._foreach_lerp_(list(self.average.values()), list(self._model.parameters()), 1.0 - decay)
        return loss.item(), off.item()

    def save(self, file: Path, step: int) -> None:
        """Write everything that the next step depends on; `step` is its number."""
        state = {
            "step": step,
            "model": self._model.state_dict(),
            "places": self._places.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "average": self.average,
        }
        with replaced(file) as draft:
            torch.save(state, draft)

    def restore(self, file: Path) -> int:
        """Read what `save` wrote; return the number of the next step."""
        state = torch.load(file, weights_only=True)
        self._model.load_state_dict(state["model"])
        self._places.load_state_dict(state["places"])
        self._optimizer.load_state_dict(state["optimizer"])
        self.average = state["average"]
        step: int = state["step"]
        return step


def initial_weights(start: Path, model: Pi0) -> dict[str, Tensor]:
    """Weights to start from; a folder's patch kernel sees larger patches as if they were scaled to its size."""
    if not start.is_dir():
        return dict(torch.load(start, weights_only=True)["average"])
    stored = load_file(start / "model.safetensors")
    stored[EMBEDDING] = stored[TIED_EMBEDDING]
    weights = {name: stored[name].float() for name in model.state_dict()}
    shrink = shrinking(weights[PATCHES].shape[-1], model.config.vision.patch_size)
    weights[PATCHES] = torch.einsum("oiyx,yY,xX->oiYX", weights[PATCHES], shrink, shrink)
    return weights


def shrinking(to: int, size: int) -> Tensor:
    """The matrix [to, size] that scales a line of `size` pixels to `to`, as pictures are scaled."""
    lines = torch.eye(size)[:, None, None]
    return torch.nn.functional.interpolate(lines, (1, to), mode="bilinear", antialias=True)[:, 0, 0].T


def autocasts() -> bool:
    """Whether bf16 products are faster than fp32 here; where they are not, torch emulates them."""
    return torch.cuda.is_available() or fast_bf16()


@torch.no_grad()
def order_state_bins(model: Pi0, generator: torch.Generator) -> None:
    """Let the pieces of neighbouring state bins start alike, so that one bin's examples teach the next ones.

    Waves of the bin's number, of 1 to 32 periods over the range, projected at random, as large as the other pieces.
    """
    table = model.llm.embed_tokens.weight
    pieces = spm.SentencePieceProcessor(model_file=str(TOKENIZER))
    bins = torch.arange(-1, 256)
    rows = torch.tensor([pieces.piece_to_id(f"\u2581{number}") for number in bins.tolist()])
    angles = 2 * math.pi * bins[:, None] / 256 * 2.0 ** torch.arange(6)
    waves = torch.cat([bins[:, None] / 128 - 1, angles.sin(), angles.cos()], dim=1)
    projection = torch.randn(waves.shape[1], table.shape[1], generator=generator)
    ordered = waves @ projection
    table[rows] = ordered * (table.shape[1] ** -0.5 / ordered.std())
