"""docs/settled.png: things on a table, 1 cm and 3 degrees off their places, two seconds after a simulator starts.

Left the scene as it was placed, in the middle the same after two seconds of MuJoCo, right the settled scene after two
seconds. Drawn by MuJoCo from the MJCF that is exported (MUJOCO_GL=egl where there is no screen).
"""

from __future__ import annotations

import argparse
import os
import tempfile
from pathlib import Path
from typing import Any

os.environ.setdefault("MUJOCO_GL", "egl")

import mujoco  # noqa: E402
import numpy as np  # noqa: E402
from PIL import Image, ImageDraw  # noqa: E402
from scipy.spatial.transform import Rotation  # noqa: E402

from scenegen.export import Bodies, read_bodies, write_bodies  # noqa: E402
from scenegen.files import write_scene  # noqa: E402
from scenegen.scene import Asset, PlacedObject, Placement, Scene  # noqa: E402
from scenegen.settle import drop, settle  # noqa: E402
from scenegen.settle.drop import SECONDS  # noqa: E402
from scenegen.synthetic import make_object  # noqa: E402

SIZE = (470, 400)
THINGS = (
    ("table", 0.6, 0.0, 0.0, 0.0),
    ("crate", 0.2, -0.15, 0.08, 1.0),
    ("can", 0.13, 0.05, -0.12, 1.0),
    ("cone", 0.14, 0.17, 0.1, 1.0),
    ("steps", 0.12, 0.2, -0.08, 1.0),
    ("box", 0.12, -0.16, -0.12, 1.0),
    ("stool", 0.34, 0.52, 0.05, 0.0),
    ("chair", 0.34, 0.5, -0.38, 0.0),
)
"""Family, size in metres, place, and whether it stands on the table."""


def placed_scene(root: Path, shift_m: float = 0.01, turn_deg: float = 3.0) -> Bodies:
    """The scene as a careless placement leaves it."""
    random = np.random.default_rng(2)
    assets, placed, top = [], [], 0.0
    for i, (family, size, x, y, on_table) in enumerate(THINGS, start=1):
        asset = Asset(i, family, make_object(random, family).mesh())
        height = float(asset.mesh.extents[2]) * size
        top = top or height
        axis = random.normal(size=3)
        T = np.eye(4)
        T[:3, :3] = Rotation.from_rotvec(axis / np.linalg.norm(axis) * np.deg2rad(turn_deg)).as_matrix()
        T[:3, 3] = np.array([x, y, on_table * top + height / 2]) + random.normal(size=3) * shift_m
        extents = np.asarray(asset.mesh.extents * size)
        assets.append(asset)
        placed.append(PlacedObject(i, family, asset, T, size, extents, np.eye(6), 1.0, 0.0, True))
    scene = Scene(tuple(assets), (Placement.identity(),) * len(assets), 0)
    return read_bodies(write_scene(root, scene, placed, scene_id="table", frame_id="world"))


def photograph(scene: Bodies, folder: Path, seconds: float) -> Image.Image:
    """What MuJoCo shows of an exported scene after so long."""
    model: Any = mujoco.MjModel.from_xml_path(str(write_bodies(scene, "mujoco", folder)))
    data = mujoco.MjData(model)
    mujoco.mj_forward(model, data)
    while data.time < seconds:
        mujoco.mj_step(model, data)
    camera = mujoco.MjvCamera()
    camera.lookat[:] = (0.18, 0, 0.25)
    camera.distance, camera.azimuth, camera.elevation = 1.5, 115.0, -14.0
    model.vis.global_.offwidth, model.vis.global_.offheight = SIZE
    model.vis.quality.offsamples = 8
    with mujoco.Renderer(model, SIZE[1], SIZE[0]) as renderer:
        renderer.update_scene(data, camera)
        return Image.fromarray(renderer.render())


def main() -> None:
    """Draw it, and say what drifts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("docs/settled.png"))
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as root:
        scene = placed_scene(Path(root))
        settled, done = settle(scene)
        for one, before, after in zip(done, drop(scene), drop(settled), strict=True):
            print(
                f"{one.name} on {', '.join(one.stands_on)}: moved {1e3 * one.shift_m:.1f} mm {one.turn_deg:.1f} deg, "
                f"drift {1e3 * before.shift_m:.1f} mm {before.turn_deg:.1f} deg as placed, "
                f"{1e3 * after.shift_m:.2f} mm {after.turn_deg:.2f} deg settled"
            )
        panels = {
            "as placed": photograph(scene, Path(root) / "a", 0.0),
            f"as placed, after {SECONDS:g} s": photograph(scene, Path(root) / "b", SECONDS),
            f"settled, after {SECONDS:g} s": photograph(settled, Path(root) / "c", SECONDS),
        }
    sheet = Image.new("RGB", (len(panels) * SIZE[0], SIZE[1]), "white")
    for i, (words, panel) in enumerate(panels.items()):
        ImageDraw.Draw(panel).text((12, 10), words, fill="white", font_size=20)
        sheet.paste(panel, (i * SIZE[0], 0))
    sheet.save(given.out)


if __name__ == "__main__":
    main()
