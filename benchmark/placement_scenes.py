"""Scenes for benchmark.placement: what was sensed, what a generator made of it, and where everything truly stands.

The generated scene is made from the truth and then corrupted (issue 6):
exact: true meshes and relative placements, in the query asset's frame and unit.
both: placements off by 5 % of the query's size, 5 degrees, 5 % in scale; shapes voxelised at 32^3.
hard: 10 %, 10 degrees, 10 %; shapes stretched by up to 10 % per axis, then voxelised.
rough: like a small generator: 30 % of the query's size, 5 degrees, 15 %, one object turned by 90 degrees; shapes
stretched and voxelised, their surfaces wavy (voxel IoU about 0.65).
generated: what the packaged tiny weights answer to the views.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache

import numpy as np
import trimesh
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt, gaussian_filter
from scipy.spatial.transform import Rotation
from skimage.measure import marching_cubes

from scenegen.scene import Asset, Placement, Scene, View
from scenegen.synthetic import Camera, SyntheticScene, camera_path, make_scene, render_views, sensed, true_scene

MIN_PIXELS = 300
RING = 4  # cameras around the scene, of which fewer views take some


@dataclass(frozen=True)
class Corruption:
    """Standard deviations of shift (query sizes), rotation (degrees) and log-scale; shape faults; a wrong yaw."""

    shift: float = 0.0
    turn: float = 0.0
    scale: float = 0.0
    stretch: float = 0.0
    voxels: bool = False
    wavy: float = 0.0
    wrong_yaw: bool = False


CORRUPTIONS = {
    "exact": Corruption(),
    "both": Corruption(0.05, 5, 0.05, 0.0, True),
    "hard": Corruption(0.10, 10, 0.10, 0.10, True),
    "rough": Corruption(0.30, 5, 0.15, 0.10, True, 1.5, True),
}
SHAPES = (*CORRUPTIONS, "generated")


@dataclass(frozen=True, eq=False)
class Case:
    """One scene to place. scene: what was generated of it. visible: indices of its objects, in the scene's order."""

    truth: SyntheticScene
    views: tuple[View, ...]
    scene: Scene
    visible: tuple[int, ...]


def make_case(seed: int, views: int, shapes: str, count: tuple[int, int]) -> Case | None:
    """The case of a seed; objects under MIN_PIXELS in the first view are left out, None when all are.

    One or two views are some of the four, as these were sensed, and the scene is corrupted alike: views add evidence
    and change nothing else.
    """
    truth = make_scene(seed, count)
    ring = camera_path(truth, max(views, RING), seed)
    stands = np.arange(views) * (len(ring) // views)
    exact = render_views(truth, Camera.pinhole(), ring[stands])
    taken = tuple(_sensed(view, np.random.default_rng([seed, k])) for view, k in zip(exact, stands, strict=True))
    ids = [i for i in taken[0].instance_ids if (taken[0].masks == i).sum() >= MIN_PIXELS]
    if not ids:
        return None
    if shapes == "generated":
        scene = _generator()(taken, ids, seed)
    else:
        scene = corrupted(truth, true_scene(truth, exact[0], ids), CORRUPTIONS[shapes], np.random.default_rng(seed))
    return Case(truth, taken, scene, tuple(asset.id - 1 for asset in scene.assets))


def _sensed(view: View, random: np.random.Generator) -> View:
    assert view.depth_m is not None
    masks, depth_m = sensed(view.masks, view.depth_m, random)
    return replace(view, masks=masks, depth_m=depth_m)


@cache
def _generator() -> Callable[[tuple[View, ...], list[int], int], Scene]:
    from scenegen.generator.pipeline import SceneGen  # torch is needed for these shapes alone

    generator = SceneGen.from_pretrained("tiny")
    return lambda views, ids, seed: generator.generate(views, ids=ids, seed=seed)


def corrupted(truth: SyntheticScene, exact: Scene, kind: Corruption, random: np.random.Generator) -> Scene:
    """The scene an imperfect generator would have made where a perfect one makes `exact`."""
    wrong = random.integers(len(exact.assets)) if kind.wrong_yaw else -1
    assets, placements = [], []
    for k, (asset, placement) in enumerate(zip(exact.assets, exact.placements, strict=True)):
        thing = truth.objects[asset.id - 1]
        mesh = voxelised(thing.occupancy(32), kind.wavy, random) if kind.voxels else asset.mesh
        stretch = 1 + random.uniform(-kind.stretch, kind.stretch, 3)
        mesh = trimesh.Trimesh(mesh.vertices * stretch / stretch.max(), mesh.faces, process=False)
        assets.append(Asset(asset.id, asset.label, mesh))
        if k != exact.query:
            axis = random.normal(size=3)
            turn = Rotation.from_rotvec(axis / np.linalg.norm(axis) * np.deg2rad(kind.turn) * random.normal())
            wrong_yaw = Rotation.from_rotvec([0, np.pi / 2 if k == wrong else 0, 0])
            rotation = Rotation.from_quat(placement.rotation_wxyz, scalar_first=True) * turn * wrong_yaw
            placement = Placement(
                placement.translation + random.normal(size=3) * kind.shift / np.sqrt(3),
                rotation.as_quat(scalar_first=True),
                placement.scale * float(np.exp(random.normal() * kind.scale)),
            )
        placements.append(placement)
    return Scene(tuple(assets), tuple(placements), exact.query)


def voxelised(occupancy: NDArray[np.bool_], wavy: float, random: np.random.Generator) -> trimesh.Trimesh:
    """Marching cubes of an occupancy grid over the unit box, as a coarse asset is made; wavy: error in voxels."""
    field = np.pad(occupancy, 2).astype(np.float32)
    if wavy:
        distance = distance_transform_edt(field == 0) - distance_transform_edt(field > 0)
        wave = gaussian_filter(random.normal(size=field.shape), 3)
        field = (distance < wave * (wavy / wave.std())).astype(np.float32)
    vertices, faces, _, _ = marching_cubes(field, 0.5)
    return trimesh.Trimesh((vertices - 1.5) / occupancy.shape[0] - 0.5, faces, process=False)
