"""The test of a settled scene: MuJoCo runs on it, as it is exported, and objects ought to stay where they are."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.spatial.transform import Rotation

from scenegen.export.bodies import Bodies
from scenegen.settle.contacts import load

SECONDS = 2.0
STILL_M, STILL_DEG = 0.01, 2.0
"""An object that moves less has stayed."""


@dataclass(frozen=True)
class Drift:
    """How far an object is from where it began: its centre of mass, and its turn about any axis."""

    shift_m: float
    turn_deg: float

    @property
    def stays(self) -> bool:
        """Whether it is where it was, to a centimetre and two degrees."""
        return self.shift_m < STILL_M and self.turn_deg < STILL_DEG


def drop(scene: Bodies, seconds: float = SECONDS) -> tuple[Drift, ...]:
    """How far each object of a scene drifts in simulated seconds. InvalidInput when mujoco is missing."""
    mujoco, model = load(scene)
    data = mujoco.MjData(model)
    mujoco.mj_forward(model, data)
    names = [body.name for body in scene.bodies]
    before = [(data.body(name).xipos.copy(), data.body(name).xmat.reshape(3, 3).copy()) for name in names]
    while data.time < seconds:
        mujoco.mj_step(model, data)
    drifts = []
    for name, (centre, R) in zip(names, before, strict=True):
        turn = Rotation.from_matrix(data.body(name).xmat.reshape(3, 3) @ R.T).magnitude()
        drifts.append(Drift(float(np.linalg.norm(data.body(name).xipos - centre)), float(np.degrees(turn))))
    return tuple(drifts)
