"""NaN and infinity are found in every float type, wherever they are, and nothing finite is taken for one."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from vlapack.checkpoints import finite
from vlapack.checkpoints.finite import FiniteReader, is_finite, require_finite
from vlapack.checkpoints.tensorfile import TensorFile, is_mapped
from vlapack.errors import InputError


@pytest.fixture(autouse=True, params=["compiled", "numpy"])
def _way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every test here holds with the compiled engine and without it."""
    if request.param == "numpy":
        monkeypatch.setattr(finite, "kernels", None)
    elif finite.kernels is None:
        pytest.skip("the compiled engine is not installed")


FLOATS = [torch.bfloat16, torch.float16, torch.float32, torch.float64]


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("bad", [float("nan"), -float("nan"), float("inf"), -float("inf")])
def test_each_kind_is_found_at_any_place(dtype: torch.dtype, bad: float) -> None:
    count = 3 * finite.BLOCK // dtype.itemsize + 5
    for place in (0, finite.BLOCK // dtype.itemsize, count - 1):
        tensor = torch.full((count,), -1.5, dtype=dtype)
        tensor[place] = bad
        assert not is_finite(tensor)
        tensor = -tensor
        assert not is_finite(tensor)


@pytest.mark.parametrize("dtype", FLOATS)
def test_the_extremes_are_finite(dtype: torch.dtype) -> None:
    info = torch.finfo(dtype)
    smallest = info.smallest_normal * 0.5
    assert is_finite(torch.tensor([[info.max, info.min], [-0.0, 0.0], [smallest, -smallest]], dtype=dtype))
    assert is_finite(torch.empty(0, 4, dtype=dtype))
    assert is_finite(torch.tensor(3.0, dtype=dtype))


def test_all_bit_patterns_of_16_bits_are_told_as_torch_tells_them() -> None:
    for dtype in (torch.bfloat16, torch.float16):
        every = torch.arange(-(1 << 15), 1 << 15).to(torch.int16).view(dtype)
        assert [is_finite(value) for value in every[::7]] == every[::7].isfinite().tolist()


def test_whole_numbers_are_finite() -> None:
    assert is_finite(torch.tensor([-128, 127], dtype=torch.int8))
    assert is_finite(torch.tensor([True]))


def test_a_view_with_gaps_is_looked_at_by_its_own_elements() -> None:
    tensor = torch.ones(4, 6)
    tensor[:, 1] = torch.nan
    assert is_finite(tensor[:, ::2])
    assert not is_finite(tensor.T[1])


def test_the_message_names_file_tensor_value_and_place() -> None:
    tensor = torch.zeros(3, 4)
    tensor[2, 1] = -torch.inf
    with pytest.raises(InputError, match=r"^a/b: layer.weight holds -inf at \[12, 1\], so the checkpoint is damaged"):
        require_finite(tensor, Path("a/b"), "layer.weight", first_row=10)


def test_a_tensor_on_disk_is_checked_by_rows_and_stays_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(finite, "MAPPED_BLOCK", 64)
    path = tmp_path / "model.safetensors"
    table = torch.ones(50, 8, dtype=torch.bfloat16)
    for row in (None, 0, 49):
        if row is not None:
            table[row, 3] = torch.nan
        save_file({"table": table, "ids": torch.arange(3)}, path)
        if row is None:
            with FiniteReader(TensorFile(path)) as reader:
                assert is_mapped(reader.mapped("table"))
                assert torch.equal(reader.mapped("ids"), torch.arange(3))
        else:
            with (
                pytest.raises(InputError, match=rf"table holds nan at \[{row}, 3\]"),
                FiniteReader(TensorFile(path)) as reader,
            ):
                reader.mapped("table")
            table[row, 3] = 1


def test_an_error_while_reading_is_raised_as_it_is_and_ends_the_thread(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_file({"good": torch.zeros(3)}, path)
    with pytest.raises(InputError, match="no tensor 'absent'"), FiniteReader(TensorFile(path)) as reader:
        list(map(reader.read, ("good", "absent")))
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("finite")]


def test_every_tensor_that_acting_reads_is_checked_when_a_policy_is_loaded(
    random_checkpoint: Path, tmp_path: Path
) -> None:
    from vlapack.pi0.load import build, executed_parameters
    from vlapack.pi0.names import EMBEDDING, TIED_EMBEDDING
    from vlapack.policy.policy import Policy

    policy = Policy.from_pretrained(random_checkpoint)
    wanted = executed_parameters(build(policy.config.architecture))
    names = [TIED_EMBEDDING if name == EMBEDDING else name for name in wanted]
    tensors = load_file(random_checkpoint / "model.safetensors")
    assert policy.checkpoint is not None
    for link in random_checkpoint.iterdir():
        if link.name != "model.safetensors":
            (tmp_path / link.name).symlink_to(link)
    for name in names[:: len(names) // 12]:
        kept = tensors[name].clone()
        tensors[name].view(-1)[-1] = torch.nan
        save_file(tensors, tmp_path / "model.safetensors")
        tensors[name] = kept
        with pytest.raises(InputError, match=f"{name} holds nan at"):
            Policy.from_pretrained(tmp_path)
