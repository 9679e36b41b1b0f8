"""Settling: things come to rest where they are, nearly, and MuJoCo agrees that they stay."""

from __future__ import annotations

import json
from pathlib import Path

import exporting
import numpy as np
import pytest
import trimesh
from scipy.spatial.transform import Rotation

from scenegen import cli
from scenegen.export import Bodies, Body, convex, export_scene, read_bodies
from scenegen.export.bodies import floor_under
from scenegen.export.physics import mass_properties
from scenegen.files import read_scene, refine_scene, write_settled
from scenegen.scene import InvalidInput
from scenegen.settle import Drift, drop, settle


def body(
    number: int,
    mesh: trimesh.Trimesh,
    at: tuple[float, float, float],
    degrees: tuple[float, float, float] = (0.0, 0.0, 0.0),
    pieces: tuple[trimesh.Trimesh, ...] | None = None,
) -> Body:
    T = np.eye(4)
    T[:3, :3], T[:3, 3] = Rotation.from_euler("xyz", degrees, degrees=True).as_matrix(), at
    pieces = (mesh,) if pieces is None else pieces
    return Body(f"object_{number}", number, "thing", mesh, pieces, "hull", T, mass_properties(mesh, pieces, 400.0))


def box(*size: float) -> trimesh.Trimesh:
    return trimesh.creation.box(size)


def scene(*bodies: Body) -> Bodies:
    return Bodies("made", bodies, floor_under(bodies), "map", 0)


def worst(drifts: tuple[Drift, ...]) -> tuple[float, float]:
    return max(d.shift_m for d in drifts), max(d.turn_deg for d in drifts)


def test_a_tower_that_floats_sinks_and_leans_comes_to_rest_where_it_is() -> None:
    tower = scene(
        body(1, box(0.5, 0.4, 0.3), (0, 0, 0.152)),
        body(2, box(0.2, 0.2, 0.1), (0.1, 0.05, 0.345), (2, 1, 10)),
        body(3, box(0.1, 0.1, 0.1), (0.1, 0.05, 0.46), (-1, 3, 40)),
        body(4, trimesh.creation.cylinder(0.03, 0.1), (-0.15, -0.1, 0.355), (1, 2, 0)),
    )
    rested, done = settle(tower)
    assert [one.stands_on for one in done] == [("floor",), ("object_1",), ("object_2",), ("object_1",)]
    assert done[0].penetration_before_m == pytest.approx(done[1].penetration_before_m)
    assert done[1].penetration_before_m == pytest.approx(0.012, abs=0.001)
    assert max(one.penetration_after_m for one in done) < 1e-4
    assert max(one.shift_m for one in done) < 0.02
    assert [one.turn_deg for one in done] == pytest.approx([0, 2.24, 3.17, 2.24], abs=0.1)
    assert rested.bodies[3].T_world_object[:2, 3] == pytest.approx([-0.15, -0.1], abs=2e-3)
    assert not all(d.stays for d in drop(tower))
    assert worst(drop(rested)) < (0.001, 0.1)


def test_the_floor_is_where_most_objects_stand() -> None:
    """Two float by 2 and 3 mm, one sinks by 8."""
    heights = (0.002, 0.003, -0.008)
    rested, done = settle(scene(*(body(i, box(0.1, 0.1, 0.1), (i, 0, 0.05 + z)) for i, z in enumerate(heights))))
    assert rested.floor is not None
    assert rested.floor.top_m == pytest.approx(0.002)
    assert [b.T_world_object[2, 3] for b in rested.bodies] == pytest.approx([0.052] * 3, abs=1e-4)
    assert [one.gap_before_m for one in done] == pytest.approx([0, 0.001, 0], abs=1e-6)
    assert [one.penetration_before_m for one in done] == pytest.approx([0, 0, 0.01], abs=1e-6)


def test_things_that_reach_into_one_another_part_sideways() -> None:
    """By half the overlap each: that is the least movement."""
    rested, done = settle(scene(*(body(i, box(0.3, 0.3, 0.3), (x, 0, 0.15)) for i, x in enumerate((0.0, 0.28)))))
    assert [b.T_world_object[0, 3] for b in rested.bodies] == pytest.approx([-0.01, 0.29], abs=5e-4)
    assert [b.T_world_object[2, 3] for b in rested.bodies] == pytest.approx([0.15] * 2, abs=5e-4)
    assert done[0].penetration_after_m < 1e-4


def test_friction_holds_what_leans_not_too_steeply() -> None:
    leaning = scene(
        body(1, box(0.2, 0.4, 0.3), (0, 0, 0.15)), body(2, box(0.03, 0.2, 0.4), (0.17, 0, 0.19), (0, -15, 0))
    )
    rested, done = settle(leaning)
    assert done[1].stands_on[0] == "floor"
    assert done[1].turn_deg < 10
    assert all(d.stays for d in drop(rested))


def test_what_balances_on_a_point_is_brought_down() -> None:
    """A ball of triangles on one of its corners: nothing moves it, and nothing holds it."""
    ball = trimesh.creation.icosphere(2, 0.05)
    rested, done = settle(scene(body(1, ball, (0, 0, 0.05))))
    assert 1 < done[0].turn_deg < 20
    assert worst(drop(rested)) < (0.001, 0.5)


