"""Synthetic scenes as files, with everything that is true about them.

Knows file names and JSON; nothing about how scenes are made. Poses in truth.json are z-up, truth.glb is y-up as glTF
says (DESIGN section 5).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from scenegen.glb import meshes_to_glb
from scenegen.images import write_view
from scenegen.render import Camera
from scenegen.scene import InvalidInput, View
from scenegen.synthetic.rendering import render, scene_renderer
from scenegen.synthetic.scenes import SyntheticScene, camera_path, make_scene, true_scene

_VISIBLE_PIXELS = 400
_VIEWPOINTS = 12


def synthesize(seed: int, scenes: int, out: str | Path, *, depth_noise: bool = False) -> list[Path]:
    """Write this many scenes as out/scene_0000, scene_0001, ... and return their folders.

    Each holds image.png, masks.png (16-bit instance ids, 0 is background), depth.png (16-bit millimetres, 0 is no
    reading), camera.json (width, height, intrinsics 3x3 in pixels, T_world_camera 4x4), truth.glb (the objects in the
    world) and truth.json (pose, size, symmetry and placement of every object). The same seed writes the same files;
    files of the same name are replaced. InvalidInput when scenes is not positive, or seed negative.
    """
    if scenes < 1:
        raise InvalidInput(f"{scenes} scenes cannot be written: ask for at least 1")
    if seed < 0:
        raise InvalidInput(f"seed {seed} cannot be used: give 0 or more")
    folders = []
    for number in range(scenes):
        scene_seed = int(np.random.SeedSequence([seed, number]).generate_state(1)[0])
        scene = make_scene(scene_seed)
        noise = np.random.default_rng([scene_seed, 1]) if depth_noise else None
        folders.append(_write(Path(out) / f"scene_{number:04d}", scene, view_of_all(scene, depth_noise=noise)))
    return folders


def view_of_all(
    scene: SyntheticScene,
    camera: Camera | None = None,
    supersample: int = 2,
    depth_noise: np.random.Generator | None = None,
) -> View:
    """The scene from the first of a few viewpoints around it that shows at least 400 pixels of every object.

    The viewpoint that shows most of its least visible object when none does. camera: 640 x 480 without.
    """
    camera = camera or Camera.pinhole()
    renderer = scene_renderer(scene)
    best, best_pixels = None, -1
    for T_world_camera in camera_path(scene, _VIEWPOINTS, camera=camera):
        seen = renderer.cast(camera, T_world_camera).instance.reshape(-1)
        pixels = int(np.bincount(seen, minlength=len(scene.objects) + 1)[1:].min())
        if pixels > best_pixels:
            best, best_pixels = T_world_camera, pixels
        if pixels >= _VISIBLE_PIXELS:
            break
    assert best is not None
    return render(scene, camera, best, depth_noise, supersample)


def _write(folder: Path, scene: SyntheticScene, view: View) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    write_view(folder, view)
    nodes = {}
    for i, (made, size) in enumerate(zip(scene.objects, scene.size_m, strict=True)):
        T = scene.T_world_object[i].copy()
        T[:3, :3] *= size
        nodes[f"object_{i + 1}"] = (made.mesh(), T)
    (folder / "truth.glb").write_bytes(meshes_to_glb(nodes))
    (folder / "truth.json").write_text(json.dumps(_truth(scene, view), indent=1))
    return folder


def _truth(scene: SyntheticScene, view: View) -> dict[str, Any]:
    ids = range(1, len(scene.objects) + 1)
    truth = true_scene(scene, view, ids)
    objects = []
    for i, asset, placement in zip(ids, truth.assets, truth.placements, strict=True):
        made, size = scene.objects[i - 1], float(scene.size_m[i - 1])
        objects.append(
            {
                "id": i,
                "label": asset.label,
                "T_world_object": scene.T_world_object[i - 1].tolist(),
                "scale_m": size,
                "size_m": (made.extents * size).tolist(),
                "yaw_symmetry": made.symmetry,
                "visible_pixels": int(np.count_nonzero(view.masks == i)),
                "placement": {
                    "translation": placement.translation.tolist(),
                    "rotation_wxyz": placement.rotation_wxyz.tolist(),
                    "scale": placement.scale,
                },
            }
        )
    return {"seed": scene.seed, "query": truth.assets[truth.query].id, "objects": objects}
