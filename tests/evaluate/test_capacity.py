from __future__ import annotations

from pathlib import Path

import pytest
from libero_installed import install, use

from vlapack.errors import InputError
from vlapack.evaluate.capacity import HF_WORKER_BYTES, WORKER_BYTES, require_memory, worker_bytes
from vlapack.libero.distribution import HF, PRO


def test_too_large_a_policy_is_named_with_both_sizes() -> None:
    with pytest.raises(InputError, match=r"pi05 needs 7\.5 GB .* 4\.0 GB of memory are available"):
        require_memory({"pack": 10**9, "pi05": 7_500_000_000}, workers=2, available=4_000_000_000)


def test_policies_do_not_add_up_because_they_run_one_after_another() -> None:
    require_memory({"pack": 3 * 10**9, "pi05": 3 * 10**9}, workers=1, available=3 * 10**9 + worker_bytes())


def test_hf_liberos_simulators_hold_torch_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number, (name, each) in enumerate({HF: HF_WORKER_BYTES, PRO: WORKER_BYTES}.items()):
        install(tmp_path / str(number), name)
        use(monkeypatch, tmp_path / str(number))
        require_memory({"pack": 10**9}, workers=2, available=10**9 + 2 * each)
        with pytest.raises(InputError, match=f"2 simulators {2 * each / 1e9:.1f} GB"):
            require_memory({"pack": 10**9}, workers=2, available=10**9 + 2 * each - 1)
