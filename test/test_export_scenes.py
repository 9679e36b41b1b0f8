"""Whole scenes in every format, read back by others' readers: a synthetic one of five objects, settled, and the demo's
as the packaged weights generate it. Poses to a millimetre and a tenth of a degree, sizes to a millimetre.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import mujoco
import numpy as np
import pytest
import trimesh
from gltf import problems, validated
from pxr import Usd, UsdGeom
from scipy.spatial.transform import Rotation

from scenegen.export import FORMATS, convex, read_bodies, write_bodies
from scenegen.files import read_scene, write_scene
from scenegen.generator.pipeline import SceneGen
from scenegen.placement import place_scene
from scenegen.scene import ROTATION_YUP_ZUP, PlacedObject
from scenegen.settle import settle_folder
from scenegen.synthetic import Camera, camera_path, make_scene, render_views, true_scene
from scenegen_ros.demo import SEED

Objects = dict[int, tuple[np.ndarray, np.ndarray]]
"""id -> T_world_object [4, 4] and the vertices seen [n, 3] in the object's frame; z up."""


def synthetic(root: Path) -> Path:
    """Five objects, all of convex parts, a little off their places, and settled."""
    truth, random = make_scene(4, (5, 5), ["table", "chair", "stool", "sofa", "ball", "box"]), np.random.default_rng(4)
    poses = truth.T_world_object + 0.0
    poses[:, :3, 3] += random.normal(size=(5, 3)) * 0.004
    (view,) = render_views(truth, Camera.pinhole(), camera_path(truth, 1), random)
    scene = true_scene(truth, view, range(1, 6))
    placed = [
        PlacedObject(a.id, a.label, a, T, float(size), a.mesh.extents * size, np.eye(6), 1, 0, True)
        for a, T, size in zip(scene.assets, poses, truth.size_m, strict=True)
    ]
    folder = write_scene(root, scene, placed, scene_id="synthetic", views=[view], frame_id="map")
    settle_folder(folder)
    return folder


def demo(root: Path) -> Path:
    truth = make_scene(SEED)
    views = render_views(truth, Camera.pinhole(), camera_path(truth, 2), np.random.default_rng(0))
    scene = SceneGen.from_pretrained("tiny").generate(views, detail="coarse")
    return write_scene(root, scene, place_scene(scene, views), scene_id="demo", views=views, frame_id="map")


@dataclass(frozen=True)
class Exported:
    """The scene's folder, whether it is exported settled, and format -> the file to open."""

    folder: Path
    settled: bool
    files: dict[str, Path]

    def known(self) -> Objects:
        """From scene.json and the meshes beside it, as they were written."""
        _, placed, meta = read_scene(self.folder)
        assert placed is not None
        known = {}
        for o, entry in zip(placed, meta["objects"], strict=True):
            where = entry["settled"] if self.settled else entry
            known[o.id] = posed(where["position_m"], where["rotation_wxyz"]), o.asset.mesh.vertices * o.scale_m
        return known


