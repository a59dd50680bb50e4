"""Edits of a folder, as plain JSON: what hypothesis draws, what the corpus keeps, and what is done to the files.

An edit is a dictionary: `op`, `file`, and what the operation takes. Three levels are edited: bytes, the values of JSON,
and the header or the values of a safetensors file. A value is a number, or the name of a piece of JSON text in
`TEXTS`, since much of what breaks a reader (NaN, a key that stands twice, a thousand brackets) is no Python value.
"""

from __future__ import annotations

import json
import os
import shutil
import struct
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n"

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
PLACEHOLDER = "\x01{}\x01"

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


class JsonFile:
    """A JSON document in which some places hold text that no JSON writer would write."""

    def __init__(self, document: Any) -> None:
        self.document = document
        self._raw: list[str] = []

    def place(self, text: str) -> str:
        self._raw.append(text)
        return PLACEHOLDER.format(len(self._raw) - 1)

    def edit(self, edit: dict[str, Any]) -> None:
        holder, key = self.document, edit["at"][-1]
        for step in edit["at"][:-1]:
            try:
                holder = holder[step]
            except (KeyError, IndexError, TypeError):
                return  # another edit took it away
        if isinstance(holder, dict) is not isinstance(key, str) or not isinstance(holder, dict | list):
            return
        if isinstance(holder, list) and key >= len(holder):
            return
        match edit["op"]:
            case "set":
                holder[key] = self.place(text_of(edit["value"]))
            case "delete":
                holder.pop(key, None) if isinstance(holder, dict) else holder.pop(key)
            case "twice" if isinstance(holder, dict) and key in holder:
                again = f"{json.dumps(holder[key])}, {json.dumps(key)}: {text_of(edit['value'])}"
                holder[key] = self.place(again)
            case "unknown" if isinstance(holder, dict):
                holder["unknown"] = self.place(text_of(edit["value"]))

    def text(self) -> str:
        text = json.dumps(self.document)
        for number in reversed(range(len(self._raw))):  # a later one may hold an earlier one
            text = text.replace(json.dumps(PLACEHOLDER.format(number)), self._raw[number])
        return text


class TensorsFile:
    """A safetensors file taken apart: tensors that can be changed as a whole, and a header that can be made to lie."""

    def __init__(self, content: bytes) -> None:
        header, data = parse(content)
        self.metadata = header.pop("__metadata__", {})
        self.tensors = {
            name: (entry["dtype"], list(entry["shape"]), data[slice(*entry["data_offsets"])])
            for name, entry in header.items()
        }
        self._lies: list[dict[str, Any]] = []

    def edit(self, edit: dict[str, Any]) -> None:
        op, name = edit["op"].removeprefix("tensor "), edit["tensor"]
        if op in ("field", "twice", "length", "spaces", "hole", "overlap", "metadata"):
            self._lies.append(edit)
            return
        if name not in self.tensors:
            return
        dtype, shape, data = self.tensors[name]
        match op:
            case "drop":
                del self.tensors[name]
            case "rename":
                self.tensors[f"{name}.x"] = self.tensors.pop(name)
            case "add":
                self.tensors[f"{name}_more"] = self.tensors[name]
            case "swap" if edit["other"] in self.tensors:
                other = edit["other"]
                self.tensors[name], self.tensors[other] = self.tensors[other], self.tensors[name]
            case "fill":
                self.tensors[name] = (dtype, shape, _filled(dtype, len(data), edit["fill"]))
            case "cast" if edit["dtype"] in SIZES:
                count = len(data) // SIZES[dtype]
                self.tensors[name] = (edit["dtype"], shape, bytes(count * SIZES[edit["dtype"]]))
            case "reshape" if shape:
                rows = edit["value"] if isinstance(edit["value"], int) and 0 <= edit["value"] < 2000 else shape[0] + 1
                row = len(data) // max(shape[0], 1)
                self.tensors[name] = (dtype, [rows, *shape[1:]], (data + bytes(row * rows))[: row * rows])

    def content(self, metadata: dict[str, str] | None = None) -> bytes:
        header: dict[str, Any] = {"__metadata__": self.metadata if metadata is None else metadata}
        data = b""
        for name, (dtype, shape, part) in self.tensors.items():
            header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [len(data), len(data) + len(part)]}
            data += part
        file = JsonFile(header)
        spaces, length = 0, None
        for lie in self._lies:
            name = lie["tensor"] if lie["tensor"] in header else next(iter(header))
            match lie["op"].removeprefix("tensor "):
                case "field" if isinstance(header[name], dict):
                    text = json.dumps(lie["dtype"]) if lie["field"] == "dtype" else text_of(lie["value"])
                    header[name][lie["field"]] = file.place(text)
                case "twice":
                    file.edit({"op": "twice", "at": [name], "value": lie["value"]})
                case "metadata":
                    header["__metadata__"] = file.place(text_of(lie["value"]))
                case "length":
                    length = lie["value"] if isinstance(lie["value"], int) else 2**63
                case "spaces":
                    spaces = abs(lie["value"]) % 4096 if isinstance(lie["value"], int) else 1
                case "hole":
                    data += bytes(abs(lie["value"]) % 64 + 1 if isinstance(lie["value"], int) else 1)
                case "overlap" if lie["other"] in header and isinstance(header[name], dict):
                    entry = header[lie["other"]]
                    if isinstance(entry, dict) and "data_offsets" in entry:
                        header[name] = dict(entry)
        text = file.text().encode("utf-8", "surrogatepass") + b" " * spaces
        return struct.pack("<Q", len(text) if length is None else length % 2**64) + text + data


