"""What exporting a scene costs: each format per object, the cutting into convex pieces and the settling before it.

Five objects of a synthetic scene as a decoder leaves them: some ten thousand faces each, with a texture of 1024 x 1024.
Times are of the processor, the least of a few. `python -m benchmark.export` prints them.
"""

from __future__ import annotations

import os
import resource
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from unittest import mock

import numpy as np
import trimesh
from PIL import Image
from skimage.measure import marching_cubes
from trimesh.visual import TextureVisuals
from trimesh.visual.material import PBRMaterial

from benchmark.report import Section, table
from scenegen.export import FORMATS, Bodies, convex, read_bodies, write_bodies
from scenegen.files import write_scene
from scenegen.scene import Asset, PlacedObject, Placement, Scene
from scenegen.settle import drop, settle
from scenegen.synthetic import make_scene

SEED = 3
RESOLUTION, TEXELS = 40, 1024


def rows(repeats: int = 3, *, cut: bool = True) -> list[tuple[str, str]]:
    """(what, figure). cut: measure cutting too, which takes a minute."""
    with tempfile.TemporaryDirectory() as root, mock.patch.object(convex, "_cut", _hull):
        folder = _write(Path(root))
        scene = read_bodies(folder)
        number = len(scene.bodies)
        faces = sum(len(body.mesh.faces) for body in scene.bodies) // number
        found = [("objects, faces of each, texels of each", f"{number}, {faces}, {TEXELS} x {TEXELS}")]
        for format in FORMATS:
            seconds, size = [], 0.0
            for i in range(repeats):
                out = Path(root) / f"{format}-{i}"
                seconds.append(_timed(lambda out=out, format=format: write_bodies(scene, format, out)))
                size = sum(file.stat().st_size for file in out.rglob("*") if file.is_file()) / 2**20
            found.append((f"{format}, per object", f"{min(seconds) / number:.3f} s, {size / number:.2f} MB"))
        off = _off(scene)
        settled = min(_timed(lambda: settle(off)) for _ in range(repeats))
        found.append(("settling, per object", f"{settled / number:.3f} s"))
        dropped = min(_timed(lambda: drop(off)) for _ in range(repeats))
        found.append(("drop test of 2 s in MuJoCo, per object", f"{dropped / number:.3f} s"))
    if cut:
        found += _cutting(scene)
    return found


def _write(root: Path) -> Path:
    truth, random = make_scene(SEED, (5, 5)), np.random.default_rng(SEED)
    assets, placed = [], []
    for i, (thing, T, size) in enumerate(zip(truth.objects, truth.T_world_object, truth.size_m, strict=True), 1):
        vertices, faces, _, _ = marching_cubes(np.pad(thing.occupancy(RESOLUTION), 1).astype(np.float32), 0.5)
        vertices = (vertices - 0.5) / RESOLUTION - 0.5
        picture = Image.fromarray(random.integers(0, 255, (TEXELS // 8, TEXELS // 8, 3), dtype=np.uint8))
        material = PBRMaterial(baseColorTexture=picture.resize((TEXELS, TEXELS)), roughnessFactor=1, metallicFactor=0)
        looks = TextureVisuals(uv=vertices[:, [0, 2]] + 0.5, material=material)
        mesh = trimesh.Trimesh(vertices, faces, visual=looks, process=False)
        assets.append(Asset(i, thing.family, mesh, "textured"))
        extents = np.asarray(mesh.extents * size)
        placed.append(PlacedObject(i, thing.family, assets[-1], T, float(size), extents, np.eye(6), 1.0, 0.0, True))
    scene = Scene(tuple(assets), (Placement.identity(),) * len(assets), 0)
    return write_scene(root, scene, placed, scene_id="export", frame_id="world")


def _hull(mesh: trimesh.Trimesh, **how: object) -> convex.Cut:
    return convex.Cut((mesh.convex_hull,), "hull")


def _off(scene: Bodies) -> Bodies:
    """Every other object 5 mm too high."""
    lift = trimesh.transformations.translation_matrix([0, 0, 0.005])
    bodies = [
        replace(body, T_world_object=lift @ body.T_world_object if i % 2 else body.T_world_object)
        for i, body in enumerate(scene.bodies)
    ]
    return replace(scene, bodies=tuple(bodies))


def _timed(work: Callable[[], object]) -> float:
    began = time.process_time()
    work()
    return time.process_time() - began


def _cutting(scene: Bodies) -> list[tuple[str, str]]:
    """Of each object, and of the most hollow one without its underside, without what is kept on disk from before."""
    meshes = [trimesh.Trimesh(body.mesh.vertices, body.mesh.faces) for body in scene.bodies]
    timed = sorted(_cut(mesh) for mesh in meshes)
    hollow = min(meshes, key=lambda mesh: abs(mesh.volume) / mesh.convex_hull.volume)
    above = hollow.triangles_center[:, 2] > hollow.bounds[0, 2] + 0.05 * hollow.extents[2]
    seconds, pieces = _cut(trimesh.Trimesh(hollow.vertices, hollow.faces[above]))
    spread = ", ".join(f"{seconds:.1f} s ({pieces})" for seconds, pieces in timed)
    return [
        ("cutting into convex pieces, each object (pieces)", spread),
        ("the same, the most hollow one without its underside", f"{seconds:.1f} s ({pieces})"),
    ]


def _cut(mesh: trimesh.Trimesh) -> tuple[float, int]:
    """Seconds of the processor, and pieces."""
    with tempfile.TemporaryDirectory() as empty, mock.patch.dict(os.environ, XDG_CACHE_HOME=empty):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        (cut,) = convex.convex_pieces([mesh])
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, len(cut.pieces)


def main() -> None:
    """Print the figures."""
    print(table([Section("Exports", rows())]))


if __name__ == "__main__":
    main()
