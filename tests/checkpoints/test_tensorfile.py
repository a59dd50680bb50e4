"""safetensors files: the values that the library reads, mappings told from copies, damage refused."""

from __future__ import annotations

import gc
import json
import warnings
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError, safe_open
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


ENTRY = '{"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}'
NEXT = '{"dtype": "F32", "shape": [1], "data_offsets": [4, 8]}'
EMPTY = '{"dtype": "F32", "shape": [0, 3], "data_offsets": [4, 4]}'
HEADERS: dict[str, tuple[str, int, bool]] = {
    "one tensor": (f'{{"a": {ENTRY}}}', 4, True),
    "a header of odd length": (f'{{"a": {ENTRY}}} ', 4, True),
    "a space before": (f' {{"a": {ENTRY}}}', 4, True),
    "an empty tensor at the end": (f'{{"a": {ENTRY}, "e": {EMPTY}}}', 4, True),
    "no tensor": ("{}", 0, True),
    "no metadata": (f'{{"__metadata__": null, "a": {ENTRY}}}', 4, True),
    "a field more": (f'{{"a": {ENTRY[:-1]}, "more": 1}}}}', 4, True),
    "trailing bytes": (f'{{"a": {ENTRY}}}', 5, False),
    "only bytes": ("{}", 3, False),
    "a hole": (f'{{"a": {NEXT}}}', 8, False),
    "a hole between": (f'{{"a": {ENTRY}, "b": {NEXT.replace("[4, 8]", "[5, 9]")}}}', 9, False),
    "an overlap": (f'{{"a": {ENTRY}, "b": {ENTRY}}}', 4, False),
    "an empty tensor inside": (f'{{"a": {ENTRY.replace("[1]", "[2]").replace("4]", "8]")}, "e": {EMPTY}}}', 8, False),
    "a size with a point": (f'{{"a": {ENTRY.replace("[1]", "[1.0]")}}}', 4, False),
    "a size of true": (f'{{"a": {ENTRY.replace("[1]", "[true]")}}}', 4, False),
    "three offsets": (f'{{"a": {ENTRY.replace("4]", "4, 4]")}}}', 4, False),
    "a field twice": (f'{{"a": {ENTRY[:-1]}, "shape": [1]}}}}', 4, False),
    "NaN": (f'{{"a": {ENTRY}, "b": NaN}}', 4, False),
    "metadata of numbers": (f'{{"__metadata__": {{"a": 1}}, "a": {ENTRY}}}', 4, False),
    "metadata in a list": (f'{{"__metadata__": [], "a": {ENTRY}}}', 4, False),
    "half a pair of surrogates": (f'{{"\\ud800": {ENTRY}}}', 4, False),
    "text after the header": (f'{{"a": {ENTRY}}}\0', 4, False),
}


@pytest.mark.parametrize("name", HEADERS)
def test_what_the_library_refuses_is_refused(path: Path, name: str) -> None:
    text, data, good = HEADERS[name]
    path.write_bytes(len(text.encode()).to_bytes(8, "little") + text.encode() + bytes(data))
    if good:
        expected = load_file(path)
        file = TensorFile(path)
        assert sorted(file.names()) == sorted(expected)
        for tensor in file.names():
            assert torch.equal(file.read(tensor), expected[tensor])
            assert torch.equal(file.mapped(tensor), expected[tensor])
        return
    with pytest.raises(SafetensorError), safe_open(path, "np"):
        pass
    with pytest.raises(InputError):
        TensorFile(path)


def test_a_name_that_stands_twice_is_refused_although_the_library_takes_the_last(path: Path) -> None:
    text = f'{{"a": {ENTRY}, "a": {ENTRY}}}'
    path.write_bytes(len(text).to_bytes(8, "little") + text.encode() + bytes(4))
    with pytest.raises(InputError, match="the key 'a' appears twice"):
        TensorFile(path)


@pytest.mark.parametrize(
    ("shape", "message"), [([1] * 9, "cannot be used"), ([0, 2**62], "cannot be used"), ([2**63] * 8, "cannot be used")]
)
def test_shapes_that_no_tensor_has_are_refused_before_they_are_multiplied(
    path: Path, shape: list[int], message: str
) -> None:
    text = json.dumps({"a": {"dtype": "F32", "shape": shape, "data_offsets": [0, 0]}})
    path.write_bytes(len(text).to_bytes(8, "little") + text.encode())
    with pytest.raises(InputError, match=message):
        TensorFile(path)


def test_a_header_longer_than_any_policys_is_not_read(path: Path) -> None:
    with path.open("wb") as file:
        file.write((2**27).to_bytes(8, "little"))
        file.truncate(2**28)
    with pytest.raises(InputError, match="a header of 134217728 bytes"):
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
