from __future__ import annotations

import pytest

from vlapack.errors import InputError
from vlapack.evaluate.capacity import WORKER_BYTES, require_memory


def test_too_large_a_policy_is_named_with_both_sizes() -> None:
    with pytest.raises(InputError, match=r"pi05 needs 7\.5 GB .* 4\.0 GB of memory are available"):
        require_memory({"pack": 10**9, "pi05": 7_500_000_000}, workers=2, available=4_000_000_000)


def test_policies_do_not_add_up_because_they_run_one_after_another() -> None:
    require_memory({"pack": 3 * 10**9, "pi05": 3 * 10**9}, workers=1, available=3 * 10**9 + WORKER_BYTES)
