"""A user's own scenes as training shards: folders as `scenegen synthesize` writes them, through scene_sample.

Every folder is a scene: image, masks, camera, optional depth, as read_views takes them, and truth.glb with the objects.
Which object is which is said by their nodes' names, object_<id>; a node's rotation is the object's yaw. Knows nothing
about networks.
"""

from __future__ import annotations

import json
import logging
import re
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import trimesh
from scipy.linalg import polar
from tqdm import tqdm

from scenegen.evaluation.voxels import surface_voxels, voxelise
from scenegen.glb import T_YUP_ZUP
from scenegen.images import read_views
from scenegen.scene import Floats, InvalidInput, View
from scenegen.synthetic.objects import FAMILIES
from scenegen.training.samples import scene_sample
from scenegen.training.shards import GIVEN, GivenShards, Sample
from scenegen.training.upright import Grid, UprightObject, is_upright, scene_on_floor

_log = logging.getLogger(__name__)

_OBJECT = re.compile(r"object_(\d+)")
HELD_OUT_EVERY = 10
"""The first usable scene and every tenth from there are held out."""


@dataclass(frozen=True)
class Written:
    """How many views went into data and held_out, and how many scenes were left out, by reason."""

    data: int
    held_out: int
    left_out: Mapping[str, int]


def write_own_shards(root: Path, runs: Path, *, image_size: int, geometry_size: int, resolution: int) -> Written:
    """Write the scenes in the folders of ``root`` as shards of runs/data and runs/held_out.

    The folders of those held out are listed in runs/held_out/scenes.txt, one a line. A scene that cannot be used is
    left out, with a warning that says why. InvalidInput when too few are left to train on, or when there are shards of
    own scenes already.
    """
    folders = sorted(path for path in root.glob("*") if path.is_dir())
    if not folders:
        raise InvalidInput(f"{root} holds no folders: give the folder of your scenes, each a folder in it")
    places = {name: runs / name for name in ("data", "held_out")}
    for place in places.values():
        if any(place.glob(f"{GIVEN}*.safetensors")):
            raise InvalidInput(
                f"{place} has shards of own scenes already ({GIVEN}*.safetensors): delete them, or choose other --runs"
            )
    shards = {name: GivenShards(place) for name, place in places.items()}
    left_out: Counter[str] = Counter()
    usable: list[Path] = []
    for folder in tqdm(folders, desc="own scenes", unit="scene", mininterval=1):
        try:
            samples = list(_samples(folder, image_size, geometry_size, resolution))
        except _LeftOut as error:
            _log.warning("%s", error)
            left_out[error.counted_as] += 1
            continue
        for sample in samples:
            shards["data" if len(usable) % HELD_OUT_EVERY else "held_out"].add(sample)
        usable.append(folder)
    if not shards["data"].count:
        reasons = "".join(f"; {count} {why}" for why, count in left_out.items())
        raise InvalidInput(
            f"{len(usable)} of {len(folders)} scenes in {root} can be used{reasons}: training takes at least one "
            "and another that is held out, laid out as `scenegen synthesize` writes them"
        )
    for each in shards.values():
        each.finish()
    (places["held_out"] / "scenes.txt").write_text("".join(f"{path}\n" for path in usable[::HELD_OUT_EVERY]))
    return Written(shards["data"].count, shards["held_out"].count, left_out)


class _LeftOut(Exception):
    """Why a scene is left out, and the words it is counted under."""

    def __init__(self, counted_as: str, why: InvalidInput) -> None:
        super().__init__(str(why))
        self.counted_as = counted_as


@contextmanager
def _counted_as(words: str) -> Iterator[None]:
    try:
        yield
    except InvalidInput as error:
        raise _LeftOut(words, error) from error


def _samples(folder: Path, image_size: int, geometry_size: int, resolution: int) -> Iterator[Sample]:
    """A sample for every view of a scene's folder."""
    with _counted_as("scenes without a usable image, masks, depth or camera"):
        views = read_views(folder)
        if any(view.intrinsics is None or view.T_world_camera is None for view in views):
            raise InvalidInput(f"{folder} has an image without camera.json, or one that lacks intrinsics or pose")
    with _counted_as("scenes without usable objects"):
        objects = read_objects(folder, resolution)
    for view in views:
        with _counted_as("scenes whose masks and objects do not go together"):
            yield _sample(folder, objects, view, image_size, geometry_size, resolution)


def _sample(
    folder: Path, objects: list[UprightObject], view: View, image_size: int, geometry_size: int, resolution: int
) -> Sample:
    if missing := sorted(set(view.instance_ids) - {item.instance for item in objects}):
        raise InvalidInput(f"{folder / 'truth.glb'} has no object_{missing[0]}, which the masks show: name its node so")
    scene, placed = scene_on_floor(str(folder), objects, view)
    sample = scene_sample(scene, placed, image_size=image_size, geometry_size=geometry_size, resolution=resolution)
    if sample is None:
        raise InvalidInput(f"{folder} shows no object large enough to learn from")
    if not np.isfinite(sample[0]["depth"].astype(np.float32)).any():
        raise InvalidInput(f"{folder} has no depth where it is looked at: correct depth.png, or delete it")
    return sample


