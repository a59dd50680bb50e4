"""A second trained network, of another kind than a policy: a causal language model over bytes, four layers of 192.

    python benchmarks/common/language.py FOLDER [--seed 0] [--steps 600]        # ten minutes of one core

It reads the documentation strings of the Python that runs it. Nothing of it is committed: the weights follow from seed
and text up to rounding, and a result says which text it was (`LanguageModel.identity`).
"""

from __future__ import annotations

import ast
import math
import sysconfig
from collections.abc import Iterator, Mapping
from functools import cache, lru_cache
from pathlib import Path

import torch
import tyro
from common.in_place import InPlace
from torch import Tensor, nn
from torch.nn import functional

from vlapack import Recipe
from vlapack.errors import InputError
from vlapack.fingerprint import digest_weights
from vlapack.progress import progress
from vlapack.quantize.calibration import LayerInputs, collect

WIDTH, DEPTH, HEADS, HIDDEN, CONTEXT, BYTES = 192, 4, 6, 512, 256, 256
BATCH, RATE, WARM_UP, EMBEDDING_STD = 16, 4e-3, 60, 0.02
SAVED_EVERY = 100
TEST_WINDOWS, CALIBRATION_WINDOWS = 128, 32
PARTS = {"test": (0,), "calibration": (1,), "training": tuple(range(2, 16))}
"""Of sixteen files, which go where."""


class Attention(nn.Module):
    """Causal attention with rotary positions."""

    def __init__(self) -> None:
        super().__init__()
        self.q_proj, self.k_proj, self.v_proj, self.o_proj = (nn.Linear(WIDTH, WIDTH, bias=False) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        """[B, T, WIDTH] → [B, T, WIDTH]."""
        q, k, v = (
            proj(x).unflatten(-1, (HEADS, -1)).transpose(1, 2) for proj in (self.q_proj, self.k_proj, self.v_proj)
        )
        mixed = functional.scaled_dot_product_attention(_turned(q), _turned(k), v, is_causal=True)
        y: Tensor = self.o_proj(mixed.transpose(1, 2).flatten(-2))
        return y


class GatedMlp(nn.Module):
    """down(silu(gate(x)) · up(x))."""

    def __init__(self) -> None:
        super().__init__()
        self.gate_proj, self.up_proj = (nn.Linear(WIDTH, HIDDEN, bias=False) for _ in range(2))
        self.down_proj = nn.Linear(HIDDEN, WIDTH, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """[B, T, WIDTH] → [B, T, WIDTH]."""
        y: Tensor = self.down_proj(functional.silu(self.gate_proj(x)) * self.up_proj(x))
        return y


class Layer(nn.Module):
    """Attention and MLP, each on a norm and added."""

    def __init__(self) -> None:
        super().__init__()
        self.input_layernorm, self.post_attention_layernorm = nn.RMSNorm(WIDTH), nn.RMSNorm(WIDTH)
        self.self_attn, self.mlp = Attention(), GatedMlp()

    def forward(self, x: Tensor) -> Tensor:
        """[B, T, WIDTH] → [B, T, WIDTH]."""
        x = x + self.self_attn(self.input_layernorm(x))
        return x + self.mlp(self.post_attention_layernorm(x))


class ByteModel(nn.Module):
    """Bytes [B, T] → logits [B, T, BYTES]; the embedding is tied, and no linear."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(BYTES, WIDTH)
        self.layers = nn.ModuleList(Layer() for _ in range(DEPTH))
        self.norm = nn.RMSNorm(WIDTH)
        nn.init.normal_(self.embedding.weight, std=EMBEDDING_STD)
        for name, weight in self.named_parameters():
            if name.endswith(("o_proj.weight", "down_proj.weight")):
                weight.data.mul_((2 * DEPTH) ** -0.5)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits of each next byte."""
        h = self.embedding(x) / EMBEDDING_STD
        for layer in self.layers:
            h = layer(h)
        return functional.linear(self.norm(h), self.embedding.weight)

    def loss(self, windows: Tensor) -> Tensor:
        """Mean cross entropy in nats a byte, of windows [B, CONTEXT + 1]."""
        logits = self(windows[:, :-1])
        return functional.cross_entropy(logits.flatten(0, 1).float(), windows[:, 1:].flatten())


class LanguageModel:
    """The target `language`: how far the next byte's distribution moves, on text that neither step has seen.

    `error` is the mean KL divergence from the float model, in nats a byte. `loss_increase` goes beside it, relative to
    the float loss; it is small and has either sign at first order, so that it tells less.

    Args:
        folder: where `main` has put the trained model.
    """

    name = "language"
    preset = None

    def __init__(self, folder: Path) -> None:
        file = folder / "model.pt"
        if not file.is_file():
            raise InputError(
                f"no model in {folder}; train it (ten minutes): python benchmarks/common/language.py {folder}"
            )
        self.model = ByteModel()
        self.model.load_state_dict(torch.load(file, weights_only=True)["model"])
        self.model.eval().requires_grad_(False)
        self.layers = [name for name, module in self.model.named_modules() if isinstance(module, nn.Linear)]
        self._test = windows("test", TEST_WINDOWS, seed=0)
        self._packing = InPlace(self.model)
        self.seen = lru_cache(maxsize=1)(self._calibrate)  # rows come seed by seed
        self._expected = self._logits(self.model)
        self.float_loss = self._loss(self._expected)
        state = self.model.state_dict()
        self.identity = digest_weights(state, state.__getitem__)

    def measure(self, recipe: Recipe, seed: int) -> dict[str, float]:
        """Return both; the seed chooses what text calibrates."""
        everything = Recipe.from_dict({**recipe.to_dict(), "scope": "", "include": ".", "seed": seed})
        return self.measured(self._packing.quantized(everything, self.seen(seed)))

    def measured(self, model: nn.Module) -> dict[str, float]:
        """Return the same of a model that is quantized already."""
        found = self._logits(model)
        divergence = functional.kl_div(found, self._expected, log_target=True, reduction="sum") / len(found)
        return {"error": float(divergence), "loss_increase": self._loss(found) / self.float_loss - 1}

    def _logits(self, model: nn.Module) -> Tensor:
        """Log probabilities of every next byte of the test text [T, BYTES]."""
        with torch.no_grad():
            pieces = [model(batch[:, :-1]).flatten(0, 1) for batch in self._test.split(BATCH)]
        return torch.cat(pieces).log_softmax(-1)

    def _loss(self, logits: Tensor) -> float:
        return float(functional.nll_loss(logits, self._test[:, 1:].flatten()))

    def _calibrate(self, seed: int) -> Mapping[str, LayerInputs]:
        text = windows("calibration", CALIBRATION_WINDOWS, seed=seed)
        return collect(self.model, self.layers, self.model, [text[:, :-1]], seed=seed)


def _turned(x: Tensor) -> Tensor:
    half = x.shape[-1] // 2
    angles = torch.arange(x.shape[-2])[:, None] * 10_000.0 ** (-torch.arange(half) / half)
    cos, sin = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
    one, other = x.chunk(2, -1)
    return torch.cat((one * cos - other * sin, other * cos + one * sin), -1)


@cache
def text_of(part: str) -> Tensor:
    """Return the documentation strings of one part's files, one after another."""
    files = sorted(Path(sysconfig.get_paths()["stdlib"]).rglob("*.py"))
    chosen = (
        file
        for number, file in enumerate(f for f in files if "site-packages" not in f.parts)
        if number % 16 in PARTS[part]
    )
    return torch.frombuffer(
        bytearray("\n\n".join(doc for file in chosen for doc in _docstrings(file)).encode()), dtype=torch.uint8
    )


def _docstrings(file: Path) -> Iterator[str]:
    try:
        tree = ast.parse(file.read_bytes())
    except (SyntaxError, ValueError):  # among the interpreter's own tests are files that are wrong on purpose
        return
    for node in ast.walk(tree):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)) and (doc := ast.get_docstring(node)):
            yield doc


