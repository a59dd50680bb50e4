"""Every product finds a tile, on cards that nobody has tried too; and what the gate compiles is what runs."""

from __future__ import annotations

import pytest
import torch

from vlapack.machine import gpu
from vlapack.ops.triton import gradient, integers, rows, tiles, turning, weight_only

CPU = torch.device("cpu")
CARD = torch.device("cuda", 0)
KERNELS = [*integers.specimens(), *weight_only.specimens(), *gradient.specimens()]


@pytest.fixture
def card(monkeypatch):
    """A card of a given class with 132 multiprocessors."""

    def install(name):
        monkeypatch.setattr(gpu, "card", lambda device: gpu.Card("a card", name, None))
        monkeypatch.setattr(tiles, "processors", lambda device: 132)

    tiles._of_card.cache_clear()
    yield install
    tiles._of_card.cache_clear()


def test_an_unknown_card_gets_small_tiles_and_hears_of_it_once(card, capsys):
    card("sm_999")
    tile, _ = tiles.choose(CARD, 544, 2048, 2048)
    tiles.choose(CARD, 544, 2048, 2048)
    assert tile.tokens * tile.outputs <= 64 * 64
    said = capsys.readouterr().err
    assert said.count("no tiles were chosen for sm_999") == 1
    assert "known: sm_80, " in said


@pytest.mark.parametrize("name", tiles.TILES)
@pytest.mark.parametrize(("tokens", "held"), [(1, 16), (10, 16), (17, 32), (50, 64), (64, 64)])
def test_few_tokens_are_one_tile(card, name, tokens, held):
    card(name)
    for options in ({}, {"grouped": True}):
        assert tiles.choose(CARD, tokens, 1024, 4096, **options)[0].tokens == min(held, tiles.TILES[name].decode.tokens)
    assert tiles.choose(CARD, tokens, 1024, 4096, floats=True)[0].tokens == min(held, tiles.TILES[name].floats.tokens)


def test_a_split_fills_the_card_and_leaves_each_part_two_blocks(card):
    card("sm_90")
    tile, parts = tiles.choose(CARD, 10, 1024, 4096)
    assert tiles.programs(tile, 10, 1024) * parts >= 132
    assert tiles.choose(CARD, 10, 1024, 512)[1] == 2
    assert tiles.choose(CARD, 10, 1024, 100)[1] == 1
    assert tiles.choose(CARD, 10, 1 << 20, 4096)[1] == 1
    assert tiles.choose(CARD, 10, 1024, 4096, grouped=True)[1] == 1


def test_the_largest_tile_that_gives_each_multiprocessor_work_is_taken(card):
    card("sm_90")
    assert tiles.choose(CARD, 544, 16384, 2048)[0] == tiles.TILES["sm_90"].prefill[0]
    assert tiles.choose(CARD, 128, 256, 2048)[0] == tiles.TILES["sm_90"].prefill[-1]


def test_the_interpreter_takes_no_inline_assembly():
    assert not tiles.has_assembly(CPU)


@pytest.mark.parametrize(
    "specimen", [*KERNELS, *rows.specimens(), *turning.specimens()], ids=lambda specimen: specimen.name
)
def test_a_specimen_gives_each_argument_of_its_kernel_once(specimen):
    given = [*specimen.signature, *specimen.constexprs]
    assert sorted(given) == sorted(specimen.kernel.arg_names)


def test_each_card_compiles_what_it_would_run():
    assert len({specimen.name for specimen in KERNELS}) == len(KERNELS)
    assert {target for specimen in KERNELS for target in specimen.targets} == set(tiles.TILES)
