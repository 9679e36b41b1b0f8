"""The parts of placement on shapes whose answer is plain: what is seen, what carries, what is in the way, how sure."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import trimesh
from scipy.spatial.transform import Rotation

from scenegen.placement import by_known_sizes, in_query_units, place_scene
from scenegen.placement.certainty import doubt_of
from scenegen.placement.evidence import POINTS, Evidence, common_views, gather
from scenegen.placement.fit import match, rows
from scenegen.placement.objects import Pose
from scenegen.placement.outlines import outlines_of
from scenegen.placement.search import ALIKE, SCORED, candidates, upright_rotations
from scenegen.placement.solver import Part, add_points, change, jacobian, unit_of
from scenegen.placement.support import support_of
from scenegen.placement.surface import Surface
from scenegen.render import look_at
from scenegen.scene import ROTATION_YUP_ZUP, Asset, PlacedObject, View
from scenegen.synthetic import (
    Camera,
    SyntheticScene,
    camera_path,
    make_object,
    make_scene,
    render_views,
    sensed,
    true_scene,
)

SEED = 1002  # a plate, a cabinet, a box and a vase


def sensed_views(truth: SyntheticScene, poses: np.ndarray, seed: int = 0) -> tuple[View, ...]:
    random = np.random.default_rng(seed)
    views = []
    for view in render_views(truth, Camera.pinhole(), poses):
        assert view.depth_m is not None
        masks, depth_m = sensed(view.masks, view.depth_m, random)
        views.append(replace(view, masks=masks, depth_m=depth_m))
    return tuple(views)


def single(family: str, seed: int, eye: tuple[float, float, float], size: float = 0.2) -> tuple[SyntheticScene, View]:
    """One object of a family at the origin, seen from an eye in its own axes, metres."""
    truth = make_scene(seed, (1, 1), [family])
    T = np.eye(4)[None].copy()
    T[0, 2, 3] = truth.objects[0].extents[2] * size / 2
    truth = replace(truth, T_world_object=T, size_m=np.array([size]))
    return truth, sensed_views(truth, look_at(np.array(eye), T[0, :3, 3])[None])[0]


@pytest.mark.parametrize("inside_out", [False, True])
def test_only_the_side_towards_the_camera_of_a_thin_board_is_seen(inside_out: bool) -> None:
    board = trimesh.creation.box([1, 1, 0.04])
    if inside_out:
        board.invert()
    surface = Surface.of(Asset(1, "board", board))
    (above,) = surface.seen(np.array([[0.1, 0.2, 3.0]]))
    assert len(above.points) > 1000
    assert (above.points[:, 2] > -0.019).all()  # its edges, too
    inner = np.abs(above.points[:, :2]).max(axis=1) < 0.4
    assert (above.normals[inner, 2] > 0.9).all()
    outwards = surface.points[:500] * surface.normals[:500]
    assert (outwards.sum(axis=1) > 0).all()


def test_the_support_is_found_beside_a_floor_far_below() -> None:
    for seed in (5002, 5012):  # on tables, floor in sight
        truth = make_scene(seed)
        posed = common_views(sensed_views(truth, camera_path(truth, 1, seed)))
        support = support_of(posed, range(1, len(truth.objects) + 1))
        assert support is not None
        assert support.up[2] > np.cos(np.deg2rad(0.3)) and abs(support.height) < 0.002


def test_what_reaches_into_a_neighbour_is_pushed_out() -> None:
    truth, view = single("box", 3, (0.5, 0.4, 0.5))
    evidence = gather(common_views([view]), 1)
    assert evidence is not None
    cube = Surface.of(Asset(1, "cube", trimesh.creation.box([1, 1, 1])))
    T, T_other = np.diag([0.2, 0.2, 0.2, 1.0]), np.diag([0.2, 0.2, 0.2, 1.0])
    T_other[0, 3] = 0.15  # 5 cm of the cubes are shared
    part = Part(cube, evidence, np.eye(4))

    def push(others: list[tuple[Part, np.ndarray]]) -> np.ndarray:
        return rows(T, part, match(T, part, 100), 0.01, 0.0, 100, None, others).equations(T[:3, 3])[1]

    gradient = push([(part, T_other)]) - push([])
    assert gradient[3] > 2 * np.abs(gradient[4:6]).max()  # the cost grows towards the neighbour
    T_other[0, 3] = 0.21
    assert np.abs(push([(part, T_other)]) - push([])).max() == 0


def test_an_object_half_without_depth_is_placed_by_its_mask() -> None:
    truth, view = single("box", 3, (0.45, 0.35, 0.4))
    assert view.depth_m is not None
    v = np.nonzero(view.masks)[0]
    depth = view.depth_m.copy()
    depth[int(np.quantile(v, 0.45)) :] = 0  # all of the lower half, and what it stands on there
    (found,) = place_scene(true_scene(truth, view), [replace(view, depth_m=depth)])
    assert np.linalg.norm(found.T_world_object[:3, 3] - truth.T_world_object[0, :3, 3]) < 0.02
    assert found.scale_m == pytest.approx(0.2, rel=0.1)


def placed_single(family: str, seed: int, eye: tuple[float, float, float]) -> PlacedObject:
    truth, view = single(family, seed, eye)
    return place_scene(true_scene(truth, view), [view])[0]


def test_a_handle_behind_its_mug_leaves_the_yaw_in_doubt() -> None:
    hidden = placed_single("mug", 4, (-0.5, 0.0, 0.3))
    shown = placed_single("mug", 4, (0.1, 0.5, 0.3))
    assert hidden.covariance[5, 5] > 5 * shown.covariance[5, 5]
    assert hidden.confidence < shown.confidence - 0.1


def test_the_yaw_of_a_round_object_means_nothing_and_costs_no_confidence() -> None:
    can = placed_single("can", 5, (0.4, 0.2, 0.4))
    assert can.covariance[5, 5] > 3  # rad^2: any yaw
    assert can.covariance[3, 3] < 0.01 and can.confidence > 0.7


def evidence_of(view: View) -> Evidence:
    found = gather(common_views([view]), 1)
    assert found is not None
    return found


def test_doubt_knows_symmetry() -> None:
    _, view = single("box", 3, (0.5, 0.4, 0.5))
    random = np.random.default_rng(0)
    T = np.diag([0.2, 0.2, 0.2, 1.0])
    for family, is_round in (("can", True), ("steps", False)):
        surface = Surface.of(Asset(1, family, make_object(random, family).mesh()))
        doubt = doubt_of(Pose(T, np.eye(7) * 1e-6, 0.001, 0.01), Part(surface, evidence_of(view), np.eye(4)))
        assert doubt.round == is_round


def test_a_query_asset_generated_on_its_side_is_turned_with_its_scene() -> None:
    truth = make_scene(1003)
    view = sensed_views(truth, camera_path(truth, 1, 1003))[0]
    scene = true_scene(truth, view)
    R = Rotation.from_rotvec([1.9, 0.4, -0.3]).as_matrix()  # of what the generator takes for the query's axes
    assets, placements = list(scene.assets), list(scene.placements)
    lying = assets[scene.query].mesh.copy()
    lying.vertices = lying.vertices @ R.T
    assets[scene.query] = replace(assets[scene.query], mesh=lying)
    R_yup = ROTATION_YUP_ZUP @ R @ ROTATION_YUP_ZUP.T
    for k, placement in enumerate(scene.placements):
        if k != scene.query:
            turned = Rotation.from_matrix(R_yup) * Rotation.from_quat(placement.rotation_wxyz, scalar_first=True)
            at = R_yup @ placement.translation
            placements[k] = replace(placement, translation=at, rotation_wxyz=turned.as_quat(scalar_first=True))
    for found in place_scene(replace(scene, assets=tuple(assets), placements=tuple(placements)), [view]):
        T_true = truth.T_world_object[found.id - 1]
        assert np.linalg.norm(found.T_world_object[:3, 3] - T_true[:3, 3]) < 0.004
        up = found.T_world_object[:3, :3] @ (R if found.id == scene.assets[scene.query].id else np.eye(3))
        assert up[2, 2] > np.cos(np.deg2rad(2))


@pytest.mark.parametrize(("arc", "metric"), [(1.0, True), (0.01, False)])
def test_metres_come_from_cameras_that_moved(arc: float, metric: bool) -> None:
    truth = make_scene(SEED)
    views = [replace(v, depth_m=None) for v in sensed_views(truth, camera_path(truth, 2, SEED, arc=arc))]
    for found in place_scene(true_scene(truth, views[0]), views):
        assert found.metric == metric
        if metric:
            assert found.scale_m == pytest.approx(truth.size_m[found.id - 1], rel=0.3)
            assert np.linalg.norm(found.T_world_object[:3, 3] - truth.T_world_object[found.id - 1, :3, 3]) < 0.08


def test_a_known_size_gives_depth_without_a_unit_its_metres() -> None:
    truth, view = single("box", 3, (0.45, 0.35, 0.4))
    assert view.depth_m is not None
    scene = true_scene(truth, view)
    exact = place_scene(scene, [view])
    in_units = in_query_units(exact, scene.query)
    assert not in_units[0].metric and in_units[0].scale_m == 1
    again = by_known_sizes(in_units, {"box": float(exact[0].size_m.max())})
    assert again[0].metric and again[0].T_world_object == pytest.approx(exact[0].T_world_object)
    assert again[0].covariance == pytest.approx(exact[0].covariance)
    assert by_known_sizes(in_units, {"mug": 0.1}) == in_units


def test_masks_bleed_and_depth_mixes_along_edges() -> None:
    masks = np.zeros((200, 200), np.int32)
    masks[60:140, 60:140] = 1
    depth = np.where(masks > 0, 0.6, 1.2).astype(np.float32)
    grown, noisy = sensed(masks, depth, np.random.default_rng(0))
    assert (grown[masks == 1] == 1).all()
    width = np.sqrt((grown == 1).sum())
    assert width in (82, 84)
    assert 0.05 < (noisy == 0).mean() < 0.12
    between = (noisy > 0.65) & (noisy < 1.1)
    v, u = np.nonzero(between)
    assert 30 < len(v) and (np.maximum(np.abs(v - 99.5), np.abs(u - 99.5)) < 42).all()


def test_views_looked_up_at_once_say_what_each_says_alone() -> None:
    truth = make_scene(SEED)
    posed = common_views(sensed_views(truth, camera_path(truth, 3, SEED)))
    together, alone = outlines_of(posed, 2), [outlines_of([view], 2) for view in posed]
    centre = truth.T_world_object[1, :3, 3]
    at = centre + np.random.default_rng(0).normal(size=(3, 400, 3)) * 0.1
    amount, direction = together.violation(at)
    assert (amount > 0).any(axis=1).all() and (amount == 0).any(axis=1).all()
    assert together.amount(at) == pytest.approx(amount)
    for k, view in enumerate(alone):
        mine, towards = view.violation(at[k : k + 1])
        assert amount[k] == pytest.approx(mine[0])
        assert direction[k][amount[k] > 0] == pytest.approx(towards[0][amount[k] > 0], abs=1e-4)  # of float32 gradients
    few = at[0, :20]
    _, beside, _, weight = together.uncovered(few, 0.001)
    each = [view.uncovered(few, 0.001) for view in alone]
    assert weight.sum() == pytest.approx(1)
    assert np.sort(beside) == pytest.approx(np.sort(np.concatenate([found[1] for found in each])), abs=1e-6)
    last = np.array([False, False, True])
    assert together.uncovered(few, 0.001, last)[1] == pytest.approx(each[2][1], abs=1e-6)


def test_evidence_costs_the_same_however_much_was_seen() -> None:
    truth = make_scene(SEED)
    views = sensed_views(truth, camera_path(truth, 4, SEED))
    found = [gather(common_views(views[:count]), 1) for count in (1, 4)]
    for evidence in found:
        assert evidence is not None
        assert abs(len(evidence.points) - POINTS) <= len(evidence.eyes)
        points, slices = evidence.by_eye(200)
        assert len(points) == 200
        for k, mine in enumerate(slices):
            of_eye = evidence.points[:200][evidence.eye[:200] == k]
            assert np.array_equal(points[mine], of_eye)
    assert found[0] is not None and found[1] is not None
    assert len(found[0].eyes) == 1 and len(found[1].eyes) == 4
    assert np.linalg.norm(found[1].mean - truth.T_world_object[0, :3, 3]) < found[1].length


def test_moments_give_the_equations_that_rows_give() -> None:
    random = np.random.default_rng(0)
    arm, offset, weight = random.normal(size=(2, 30, 3)), random.normal(size=(2, 30, 3)), random.uniform(size=(2, 30))
    hessian, gradient = np.zeros((2, 7, 7)), np.zeros((2, 7))
    add_points(hessian, gradient, arm, offset, weight)
    rows = np.stack([jacobian(arm, np.broadcast_to(axis, arm.shape)) for axis in np.eye(3)], axis=2)
    assert hessian == pytest.approx(np.einsum("snai,sn,snaj->sij", rows, weight, rows))
    assert gradient == pytest.approx(np.einsum("snai,sn,sna->si", rows, weight, offset))


def test_starts_that_end_alike_are_followed_once() -> None:
    truth = make_scene(SEED)
    view = sensed_views(truth, camera_path(truth, 1, SEED))[0]
    scene = true_scene(truth, view)
    parts = []
    for i, asset in enumerate(scene.assets):
        evidence = gather(common_views([view]), asset.id)
        assert evidence is not None
        parts.append(Part(Surface.of(asset), evidence, scene.T_query_asset(i)))
    T, badness = candidates(parts, upright_rotations(np.array([0.0, 0.0, 1.0])), lambda: None)
    assert len(T) < SCORED / 2 and (np.diff(badness) >= 0).all()
    length = float(np.mean([part.evidence.length for part in parts]))
    for k in range(len(T)):
        assert all(np.abs(change(T[k], other) / unit_of(length)).max() > ALIKE for other in T[:k])