def windows(part: str, count: int, *, seed: int) -> Tensor:
    """Return random windows [count, CONTEXT + 1] of a part's text."""
    text = text_of(part)
    starts = torch.randint(len(text) - CONTEXT - 1, (count,), generator=torch.Generator().manual_seed(seed))
    return torch.stack([text[start : start + CONTEXT + 1] for start in starts]).long()


def main(folder: tyro.conf.Positional[Path], *, seed: int = 0, steps: int = 600) -> None:
    """Train; the same command again continues.

    Args:
        folder: Where the model goes.
        seed: Of weights and batches.
        steps: Of BATCH windows.
    """
    file = folder / "training.pt"
    torch.manual_seed(seed)
    model = ByteModel()
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, betas=(0.9, 0.95), weight_decay=0.1)
    done = 0
    if file.is_file():
        state = torch.load(file, weights_only=True)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        done = state["steps"]
    folder.mkdir(parents=True, exist_ok=True)
    with progress("training", steps, done=done) as advance:
        for step in range(done, steps):
            rate = RATE * min(1, (step + 1) / WARM_UP) * (0.05 + 0.95 * (1 + math.cos(math.pi * step / steps)) / 2)
            for group in optimizer.param_groups:
                group["lr"] = rate
            with torch.autocast("cpu", torch.bfloat16):
                loss = model.loss(windows("training", BATCH, seed=seed * 1_000_000 + step))
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            advance(f"loss {float(loss.detach()):.3f}")
            if (step + 1) % SAVED_EVERY == 0 or step + 1 == steps:
                state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "steps": step + 1}
                torch.save(state, file.with_suffix(".partial"))
                file.with_suffix(".partial").rename(file)
    torch.save({"model": model.state_dict()}, folder / "model.pt")


if __name__ == "__main__":
    tyro.cli(main)
