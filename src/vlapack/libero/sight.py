"""What a camera can see: geoms that change no pixel of its picture are not drawn.

A software renderer spends most of a picture's time on the vertices of meshes, seen or not, and all of it twice where a
mirror may be in the picture: MuJoCo then draws the scene once more, reflected. LIBERO's kitchens have a mirror, the top
of the stove, which is often out of sight. The pictures stay the same to the last bit (tests/libero/test_env.py).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

HIDDEN = 5
"""A group of geoms that robosuite does not draw."""

MARGIN = 1e-4
"""Of a picture's half, and of a geom's box: rounding hides nothing that could touch a pixel."""

WHOLE = (-1.0, 1.0, -1.0, 1.0)
"""Left, right, bottom and top of a picture."""

CORNERS = np.array([[x, y, z] for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)], dtype=np.float64)


@dataclass(frozen=True)
class _Mirror:
    """A reflecting face as a camera sees it: a plane of the world, and the part of the picture that it can be in."""

    point: np.ndarray
    normal: np.ndarray
    part: tuple[float, float, float, float]

    def reflect(self, points: np.ndarray) -> np.ndarray:
        """Mirror points [..., 3]."""
        reflected: np.ndarray = points - 2 * ((points - self.point) @ self.normal)[..., None] * self.normal
        return reflected


class Sight:
    """The cameras of one simulator, for square pictures.

    Args:
        sim: robosuite's, with its renderer.
    """

    def __init__(self, sim: Any) -> None:
        import mujoco

        self._model, self._data = sim.model._model, sim.data._data
        renderer = sim._render_context_offscreen
        self._flags = renderer.scn.flags
        self._reflection = mujoco.mjtRndFlag.mjRND_REFLECTION
        model = self._model
        box = model.geom_aabb.reshape(-1, 2, 3)
        self._corners = box[:, :1] + CORNERS * box[:, 1:] * (1 + MARGIN)  # [geoms, 8, 3], in each geom's frame
        # What has no bounds, such as a floor, is everywhere. Where a light casts shadows, so is everything.
        self._everywhere = (model.geom_rbound == 0) | bool(model.light_castshadow.any())
        materials = np.maximum(model.geom_matid, 0)
        reflects = (model.geom_matid >= 0) & (model.mat_reflectance[materials] > 0)
        flat = np.isin(model.geom_type, (int(mujoco.mjtGeom.mjGEOM_PLANE), int(mujoco.mjtGeom.mjGEOM_BOX)))
        shown = np.asarray(renderer.vopt.geomgroup)[model.geom_group] != 0
        self._mirrors = np.flatnonzero(reflects & flat & shown)  # MuJoCo reflects in no other shape

    @contextmanager
    def only(self, camera: str) -> Iterator[None]:
        """Leave out what `camera` does not see now, while the block draws its picture."""
        groups = self._model.geom_group
        shown, reflection = groups.copy(), self._flags[self._reflection]
        number = self._model.camera(camera).id
        mirrors = self._mirrors_in_sight(number)
        try:
            groups[~self._drawn(number, mirrors)] = HIDDEN
            if not mirrors:
                self._flags[self._reflection] = 0
            yield
        finally:
            groups[:] = shown
            self._flags[self._reflection] = reflection

    def _drawn(self, camera: int, mirrors: list[_Mirror]) -> np.ndarray:
        """Which geoms [n] may touch a pixel, directly or in a mirror."""
        turns = self._data.geom_xmat.reshape(-1, 3, 3)
        points = self._corners @ turns.transpose(0, 2, 1) + self._data.geom_xpos[:, None]
        drawn: np.ndarray = self._everywhere | _touches(self._project(camera, points), WHOLE)
        for mirror in mirrors:
            drawn = drawn | _touches(self._project(camera, mirror.reflect(points)), mirror.part)
        return drawn

    def _mirrors_in_sight(self, camera: int) -> list[_Mirror]:
        found = []
        for geom in self._mirrors:
            turn, size = self._data.geom_xmat[geom].reshape(3, 3), self._model.geom_size[geom]
            normal = turn[:, 2]
            box = self._model.geom_rbound[geom] > 0
            point = self._data.geom_xpos[geom] + (normal * size[2] if box else 0.0)  # a box reflects in its top
            if (self._data.cam_xpos[camera] - point) @ normal <= 0:
                continue
            part: tuple[float, float, float, float] | None = WHOLE
            if box:
                corners = point + (CORNERS[::2, :2] * size[:2] * (1 + MARGIN)) @ turn[:, :2].T
                part = _part(self._project(camera, corners))
            if part is not None:
                found.append(_Mirror(point, normal, part))
        return found

    def _project(self, camera: int, points: np.ndarray) -> np.ndarray:
        """World [..., 3] → (x, y, depth): a point is in the picture if x and y lie in ±depth."""
        axes = self._data.cam_xmat[camera].reshape(3, 3)
        zoom = 1 / np.tan(np.deg2rad(self._model.cam_fovy[camera]) / 2)
        projected: np.ndarray = ((points - self._data.cam_xpos[camera]) @ axes) * (zoom, zoom, -1.0)
        return projected


def _touches(corners: np.ndarray, part: tuple[float, float, float, float]) -> np.ndarray:
    """Whether boxes with projected corners [n, 8, 3] may reach into a part of the picture: no side rules it out."""
    x, y, depth = np.moveaxis(corners, -1, 0)
    left, right, bottom, top = part
    edge = MARGIN * np.abs(depth)
    sides = (
        depth <= 0,
        x < left * depth - edge,
        x > right * depth + edge,
        y < bottom * depth - edge,
        y > top * depth + edge,
    )
    reaches: np.ndarray = ~np.logical_or.reduce([side.all(axis=1) for side in sides])
    return reaches


def _part(corners: np.ndarray) -> tuple[float, float, float, float] | None:
    """The part of the picture that a face with these projected corners [4, 3] is in; None: it is out of sight."""
    if not _touches(corners[None], WHOLE)[0]:
        return None
    depth = corners[:, 2]
    if depth.min() <= MARGIN:  # it reaches behind the camera, where nothing can be projected
        return WHOLE
    x, y = corners[:, 0] / depth, corners[:, 1] / depth
    pixels = 0.05  # several of any resolution: multisampling reaches beyond the edge
    return float(x.min()) - pixels, float(x.max()) + pixels, float(y.min()) - pixels, float(y.max()) + pixels
