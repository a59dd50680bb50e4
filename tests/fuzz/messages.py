"""Messages to a policy server: how they are drawn, and the service that they meet."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from fuzz.edits import text_of, values
from fuzz.files import edited
from fuzz.refusal import Case, refused
from hypothesis import strategies as st
from small import random_observations

from vlapack.policy.policy import Policy
from vlapack.serve.metrics import Metrics
from vlapack.serve.service import Service
from vlapack.serve.wire import pack


class Acting(Policy):
    """A policy whose network is asked nothing: what comes before it is what a message meets."""

    def act(self, inputs: Any, noise: torch.Tensor) -> np.ndarray:
        return np.zeros((len(noise), *self.noise_shape))


class Messages:
    """A server's service, and messages for it."""

    name = "message"

    def __init__(self, checkpoint: Path) -> None:
        self._loop = asyncio.new_event_loop()
        service = Service(Acting.from_pretrained(checkpoint), metrics=Metrics(policy="small", engine="", version=""))
        self._service = service
        self._running = self._loop.create_task(service.run())
        self._good: dict[str, Any] = {**random_observations(1)[0], "noise": np.zeros((4, 32), np.float32)}

    @cached_property
    def cases(self) -> st.SearchStrategy[Case]:
        keys = st.sampled_from([*self._good, "more", "observation/image/b"])
        value = st.fixed_dictionaries(
            {"op": st.just("value"), "key": keys, "value": st.sampled_from(sorted(MESSAGE_VALUES))}
        )
        text = st.fixed_dictionaries({"op": st.just("json"), "key": keys, "value": values()})
        array = st.fixed_dictionaries(
            {
                "op": st.just("array"),
                "key": keys,
                "dtype": st.sampled_from(
                    ["<f4", "<f8", "|u1", "<i8", "|b1", "<U9", "<f2", "|O", ">f4", "<U999999", "x"]
                ),
                "shape": st.lists(st.integers(-1, 40), max_size=4),
                "bytes": st.one_of(st.none(), st.integers(0, 10_000)),
            }
        )
        raw = st.fixed_dictionaries(
            {
                "op": st.sampled_from(["flip", "cut", "append", "prepend", "insert", "empty"]),
                "place": st.integers(0, 7000),
                "count": st.integers(1, 40),
            }
        )
        junk = st.fixed_dictionaries({"op": st.just("junk"), "hex": st.binary(max_size=60).map(bytes.hex)})
        delete = st.fixed_dictionaries({"op": st.just("delete"), "key": keys})
        edit = st.one_of(value, value, text, array, array, raw, junk, delete)
        return st.fixed_dictionaries({"kind": st.just(self.name), "edits": st.lists(edit, min_size=1, max_size=3)})

    def prepare(self, case: Case, folder: Path) -> None:
        folder.mkdir()
        message: dict[Any, Any] = dict(self._good)
        for edit in case["edits"]:
            match edit["op"]:
                case "value":
                    message[edit["key"]] = MESSAGE_VALUES[edit["value"]]
                case "json":
                    try:
                        message[edit["key"]] = json.loads(text_of(edit["value"]))
                    except (ValueError, RecursionError):
                        message[edit["key"]] = text_of(edit["value"])
                case "array":
                    size = edit["bytes"]
                    if size is None:
                        size = max(0, int(np.prod(edit["shape"])) * 4)
                    fields = {
                        b"__ndarray__": True,
                        b"data": bytes(size),
                        b"dtype": edit["dtype"],
                        b"shape": edit["shape"],
                    }
                    message[edit["key"]] = fields
                case "delete":
                    message.pop(edit["key"], None)
        try:
            content = pack(message)
        except (ValueError, TypeError, OverflowError, RecursionError):
            content = pack(self._good)
        for edit in case["edits"]:
            if edit["op"] == "junk":
                content = bytes.fromhex(edit["hex"])
            elif "place" in edit:
                content = edited(content, edit)
        (folder / "message").write_bytes(content)

    def run(self, folder: Path) -> bool:
        content = (folder / "message").read_bytes()
        answer = self._service.answer(content, connection=0, number=0)
        return refused(lambda: self._loop.run_until_complete(answer)) is None

    def close(self) -> None:
        self._running.cancel()
        self._loop.run_until_complete(asyncio.gather(self._running, return_exceptions=True))
        self._loop.close()


def _nested(depth: int) -> Any:
    value: Any = 0
    for _ in range(depth):
        value = [value]
    return value


MESSAGE_VALUES: Mapping[str, Any] = {
    "nothing": None,
    "true": True,
    "picture": np.zeros((32, 32, 3), np.uint8),
    "grey picture": np.zeros((32, 32), np.uint8),
    "channels first": np.zeros((3, 32, 32), np.uint8),
    "floats above one": np.full((32, 32, 3), 1.5, np.float32),
    "nan picture": np.full((32, 32, 3), np.nan, np.float32),
    "empty picture": np.zeros((0, 32, 3), np.uint8),
    "one pixel": np.zeros((1, 1, 3), np.uint8),
    "a line": np.zeros((1, 20000, 3), np.uint8),
    "batch": np.zeros((2, 32, 32, 3), np.uint8),
    "bool picture": np.zeros((32, 32, 3), bool),
    "picture of lists": np.zeros((32, 32, 3), np.uint8).tolist(),
    "ragged": [[1, 2], [3]],
    "nested": _nested(100),
    "deeply nested": _nested(400),
    "empty lists": [[] for _ in range(1000)],
    "lists of lists": [[[] for _ in range(1000)] for _ in range(100)],
    "list of text": ["a", "b"],
    "mixed": [1, "a", None],
    "dictionary": {"a": {"b": 1}},
    "keys of bytes": {b"a": 1},
    "state": np.zeros(8),
    "short state": np.zeros(3),
    "huge state": np.full(8, 1e308),
    "nan state": np.full(8, np.nan),
    "whole numbers": [2**63] * 8,
    "list of none": [None] * 8,
    "scalar": np.float32(1),
    "scalar text": np.str_("pick up"),
    "text": "pick up",
    "spaces": "   ",
    "empty text": "",
    "surrogate bytes": b"\xed\xa0\x80",
    "bytes": b"pick up",
    "control": "\x00\x1b[31m\r\n",
    "long text": "pick up " * 600,
    "endless text": "a" * 100_000,
    "emoji": "\N{ROBOT FACE}" * 1000,
    "noise": np.zeros((4, 32), np.float32),
    "double noise": np.full((4, 32), 1e300),
    "infinite noise": np.full((4, 32), np.inf, np.float32),
}
