"""Python as on a machine that has torch, Triton, numpy and nothing else: `python bare.py -m MODULE ARGUMENTS`.

What torch itself needs is there, too, and so are the project's own sources; its C++ module is not.
"""

from __future__ import annotations

import runpy
import sys
from importlib.machinery import BuiltinImporter, FrozenImporter, ModuleSpec, PathFinder

OURS = ("vlapack", "gpu", "gate")
OF_TORCH = (
    "filelock", "fsspec", "functorch", "isympy", "jinja2", "markupsafe", "mpmath", "networkx", "setuptools", "sympy",
    "torchgen", "typing_extensions",
)  # fmt: skip
THERE = {*sys.stdlib_module_names, "torch", "triton", "numpy", *OF_TORCH, *OURS}


class Bare:
    """Finds what is there and nothing else."""

    @staticmethod
    def find_spec(name: str, path: object = None, target: object = None) -> ModuleSpec | None:
        top = name.partition(".")[0]
        if (top not in THERE and not top.startswith("_sysconfigdata")) or name == "vlapack._kernels":
            return None
        return PathFinder.find_spec(name, path, target)  # type: ignore[arg-type]


if __name__ == "__main__":
    sys.meta_path[:] = [BuiltinImporter, FrozenImporter, Bare]
    module, sys.argv = sys.argv[2], sys.argv[2:]
    runpy.run_module(module, run_name="__main__", alter_sys=True)
