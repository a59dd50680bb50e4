"""`repr(policy)` says what is really in memory: bits of the modules that are there, not those that a recipe named."""

from __future__ import annotations

from pathlib import Path

import pytest

from vlapack import Policy, Recipe, make_pack, open_checkpoint
from vlapack.ops.engine import described
from vlapack.pi0.savings import Savings

GOLDEN = Path(__file__).parents[1] / "golden" / "pack-format-1"
LLM = "paligemma_with_expert.paligemma.model.language_model."


@pytest.fixture(scope="module")
def llm_pack(random_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pack whose language model is quantized, in groups of 32 channels."""
    recipe = Recipe(scope=LLM, rounding="rtn", permute=False, group_size=32)
    return make_pack(open_checkpoint(random_checkpoint), recipe, tmp_path_factory.mktemp("packs") / "llm", None).pack


def rows(policy: Policy) -> dict[str, str]:
    first, *rest = repr(policy).splitlines()
    return {"": first, **{row[2:10].strip(): row[11:] for row in rest}}


def test_a_float_policy_says_so(random_checkpoint: Path) -> None:
    policy = Policy.from_pretrained(random_checkpoint)
    assert rows(policy) == {
        "": "Policy small",
        "network": "π0.5: vision 2 × 48, llm 2 × 64, expert 2 × 32 (layers × width)",
        "robot": "libero: 2 cameras, state 8, chunks of 4 × 7 actions",
        "weights": "vision float, projector float, llm float (9) + never run (5), expert float, action float, "
        "embedding float",
        "memory": f"{policy.held_bytes() / 1e6:.2f} MB held, {policy.mapped_bytes() / 1e6:.2f} MB mapped from the file",
        "engine": "torch",
    }


def test_a_pack_counts_its_packed_layers_and_names_their_engine(llm_pack: Path) -> None:
    said = rows(Policy.from_pretrained(llm_pack))
    assert "llm W4g32A8 (9) + never run (5), expert float" in said["weights"]
    assert said["engine"] == described()


def test_layers_that_never_run_are_counted_where_they_are_loaded(llm_pack: Path) -> None:
    policy = Policy.from_pretrained(llm_pack, savings=Savings(last_layer=False))
    assert "llm W4g32A8 (14), expert float" in rows(policy)["weights"]


def test_mixed_bits_and_a_quantized_embedding_are_named() -> None:
    said = rows(Policy.from_pretrained(GOLDEN))["weights"]
    assert "llm W4A8 (8) + W8A8 (1) + never run (5), expert W4A8 (12) + W8A8 (2)" in said
    assert said.endswith("embedding W8")


def test_layers_that_read_only_the_time_are_named_where_there_is_no_table(random_checkpoint: Path) -> None:
    policy = Policy.from_pretrained(random_checkpoint, savings=Savings(time_table=False))
    assert "expert float, adarms float, action float" in rows(policy)["weights"]
