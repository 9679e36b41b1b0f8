"""USD for Isaac Sim and Isaac Lab: z-up, metres, kilograms; one file per object, a scene that refers to them, a USDZ.

What collides is chosen by `collision`: "pieces", convex pieces cut here, each a convexHull that no simulator has to
think about; or "convexDecomposition", "convexHull" or "sdf", with which the simulator makes what it wants of the visual
mesh. "sdf" is PhysX's own word, beyond UsdPhysics. usd-core is loaded when something is written, for it takes a second.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Literal, get_args

from scenegen.export.bodies import Bodies
from scenegen.scene import InvalidInput

Collision = Literal["pieces", "convexDecomposition", "convexHull", "sdf"]
COLLISIONS: tuple[Collision, ...] = get_args(Collision)


def writer(collision: Collision) -> Callable[[Bodies, Path], Path]:
    """The writer of this format with another way to collide."""
    return partial(write, collision=collision)


def write(scene: Bodies, out: Path, collision: Collision = "pieces") -> Path:
    """scene.usda, scene.usdz, objects/<name>.usd and objects/textures/. InvalidInput when usd-core is missing."""
    try:
        from scenegen.export import usd_stage
    except ImportError as error:
        raise InvalidInput(
            f"USD is written by usd-core, which cannot be loaded ({error}): pip install usd-core"
        ) from error
    return usd_stage.write(scene, out, collision)
