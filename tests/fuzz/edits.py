"""Edits of a folder, as plain JSON: what hypothesis draws and the corpus keeps; `fuzz.files` does them.

An edit is a dictionary: `op`, `file`, and what the operation takes. Three levels are edited: bytes, the values of JSON,
and the header or the values of a safetensors file. A value is a number, or the name of a piece of JSON text in
`TEXTS`, since much of what breaks a reader (NaN, a key that stands twice, a thousand brackets) is no Python value.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

TEXTS = {
    "null": "null",
    "true": "true",
    "false": "false",
    "half": "0.5",
    "whole float": "8.0",
    "minus": "-1",
    "nan": "NaN",
    "infinity": "Infinity",
    "minus infinity": "-Infinity",
    "beyond float": "1e999",
    "2^31": str(2**31),
    "2^63": str(2**63),
    "2^64": str(2**64),
    "many digits": "1" + "0" * 4000,
    "too many digits": "1" + "0" * 5000,
    "empty": '""',
    "word": '"word"',
    "number as text": '"8"',
    "parent": '".."',
    "climbing": '"../../../../../../etc/hostname"',
    "absolute": '"/etc/hostname"',
    "zero byte": '"a\\u0000b"',
    "surrogate": '"\\ud800"',
    "escape": '"\\u001b[31m\\n\\r"',
    "emoji": '"' + "\N{ROBOT FACE}" * 50 + '"',
    "long text": '"' + "a" * 200_000 + '"',
    "slow pattern": '"(a|aa|[a-z]+)+$"',
    "slower pattern": '"((([a-z_.0-9]*)*)*)*!"',
    "open pattern": '"((("',
    "vast repetition": '"a{4294967296}"',
    "deep pattern": '"' + "(" * 1500 + ")" * 1500 + '"',
    "list": "[]",
    "object": "{}",
    "lists in a list": "[[], []]",
    "list of null": "[null]",
    "list of nan": "[NaN, NaN, NaN, NaN, NaN, NaN, NaN, NaN]",
    "list of text": '["a", "b"]',
    "list of objects": "[{}, {}]",
    "zeros": "[" + ", ".join("0" * 8) + "]",
    "many zeros": "[" + ", ".join("0" * 1000) + "]",
    "unknown": '{"unknown": 1}',
    "deep list": "[" * 200 + "]" * 200,
    "too deep list": "[" * 100_000 + "]" * 100_000,
    "deep object": '{"a":' * 300 + "1" + "}" * 300,
    "empty lists": "[" + ",".join(["[]"] * 100_000) + "]",
    "small objects": "[" + ",".join(['{"":0}'] * 50_000) + "]",
    "twice": '{"a": 1, "a": 2}',
}
NUMBERS = (0, 1, 2, 3, 4, 5, 7, 8, 9, 16, 31, 32, 33, 64, 128, 255, 256, 1000, 4096, 65536, 10**6, 10**9)

BYTES = ("flip", "cut", "append", "prepend", "insert", "empty", "bom", "utf16")
NODES = ("missing", "fifo", "folder", "link out", "link in", "device", "sparse", "lfs", "dangling")
TENSORS = (
    "field",
    "drop",
    "twice",
    "rename",
    "add",
    "fill",
    "reshape",
    "cast",
    "length",
    "spaces",
    "hole",
    "overlap",
    "metadata",
    "swap",
)
FILLS = ("zeros", "ones", "0x7f", "0x80", "nan", "counting")
SIZES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "U16": 2, "I8": 1, "U8": 1, "BOOL": 1}


def values() -> st.SearchStrategy[Any]:
    return st.one_of(st.sampled_from(sorted(TEXTS)), st.sampled_from(NUMBERS), st.integers(-300, 300))


def places(document: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every place in a JSON document."""
    children: Sequence[tuple[Any, Any]] = ()
    if isinstance(document, dict):
        children = list(document.items())
    elif isinstance(document, list):
        children = list(enumerate(document[:12]))  # later ones are like these
    for key, value in children:
        yield (*at, key)
        yield from places(value, (*at, key))


def edits_of(folder: Path) -> st.SearchStrategy[dict[str, Any]]:
    """One edit of any file of a folder."""
    found: list[st.SearchStrategy[dict[str, Any]]] = []
    for path in sorted(file for file in folder.rglob("*") if file.is_file()):
        name = path.relative_to(folder).as_posix()
        found.append(_bytes(name, path.stat().st_size))
        if path.suffix == ".json":
            where = st.sampled_from([list(place) for place in places(json.loads(path.read_bytes()))])
            one = st.fixed_dictionaries(
                {
                    "op": st.sampled_from(["set", "set", "set", "delete", "twice", "unknown"]),
                    "file": st.just(name),
                    "at": where,
                    "value": values(),
                }
            )
            found += [one] * 4
        if path.suffix == ".safetensors":
            found += [_tensors(name, sorted(parse(path.read_bytes())[0]))] * 4
    return st.one_of(found)


def _bytes(name: str, size: int) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries(
        {
            "op": st.sampled_from([*BYTES, *NODES]),
            "file": st.just(name),
            "place": st.integers(0, max(size - 1, 0)),
            "count": st.sampled_from((1, 2, 7, 8, 64, 1000)),
        }
    )


def _tensors(name: str, tensors: list[str]) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries(
        {
            "op": st.sampled_from([f"tensor {op}" for op in TENSORS]),
            "file": st.just(name),
            "tensor": st.sampled_from([*tensors, "__metadata__"]),
            "other": st.sampled_from(tensors),
            "field": st.sampled_from(["dtype", "shape", "data_offsets", "unknown"]),
            "fill": st.sampled_from(FILLS),
            "dtype": st.sampled_from([*SIZES, "F8_E4M3", "F4", "C64", "X9"]),
            "value": values(),
        }
    )


def parse(content: bytes) -> tuple[dict[str, Any], bytes]:
    """The header and the data of a safetensors file."""
    (length,) = struct.unpack("<Q", content[:8])
    return json.loads(content[8 : 8 + length]), content[8 + length :]


def text_of(value: Any) -> str:
    return TEXTS[value] if isinstance(value, str) else json.dumps(value)
