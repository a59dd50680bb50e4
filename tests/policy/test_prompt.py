"""Prompt tokens: bins at their edges, one token per state number, and what does not fit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import sentencepiece

from vlapack.errors import InputError
from vlapack.policy.prompt import PromptTokenizer, prompt_text, state_bins

TOKENIZER = Path(__file__).parents[2] / "src/vlapack/assets/tiny-libero/tokenizer.model"


def tokenizer(max_len: int = 48) -> PromptTokenizer:
    return PromptTokenizer(TOKENIZER, max_len=max_len, vocab_size=512)


def test_bins_are_closed_below_and_everything_outside_is_kept() -> None:
    width = 2 / 256
    state = np.array([-1 - 1e-9, -1, -1 + width - 1e-9, -1 + width, 0, 1 - 1e-9, 1, 5])
    assert state_bins(state).tolist() == [-1, 0, 0, 1, 128, 255, 255, 255]


def test_a_state_number_is_one_token() -> None:
    model = sentencepiece.SentencePieceProcessor(model_file=str(TOKENIZER))
    for number in range(-1, 256):
        pieces = model.encode(f"Task: go, State: {number} {number};\nAction: ", out_type=str)
        assert pieces.count(f"\u2581{number}") == 2


def test_the_longest_libero_prompt_with_a_state_fits() -> None:
    prompt = "pick up the black bowl in the top drawer of the wooden cabinet and place it on the plate"
    _, mask = tokenizer().tokenize(prompt, np.full(8, 0.999))
    assert mask.sum() == 38


def test_text_keeps_the_state_out_of_a_prompt_without_one() -> None:
    assert prompt_text(" a_b\nc ", None) == "a b c"
    assert prompt_text("a", np.array([-1.0, 1.0])) == "Task: a, State: 0 255;\nAction: "


def test_padding_and_start_of_answer() -> None:
    model = sentencepiece.SentencePieceProcessor(model_file=str(TOKENIZER))
    tokens, mask = tokenizer(10).tokenize("open the drawer")
    expected = [model.bos_id(), *model.encode("open the drawer"), *model.encode("\n")]
    assert tokens[mask].tolist() == expected
    assert not tokens[~mask].any()
    assert tokens.dtype == np.int64


def test_a_prompt_that_is_too_long_is_cut_and_said_once(capsys: pytest.CaptureFixture[str]) -> None:
    short = tokenizer(4)
    for _ in range(2):
        tokens, mask = short.tokenize("open the drawer of the cabinet")
    assert mask.all()
    assert len(tokens) == 4
    assert capsys.readouterr().err.count("cut to the network's 4") == 1


def test_no_model_or_one_of_a_larger_vocabulary_is_refused(tmp_path: Path) -> None:
    (tmp_path / "noise.model").write_bytes(b"not a model")
    with pytest.raises(InputError, match="not a SentencePiece model"):
        PromptTokenizer(tmp_path / "noise.model", max_len=8, vocab_size=512)
    with pytest.raises(InputError, match=r"472 pieces, but the network's vocabulary has 300"):
        PromptTokenizer(TOKENIZER, max_len=8, vocab_size=300)


@pytest.mark.parametrize("size", [0, 2**33])
def test_a_model_of_nothing_or_of_gigabytes_is_refused(tmp_path: Path, size: int) -> None:
    with (tmp_path / "tokenizer.model").open("wb") as file:
        file.truncate(size)
    with pytest.raises(InputError, match=r"not a SentencePiece model: (no bytes|more than 64 MB)"):
        PromptTokenizer(tmp_path / "tokenizer.model", max_len=48, vocab_size=512)
