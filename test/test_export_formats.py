"""Every format, written and read back by others' readers: usd-core, mujoco, trimesh, XML and JSON parsers.

Poses to 0.1 mm and 0.01 degrees, sizes, masses, colours, against what exporting.py wrote the scene with.
"""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import exporting
import mujoco
import numpy as np
import pytest
import trimesh
from exporting import MASS_KG, POSES, TEXELS, in_order, points_m, same_pose
from PIL import Image
from pxr import Ar, Gf, Usd, UsdGeom, UsdPhysics, UsdShade, UsdValidation
from scipy.spatial.transform import Rotation

from scenegen.export import FORMATS, Bodies, Floor, convex, read_bodies, usd, write_bodies
from scenegen.scene import ROTATION_YUP_ZUP

PIECES = {2: 1, 5: 2, 9: 1}
"""Convex pieces of the box, the L and the tray."""


_cut = convex._cut


def _cut_but_the_tray(mesh: trimesh.Trimesh, **how: Any) -> convex.Cut:
    """coacd closes an open surface first, with so many faces that cutting it takes half a minute."""
    return _cut(mesh, **how) if mesh.is_volume else convex.Cut((mesh.convex_hull,), "hull")


@pytest.fixture(scope="module")
def bodies(tmp_path_factory: pytest.TempPathFactory) -> Bodies:
    root = tmp_path_factory.mktemp("export")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(root / "cache"))
        patch.setattr(convex, "_cut", _cut_but_the_tray)
        return read_bodies(exporting.write(root))