def _filled(dtype: str, size: int, how: str) -> bytes:
    nan = {"F64": b"\0\0\0\0\0\0\xf8\x7f", "F32": b"\0\0\xc0\x7f", "F16": b"\0\x7e", "BF16": b"\xc0\x7f"}
    pattern = {
        "zeros": b"\0",
        "ones": b"\xff",
        "0x7f": b"\x7f",
        "0x80": b"\x80",
        "nan": nan.get(dtype, b"\xff"),
        "counting": bytes(range(256)),
    }[how]
    return (pattern * (size // len(pattern) + 1))[:size]


def taken_apart(folder: Path, edits: Sequence[dict[str, Any]]) -> tuple[dict[str, JsonFile], dict[str, TensorsFile]]:
    """Edit a folder's values, and return the files that were taken apart, not yet written.

    Byte edits, and what makes a file something else, come last: `damage` does them.
    """
    documents: dict[str, JsonFile] = {}
    tensors: dict[str, TensorsFile] = {}
    for edit in edits:
        name = edit["file"]
        if edit["op"].startswith("tensor "):
            if name not in tensors:
                tensors[name] = TensorsFile((folder / name).read_bytes())
            tensors[name].edit(edit)
        elif "at" in edit:
            if name not in documents:
                documents[name] = JsonFile(json.loads((folder / name).read_bytes()))
            documents[name].edit(edit)
    return documents, tensors


def write_all(folder: Path, documents: dict[str, JsonFile], tensors: dict[str, TensorsFile]) -> None:
    for name, document in documents.items():
        (folder / name).write_bytes(document.text().encode("utf-8", "surrogatepass"))
    for name, file in tensors.items():
        (folder / name).write_bytes(file.content())


def damage(folder: Path, edits: Sequence[dict[str, Any]], outside: Path) -> None:
    """Edit bytes, and put something else in a file's place."""
    for edit in edits:
        if "place" not in edit:
            continue
        path = folder / edit["file"]
        if not path.is_file() or path.is_symlink() or path.stat().st_size > 2**24:
            continue  # another edit was here
        if edit["op"] in BYTES:
            path.write_bytes(edited(path.read_bytes(), edit))
        else:
            _replace(path, edit["op"], outside)


def edited(content: bytes, edit: dict[str, Any]) -> bytes:
    place, count = min(edit["place"], len(content)), edit["count"]
    match edit["op"]:
        case "flip":
            return (
                content[:place]
                + bytes(byte ^ (1 << count % 8) for byte in content[place : place + 1])
                + content[place + 1 :]
            )
        case "cut":
            return content[:place]
        case "append":
            return content + bytes(count)
        case "prepend":
            return b" " * count + content
        case "insert":
            return content[:place] + b"[" * count + content[place:]
        case "bom":
            return b"\xef\xbb\xbf" + content
        case "utf16":
            return content.decode("latin-1").encode("utf-16")
    return b""


def _replace(path: Path, how: str, outside: Path) -> None:
    if how == "link out":
        shutil.copyfile(path, outside / path.name)
    content = path.read_bytes()
    path.unlink()
    match how:
        case "fifo":
            os.mkfifo(path)
        case "folder":
            path.mkdir()
        case "link out":
            path.symlink_to(outside / path.name)
        case "link in":
            path.with_name("kept").write_bytes(content)
            path.symlink_to("kept")
        case "device":
            path.symlink_to("/dev/zero")
        case "dangling":
            path.symlink_to("nowhere")
        case "lfs":
            path.write_bytes(LFS)
        case "sparse":
            path.write_bytes(content)
            os.truncate(path, 2**33)
