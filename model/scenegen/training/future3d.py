"""Reads 3D-FUTURE as it is distributed: scene records, instance masks, photographs, meshes, poses.

Layout (its data description, section 2.2), below one folder:
3D-FUTURE-scene/{train,test}/image/0000000.jpg       photographs, 1200 x 1200
3D-FUTURE-scene/GT/{train,test}_set.json             records in the COCO format: images, categories, annotations with
                                                     image_id, category_id, segmentation, model_id, pose, fov
3D-FUTURE-model/MODEL_ID/raw_model.obj               meshes, y-up, metres, beside their material and texture

The dataset is licensed and was not at hand: this was proven on a miniature of the layout only. From the public data
description come names and fields; from the dataset's own toolbox and its discussions, that masks are uncompressed
run lengths, that pose holds `rotation` (3 x 3, model to camera) and `translation`, that the camera looks along -z with
y up, and that fov is the horizontal angle in degrees. Could not be checked: whether file_name has its ending (the
file is found by its stem), the key of a category's name, and whether any object is scaled (nothing says so).
A record without a model, a pose or a mesh file is left out and counted: the real set has such.

Knows nothing about networks or what is made of the scenes.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import trimesh
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation
from trimesh.visual import TextureVisuals

from scenegen.images import read_image
from scenegen.scene import ROTATION_YUP_ZUP, Floats, InvalidInput, View

_log = logging.getLogger(__name__)

MOST_ASSETS = 16
"""Scenes with more are left out, as in the paper's training (spec/structure.md section 8)."""
OPTICAL_OPENGL = np.diag([1.0, -1.0, -1.0])
"""Takes OpenGL's camera axes (y up, looking along -z) to optical ones."""


@dataclass(frozen=True, eq=False)
class FutureObject:
    """One annotated object.

    instance: its id in the scene's masks. rotation [3, 3], translation [3]: raw model (y-up, metres) to the camera's
    OpenGL frame. segmentation: as in the record.
    """

    instance: int
    model_id: str
    category: str
    rotation: Floats
    translation: Floats
    segmentation: Any


@dataclass(frozen=True, eq=False)
class FutureScene:
    """One photograph and its objects. scene_id: seven characters. fov_deg: horizontal."""

    scene_id: str
    image: Path
    width: int
    height: int
    fov_deg: float
    objects: tuple[FutureObject, ...]

    def masks(self) -> NDArray[np.int32]:
        """Instance ids [H, W], 0 for the background; where two masks overlap, the later record's."""
        ids = np.zeros((self.height, self.width), dtype=np.int32)
        for item in self.objects:
            ids[decode_mask(item.segmentation, self.height, self.width)] = item.instance
        return ids

    @cached_property
    def intrinsics(self) -> Floats:
        """float64 [3, 3]: square pixels, principal point in the middle."""
        focal = self.width / 2 / math.tan(math.radians(self.fov_deg) / 2)
        return np.array([[focal, 0, (self.width - 1) / 2], [0, focal, (self.height - 1) / 2], [0, 0, 1.0]])

    def view(self, T_world_camera: Floats | None = None) -> View:
        """Photograph, masks and camera, without depth."""
        return View(read_image(self.image), self.masks(), None, self.intrinsics, T_world_camera)


@dataclass(frozen=True, eq=False)
class FutureModel:
    """A raw mesh (y-up, metres) and its box. Its asset is that box centred, its longest side 1, turned z-up."""

    model_id: str
    mesh: trimesh.Trimesh

    @property
    def centre(self) -> Floats:
        """float64 [3], of the box."""
        return np.asarray(self.mesh.bounds.mean(0), dtype=np.float64)

    @property
    def scale(self) -> float:
        """Longest side of the box, metres: a row's scale in spec/structure.md section 8."""
        return float(self.mesh.extents.max())

    def asset(self) -> trimesh.Trimesh:
        """The mesh in the unit box, z-up."""
        unit = self.mesh.copy()
        unit.vertices = ((self.mesh.vertices - self.centre) / self.scale) @ ROTATION_YUP_ZUP
        return unit


