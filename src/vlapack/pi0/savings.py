"""What the network does not compute, and does not hold, because no action depends on it.

openpi's class does all of it. Here each saving has a switch, so that each can be tested alone against openpi's numbers,
and so that `vlapack bench --without NAME` can say what it is worth. Quantization is not among them: a float policy has
them all. docs/runtime.md tells them at length.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from vlapack.errors import InputError


@dataclass(frozen=True)
class Savings:
    """One switch per saving; True saves.

    Attributes:
        missing_cameras: a camera that no observation of the batch has is neither encoded nor attended to.
        prompt_padding: prompt slots that no observation of the batch uses are cut off.
        last_layer: of the last language layer only keys and values run; the rest of it is not loaded.
        lm_heads: the expert's vocabulary head, which nothing calls, is not loaded.
        time_table: what depends on the flow time alone is computed once, at load, for the times of the denoise steps.
        embedding_rows: the token embedding stays in its file, and a prompt reads its rows.
        fused_attention: attention is torch's fused kernel, which never writes its matrix of weights to memory; in bf16
            on CPUs, where that kernel is the slower one, two products with one softmax between them.
        static_cache: the prefix's keys and values stand in buffers with room behind them for the expert's.
        prefix_once: pictures and prompt are encoded once per chunk, not once per denoise step.
    """

    missing_cameras: bool = True
    prompt_padding: bool = True
    last_layer: bool = True
    lm_heads: bool = True
    time_table: bool = True
    embedding_rows: bool = True
    fused_attention: bool = True
    static_cache: bool = True
    prefix_once: bool = True

    def without(self, *names: str) -> Savings:
        """Return these savings with some of them switched off.

        Raises:
            InputError: a name that is no saving's.
        """
        known = [field.name for field in dataclasses.fields(self)]
        if unknown := [name for name in names if name not in known]:
            raise InputError(f"there is no saving {unknown[0]!r}; there are {', '.join(known)}")
        return dataclasses.replace(self, **dict.fromkeys(names, False))
