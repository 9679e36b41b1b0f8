"""Exports, what all formats share: bodies, physics, convex pieces, and what is refused."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import exporting
import numpy as np
import pytest
import trimesh
from exporting import MASS_KG, POSES, SCALE_M

from scenegen import cli
from scenegen.export import FORMATS, convex, export_scene, read_bodies
from scenegen.export.convex import convex_pieces
from scenegen.export.looks import looks_of, with_texture
from scenegen.export.physics import DEFAULT_DENSITY, density_of, mass_properties
from scenegen.files import SceneNotStored, write_scene
from scenegen.scene import InvalidInput, PlacedObject
from scenegen.synthetic import make_scene, true_scene, view_of_all


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def test_a_box_has_the_mass_and_inertia_of_a_box() -> None:
    mesh = trimesh.creation.box((0.3, 0.2, 0.1), trimesh.transformations.translation_matrix([0.01, 0.02, 0.03]))
    measured = mass_properties(mesh, (), 500.0)
    assert measured.source == "mesh"
    assert measured.mass_kg == pytest.approx(3.0)
    assert measured.centre_m == pytest.approx([0.01, 0.02, 0.03])
    squares = np.array([0.3, 0.2, 0.1]) ** 2
    assert np.diag(measured.inertia) == pytest.approx(3.0 / 12 * (squares.sum() - squares))
    moments, axes = measured.principal()
    assert np.linalg.det(axes) == pytest.approx(1)
    assert axes @ np.diag(moments) @ axes.T == pytest.approx(measured.inertia)


def test_what_is_no_solid_is_measured_on_its_pieces_or_its_box() -> None:
    tray, cube = exporting.tray(), trimesh.creation.box((1, 1, 1))
    assert mass_properties(tray, (cube,), 2.0).mass_kg == pytest.approx(2.0)
    assert mass_properties(tray, (cube,), 2.0).source == "pieces"
    # two boxes through one another: adding up their volumes would count the middle twice
    crossed = trimesh.util.concatenate([trimesh.creation.box((1, 0.2, 0.2)), trimesh.creation.box((0.2, 1, 0.2))])
    arms = [trimesh.creation.box((0.2, 0.4, 0.2)).apply_translation([0, y, 0]) for y in (-0.3, 0.3)]
    assert crossed.is_volume
    assert mass_properties(crossed, (trimesh.creation.box((1, 0.2, 0.2)), *arms), 1.0).mass_kg == pytest.approx(0.072)
    apart = trimesh.util.concatenate([arm.copy() for arm in arms])
    covers = tuple(arm.copy().apply_scale(1.1) for arm in arms)
    assert mass_properties(apart, covers, 1.0).mass_kg == pytest.approx(0.032)
    through = mass_properties(crossed, (trimesh.creation.box((1, 0.2, 0.2)), trimesh.creation.box((0.2, 1, 0.2))), 1.0)
    assert through.mass_kg == pytest.approx(0.072, rel=0.01), "the middle lies in two pieces, and counts once"
    assert np.diag(through.inertia) == pytest.approx([0.00368, 0.00368, 0.00688], rel=0.01)
    inside_out = cube.copy()
    inside_out.invert()
    for broken in (trimesh.Trimesh([[0, 0, 0], [1, 0, 0], [0, 1, 0]], [[0, 1, 2]]), inside_out):
        measured = mass_properties(broken, (), 1000.0)
        low, middle, high = measured.principal()[0]
        assert measured.source == "box"
        assert measured.mass_kg > 0
        assert 0 < low <= middle <= high <= 1.0001 * (low + middle)


@pytest.mark.parametrize(
    ("label", "density"),
    [("chair", 500), ("Office_Chair", 500), ("vase", 1200), ("object_3", DEFAULT_DENSITY), ("wheelchairs", 400)],
)
def test_density_goes_by_the_words_of_a_label(label: str, density: float) -> None:
    assert density_of(label) == density


def test_a_hollow_shape_is_cut_once_and_a_convex_one_not_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    cut, box = convex_pieces([exporting.corner(), trimesh.creation.box((1, 1, 1))], 1)
    assert (cut.source, box.source) == ("coacd", "hull")
    assert len(cut.pieces) == 2
    assert all(piece.is_volume and piece.is_convex for piece in cut.pieces)
    assert sum(piece.volume for piece in cut.pieces) == pytest.approx(0.375, rel=0.1)
    monkeypatch.setattr(convex, "_run", lambda *_: pytest.fail("cut again"))
    (again,) = convex_pieces([exporting.corner()])
    assert [piece.volume for piece in again.pieces] == [piece.volume for piece in cut.pieces]


def test_convex_parts_are_pieces_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stool's seat and legs need no cutting; a hollow part among them does, and nothing else."""
    legs = [trimesh.creation.box((0.1, 0.1, 0.9)).apply_translation([x, y, -0.4]) for x in (0, 0.8) for y in (0, 0.8)]
    given = []
    monkeypatch.setattr(convex, "_run", lambda mesh, *_: given.append(mesh) or pytest.fail("cut"))
    (stool,) = convex_pieces([trimesh.util.concatenate([trimesh.creation.box((1, 1, 0.1)), *legs])])
    assert stool.source == "hull"
    assert sorted(piece.volume for piece in stool.pieces) == pytest.approx([0.009] * 4 + [0.1])
    monkeypatch.setattr(convex, "_run", lambda mesh, *_: given.append(mesh) or _refuse())
    (mixed,) = convex_pieces([trimesh.util.concatenate([exporting.corner(), *legs])])
    assert [len(mesh.faces) for mesh in given] == [len(exporting.corner().faces)]
    assert len(mixed.pieces) == 5


