"""What `--help` shows of a command: tyro's help, with our words for values and with text that wraps.

tyro asks its registry how to read each function or dataclass of flags. The rules here answer for all of ours at once,
so that a command's signature says types and defaults only.
"""

from __future__ import annotations

import dataclasses
import inspect
import re
import shutil
import textwrap
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

import docstring_parser
import tyro
from tyro.constructors import (
    MISSING_NONPROP,
    ConstructorRegistry,
    PrimitiveConstructorSpec,
    PrimitiveTypeInfo,
    StructConstructorSpec,
    StructFieldSpec,
    StructTypeInfo,
)

from vlapack.commands.spelling import POSITIONAL
from vlapack.files import from_home

VALUES: Mapping[str, str] = {
    "target": "CHECKPOINT",
    "baseline": "CHECKPOINT",
    "policy_dir": "CHECKPOINT",
    "folders": "FOLDER",
    "calib": "FOLDER",
    "data": "FOLDER",
    "record_dir": "FOLDER",
    "work": "FOLDER",
    "recipe": "FILE",
    "norm_stats": "FILE",
    "tokenizer": "FILE",
    "cert": "FILE",
    "key": "FILE",
    "against": "PYTHON",
    "config": "NAME",
    "policy_config": "NAME",
    "arch": "NAME",
    "preset": "NAME",
    "engine": "NAME",
    "latency": "TIME",
    "drift": "SPEED",
    "suite": "SUITE,…",
    "task_ids": "ID,…",
    "init_states": "ID,…",
    "without": "NAME,…",
    "rename_map": "JSON",
    "max_error": "PERCENT",
    "budget": "BYTES",
    "budget_file": "BYTES",
    "choices": "BITS,…",
    "weight_overrides": "PATTERN:BITS,…",
    "scope": "PREFIX",
    "include": "REGEX",
    "exclude": "REGEX",
    "only_layers": "NAME,…",
    "act_percentile": "PERCENT",
    "smooth": "LAMBDA",
    "block": "CHANNELS",
    "block_out": "ROWS",
    "batch_wait_ms": "MILLISECONDS",
    "max_message_mb": "MEGABYTES",
    "video_mb": "MEGABYTES",
    "api_key": "KEY",
    "default_prompt": "TEXT",
    "prompt": "TEXT",
    "port": "PORT",
}
"""Parameter → what its value is called. Any other number is N, any other text the name's last word: `--out OUT`."""

MOST_COLUMNS = 100
"""Of running text. The boxes of flags are as wide as the terminal."""

FLAG_AND_VALUE = re.compile(r"(--[\w.-]+) (?=[^-\s])")


def registry() -> ConstructorRegistry:
    """Return the rules by which tyro reads the commands."""
    found = ConstructorRegistry()
    found.primitive_rule(_path_from_home)
    found.struct_rule(_flags)
    return found


def description(command: Callable[..., Any]) -> str:
    """Return what a command's docstring says above its flags, wrapped at words for this terminal.

    Examples, which are indented, break where a shell lets them: `\\` and an indented next line. tyro would join the
    lines of a description, so this is printed before its help.
    """
    width = min(shutil.get_terminal_size().columns, MOST_COLUMNS)
    before, _, _ = inspect.cleandoc(command.__doc__ or "").partition("\nArgs:\n")
    return "\n\n".join("\n".join(_wrapped(block, width)) for block in before.strip().split("\n\n"))


def _wrapped(block: str, width: int) -> Iterator[str]:
    """Yield the lines of a paragraph, or of a block of examples."""
    if not block.startswith("    "):
        yield from textwrap.wrap(block, width)
        return
    for line in block.splitlines():
        example, _, remark = line.partition("  (")
        if remark:
            yield f"    # {remark.removesuffix(')')}"
        *pieces, last = textwrap.wrap(
            FLAG_AND_VALUE.sub("\\1\N{NO-BREAK SPACE}", example),
            width - len(" \\"),
            subsequent_indent="        ",
            break_long_words=False,
            break_on_hyphens=False,
        )
        for piece in (*(f"{piece} \\" for piece in pieces), last):
            yield piece.replace("\N{NO-BREAK SPACE}", " ")


def _path_from_home(info: PrimitiveTypeInfo) -> PrimitiveConstructorSpec[Path] | None:
    """Read every path with `~` as the home folder, which shells leave as it is behind an equals sign or in quotes."""
    if info.type is not Path:
        return None
    return PrimitiveConstructorSpec(
        nargs=1,
        metavar="PATH",
        instance_from_str=lambda words: from_home(words[0]),
        is_instance=lambda value: isinstance(value, Path),
        str_from_instance=lambda value: [str(value)],
    )


def _flags(info: StructTypeInfo) -> StructConstructorSpec | None:
    """Read a command or a dataclass of flags as tyro does, and say how each parameter is shown."""
    ours = inspect.isfunction(info.type) or dataclasses.is_dataclass(info.type)
    if not ours or hasattr(info.type, "__parameters__"):  # tyro wraps subcommands in a generic dataclass
        return None
    hints = get_type_hints(info.type, include_extras=True)
    texts = _texts(info.type)
    fields = []
    for name, parameter in inspect.signature(info.type).parameters.items():
        default = MISSING_NONPROP if parameter.default is inspect.Parameter.empty else parameter.default
        if inspect.isclass(info.type) and isinstance(info.default, info.type):
            default = getattr(info.default, name)
        fields.append(StructFieldSpec(name, _shown(name, hints[name], default), default, texts.get(name)))
    return StructConstructorSpec(info.type, tuple(fields))


def _texts(described: Any) -> dict[str, str]:
    """Return what docstrings say of the parameters, a class's bases included."""
    found = {}
    for one in reversed(inspect.getmro(described)) if inspect.isclass(described) else (described,):
        for parameter in docstring_parser.parse(one.__doc__ or "").params:
            found[parameter.arg_name] = " ".join((parameter.description or "").split())
    return found


def _shown(name: str, hint: Any, default: Any) -> Any:
    """Return a parameter's type with tyro's marks: what its value is called, and which default is worth a word."""
    kind, *marks = get_args(hint) if get_origin(hint) is Annotated else (hint,)
    if isinstance(kind, type) and dataclasses.is_dataclass(kind):  # a box of its own, whose flags have no prefix
        title = kind.__name__.removesuffix("Flags").lower()
        return Annotated[(kind, *marks, tyro.conf.OmitArgPrefixes, tyro.conf.arg(name=title))]
    hint_of_default = "" if default is None or default is False or default == "" else None
    plain = [one for one in get_args(kind) or (kind,) if one is not type(None)]
    value = None
    marks.append(tyro.conf.DisallowNone)  # None is what a flag is when it is left out, and nothing to type
    if bool in plain:
        if default is None:  # may be left alone, and takes True or False
            marks.append(tyro.conf.FlagConversionOff)
        elif default is False:
            marks.append(tyro.conf.FlagCreatePairsOff)
        else:
            hint_of_default = "(the default)"
    elif Literal not in (get_origin(kind), get_origin(plain[0])):
        value = VALUES.get(name) or ("N" if plain[0] in (int, float) else name.rpartition("_")[2].upper())
        if POSITIONAL in marks and default is not MISSING_NONPROP:
            value = f"[{value} ...]" if get_origin(kind) is tuple else f"[{value}]"
    # What a signature says itself comes later, and counts.
    return Annotated[(kind, tyro.conf.arg(metavar=value, help_behavior_hint=hint_of_default), *marks)]