@pytest.fixture(scope="module")
def exported(bodies: Bodies, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Format -> the file to open."""
    root = tmp_path_factory.mktemp("out")
    return {format: write_bodies(bodies, format, root / format) for format in FORMATS}


def pose(position: Any, wxyz: Any) -> np.ndarray:
    T = np.eye(4)
    T[:3, :3] = Rotation.from_quat(np.asarray(wxyz), scalar_first=True).as_matrix()
    T[:3, 3] = position
    return T


def yup_to_zup(T: np.ndarray) -> np.ndarray:
    turn = np.eye(4)
    turn[:3, :3] = ROTATION_YUP_ZUP
    return turn.T @ T @ turn


def test_every_format_says_what_was_assumed(exported: dict[str, Path], bodies: Bodies) -> None:
    for format, file in exported.items():
        told = json.loads((file.parent / "export.json").read_text())
        assert (told["format"], told["file"], told["frame_id"]) == (format, file.name, "map")
        for entry, body in zip(told["objects"], bodies.bodies, strict=True):
            assert same_pose(pose(entry["position_m"], entry["rotation_wxyz"]), POSES[entry["id"]])
            assert entry["size_m"] == pytest.approx(body.mesh.extents)
            if format != "glb":
                assert entry["mass_kg"] == pytest.approx(MASS_KG.get(body.id, body.physics.mass_kg))
                assert entry["convex_pieces"] == PIECES[body.id]


def test_glb(exported: dict[str, Path]) -> None:
    scene = trimesh.load_scene(exported["glb"])
    assert set(scene.graph.nodes_geometry) == {f"object_{i}" for i in POSES}
    for i, known in POSES.items():
        T, geometry = scene.graph[f"object_{i}"]
        assert same_pose(yup_to_zup(T), known)
        world = trimesh.transform_points(scene.geometry[geometry].vertices, T) @ ROTATION_YUP_ZUP
        assert in_order(world) == pytest.approx(points_m(i), abs=2e-4)
        alone = trimesh.load_mesh(exported["glb"].parent / "objects" / f"object_{i}.glb")
        assert alone.extents == pytest.approx(scene.geometry[geometry].extents)
    picture = scene.geometry["object_2"].visual.material.baseColorTexture
    assert (np.asarray(picture.convert("RGB")) == TEXELS).all()
    assert (
        scene.geometry["object_5"].visual.vertex_attributes["color"][:, :3]
        == exporting.corner().visual.vertex_colors[:, :3]
    ).all()


def usd_errors(stage: Usd.Stage) -> list[str]:
    validators = UsdValidation.ValidationRegistry().GetOrLoadAllValidators()
    return [error.GetErrorAsString() for error in UsdValidation.ValidationContext(validators).Validate(stage)]


@pytest.mark.parametrize("name", ["scene.usda", "scene.usdz"])
def test_usd(exported: dict[str, Path], bodies: Bodies, name: str) -> None:
    stage = Usd.Stage.Open(str(exported["usd"].with_name(name)))
    assert UsdGeom.GetStageUpAxis(stage) == "Z"
    assert UsdGeom.GetStageMetersPerUnit(stage) == UsdPhysics.GetStageKilogramsPerUnit(stage) == 1.0
    assert stage.GetDefaultPrim().GetPath() == "/World"
    assert not usd_errors(stage)
    for body in bodies.bodies:
        prim = stage.GetPrimAtPath(f"/World/{body.name}")
        T = np.array(UsdGeom.Xformable(prim).ComputeLocalToWorldTransform(0)).T
        assert same_pose(T, POSES[body.id])
        assert prim.HasAPI(UsdPhysics.RigidBodyAPI)
        mass = UsdPhysics.MassAPI(prim)
        assert mass.GetMassAttr().Get() == pytest.approx(MASS_KG.get(body.id, body.physics.mass_kg))
        axes = Rotation.from_matrix(np.array(Gf.Matrix3d(Gf.Quatd(mass.GetPrincipalAxesAttr().Get()))).T).as_matrix()
        inertia = axes @ np.diag(mass.GetDiagonalInertiaAttr().Get()) @ axes.T
        assert inertia == pytest.approx(body.physics.inertia, rel=1e-4, abs=1e-7)
        assert mass.GetCenterOfMassAttr().Get() == pytest.approx(body.physics.centre_m, abs=1e-6)
        mesh = UsdGeom.Mesh(stage.GetPrimAtPath(f"/World/{body.name}/visual"))
        world = trimesh.transform_points(np.array(mesh.GetPointsAttr().Get()), T)
        assert in_order(world) == pytest.approx(points_m(body.id), abs=2e-4)
        pieces = stage.GetPrimAtPath(f"/World/{body.name}/collision").GetChildren()
        assert len(pieces) == len(body.pieces)
        for piece in pieces:
            assert piece.HasAPI(UsdPhysics.CollisionAPI)
            assert UsdPhysics.MeshCollisionAPI(piece).GetApproximationAttr().Get() == "convexHull"
            assert UsdGeom.Imageable(piece).ComputePurpose() == "guide"
    floor = stage.GetPrimAtPath("/World/floor")
    assert floor.HasAPI(UsdPhysics.CollisionAPI)
    assert not floor.HasAPI(UsdPhysics.RigidBodyAPI)
    box = UsdGeom.BBoxCache(0, ["default"]).ComputeWorldBound(floor).ComputeAlignedRange()
    assert bodies.floor is not None
    assert box.GetMax()[2] == pytest.approx(bodies.floor.top_m)


@pytest.mark.parametrize("name", ["scene.usda", "scene.usdz"])
def test_usd_looks(exported: dict[str, Path], name: str) -> None:
    stage = Usd.Stage.Open(str(exported["usd"].with_name(name)))
    surface = surface_of(stage, "object_2")
    texture = UsdShade.Shader(surface.GetInput("diffuseColor").GetConnectedSource()[0])
    assert texture.GetIdAttr().Get() == "UsdUVTexture"
    path = texture.GetInput("file").Get().resolvedPath
    picture = Image.open(io.BytesIO(Ar.GetResolver().OpenAsset(Ar.ResolvedPath(path)).GetBuffer()))
    assert (np.asarray(picture) == TEXELS).all()
    st = UsdGeom.PrimvarsAPI(stage.GetPrimAtPath("/World/object_2/visual")).GetPrimvar("st")
    assert np.array(st.Get()) == pytest.approx(exporting.box().visual.uv, abs=1e-6)
    reader = UsdShade.Shader(surface_of(stage, "object_5").GetInput("diffuseColor").GetConnectedSource()[0])
    assert reader.GetInput("varname").Get() == "displayColor"
    colours = UsdGeom.Mesh(stage.GetPrimAtPath("/World/object_5/visual")).GetDisplayColorAttr().Get()
    known = (exporting.corner().visual.vertex_colors[:, :3] / 255.0) ** 2.2
    assert np.array(colours) == pytest.approx(known, abs=0.01)


def surface_of(stage: Usd.Stage, name: str) -> UsdShade.Shader:
    material, _ = UsdShade.MaterialBindingAPI(stage.GetPrimAtPath(f"/World/{name}/visual")).ComputeBoundMaterial()
    shader, _, _ = material.ComputeSurfaceSource()
    assert shader.GetIdAttr().Get() == "UsdPreviewSurface"
    return shader


@pytest.mark.parametrize("collision", ["convexDecomposition", "convexHull", "sdf"])
def test_usd_can_leave_colliding_to_the_simulator(bodies: Bodies, tmp_path: Path, collision: usd.Collision) -> None:
    file = write_bodies(bodies, "usd", tmp_path / "out", usd.writer(collision))
    stage = Usd.Stage.Open(str(file))
    visual = stage.GetPrimAtPath("/World/object_5/visual")
    assert UsdPhysics.MeshCollisionAPI(visual).GetApproximationAttr().Get() == collision
    assert not stage.GetPrimAtPath("/World/object_5/collision")
    assert not usd_errors(stage)


def test_usd_checks_find_what_is_wrong(exported: dict[str, Path], tmp_path: Path) -> None:
    stage = Usd.Stage.Open(str(exported["usd"].parent / "objects" / "object_2.usd"))
    UsdPhysics.RigidBodyAPI.Apply(stage.GetPrimAtPath("/object_2/material"))
    assert usd_errors(stage)


def test_mujoco(exported: dict[str, Path], bodies: Bodies) -> None:
    model = mujoco.MjModel.from_xml_path(str(exported["mujoco"]))
    data = mujoco.MjData(model)
    mujoco.mj_forward(model, data)
    for body in bodies.bodies:
        mine = model.body(body.name)
        assert same_pose(pose(data.body(body.name).xpos, data.body(body.name).xquat), POSES[body.id])
        assert mine.mass[0] == pytest.approx(MASS_KG.get(body.id, body.physics.mass_kg))
        turn = Rotation.from_quat(mine.iquat, scalar_first=True).as_matrix()
        assert turn @ np.diag(mine.inertia) @ turn.T == pytest.approx(body.physics.inertia, rel=1e-4, abs=1e-7)
        assert in_order(mesh_of(model, data, body.name)) == pytest.approx(points_m(body.id), abs=2e-4)
        assert mine.geomnum[0] == 1 + len(body.pieces)
    texture = model.tex("object_2")
    start, size = texture.adr[0], TEXELS.size
    stored = model.tex_data[start : start + size].reshape(TEXELS.shape)
    assert (stored == TEXELS).all() or (stored == TEXELS[::-1]).all()


def mesh_of(model: mujoco.MjModel, data: mujoco.MjData, geom: str) -> np.ndarray:
    """Vertices of a mesh in the world: MuJoCo keeps them about the mesh's own centre."""
    mesh = model.mesh(int(model.geom(geom).dataid[0]))
    start, number = mesh.vertadr[0], mesh.vertnum[0]
    R = data.geom(geom).xmat.reshape(3, 3)
    return model.mesh_vert[start : start + number] @ R.T + data.geom(geom).xpos


def test_bodies_fall_onto_the_floor_and_stay(exported: dict[str, Path], bodies: Bodies) -> None:
    model = mujoco.MjModel.from_xml_path(str(exported["mujoco"]))
    data = mujoco.MjData(model)
    while data.time < 1.5:
        mujoco.mj_step(model, data)
    assert bodies.floor is not None
    for body in bodies.bodies:
        low = mesh_of(model, data, body.name)[:, 2].min() - bodies.floor.top_m
        assert -0.005 < low < 0.01, body.name
    box = data.body("object_2").xpos
    assert np.linalg.norm(box - POSES[2][:3, 3]) < 0.005, "the box stood on the floor already"


def test_shelves_stand_beside_the_floor(bodies: Bodies, tmp_path: Path) -> None:
    shelf = Floor(np.array([1.0, 2.0, 1.5]), np.array([0.2, 0.1, 0.01]))
    scene = replace(bodies, shelves=(shelf,))
    files = {name: write_bodies(scene, name, tmp_path / name) for name in ("mujoco", "sdf", "usd", "habitat")}
    model = mujoco.MjModel.from_xml_path(str(files["mujoco"]))
    assert model.geom("shelf_1").pos == pytest.approx(shelf.centre_m)
    assert model.geom("shelf_1").size * 2 == pytest.approx(shelf.size_m)
    (mine,) = ElementTree.parse(files["sdf"]).getroot().findall("world/model[@name='shelf_1']")
    assert mine.findtext("pose") == "1 2 1.5 0 0 0"
    assert mine.findtext("static") == "true"
    opened = Usd.Stage.Open(str(files["usd"]))
    prim = opened.GetPrimAtPath("/World/shelf_1")
    box = UsdGeom.BBoxCache(0, ["default"]).ComputeWorldBound(prim).ComputeAlignedRange()
    assert box.GetMax() == pytest.approx([1.1, 2.05, 1.505])
    assert prim.HasAPI(UsdPhysics.CollisionAPI)
    stage = trimesh.load_scene(files["habitat"].parent / "stages" / "floor.glb")
    assert len(stage.geometry) == 2
    assert stage.bounds[1, 1] == pytest.approx(1.505)


def test_urdf(exported: dict[str, Path], bodies: Bodies) -> None:
    model = mujoco.MjModel.from_xml_path(str(exported["urdf"]))
    data = mujoco.MjData(model)
    mujoco.mj_forward(model, data)
    for body in bodies.bodies:
        assert same_pose(pose(data.body(body.name).xpos, data.body(body.name).xquat), POSES[body.id])
        mine = model.body(body.name)
        assert mine.mass[0] == pytest.approx(MASS_KG.get(body.id, body.physics.mass_kg))
        turn = Rotation.from_quat(mine.iquat, scalar_first=True).as_matrix()
        assert turn @ np.diag(mine.inertia) @ turn.T == pytest.approx(body.physics.inertia, rel=1e-4, abs=1e-7)
        assert mine.geomnum[0] == 1 + len(body.pieces)
        alone = ElementTree.parse(exported["urdf"].with_name(f"{body.name}.urdf")).getroot()
        names = [mesh.get("filename", "") for mesh in alone.iter("mesh")]
        assert len(names) == 1 + len(body.pieces)
        visual = trimesh.load_mesh(exported["urdf"].parent / names[0])
        assert visual.extents == pytest.approx(body.mesh.extents, abs=1e-6)
        single = mujoco.MjModel.from_xml_path(str(exported["urdf"].with_name(f"{body.name}.urdf")))
        assert single.ngeom == len(names)


def test_obj_has_the_colours(exported: dict[str, Path]) -> None:
    """The surface that MuJoCo, URDF and SDFormat share."""
    box = trimesh.load_mesh(exported["urdf"].parent / "meshes" / "object_2.obj")
    assert (np.asarray(box.visual.material.image.convert("RGB")) == TEXELS).all()
    given = exporting.box()
    where = {tuple(p): uv for p, uv in zip((given.vertices * 0.3).round(5), given.visual.uv, strict=True)}
    for point, uv in zip(box.vertices.round(5), box.visual.uv, strict=True):
        assert uv == pytest.approx(where[tuple(point)], abs=1e-6)


def test_sdf(exported: dict[str, Path], bodies: Bodies) -> None:
    root = ElementTree.parse(exported["sdf"]).getroot()
    models = {model.get("name"): model for model in root.iter("model")}
    assert models.keys() == {"floor"} | {body.name for body in bodies.bodies}
    for body in bodies.bodies:
        model = models[body.name]
        x, y, z, *rpy = (float(value) for value in model.findtext("pose", "").split())
        T = np.eye(4)
        T[:3, :3] = Rotation.from_euler("xyz", rpy).as_matrix()
        T[:3, 3] = x, y, z
        assert same_pose(T, POSES[body.id])
        assert float(model.findtext("link/inertial/mass", "")) == pytest.approx(
            MASS_KG.get(body.id, body.physics.mass_kg)
        )
        uris = [uri.text or "" for uri in model.iter("uri")]
        assert len(uris) == 1 + len(body.pieces)
        world = trimesh.transform_points(trimesh.load_mesh(exported["sdf"].parent / uris[0]).vertices, T)
        assert in_order(world) == pytest.approx(points_m(body.id), abs=2e-4)
        assert trimesh.load_mesh(exported["sdf"].parent / uris[1]).is_volume
    assert models["floor"].findtext("static") == "true"


OBJECT_KEYS = {"render_asset", "collision_asset", "up", "front", "semantic_id", "mass", "COM", "inertia"}
OBJECT_KEYS |= {"join_collision_meshes"}
INSTANCE_KEYS = {"template_name", "translation", "rotation", "motion_type"}


def test_habitat(exported: dict[str, Path], bodies: Bodies) -> None:
    root = exported["habitat"].parent
    dataset = json.loads(exported["habitat"].read_text())
    assert dataset.keys() == {"stages", "objects", "scene_instances"}
    folders = {kind: root / dataset[kind]["paths"][".json"][0] for kind in dataset}
    (file,) = folders["scene_instances"].glob("*.scene_instance.json")
    scene = json.loads(file.read_text())
    assert scene.keys() == {"stage_instance", "translation_origin", "default_lighting", "object_instances"}
    assert scene["translation_origin"] == "asset_local"
    for instance, body in zip(scene["object_instances"], bodies.bodies, strict=True):
        assert instance.keys() == INSTANCE_KEYS
        assert instance["motion_type"] == "dynamic"
        T = pose(instance["translation"], instance["rotation"])
        assert same_pose(yup_to_zup(T), POSES[body.id])
        config = json.loads((folders["objects"] / f"{instance['template_name']}.object_config.json").read_text())
        assert config.keys() == OBJECT_KEYS
        assert (config["up"], config["front"]) == ([0, 1, 0], [0, 0, -1])
        assert config["mass"] == pytest.approx(MASS_KG.get(body.id, body.physics.mass_kg))
        assert config["COM"] == pytest.approx((ROTATION_YUP_ZUP @ body.physics.centre_m).tolist())
        assert sorted(config["inertia"]) == pytest.approx(sorted(np.diag(body.physics.inertia)))
        seen = trimesh.load_mesh(folders["objects"] / config["render_asset"])
        world = trimesh.transform_points(seen.vertices, T) @ ROTATION_YUP_ZUP
        assert in_order(world) == pytest.approx(points_m(body.id), abs=2e-4)
        collider = trimesh.load_scene(folders["objects"] / config["collision_asset"])
        assert len(collider.geometry) == len(body.pieces)
        assert config["join_collision_meshes"] is False
    stage = json.loads(
        (folders["stages"] / f"{scene['stage_instance']['template_name']}.stage_config.json").read_text()
    )
    floor = trimesh.load_mesh(folders["stages"] / stage["render_asset"])
    assert bodies.floor is not None
    assert floor.bounds[1, 1] == pytest.approx(bodies.floor.top_m)


def test_names_in_habitat_are_no_part_of_one_another(exported: dict[str, Path]) -> None:
    names = [file.name.split(".")[0] for file in exported["habitat"].parent.glob("objects/*.object_config.json")]
    assert all(len(name) == len(names[0]) for name in names)
