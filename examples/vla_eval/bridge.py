"""vla-eval's benchmarks, played by a policy that `vlapack serve` serves; docs/serve.md has the three commands."""

from __future__ import annotations

from typing import Any

import numpy as np
from vla_eval.model_servers.predict import PredictModelServer
from vla_eval.model_servers.serve import run_server

from vlapack.serve.client import RemotePolicy


class Vlapack(PredictModelServer):
    """One observation of LIBERO's in, a chunk out, of which the first `chunk_size` actions are carried out."""

    def __init__(self, url: str = "ws://127.0.0.1:8000", chunk_size: int = 5) -> None:
        super().__init__(chunk_size=chunk_size)
        self.policy = RemotePolicy(url)

    def get_observation_params(self) -> dict[str, Any]:
        """Ask for what the policy reads; LIBERO's axis-angle as openpi computes it."""
        return {"send_wrist_image": True, "send_state": True, "quat_no_antipodal": True}

    def predict(self, obs: dict[str, Any], ctx: Any) -> dict[str, Any]:
        """Rename, and ask the server."""
        keys = {"image": obs["images"]["agentview"], "wrist_image": obs["images"]["wrist"], "state": obs["states"]}
        observation = {f"observation/{key}": np.asarray(value) for key, value in keys.items()}
        return {"actions": self.policy.infer(observation | {"prompt": obs["task_description"]})["actions"]}


if __name__ == "__main__":
    run_server(Vlapack)
