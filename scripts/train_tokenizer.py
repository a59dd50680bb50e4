"""Train the SentencePiece model of `tiny-libero` on the task sentences of the five official LIBERO suites.

PaliGemma's 257,152-piece model is neither ours to ship nor sensible for a policy of a few million parameters. This one
holds whole words for LIBERO's vocabulary, letters for everything else, and one piece for each state bin, so that a
state of eight numbers costs eight tokens. Like Gemma's: pad 0, eos 1, bos 2, unk 3; no normalisation, no dummy prefix.

    python scripts/train_tokenizer.py --out src/vlapack/assets/tiny-libero/tokenizer.model
"""

from __future__ import annotations

import argparse
import io
import string
from pathlib import Path

import sentencepiece
from libero.libero.benchmark import grab_language_from_filename
from libero.libero.benchmark.libero_suite_task_map import libero_task_map

SUITES = ("libero_spatial", "libero_object", "libero_goal", "libero_10", "libero_90")
VOCAB_SIZE = 512

# openpi bins a state into -1..255; -1 is what lies below the first edge (policy/prompt.py).
STATE_PIECES = [f"\u2581{number}" for number in range(-1, 256)]


def task_sentences() -> list[str]:
    """The instruction of every task of `SUITES`, in the suites' order."""
    return [grab_language_from_filename(f"{name}.bddl") for suite in SUITES for name in libero_task_map[suite]]


def train(sentences: list[str]) -> bytes:
    """Return the serialized model; equal sentences give equal bytes.

    The words and state bins are given, not learned: a byte-pair search would spend its few merges on word halves.
    """
    words = sorted({f"\u2581{word}" for sentence in sentences for word in sentence.split()})
    # Wrapped as the prompt wraps them, so that the frame's own words become pieces too.
    frames = [f"Task: {sentence}, State:;" for sentence in sentences] + ["Action: "] * len(sentences)
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(sentences + frames),
        model_writer=model,
        model_type="bpe",
        vocab_size=VOCAB_SIZE,
        hard_vocab_limit=False,
        user_defined_symbols=["\n", *STATE_PIECES, *words],
        required_chars=string.ascii_letters + string.digits + ",.;:'-",
        character_coverage=1.0,
        normalization_rule_name="identity",
        add_dummy_prefix=False,
        remove_extra_whitespaces=False,
        pad_id=0,
        eos_id=1,
        bos_id=2,
        unk_id=3,
        num_threads=1,
        minloglevel=2,
    )
    return model.getvalue()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="where the model is written")
    out: Path = parser.parse_args().out
    sentences = task_sentences()
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_bytes(train(sentences))
    processor = sentencepiece.SentencePieceProcessor(model_file=str(out))
    longest = max(len(processor.encode(sentence)) for sentence in sentences)
    print(f"{out}: {processor.get_piece_size()} pieces, {len(sentences)} sentences, the longest {longest} tokens")


if __name__ == "__main__":
    main()