def test_what_stands_on_nothing_known_gets_a_shelf() -> None:
    high = scene(
        body(1, box(0.3, 0.3, 0.3), (0, 0, 0.15)),
        body(2, box(0.1, 0.1, 0.1), (1, 0, 0.9), (3, 0, 0)),
        body(3, box(0.1, 0.1, 0.1), (1, 0, 1.01)),
    )
    rested, done = settle(high)
    assert [one.stands_on for one in done] == [("floor",), ("shelf_1",), ("object_2",)]
    assert rested.bodies[1].T_world_object[2, 3] == pytest.approx(0.898, abs=0.002)
    assert rested.shelves[0].size_m[:2] == pytest.approx([0.11, 0.11], abs=0.002)
    assert all(d.stays for d in drop(rested))


def test_a_chair_stays_on_its_legs() -> None:
    """Legs of a hull would be a block; pieces are not."""
    legs = [box(0.04, 0.04, 0.4).apply_translation([x, y, -0.2]) for x in (-0.2, 0.2) for y in (-0.2, 0.2)]
    seat = box(0.45, 0.45, 0.04)
    under = body(2, box(0.2, 0.2, 0.2), (0, 0, 0.096))
    rested, done = settle(
        scene(body(1, trimesh.util.concatenate([seat, *legs]), (0, 0, 0.41), (2, 1, 0), (seat, *legs)), under)
    )
    assert [one.stands_on for one in done] == [("floor",), ("floor",)]
    assert done[1].shift_m < 0.01
    assert all(d.stays for d in drop(rested))


def test_what_was_not_cut_is_refused() -> None:
    with pytest.raises(InvalidInput, match="convex pieces"):
        settle(scene(body(1, box(1, 1, 1), (0, 0, 0), pieces=())))


@pytest.fixture
def hulls(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(convex, "_cut", lambda mesh, **_: convex.Cut((mesh.convex_hull,), "hull"))


@pytest.mark.usefixtures("hulls")
def test_the_command_adds_settled_poses_and_exports_take_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = exporting.write(tmp_path)
    with pytest.raises(InvalidInput, match="scenegen settle"):
        read_bodies(folder, settled=True)
    measured, before = read_bodies(folder), json.loads((folder / "scene.json").read_text())
    assert cli.main(["settle", str(folder)]) == 0
    told = capsys.readouterr().out
    assert "object_5    a vase" in told
    assert "3 settled" in told
    after = json.loads((folder / "scene.json").read_text())
    for old, new in zip(before["objects"], after["objects"], strict=True):
        assert {key: value for key, value in new.items() if key != "settled"} == old
    about = after["settled"]["objects"][0]
    assert about["name"] == "object_2"
    assert about["stands_on"] == ["floor"]
    assert about["drift_after"]["shift_m"] < 0.001
    known, _ = settle(measured)
    again = read_bodies(folder, settled=True)
    for mine, theirs in zip(again.bodies, known.bodies, strict=True):
        assert mine.T_world_object == pytest.approx(theirs.T_world_object, abs=1e-9)
    assert again.supports.keys() == known.supports.keys()
    assert again.floor is not None
    assert again.floor.top_m == pytest.approx(after["settled"]["floor_z_m"])
    assert read_bodies(folder).bodies[1].T_world_object == pytest.approx(measured.bodies[1].T_world_object)
    out = export_scene(folder, "urdf", tmp_path / "out", settled=True).with_name("export.json")
    exported = json.loads(out.read_text())
    assert exported["settled"] is True
    assert exported["objects"][1]["position_m"] == pytest.approx(after["objects"][1]["settled"]["position_m"])
    with pytest.raises(InvalidInput, match="settled with scale None"):
        read_bodies(folder, settled=True, level=True)
    assert all(d.stays for d in drop(again))


@pytest.mark.usefixtures("hulls")
def test_a_scene_that_is_not_metric_keeps_the_scale_it_was_settled_with(tmp_path: Path) -> None:
    metric, relative = exporting.write(tmp_path), exporting.write(tmp_path, metric=False, name="relative")
    assert cli.main(["settle", str(relative)]) == 2
    assert cli.main(["settle", str(relative), "--scale", "0.3"]) == 0
    assert cli.main(["settle", str(metric)]) == 0
    one, other = (read_bodies(folder, settled=True) for folder in (metric, relative))
    for a, b in zip(one.bodies, other.bodies, strict=True):
        assert a.T_world_object == pytest.approx(b.T_world_object, abs=1e-3)
        assert a.mesh.extents == pytest.approx(b.mesh.extents)


def test_a_refined_scene_is_not_settled_any_more(tmp_path: Path) -> None:
    folder = exporting.write(tmp_path)
    with pytest.raises(InvalidInput, match="settle it again"):
        write_settled(folder, {2: np.eye(4)}, {})
    write_settled(folder, exporting.POSES, {"scale_m": None})
    assert "settled" in (folder / "scene.json").read_text()
    refined, placed, _ = read_scene(folder)
    refine_scene(folder, refined, placed)
    assert "settled" not in (folder / "scene.json").read_text()
