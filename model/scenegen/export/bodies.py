"""What every format is written from: a stored scene's objects as rigid bodies in metres.

Knows scenes on disk, meshes and convex pieces; knows no file format of a simulator.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import trimesh
from scipy.spatial.transform import Rotation

from scenegen.export.convex import Cut, convex_pieces
from scenegen.export.physics import MassProperties, density_of, mass_properties, surface
from scenegen.files import read_scene
from scenegen.scene import Floats, InvalidInput, PlacedObject, Scene
from scenegen.scene_json import pose_of

MARGIN_M = 0.5
"""How far the floor reaches beyond the objects."""
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Body:
    """One object. Its frame: z up, origin at the centre of the asset's unit box, metres.

    name: object_<id>. mesh: what is seen. pieces: convex, what collides. T_world_object: float64 [4, 4], rigid.
    """

    name: str
    id: int
    label: str
    mesh: trimesh.Trimesh
    pieces: tuple[trimesh.Trimesh, ...]
    pieces_from: str
    T_world_object: Floats
    physics: MassProperties

    @property
    def position_m(self) -> Floats:
        """float64 [3]."""
        return np.asarray(self.T_world_object[:3, 3])

    @property
    def rotation(self) -> Rotation:
        """Of the object in the world."""
        return Rotation.from_matrix(self.T_world_object[:3, :3])


@dataclass(frozen=True)
class Floor:
    """A level slab that everything stands on and that never moves. centre_m float64 [3], size_m float64 [3]."""

    centre_m: Floats
    size_m: Floats

    @property
    def top_m(self) -> float:
        """Height of its upper side."""
        return float(self.centre_m[2] + self.size_m[2] / 2)

    def at(self, top_m: float) -> Floor:
        """The same slab at another height of its upper side."""
        return replace(self, centre_m=np.append(self.centre_m[:2], top_m - self.size_m[2] / 2))

    def mesh(self) -> trimesh.Trimesh:
        """The slab about its own centre, grey."""
        mesh = trimesh.creation.box(self.size_m)
        mesh.visual.vertex_colors = np.tile(np.array([150, 150, 150, 255], np.uint8), (len(mesh.vertices), 1))
        return mesh


@dataclass(frozen=True)
class Bodies:
    """A scene in metres, world z up. frame_id, stamp_ns: the frame of T_world_object, and when it was seen.

    shelves: slabs like the floor, under what a settled scene has standing higher with nothing known beneath it.
    settled: poses are settled ones.
    """

    name: str
    bodies: tuple[Body, ...]
    floor: Floor | None
    frame_id: str
    stamp_ns: int
    shelves: tuple[Floor, ...] = ()
    settled: bool = False

    @property
    def supports(self) -> dict[str, Floor]:
        """What never moves, by name: floor, shelf_1, shelf_2 ..."""
        shelves = {f"shelf_{i}": shelf for i, shelf in enumerate(self.shelves, start=1)}
        return ({} if self.floor is None else {"floor": self.floor}) | shelves


def read_bodies(
    folder: str | Path,
    *,
    scale_m: float | None = None,
    level: bool = False,
    floor: bool = True,
    cut: bool = True,
    settled: bool = False,
) -> Bodies:
    """The objects of a scene's folder as bodies in metres.

    scale_m: for a scene that is not metric, the length of the query asset's unit box in metres. level: turn the scene
    so that its objects stand upright on the average, about the origin. floor: lay a slab under the lowest point. cut:
    into convex pieces, which takes seconds per object; without, no body has any. settled: the poses, the scale, the
    level and the supports that `scenegen settle` found.
    InvalidInput when the folder holds no scene, when lengths are not metres and no scale is given, or are and one is;
    when it was not settled, or with another scale or level.
    """
    scene, placed, meta = read_scene(folder)
    rest = _settled(Path(folder), meta, scale_m, level) if settled else None
    poses, sizes = _metric_poses(Path(folder), scene, placed, scale_m if rest is None else rest["scale_m"])
    if rest is not None:
        poses = np.stack([pose_of(entry["settled"]) for entry in meta["objects"]])
    elif level:
        up = poses[:, :3, 2].mean(0)
        poses = _turn_up(up) @ poses
    elif _in_camera_frame(meta):
        _log.warning("%s stands in a camera's frame, whose z is not up: --level turns it", folder)
    meshes = [_scaled(asset.mesh, size) for asset, size in zip(scene.assets, sizes, strict=True)]
    split = convex_pieces([surface(asset.mesh) for asset in scene.assets]) if cut else [Cut((), "none")] * len(meshes)
    bodies = []
    for asset, mesh, size, T, parts in zip(scene.assets, meshes, sizes, poses, split, strict=True):
        pieces = tuple(_scaled(piece, size) for piece in parts.pieces)
        physics = mass_properties(surface(mesh), pieces, density_of(asset.label))
        bodies.append(Body(f"object_{asset.id}", asset.id, asset.label, mesh, pieces, parts.source, T, physics))
    slab, shelves = floor_under(bodies) if floor else None, []
    if rest is not None and slab is not None:
        slab = slab.at(rest["floor_z_m"])
        shelves = [Floor(np.array(shelf["centre_m"]), np.array(shelf["size_m"])) for shelf in rest["shelves"]]
    name, frame, stamp = str(meta["id"]), str(meta["frame_id"]), int(meta["stamp_ns"])
    return Bodies(name, tuple(bodies), slab, frame, stamp, tuple(shelves), settled)


def _settled(folder: Path, meta: Mapping[str, Any], scale_m: float | None, level: bool) -> Mapping[str, Any]:
    """What a scene was settled with."""
    rest: Mapping[str, Any] | None = meta.get("settled")
    if rest is None:
        raise InvalidInput(f"{folder} was not settled: run `scenegen settle` on it first")
    if (scale_m is not None and scale_m != rest["scale_m"]) or (level and not rest["level"]):
        raise InvalidInput(
            f"{folder} was settled with scale {rest['scale_m']} and {'' if rest['level'] else 'not '}levelled: leave "
            "these out, or settle it again"
        )
    return rest


def _metric_poses(
    folder: Path, scene: Scene, placed: Sequence[PlacedObject] | None, scale_m: float | None
) -> tuple[Floats, list[float]]:
    """T_world_object float64 [n, 4, 4] and metres per asset unit, n of them."""
    if scale_m is not None and not (np.isfinite(scale_m) and scale_m > 0):
        raise InvalidInput(f"scale {scale_m} must be a positive number of metres")
    metric = placed is not None and all(o.metric for o in placed)
    if metric and scale_m is not None:
        raise InvalidInput(f"{folder} is in metres already: leave the scale out")
    if not metric and scale_m is None:
        raise InvalidInput(
            f"{folder} is not metric: its lengths are in sizes of the query asset, object "
            f"{scene.assets[scene.query].id}. Give that object's longest side in metres, for example --scale 0.3"
        )
    unit = 1.0 if scale_m is None else scale_m
    if placed is not None:
        poses, sizes = np.stack([o.T_world_object for o in placed]), [o.scale_m for o in placed]
    else:  # the query asset stands at the origin
        poses, sizes = np.stack([scene.T_query_asset(i) for i in range(len(scene.assets))]), []
        for T in poses:
            sizes.append(float(np.cbrt(np.linalg.det(T[:3, :3]))))
            T[:3, :3] /= sizes[-1]
    poses[:, :3, 3] *= unit
    return poses, [unit * size for size in sizes]


def _in_camera_frame(meta: Mapping[str, Any]) -> bool:
    views = meta["views"]
    return bool(meta["placed"] and views and all(view["T_world_camera"] is None for view in views))


def _turn_up(up: Floats) -> Floats:
    """float64 [4, 4]: the smallest turn that takes a direction to z."""
    T = np.eye(4)
    T[:3, :3] = Rotation.align_vectors([[0.0, 0.0, 1.0]], [up / np.linalg.norm(up)])[0].as_matrix()
    return T


def _scaled(mesh: trimesh.Trimesh, scale: float) -> trimesh.Trimesh:
    grown = mesh.copy()
    grown.apply_scale(scale)
    return grown


def floor_under(bodies: Sequence[Body]) -> Floor:
    """A slab under the lowest point of all that is seen."""
    points = np.concatenate([trimesh.transform_points(body.mesh.vertices, body.T_world_object) for body in bodies])
    low, high = points.min(0), points.max(0)
    size = np.append(high[:2] - low[:2] + 2 * MARGIN_M, 0.05)
    return Floor(np.append((low[:2] + high[:2]) / 2, low[2] - size[2] / 2), size)