@pytest.fixture(scope="module", params=[synthetic, demo])
def exported(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    root = tmp_path_factory.mktemp("scenes")
    with pytest.MonkeyPatch.context() as patch:
        if request.param is demo:  # a surface of thousands of faces takes coacd half a minute
            patch.setattr(convex, "_cut", lambda mesh, **_: convex.Cut((mesh.convex_hull,), "hull"))
        folder: Path = request.param(root)
        settled = request.param is synthetic
        bodies = read_bodies(folder, settled=settled)
    files = {format: write_bodies(bodies, format, root / "out" / format) for format in FORMATS}
    return Exported(folder, settled, files)


def posed(position: Any, wxyz: Any) -> np.ndarray:
    T = np.eye(4)
    T[:3, :3], T[:3, 3] = Rotation.from_quat(np.asarray(wxyz), scalar_first=True).as_matrix(), position
    return T


def zup(T: np.ndarray) -> np.ndarray:
    turn = np.eye(4)
    turn[:3, :3] = ROTATION_YUP_ZUP
    return np.asarray(turn.T @ T @ turn)


def from_glb(file: Path) -> Objects:
    scene = trimesh.load_scene(file)
    found = {}
    for name in scene.graph.nodes_geometry:
        T, geometry = scene.graph[name]
        found[int(name.split("_")[1])] = zup(T), scene.geometry[geometry].vertices @ ROTATION_YUP_ZUP
    return found


def from_usd(file: Path) -> Objects:
    found = {}
    stage = Usd.Stage.Open(str(file))
    for prim in stage.GetDefaultPrim().GetChildren():
        if prim.GetName().startswith("object_"):
            mesh = UsdGeom.Mesh(stage.GetPrimAtPath(f"{prim.GetPath()}/visual"))
            T = np.array(UsdGeom.Xformable(prim).ComputeLocalToWorldTransform(0)).T
            found[int(prim.GetName().split("_")[1])] = T, np.array(mesh.GetPointsAttr().Get())
    return found


def from_usdz(file: Path) -> Objects:
    return from_usd(file.with_suffix(".usdz"))


def from_habitat(file: Path) -> Objects:
    (instances,) = file.parent.glob("scenes/*.scene_instance.json")
    found = {}
    for entry in json.loads(instances.read_text())["object_instances"]:
        config = json.loads((file.parent / "objects" / f"{entry['template_name']}.object_config.json").read_text())
        seen = trimesh.load_mesh(file.parent / "objects" / config["render_asset"])
        T = zup(posed(entry["translation"], entry["rotation"]))
        found[config["semantic_id"]] = T, seen.vertices @ ROTATION_YUP_ZUP
    return found


def from_mujoco(file: Path) -> Objects:
    """MJCF, or URDF through MuJoCo's own reader."""
    model = mujoco.MjModel.from_xml_path(str(file))
    data = mujoco.MjData(model)
    mujoco.mj_forward(model, data)
    found = {}
    for i in range(1, model.nbody):
        name = model.body(i).name
        if not name.startswith("object_"):
            continue
        T = posed(data.xpos[i], data.xquat[i])
        geom = model.body(i).geomadr[0]  # what is seen comes first
        mesh = model.mesh(int(model.geom_dataid[geom]))
        points = model.mesh_vert[mesh.vertadr[0] : mesh.vertadr[0] + mesh.vertnum[0]]
        world = points @ data.geom_xmat[geom].reshape(3, 3).T + data.geom_xpos[geom]
        found[int(name.split("_")[1])] = T, trimesh.transform_points(world, np.linalg.inv(T))
    return found


def from_sdf(file: Path) -> Objects:
    found = {}
    for model in ElementTree.parse(file).getroot().iter("model"):
        name = model.get("name", "")
        if name.startswith("object_"):
            *at, roll, pitch, yaw = (float(x) for x in model.findtext("pose", "").split())
            T = posed(at, Rotation.from_euler("xyz", [roll, pitch, yaw]).as_quat(scalar_first=True))
            seen = model.findtext("link/visual/geometry/mesh/uri", "")
            found[int(name.split("_")[1])] = T, trimesh.load_mesh(file.parent / seen).vertices
    return found


READERS: dict[str, tuple[str, Callable[[Path], Objects]]] = {
    "glb": ("glb", from_glb),
    "usd": ("usd", from_usd),
    "usdz": ("usd", from_usdz),
    "habitat": ("habitat", from_habitat),
    "mujoco": ("mujoco", from_mujoco),
    "urdf": ("urdf", from_mujoco),
    "sdf": ("sdf", from_sdf),
}


@pytest.mark.parametrize("reader", READERS)
def test_poses_and_sizes_come_back(exported: Exported, reader: str) -> None:
    format, read = READERS[reader]
    found, known = read(exported.files[format]), exported.known()
    assert found.keys() == known.keys()
    for i, (T, points) in known.items():
        got, seen = found[i]
        assert np.abs(got[:3, 3] - T[:3, 3]).max() < 1e-3
        assert np.degrees(Rotation.from_matrix(got[:3, :3] @ T[:3, :3].T).magnitude()) < 0.1
        assert np.ptp(seen, axis=0) == pytest.approx(np.ptp(points, axis=0), abs=1e-3)
        assert seen.min(0) == pytest.approx(points.min(0), abs=1e-3), "not shifted in its own frame"


def test_every_format_has_a_reader() -> None:
    assert {format for format, _ in READERS.values()} == set(FORMATS)


def test_every_glb_is_valid(exported: Exported) -> None:
    """Whole scenes, objects, what Habitat draws, its colliders and its floor."""
    files = sorted(file for format in ("glb", "habitat") for file in exported.files[format].parent.rglob("*.glb"))
    number = len(exported.known())
    assert len(files) == (1 + number) + (2 * number + 1)
    reports = validated(file.read_bytes() for file in files)
    assert not {file.name: problems(report) for file, report in zip(files, reports, strict=True) if problems(report)}
