"""The prompt as openpi tokenizes it: the instruction, for some π0.5 policies with the state written into it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import sentencepiece

from vlapack.console import say
from vlapack.documents import open_regular, refuse_lfs_pointer
from vlapack.errors import InputError
from vlapack.robots.arrays import shown

STATE_BINS = 256
PADDING_ID = 0
MOST_BYTES = 64 * 2**20
"""Of a model; PaliGemma's has 4 MB."""


def state_bins(state: np.ndarray) -> np.ndarray:
    """Bin a normalized state [D] into 256 equal bins over [-1, 1]: int64 in -1 (below -1) to 255 (the last bin on)."""
    edges = np.linspace(-1, 1, STATE_BINS + 1)[:-1]
    return np.asarray(np.digitize(state, edges) - 1)


def prompt_text(prompt: str, state: np.ndarray | None) -> str:
    """The text that the network reads; `state` is normalized, None where it goes in as a vector."""
    cleaned = prompt.strip().replace("_", " ").replace("\n", " ")
    if state is None:
        return cleaned
    numbers = " ".join(str(number) for number in state_bins(state))
    return f"Task: {cleaned}, State: {numbers};\nAction: "


class PromptTokenizer:
    """A SentencePiece model that pads to the network's prompt length."""

    def __init__(self, path: Path, *, max_len: int, vocab_size: int) -> None:
        """Load the model.

        Args:
            path: the SentencePiece model, PaliGemma's or one of our own.
            max_len: tokens per prompt, `Pi0Config.max_token_len`.
            vocab_size: rows of the network's embedding; the model may have fewer pieces, never more.

        Raises:
            InputError: the file is no SentencePiece model, or belongs to a larger vocabulary.
        """
        self.path = path
        self.max_len = max_len
        refuse_lfs_pointer(path)
        try:
            with open_regular(path) as file:
                content = file.read(MOST_BYTES + 1)
        except InputError as error:
            raise InputError(f"`tokenizer={str(path)!r}`: {error}") from error
        if not 0 < len(content) <= MOST_BYTES:
            size = "more than 64 MB" if content else "no bytes"
            raise InputError(f"`tokenizer={str(path)!r}`: not a SentencePiece model: {size}; copy the file again")
        try:
            self._model = sentencepiece.SentencePieceProcessor(model_proto=content)
            self._model.encode("", add_bos=True)
        except (RuntimeError, ValueError) as error:
            raise InputError(f"`tokenizer={str(path)!r}`: not a SentencePiece model for prompts: {error}") from error
        if (pieces := self._model.get_piece_size()) > vocab_size:
            raise InputError(
                f"`tokenizer={str(path)!r}`: {pieces} pieces, but the network's vocabulary has {vocab_size}; "
                "it belongs to another policy"
            )
        self._warned = False

    def tokenize(self, prompt: str, state: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Tokens int64 [max_len] and mask bool [max_len]; zeros and False are padding.

        A prompt that is too long is cut at the end, as in openpi, and said once.

        Raises:
            InputError: the prompt holds half a surrogate pair.
        """
        text = prompt_text(prompt, state)
        try:
            tokens = self._model.encode(text, add_bos=True)
        except UnicodeEncodeError as error:
            raise InputError(f"the prompt {shown(text)} is not Unicode: {error.reason} at {error.start}") from error
        if state is None:
            tokens += self._model.encode("\n")  # the "start of answer" token, never merged with the instruction
        if len(tokens) > self.max_len and not self._warned:
            self._warned = True
            say(f"warning: {len(tokens)} prompt tokens, cut to the network's {self.max_len}: {shown(text)}")
        count = min(len(tokens), self.max_len)
        padded = np.full(self.max_len, PADDING_ID, dtype=np.int64)
        padded[:count] = tokens[:count]
        return padded, np.arange(self.max_len) < count
