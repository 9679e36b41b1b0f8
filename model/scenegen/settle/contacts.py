"""Where the convex pieces of objects touch: by MuJoCo's collision detection, on the model that is exported.

Knows nothing about forces, nor about floors: a level support is a matter of an object's own corners (rest.py).
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from scenegen.export import mujoco as mjcf
from scenegen.export.bodies import Bodies
from scenegen.scene import Floats, InvalidInput


@dataclass(frozen=True)
class Contacts:
    """Points where two objects touch, or nearly do.

    first, second: int [k], indices of the objects. point_m: float64 [k, 3], world. normal: float64 [k, 3], from the
    first to the second. gap_m: float64 [k], negative where they reach into one another.
    """

    first: NDArray[np.int64]
    second: NDArray[np.int64]
    point_m: Floats
    normal: Floats
    gap_m: Floats


def load(scene: Bodies) -> tuple[Any, Any]:
    """mujoco itself, and the MjModel of a scene as it is exported. InvalidInput when mujoco is missing."""
    try:
        import mujoco
    except ImportError as error:
        raise InvalidInput(f"settling needs mujoco, which cannot be loaded ({error}): pip install mujoco") from error
    with tempfile.TemporaryDirectory(prefix="scenegen_settle_") as folder:
        return mujoco, mujoco.MjModel.from_xml_path(str(mjcf.write(scene, Path(folder))))


class Touch:
    """The pieces of a scene's objects, ready to be asked where they touch. Supports are left out."""

    def __init__(self, scene: Bodies, margin_m: float) -> None:
        """margin_m: contacts are found before things touch, from this distance on."""
        unseen = tuple(replace(body, mesh=body.pieces[0]) for body in scene.bodies)  # pictures take time to load
        self._mujoco, self._model = load(replace(scene, bodies=unseen, floor=None, shelves=()))
        self._data = self._mujoco.MjData(self._model)
        self._model.geom_margin[:] = margin_m

    def contacts(self, poses: Floats) -> Contacts:
        """Between objects that stand at T_world_object float64 [n, 4, 4]."""
        for i, T in enumerate(poses):
            self._data.qpos[7 * i : 7 * i + 3] = T[:3, 3]
            self._data.qpos[7 * i + 3 : 7 * i + 7] = Rotation.from_matrix(T[:3, :3]).as_quat(scalar_first=True)
        self._mujoco.mj_kinematics(self._model, self._data)
        self._mujoco.mj_collision(self._model, self._data)
        found = self._data.contact
        owner = self._model.geom_bodyid[found.geom] - 1
        return Contacts(owner[:, 0], owner[:, 1], found.pos.copy(), found.frame[:, :3].copy(), found.dist.copy())
