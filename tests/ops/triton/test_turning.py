"""One product becomes queries, keys and values as plain torch makes them, bit for bit."""

from __future__ import annotations

import pytest
import torch

from vlapack.errors import InputError
from vlapack.ops import attention_reference as reference
from vlapack.ops.triton.turning import turn_and_keep
from vlapack.pi0.positions import rotary_table

FLOATS = [torch.float32, torch.bfloat16, torch.float16]


def case(size, dtype=torch.float32, *, parts=0, tables=1):
    """A product, tables of positions up to a prefix's, and a cache with room around the tokens."""
    batch, tokens, heads, groups, width = size
    m, n = batch * tokens, (heads + 2 * groups) * width
    table = rotary_table(torch.randint(0, 900, (tables, tokens)), width, dtype)
    given = dict(zip(("cos", "sin"), table, strict=True)) | {"heads": heads, "first": 3}
    given |= {name: torch.randn(batch, groups, tokens + 5, width).to(dtype) for name in ("keys", "values")}
    if not parts:
        return given | {"product": torch.randn(m, n).to(dtype)}
    sums = torch.randint(-(2**20), 2**20, (parts, m, n), dtype=torch.int32)
    return given | {"product": sums, "s": torch.rand(m, 1) / 2**20, "weight_scale": torch.rand(n, 1)}


def assert_equal(given):
    """Also that the cache keeps what is around the tokens."""
    mine, theirs = (given | {name: given[name].clone() for name in ("keys", "values")} for _ in range(2))
    found, expected = turn_and_keep(**mine), reference.turn_and_keep(**theirs)
    assert found.shape == expected.shape
    assert torch.equal(found.nan_to_num(9), expected.nan_to_num(9))
    for name in ("keys", "values"):
        assert torch.equal(mine[name].nan_to_num(9), theirs[name].nan_to_num(9))


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("parts", [0, 1, 3])
@pytest.mark.parametrize("size", [(1, 5, 8, 1, 256), (2, 3, 4, 2, 24), (3, 1, 0, 1, 6), (1, 2, 1, 3, 2)])
def test_heads_are_turned_and_kept_bit_for_bit(size, parts, dtype):
    assert_equal(case(size, dtype, parts=parts))


def in_two(given, own, *, parts):
    """The same product as two, of the first `own` heads and of the rest, which is sums of `parts` shares."""
    at = own * given["keys"].shape[3]
    first, rest = given["product"][..., :at], given["product"][..., at:]
    scales = given.get("weight_scale")
    if scales is None:
        return given | {"product": first, "rest": rest}
    shares = torch.cat((rest[:1].expand(parts - 1, -1, -1), rest[:1] - 7))
    return given | {
        "product": first,
        "weight_scale": scales[:at],
        "rest": shares,
        "rest_s": given["s"],
        "rest_weight_scale": scales[at:],
        "rest_bias": torch.randn(len(scales) - at).bfloat16(),
    }


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("parts", [0, 2])
@pytest.mark.parametrize(
    ("size", "own"),
    [((1, 5, 8, 1, 256), 8), ((2, 3, 4, 2, 24), 4), ((2, 3, 4, 2, 24), 6), ((2, 3, 2, 1, 16), 1), ((3, 1, 0, 1, 6), 1)],
    ids=["q|kv", "q|kv of two groups", "qk|v", "within q", "k|v"],
)
def test_heads_of_two_products_are_turned_and_kept_bit_for_bit(size, own, parts, dtype):
    assert_equal(in_two(case(size, dtype, parts=parts), own, parts=3))


def test_two_products_are_what_one_is():
    given = case((2, 3, 4, 2, 24), torch.bfloat16)
    theirs = given | {name: given[name].clone() for name in ("keys", "values")}
    found, expected = turn_and_keep(**in_two(given, 4, parts=0)), turn_and_keep(**theirs)
    assert torch.equal(found, expected)
    assert all(torch.equal(given[name], theirs[name]) for name in ("keys", "values"))


@pytest.mark.parametrize("parts", [0, 2])
def test_every_sample_may_have_its_own_positions_and_a_bias(parts):
    given = case((3, 4, 2, 1, 16), torch.bfloat16, parts=parts, tables=3)
    assert_equal(given | {"bias": torch.randn(64).bfloat16() if parts else None})


def test_views_are_read_and_written_where_they_lie():
    given = case((2, 3, 2, 1, 16))
    wide = torch.randn(2, 1, 9, 3, 16)
    views = {
        "product": torch.randn(6, 80)[:, 8:72],
        "keys": wide[:, :, 1:, 0],
        "values": wide[:, :, 1:, 2],
        "cos": torch.randn(2, 5, 1, 16)[:, 2:],
        "sin": torch.randn(2, 3, 1, 32)[..., 16:],
    }
    same = given | {name: view.contiguous() for name, view in views.items()}
    before = wide[:, :, :, 1].clone()
    assert torch.equal(turn_and_keep(**given | views), reference.turn_and_keep(**same))
    assert torch.equal(wide[:, :, 1:, 0], same["keys"])
    assert torch.equal(wide[:, :, 1:, 2], same["values"])
    assert torch.equal(wide[:, :, :, 1], before)


def test_a_token_that_is_nan_spoils_no_other():
    given = case((1, 3, 2, 1, 16), parts=2)
    given["s"][1] = torch.nan
    assert_equal(given)
    assert turn_and_keep(**given).isnan().flatten(1).any(1).tolist() == [True]
    assert turn_and_keep(**given).isnan().flatten(2).any(2).tolist() == [[False, True, False]]


def test_a_cache_that_is_full_is_filled_to_its_end():
    assert_equal(case((1, 3, 2, 1, 16)) | {"first": 5})


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"product": torch.zeros(3, 65)}, r"product must be torch.float32 \[3, 64\] on cpu"),
        ({"product": torch.zeros(3, 64).half()}, "not torch.float16"),
        ({"rest": torch.zeros(3, 16)}, "product has 4 of 4 heads and there is a `rest`"),
        ({"product": torch.zeros(3, 8), "rest": torch.zeros(3, 56)}, "product has 0 of 4 heads"),
        ({"product": torch.zeros(3, 40), "rest": torch.zeros(3, 24)}, r"product must be torch.float32 \[3, 32\]"),
        ({"product": torch.zeros(3, 32), "rest": torch.zeros(3, 16)}, r"rest must be torch.float32 \[3, 32\]"),
        (
            {"product": torch.zeros(3, 32), "rest": torch.zeros(1, 3, 32, dtype=torch.int32)},
            "rest is sums of a product, which `s` ends",
        ),
        ({"first": 6}, "first=6 of 8 tokens"),
        ({"first": -1}, "first=-1"),
        ({"heads": -1}, "heads=-1"),
        ({"cos": torch.zeros(2, 3, 1, 16)}, r"cos must be torch.float32 \[1 or 1, T, 1, 16\]"),
        ({"sin": torch.zeros(1, 3, 1, 16).bfloat16()}, "sin must be torch.float32"),
        ({"sin": torch.zeros(1, 4, 1, 16)}, "3 cosines, 4 sines"),
        ({"keys": torch.zeros(1, 1, 8, 15)}, "D even"),
        ({"values": torch.zeros(1, 1, 9, 16)}, "values must be like keys"),
        ({"values": torch.zeros(1, 1, 16, 8).transpose(2, 3)}, "side by side"),
    ],
)
def test_what_does_not_fit_is_refused_with_the_shapes(change, said):
    with pytest.raises(InputError, match=said):
        turn_and_keep(**case((1, 3, 2, 1, 16)) | change)
