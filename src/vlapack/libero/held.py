"""Whether the gripper holds a thing."""

from __future__ import annotations

from typing import Any


def held(sim_env: Any, name: str) -> bool:
    """Whether both fingers touch an object.

    Args:
        sim_env: robosuite's environment (`LiberoEnv.sim_env`).
        name: the object, as the scene names it.
    """
    gripper, item = sim_env.robots[0].gripper, sim_env.get_object(name)
    return all(
        sim_env.check_contact(gripper.important_geoms[finger], item.contact_geoms)
        for finger in ("left_fingerpad", "right_fingerpad")
    )