def _refuse() -> None:
    raise OSError("no")


def test_the_hull_stands_in_where_coacd_crashes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    crashing = tmp_path / "crash.py"
    crashing.write_text("import os; os.abort()")
    monkeypatch.setattr(convex, "_PROGRAM", crashing)
    (cut,) = convex_pieces([exporting.corner()])
    assert cut.source == "hull"
    assert len(cut.pieces) == 1
    assert "convex hull stands in" in caplog.text


def test_no_cutting_outlives_what_asked_for_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pid, program = tmp_path / "pid", tmp_path / "never_ends.py"
    program.write_text(
        "import os, pathlib, sys, threading\n"
        f"pathlib.Path({str(pid)!r}).write_text(str(os.getpid()))\n"
        "threading.Event().wait()\n"
    )
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(convex, "_PROGRAM", program)
    cut, box = convex._cut, trimesh.creation.box((1, 1, 1))

    def interrupted(mesh: trimesh.Trimesh, **how: Any) -> convex.Cut:
        if mesh is not box:
            return cut(mesh, **how)
        while not (pid.exists() and pid.read_text()):
            time.sleep(0.01)
        raise KeyboardInterrupt

    monkeypatch.setattr(convex, "_cut", interrupted)
    with pytest.raises(KeyboardInterrupt):
        convex_pieces([box, exporting.corner()], 2)
    assert not Path(f"/proc/{pid.read_text()}").exists()


def test_bodies_are_in_metres(tmp_path: Path) -> None:
    scene = read_bodies(exporting.write(tmp_path), cut=False)
    assert (scene.frame_id, scene.stamp_ns) == ("map", 7)
    for body in scene.bodies:
        assert exporting.same_pose(body.T_world_object, POSES[body.id])
        known = next(asset.mesh for asset in exporting.assets() if asset.id == body.id)
        assert body.mesh.extents == pytest.approx(known.extents * SCALE_M[body.id])
    for body in scene.bodies[:2]:  # seams of the texture are no holes
        assert body.physics.source == "mesh"
        assert body.physics.mass_kg == pytest.approx(MASS_KG[body.id])
    assert scene.floor is not None
    lowest = min(exporting.points_m(body.id)[:, 2].min() for body in scene.bodies)
    assert scene.floor.top_m == pytest.approx(lowest, abs=1e-4)
    assert read_bodies(tmp_path / "known", floor=False, cut=False).floor is None


def test_a_scene_that_is_not_metric_needs_a_scale(tmp_path: Path) -> None:
    metric, relative = exporting.write(tmp_path), exporting.write(tmp_path, metric=False, name="relative")
    with pytest.raises(InvalidInput, match="not metric.*object 2.*--scale"):
        export_scene(relative, "glb", tmp_path / "out")
    with pytest.raises(InvalidInput, match="in metres already"):
        export_scene(metric, "glb", tmp_path / "out", scale_m=0.3)
    for wrong in (0.0, -1.0, float("nan")):
        with pytest.raises(InvalidInput, match="positive"):
            export_scene(relative, "glb", tmp_path / "out", scale_m=wrong)
    for body in read_bodies(relative, scale_m=0.3, cut=False).bodies:
        assert exporting.same_pose(body.T_world_object, POSES[body.id])
        known = next(asset.mesh for asset in exporting.assets() if asset.id == body.id)
        assert body.mesh.extents == pytest.approx(known.extents * SCALE_M[body.id])


def test_a_scene_that_was_not_placed_stands_about_its_query_asset(tmp_path: Path) -> None:
    box, vase, _ = read_bodies(exporting.write(tmp_path, placed=False), scale_m=0.4, cut=False).bodies
    assert box.T_world_object == pytest.approx(np.eye(4))
    assert box.mesh.extents == pytest.approx([0.4, 0.2, 0.1])
    assert vase.position_m == pytest.approx([0.4, 0, 0])
    assert vase.mesh.extents == pytest.approx([0.2, 0.2, 0.1])


