"""Scenes on disk: the same scene comes back, the whole scene stands in the world, and nothing half-written stays."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import trimesh
from scipy.spatial.transform import Rotation
from serving import box, textured_box, view

from scenegen import files
from scenegen.files import (
    SceneNotStored,
    list_scenes,
    new_scene_id,
    read_scene,
    refine_scene,
    write_scene,
)
from scenegen.scene import ROTATION_YUP_ZUP, InvalidInput, PlacedObject, Placement, Scene
from scenegen.scene_json import mesh_name


def scene_of_two() -> Scene:
    turn = Rotation.from_euler("xyz", [0.1, 0.9, -0.3]).as_quat(scalar_first=True)
    placements = (Placement(np.array([0.2, 0.4, -1 / 3]), turn, 0.5), Placement.identity())
    return Scene((box(2), box(5)), placements, 1, {"structure": 0.25, "assets": 1.5})


def fill_disk_at(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """The numbered file is written in part only."""
    real, calls = files._write, []

    def full(path: Path, data: bytes) -> None:
        calls.append(path)
        if len(calls) == number:
            path.write_bytes(data[: len(data) // 2])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        real(path, data)

    monkeypatch.setattr(files, "_write", full)


def placed_in_world(scene: Scene) -> tuple[PlacedObject, ...]:
    placed = []
    for i, asset in enumerate(scene.assets):
        T = np.eye(4)
        T[:3, :3] = Rotation.from_euler("z", 0.5 + i).as_matrix()
        T[:3, 3] = 1.0, 2.0 + i, 0.3
        scale = 0.2 + 0.1 * i
        placed.append(
            PlacedObject(
                id=asset.id,
                label=asset.label,
                asset=asset,
                T_world_object=T,
                scale_m=scale,
                size_m=asset.mesh.extents * scale,
                covariance=np.diag(np.arange(1.0, 7.0)) * 1e-6,
                confidence=0.75,
                residual_m=[0.004, np.nan][i],
                metric=True,
            )
        )
    return tuple(placed)


def test_a_scene_comes_back(tmp_path: Path) -> None:
    scene = scene_of_two()
    placed = placed_in_world(scene)
    folder = write_scene(tmp_path, scene, placed, scene_id="a", views=[view()], frame_id="map", stamp_ns=123)
    assert sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*.*")) == [
        "objects/2.glb",
        "objects/5.glb",
        "scene.glb",
        "scene.json",
    ]
    got, got_placed, meta = read_scene(folder)
    assert (meta["frame_id"], meta["stamp_ns"], meta["metric"], got.query) == ("map", 123, True, 1)
    assert got.seconds == scene.seconds
    assert meta["views"][0]["width"] == 32 and np.allclose(meta["views"][0]["T_world_camera"], view().T_world_camera)
    assert got_placed is not None
    for i in range(2):
        np.testing.assert_array_equal(got.T_query_asset(i), scene.T_query_asset(i))
        np.testing.assert_array_equal(got.assets[i].mesh.vertices, scene.assets[i].mesh.vertices.astype(np.float32))
        np.testing.assert_array_equal(
            got.assets[i].mesh.visual.vertex_colors, scene.assets[i].mesh.visual.vertex_colors
        )
        np.testing.assert_allclose(got_placed[i].T_world_object, placed[i].T_world_object, atol=1e-12)
        np.testing.assert_array_equal(got_placed[i].covariance, placed[i].covariance)
        np.testing.assert_array_equal(got_placed[i].size_m, placed[i].size_m)
        for name in ("id", "label", "scale_m", "confidence", "residual_m", "metric"):
            np.testing.assert_equal(getattr(got_placed[i], name), getattr(placed[i], name))


def refined_scene(scene: Scene) -> tuple[Scene, tuple[PlacedObject, ...]]:
    """Object 2 with a texture; object 5 fell back to its coarse mesh."""
    better = replace(scene, assets=(textured_box(2), scene.assets[1]), seconds={"structure": 0.25, "textures": 2.5})
    pairs = zip(placed_in_world(scene), better.assets, strict=True)
    return better, tuple(placed.with_asset(asset) for placed, asset in pairs)


def test_a_preliminary_scene_is_refined_under_the_same_id_and_new_names(tmp_path: Path) -> None:
    scene = scene_of_two()
    placed = placed_in_world(scene)
    folder = write_scene(tmp_path, scene, placed, scene_id="a", views=[view()], frame_id="map", preliminary=True)
    early = read_scene(folder)
    assert early[2]["preliminary"] is True and [a.detail for a in early[0].assets] == ["coarse", "coarse"]
    coarse_file = (folder / mesh_name(2, preliminary=True)).read_bytes()

    better, better_placed = refined_scene(scene)
    refine_scene(folder, better, better_placed)
    got, got_placed, meta = read_scene(folder)
    assert [a.detail for a in got.assets] == ["textured", "coarse"] and got.seconds == better.seconds
    assert (meta["id"], meta["preliminary"], meta["frame_id"], len(meta["views"])) == ("a", False, "map", 1)
    assert [entry["mesh"] for entry in meta["objects"]] == ["objects/2.glb", "objects/5.glb"]
    picture, true_picture = (
        np.asarray(a.mesh.visual.material.baseColorTexture) for a in (got.assets[0], better.assets[0])
    )
    np.testing.assert_array_equal(picture, true_picture)
    assert got_placed is not None
    np.testing.assert_allclose(got_placed[0].T_world_object, placed[0].T_world_object, atol=1e-12)
    np.testing.assert_allclose(got_placed[0].size_m, [0.96 * 0.2, 0.48 * 0.2, 0.1 * 0.2])
    whole = trimesh.load_scene(folder / "scene.glb", process=False)
    assert isinstance(whole.geometry["object_2"].visual, trimesh.visual.TextureVisuals)
    assert (folder / mesh_name(2, preliminary=True)).read_bytes() == coarse_file, "for readers that hold on to it"


@pytest.mark.parametrize("number", range(1, 5))
def test_a_disk_that_fills_while_refining_leaves_the_preliminary_scene(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    scene = scene_of_two()
    folder = write_scene(tmp_path, scene, placed_in_world(scene), scene_id="a", preliminary=True)
    before = {path: path.read_bytes() for path in folder.rglob("*.*")}
    fill_disk_at(monkeypatch, number)
    with pytest.raises(SceneNotStored, match="disk is full.*Free some space"):
        refine_scene(folder, *refined_scene(scene))
    assert {path: path.read_bytes() for path in folder.rglob("*.*")} == before
    monkeypatch.undo()
    refine_scene(folder, *refined_scene(scene))
    assert read_scene(folder)[0].assets[0].detail == "textured"


def test_the_whole_scene_stands_in_the_world_y_up(tmp_path: Path) -> None:
    scene = scene_of_two()
    placed = placed_in_world(scene)
    folder = write_scene(tmp_path, scene, placed, scene_id="a")
    whole = trimesh.load_scene(folder / "scene.glb", process=False)
    assert set(whole.graph.nodes_geometry) == {"object_2", "object_5"}
    for p in placed:
        T, name = whole.graph[f"object_{p.id}"]
        vertices = trimesh.transform_points(whole.geometry[name].vertices, T) @ ROTATION_YUP_ZUP
        in_world = p.asset.mesh.vertices * p.scale_m @ p.T_world_object[:3, :3].T + p.T_world_object[:3, 3]
        np.testing.assert_allclose(vertices, in_world, atol=1e-6)


def test_without_a_place_in_the_world_the_query_is_the_frame(tmp_path: Path) -> None:
    scene = scene_of_two()
    folder = write_scene(tmp_path, scene, None, scene_id="a")
    got, placed, meta = read_scene(folder)
    assert placed is None and meta["metric"] is False
    whole = trimesh.load_scene(folder / "scene.glb", process=False)
    T, name = whole.graph["object_2"]
    vertices = trimesh.transform_points(whole.geometry[name].vertices, T) @ ROTATION_YUP_ZUP
    expected = trimesh.transform_points(scene.assets[0].mesh.vertices, scene.T_query_asset(0))
    np.testing.assert_allclose(vertices, expected, atol=1e-6)


@pytest.mark.parametrize("scene_id", ["", "../a", ".hidden", "a/b", "x" * 101, "a\n"])
def test_bad_ids(tmp_path: Path, scene_id: str) -> None:
    with pytest.raises(InvalidInput, match="scene id"):
        write_scene(tmp_path / "root", scene_of_two(), None, scene_id=scene_id)
    assert not list(tmp_path.iterdir())


def test_a_scene_is_never_overwritten(tmp_path: Path) -> None:
    folder = write_scene(tmp_path, scene_of_two(), None, scene_id="a")
    before = (folder / "scene.glb").read_bytes()
    with pytest.raises(InvalidInput, match="id of its own"):
        write_scene(tmp_path, scene_of_two(), None, scene_id="a")
    assert (folder / "scene.glb").read_bytes() == before and [p.name for p in tmp_path.iterdir()] == ["a"]
    assert len({new_scene_id(5) for _ in range(100)}) == 100


def test_newest_first_and_only_finished_ones(tmp_path: Path) -> None:
    assert list_scenes(tmp_path / "none") == []
    for i, name in enumerate(["b", "c", "a"]):
        folder = write_scene(tmp_path, scene_of_two(), None, scene_id=name)
        os.utime(folder / "scene.json", ns=(i, i))
    (tmp_path / "stranger").mkdir()
    dead = tmp_path / ".unfinished-d-1"
    dead.mkdir()
    (dead / "scene.json").write_text("{}")
    assert [p.name for p in list_scenes(tmp_path)] == ["a", "c", "b"]
    # What a process left that died while writing is cleared away once it is surely dead.
    write_scene(tmp_path, scene_of_two(), None, scene_id="e")
    assert dead.exists()
    os.utime(dead, (time.time() - 7200, time.time() - 7200))
    write_scene(tmp_path, scene_of_two(), None, scene_id="f")
    assert not dead.exists()


@pytest.mark.parametrize("number", range(1, 5))
def test_a_full_disk_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    fill_disk_at(monkeypatch, number)
    with pytest.raises(SceneNotStored, match="disk is full.*Free some space"):
        write_scene(tmp_path, scene_of_two(), None, scene_id="a")
    assert not list(tmp_path.iterdir())
    monkeypatch.undo()
    assert write_scene(tmp_path, scene_of_two(), None, scene_id="a").is_dir()


def test_a_really_full_disk(tmp_path: Path) -> None:
    mount = ["mount", "-t", "tmpfs", "-o", "size=16k", "tmpfs", str(tmp_path)]
    if subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        pytest.skip("mounting a small tmpfs is not allowed here")
    try:
        with pytest.raises(SceneNotStored, match="disk is full"):
            for i in range(20):
                write_scene(tmp_path, scene_of_two(), None, scene_id=f"s{i}")
        assert i > 0
        assert sorted(p.name for p in tmp_path.iterdir()) == sorted(f"s{j}" for j in range(i))
        assert all(len(read_scene(folder)[0].assets) == 2 for folder in list_scenes(tmp_path))
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SceneNotStored, match="Choose a folder"):
        write_scene(tmp_path / "file" / "scenes", scene_of_two(), None, scene_id="a")


def test_damaged_scenes_are_named(tmp_path: Path) -> None:
    folder = write_scene(tmp_path, scene_of_two(), placed_in_world(scene_of_two()), scene_id="a")
    glb = folder / "objects" / "5.glb"
    whole = glb.read_bytes()
    glb.write_bytes(whole[:200])
    with pytest.raises(InvalidInput, match="5.glb is not a readable GLB"):
        read_scene(folder)
    glb.unlink()
    with pytest.raises(InvalidInput, match="not a readable scene"):
        read_scene(folder)
    glb.write_bytes(whole)
    meta = json.loads((folder / "scene.json").read_text())
    del meta["objects"][0]["placement"]
    (folder / "scene.json").write_text(json.dumps(meta))
    with pytest.raises(InvalidInput, match="not a readable scene.*placement"):
        read_scene(folder)
    (folder / "scene.json").write_text("{")
    with pytest.raises(InvalidInput, match="not a readable scene"):
        read_scene(folder)
