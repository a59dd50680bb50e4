"""Edits done to the files of a folder."""

from __future__ import annotations

import json
import os
import shutil
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fuzz.edits import BYTES, SIZES, parse, text_of

LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n"
PLACEHOLDER = "\x01{}\x01"


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