class Future3D:
    """The dataset in a folder. InvalidInput when a part of the layout is missing or damaged, naming it."""

    def __init__(self, root: Path, split: str = "train") -> None:
        self.root, self.split = root, split
        path = root / "3D-FUTURE-scene" / "GT" / f"{split}_set.json"
        try:
            records = json.loads(path.read_text())
            self._images: list[Mapping[str, Any]] = records["images"]
            self.categories = {int(c["id"]): _category(c) for c in records["categories"]}
            self._annotations: dict[int, list[Mapping[str, Any]]] = {}
            for record in records["annotations"]:
                self._annotations.setdefault(int(record["image_id"]), []).append(record)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InvalidInput(
                f"{path} cannot be read as 3D-FUTURE's records ({error!r}): give the folder that holds 3D-FUTURE-scene "
                "and 3D-FUTURE-model, both unpacked"
            ) from error
        self.left_out: dict[str, int] = {}

    def scenes(self) -> Iterator[FutureScene]:
        """Every usable scene, in the order of the records; why others or their objects are not is in `left_out`."""
        self.left_out = {}
        for record in self._images:
            objects = tuple(self._objects(self._annotations.get(int(record["id"]), [])))
            stem = Path(str(record["file_name"])).stem
            images = sorted((self.root / "3D-FUTURE-scene" / self.split / "image").glob(f"{stem}.*"))
            if not images:
                self._leave_out("scenes without a photograph")
            elif not 1 <= len(objects) <= MOST_ASSETS:
                self._leave_out(f"scenes with no usable object or more than {MOST_ASSETS}")
            else:
                fov = float(self._annotations[int(record["id"])][0]["fov"])
                yield FutureScene(stem, images[0], int(record["width"]), int(record["height"]), fov, objects)

    def model(self, model_id: str, looks: bool = False) -> FutureModel:
        """The mesh of a model; looks: with its texture. InvalidInput when it cannot be read or has no size."""
        path = self._mesh_path(model_id)
        try:
            mesh = trimesh.load_mesh(path, process=False, skip_materials=not looks)
            if looks and isinstance(mesh.visual, TextureVisuals):
                mesh.visual.material = mesh.visual.material.to_pbr()
        except Exception as error:  # trimesh raises whatever its parser met
            raise InvalidInput(f"{path} is not a readable mesh ({error!r}): unpack it again") from error
        if not isinstance(mesh, trimesh.Trimesh) or not len(mesh.faces) or not mesh.extents.max() > 0:
            raise InvalidInput(f"{path} holds no usable triangles: unpack it again")
        return FutureModel(model_id, mesh)

    @contextmanager
    def leaving_out(self, what: str) -> Iterator[None]:
        """Counts what cannot be used, and says why, instead of ending a run over thousands of files."""
        try:
            yield
        except InvalidInput as error:
            _log.warning("%s", error)
            self._leave_out(what)

    def _objects(self, records: Sequence[Mapping[str, Any]]) -> Iterator[FutureObject]:
        for number, record in enumerate(records, 1):
            model_id, pose = record.get("model_id"), record.get("pose")
            if not model_id or not isinstance(pose, Mapping) or record.get("fov") is None:
                self._leave_out("objects without a model, a pose or a field of view")
            elif not self._mesh_path(str(model_id)).is_file():
                self._leave_out("objects whose mesh is not there")
            else:
                rotation = np.array(pose["rotation"], dtype=np.float64).reshape(3, 3)
                translation = np.array(pose["translation"], dtype=np.float64).reshape(3)
                category = self.categories[int(record["category_id"])]
                yield FutureObject(number, str(model_id), category, rotation, translation, record["segmentation"])

    def _mesh_path(self, model_id: str) -> Path:
        return self.root / "3D-FUTURE-model" / model_id / "raw_model.obj"

    def _leave_out(self, why: str) -> None:
        self.left_out[why] = self.left_out.get(why, 0) + 1


def asset_row(item: FutureObject, model: FutureModel) -> dict[str, Any]:
    """translation [3], rotation (Euler xyz, extrinsic, degrees) [3] and scale of an object, in the camera's frame.

    What spec/structure.md section 8 lists, and `relative_placements` takes. The translation is the box centre's:
    placements are those of centred assets (section 7).
    """
    return {
        "translation": (item.rotation @ model.centre + item.translation).tolist(),
        "rotation": Rotation.from_matrix(item.rotation).as_euler("xyz", degrees=True).tolist(),
        "scale": model.scale,
    }


def T_opengl_asset(item: FutureObject, model: FutureModel) -> Floats:
    """An object's asset (z-up, unit box) in the camera's OpenGL frame, metres: float64 [4, 4], scale included."""
    T = np.eye(4)
    T[:3, :3] = model.scale * item.rotation @ ROTATION_YUP_ZUP
    T[:3, 3] = item.rotation @ model.centre + item.translation
    return T


def decode_mask(segmentation: Any, height: int, width: int) -> NDArray[np.bool_]:
    """A COCO segmentation as bool [H, W]: uncompressed run lengths (column by column) or polygons."""
    if isinstance(segmentation, Mapping):
        counts = segmentation["counts"]
        if isinstance(counts, str):
            raise InvalidInput("a mask has compressed run lengths: 3D-FUTURE's are lists, decode them with pycocotools")
        runs = np.asarray(counts, dtype=np.int64)
        if runs.sum() != height * width:
            raise InvalidInput(
                f"the run lengths of a mask add up to {runs.sum()}, its image has {height * width} pixels"
            )
        flat = np.repeat(np.arange(len(runs)) % 2 == 1, runs)
        return flat.reshape(width, height).T
    mask = np.zeros((height, width), dtype=np.uint8)
    cv2.fillPoly(mask, [np.rint(np.reshape(polygon, (-1, 2))).astype(np.int32) for polygon in segmentation], 1)
    return mask.astype(bool)


def _category(record: Mapping[str, Any]) -> str:
    names = (record.get(key) for key in ("category_name", "supercategory", "name"))
    return str(next((name for name in names if name), record["id"]))
