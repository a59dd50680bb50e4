"""safetensors files: the values that the library reads, mappings told from copies, damage refused."""

from __future__ import annotations

import gc
import json
import warnings
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from vlapack.checkpoints import tensorfile as mapping
from vlapack.checkpoints.tensorfile import TensorFile, is_mapped
from vlapack.errors import InputError

TENSORS = {
    "odd": torch.arange(35, dtype=torch.float32).reshape(5, 7).to(torch.bfloat16),
    "bytes": torch.arange(-3, 0, dtype=torch.int8),
    "rows": torch.randn(9, 3),
    "scalar": torch.tensor(3.5),
    "none": torch.empty(0, 4),
    "permutation": torch.arange(11, dtype=torch.int32).to(torch.uint16),
}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    save_file(TENSORS, tmp_path / "model.safetensors", metadata={"format": "pt"})
    return tmp_path / "model.safetensors"


def test_values_shapes_and_types_are_the_librarys(path: Path) -> None:
    file = TensorFile(path)
    assert sorted(file.names()) == sorted(TENSORS)
    for name, expected in load_file(path).items():
        assert (file.shape(name), file.dtype(name)) == (tuple(expected.shape), expected.dtype)
        for tensor in (file.read(name), file.mapped(name)):
            assert tensor.dtype == expected.dtype
            assert torch.equal(tensor, expected)


def test_only_mappings_count_as_mapped_while_they_live(path: Path) -> None:
    gc.collect()  # other tests' policies
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # torch warns about read-only buffers
        tensor = TensorFile(path).mapped("rows")
    embedding = torch.nn.Embedding(9, 3, _weight=tensor)
    assert is_mapped(tensor)
    assert is_mapped(tensor[4:])
    assert is_mapped(embedding.weight)
    assert not is_mapped(tensor.clone())
    assert not is_mapped(TensorFile(path).read("rows"))
    assert not is_mapped(torch.empty(3, device="meta"))
    assert tensor.untyped_storage().nbytes() == 9 * 3 * 4
    count = len(mapping._mappings)
    del tensor, embedding
    gc.collect()
    assert len(mapping._mappings) == count - 1


def test_writing_into_a_mapping_leaves_the_file_alone(path: Path) -> None:
    before = path.read_bytes()
    TensorFile(path).mapped("rows").zero_()
    assert path.read_bytes() == before


@pytest.mark.parametrize("kept", [0, 5, 8, 60, -1])
def test_a_truncated_file_is_refused(path: Path, kept: int) -> None:
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(InputError, match=r"model.safetensors: .*(cut off|truncated)"):
        TensorFile(path)


def test_what_is_no_safetensors_file_is_refused(path: Path) -> None:
    path.write_bytes((4).to_bytes(8, "little") + b"\x80abcdef")
    with pytest.raises(InputError, match="not a safetensors file"):
        TensorFile(path)
    with pytest.raises(InputError, match="cannot be read"):
        TensorFile(path.with_name("absent"))


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"dtype": "F99", "shape": [1], "data_offsets": [0, 4]}, "cannot be used"),
        ({"dtype": "F32", "shape": [2], "data_offsets": [0, 4]}, r"bytes 0 to 4 do not hold \[2\]"),
        ({"dtype": "F32", "shape": [1], "data_offsets": [-8, -4]}, r"bytes -8 to -4 do not hold"),
        ({"dtype": "F32", "shape": [-1, -1], "data_offsets": [0, 4]}, r"do not hold \[-1, -1\]"),
        ("nothing", "a header entry that cannot be used"),
        ({"dtype": "F32", "shape": [1]}, "cannot be used"),
    ],
)
def test_a_header_entry_that_means_nothing_is_named(path: Path, entry: dict[str, object], message: str) -> None:
    header = json.dumps({"strange": entry}).encode()
    path.write_bytes(len(header).to_bytes(8, "little") + header + bytes(8))
    with pytest.raises(InputError, match=f"tensor strange.*{message}"):
        TensorFile(path)


def test_an_unknown_name_is_named(path: Path) -> None:
    with pytest.raises(InputError, match="no tensor 'nowhere'"):
        TensorFile(path).read("nowhere")


def test_a_file_cut_off_after_it_was_opened_is_refused(path: Path) -> None:
    file = TensorFile(path)
    with path.open("r+b") as cut:
        cut.truncate(path.stat().st_size - 1)
    with pytest.raises(InputError, match="cut off"):
        list(map(file.read, file.names()))