def test_a_scene_in_a_cameras_frame_can_be_levelled(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Upright objects seen by a camera that looks level: its -y is up."""
    scene = make_scene(3, (2, 2))
    view, optical = view_of_all(scene), np.array([[1.0, 0, 0, 0], [0, 0, -1, 0.1], [0, 1, 0, 1], [0, 0, 0, 1]])
    made = true_scene(scene, view, (1, 2))
    placed = [
        PlacedObject(a.id, a.label, a, optical @ T, float(size), a.mesh.extents * size, np.zeros((6, 6)), 1, 0, True)
        for a, T, size in zip(made.assets, scene.T_world_object, scene.size_m, strict=True)
    ]
    unknown = type(view)(view.image, view.masks, view.depth_m, view.intrinsics)
    folder = write_scene(tmp_path, made, placed, scene_id="optical", views=[unknown], frame_id="camera")
    as_it_is = read_bodies(folder, cut=False)
    assert "--level" in caplog.text
    assert as_it_is.bodies[0].T_world_object == pytest.approx(placed[0].T_world_object)
    one, other = (body.T_world_object for body in read_bodies(folder, level=True, cut=False).bodies)
    assert one[:3, 2] == pytest.approx([0, 0, 1])
    known = np.linalg.inv(scene.T_world_object[0]) @ scene.T_world_object[1]
    assert np.linalg.inv(one) @ other == pytest.approx(known)


def test_wrong_requests_say_what_is_wrong(tmp_path: Path) -> None:
    folder = exporting.write(tmp_path)
    with pytest.raises(InvalidInput, match="no format 'blend': choose one of glb"):
        export_scene(folder, "blend", tmp_path / "out")
    with pytest.raises(InvalidInput, match="not empty: choose a new folder"):
        export_scene(folder, "glb", folder)
    with pytest.raises(InvalidInput, match="not a readable scene"):
        export_scene(tmp_path, "glb", tmp_path / "out")
    assert not list(tmp_path.glob("*out*"))


def test_nothing_half_written_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> Path:
        raise OSError(28, "No space left on device")

    monkeypatch.setitem(FORMATS, "glb", fail)
    folder = exporting.write(tmp_path / "scenes")
    with pytest.raises(SceneNotStored, match="No space left on device"):
        export_scene(folder, "glb", tmp_path / "exports" / "out")
    assert not list((tmp_path / "exports").iterdir())


def test_only_usd_needs_usd_core(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pxr", None)
    monkeypatch.delitem(sys.modules, "scenegen.export.usd_stage", raising=False)
    monkeypatch.delattr("scenegen.export.usd_stage", raising=False)
    monkeypatch.setattr("scenegen.export.convex._cut", lambda mesh, **_: convex.Cut((mesh.convex_hull,), "hull"))
    folder = exporting.write(tmp_path)
    assert export_scene(folder, "urdf", tmp_path / "urdf").is_file()
    with pytest.raises(InvalidInput, match="usd-core"):
        export_scene(folder, "usd", tmp_path / "usd")


def test_exporting_loads_neither_torch_nor_usd() -> None:
    code = "import sys, scenegen.export, scenegen.commands.export; print({'torch', 'pxr'} & set(sys.modules))"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=_path())
    assert answer.stdout.strip() == "set()"


def _path() -> dict[str, str]:
    return {"PYTHONPATH": ":".join(filter(None, sys.path))}


def test_colours_of_vertices_become_a_texture_of_few_texels() -> None:
    textured = with_texture(exporting.corner())
    size = np.array(textured.texture.size)
    at = np.stack([textured.uv[:, 0], 1 - textured.uv[:, 1]], axis=1) * size
    colours = np.asarray(textured.texture)[at[:, 1].astype(int), at[:, 0].astype(int)]
    mean = exporting.corner().visual.vertex_colors[exporting.corner().faces].mean(1)[:, :3]
    assert np.abs(colours[textured.face_uv[:, 0]] - mean).max() <= 0.5
    assert (looks_of(exporting.tray()).colours == 180).all()


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, out = exporting.write(tmp_path), tmp_path / "out"
    assert cli.main(["export", str(folder), "--format", "glb", "--out", str(out)]) == 0
    assert capsys.readouterr().out.strip() == str(out / "scene.glb")
    told = json.loads((out / "export.json").read_text())
    assert told["objects"][0]["position_m"] == pytest.approx(POSES[2][:3, 3].tolist())
    assert cli.main(["export", str(folder), "--format", "glb", "--out", str(out)]) == 2
    relative = exporting.write(tmp_path, metric=False, name="relative")
    assert cli.main(["export", str(relative), "--format", "glb", "--out", str(tmp_path / "new")]) == 2
    assert "not metric" in capsys.readouterr().err
