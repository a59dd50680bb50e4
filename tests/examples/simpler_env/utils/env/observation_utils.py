from __future__ import annotations

from typing import Any

import numpy as np


def get_image_from_maniskill2_obs_dict(env: Any, obs: dict[str, Any]) -> np.ndarray:
    picture: np.ndarray = obs["image"]["3rd_view_camera"]["rgb"]
    return picture