def read_objects(folder: Path, resolution: int) -> list[UprightObject]:
    """The objects of a scene's truth.glb by ascending id, and what truth.json says of them, if it is there.

    InvalidInput naming the file when it is missing or damaged, and the object when it is tilted, mirrored or has no
    triangles.
    """
    path = folder / "truth.glb"
    if not path.is_file():
        raise InvalidInput(f"{path} is missing: it holds the scene's objects, each in a node named object_<id>")
    told = _told(folder / "truth.json")
    try:
        scene = trimesh.load_scene(path, process=False, skip_materials=True)
        found = {
            int(match[1]): _in_its_frame(scene, str(node))
            for node in scene.graph.nodes
            if (match := _OBJECT.fullmatch(str(node)))
        }
    except Exception as error:  # trimesh raises whatever its parser met
        raise InvalidInput(f"{path} is not a readable GLB ({error!r}): make it again") from error
    if not found:
        raise InvalidInput(f"{path} has no node named object_<id>: name each as its id in masks.png")
    objects = []
    for instance, (mesh, rotation) in sorted(found.items()):
        name = f"object_{instance} of {path}"
        if not len(mesh.faces) or not np.isfinite(mesh.vertices).all() or not mesh.extents.max() > 0:
            raise InvalidInput(f"{name} has no usable triangles: make it again")
        if np.linalg.det(rotation) < 0:
            raise InvalidInput(f"{name} is mirrored by a negative scale: apply its node's scale to its mesh")
        scale, centre = float(mesh.extents.max()), mesh.bounds.mean(0)
        T_world_asset = np.eye(4)
        T_world_asset[:3, :3], T_world_asset[:3, 3] = scale * rotation, rotation @ centre
        if not is_upright(T_world_asset):
            raise InvalidInput(f"{name} is tilted: models learn upright objects; if it stands, apply its rotation")
        asset = trimesh.Trimesh((mesh.vertices - centre) / scale, mesh.faces, process=False)
        label, symmetry = told.get(instance, ("", 1))
        objects.append(
            UprightObject(instance, asset, T_world_asset, _voxels(asset, resolution), _family(label), symmetry)
        )
    return objects


def _in_its_frame(scene: trimesh.Scene, name: str) -> tuple[trimesh.Trimesh, Floats]:
    """The triangles of an object's node and those below it, z-up, in a frame that has the world's origin and lengths

    and the node's rotation; and that rotation [3, 3], which is improper for a mirrored node.
    """
    T_world_node, _ = scene.graph[name]
    rotation, _ = polar((T_YUP_ZUP.T @ T_world_node @ T_YUP_ZUP)[:3, :3])
    T_frame_yup = np.eye(4)
    T_frame_yup[:3, :3] = rotation.T @ T_YUP_ZUP[:3, :3].T
    pieces: list[trimesh.Trimesh] = []
    waiting = [name]
    while waiting:
        node = waiting.pop()
        T_world_piece, geometry = scene.graph[node]
        piece = scene.geometry.get(geometry)
        if isinstance(piece, trimesh.Trimesh):
            bare = trimesh.Trimesh(piece.vertices, piece.faces, process=False)
            bare.apply_transform(T_frame_yup @ T_world_piece)
            pieces.append(bare)
        children = scene.graph.transforms.children.get(node, [])
        waiting += [child for child in children if not _OBJECT.fullmatch(str(child))]  # a cup may hang on its table
    whole = trimesh.util.concatenate(pieces) if pieces else trimesh.Trimesh()
    assert isinstance(whole, trimesh.Trimesh)
    return whole, rotation


def _voxels(asset: trimesh.Trimesh, resolution: int) -> Grid:
    grid = voxelise(asset, resolution)
    # what is thinner than a voxel would be nothing at all
    return grid if grid.any() else surface_voxels(asset, resolution)


def _family(label: str) -> str:
    """One of FAMILIES for any label, the same for the same."""
    return label if label in FAMILIES else FAMILIES[zlib.crc32(label.encode()) % len(FAMILIES)]


def _told(path: Path) -> dict[int, tuple[str, int]]:
    """Label and order of yaw symmetry by id, of a truth.json; nothing when there is none."""
    if not path.exists():
        return {}
    try:
        objects = json.loads(path.read_bytes())["objects"]
        told = {int(o["id"]): (str(o.get("label", "")), int(o.get("yaw_symmetry", 1))) for o in objects}
        if any(symmetry < 0 for _, symmetry in told.values()):
            raise ValueError("a negative yaw_symmetry")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InvalidInput(
            f"{path} cannot be read ({error!r}): it needs objects with id, label and yaw_symmetry, or delete it"
        ) from error
    return told
