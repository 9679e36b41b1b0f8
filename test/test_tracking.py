"""Objects from one scene to the next, on synthetic scenes with a depth camera's noise: what became of each is known."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from scenegen.placement import Known, Tracked, place_scene, remembered, track
from scenegen.scene import Cancelled, Floats, InvalidInput, PlacedObject, View
from scenegen.synthetic import Camera, SyntheticScene, camera_path, make_scene, render_views, true_scene
from scenegen_ros.kept_view import KeptView
from scenegen_ros.tracking import Memory, Plan, joined, refined, scene_of

UP = np.array([0.0, 0.0, 1.0])
CAMERA = Camera.pinhole(320, 240, 300.0)
SEED = 1002
PLATE, CABINET, BOX, VASE = 1, 2, 3, 4
OTHER_SHAPE = 1079
"""A scene whose first object is a sofa: nothing like a box."""


@pytest.fixture(scope="module")
def world() -> SyntheticScene:
    return make_scene(SEED)


@pytest.fixture(scope="module")
def T_world_camera(world: SyntheticScene) -> Floats:
    return camera_path(world, 4, SEED, CAMERA)


@pytest.fixture(scope="module")
def known(world: SyntheticScene, T_world_camera: Floats) -> tuple[Known, ...]:
    """All objects, as two views placed them."""
    views = seen(world, T_world_camera[:2], noise=0, stamp_ns=0)
    found = remembered(place_scene(true_scene(world, views[0]), views, gravity=UP), views)
    assert [one.placed.id for one in found] == [PLATE, CABINET, BOX, VASE]
    return found


def seen(world: SyntheticScene, T_world_camera: Floats, *, noise: int = 1, stamp_ns: int = 100) -> list[View]:
    views = render_views(world, CAMERA, T_world_camera, np.random.default_rng(noise))
    return [replace(view, stamp_ns=stamp_ns + i) for i, view in enumerate(views)]


def tracked(known: Sequence[Known], views: Sequence[View]) -> Tracked:
    return track(known, views, gravity=UP)


def moved(world: SyntheticScene, instance: int, metres: Sequence[float], degrees: float = 0.0) -> SyntheticScene:
    T = world.T_world_object.copy()
    T[instance - 1, :3, :3] = Rotation.from_rotvec(degrees * UP, degrees=True).as_matrix() @ T[instance - 1, :3, :3]
    T[instance - 1, :3, 3] += metres
    return replace(world, T_world_object=T)


def outwards(world: SyntheticScene, instance: int) -> Floats:
    """The horizontal direction away from the other objects: float64 [3]."""
    at = world.T_world_object[:, :3, 3]
    away = (at[instance - 1] - np.delete(at, instance - 1, axis=0).mean(axis=0)) * [1, 1, 0]
    return np.asarray(away / np.linalg.norm(away))


def objects(found: Tracked) -> dict[int, PlacedObject]:
    return {one.placed.id: one.placed for one in found.objects}


def error_m(placed: PlacedObject, world: SyntheticScene) -> float:
    return float(np.linalg.norm(placed.T_world_object[:3, 3] - world.T_world_object[placed.id - 1, :3, 3]))


def error_deg(placed: PlacedObject, world: SyntheticScene) -> float:
    R = placed.T_world_object[:3, :3].T @ world.T_world_object[placed.id - 1, :3, :3]
    order = world.objects[placed.id - 1].symmetry
    yaws = Rotation.from_rotvec(np.arange(order)[:, None] * 2 * np.pi / order * UP).as_matrix()
    return float(np.rad2deg(Rotation.from_matrix(R @ yaws).magnitude().min()))


@pytest.mark.parametrize("views", [slice(0, 2), slice(2, 4), slice(3, 4)])
def test_what_stands_still_is_kept(
    world: SyntheticScene, known: tuple[Known, ...], T_world_camera: Floats, views: slice
) -> None:
    """From where it was placed, and from elsewhere."""
    found = tracked(known, seen(world, T_world_camera[views]))
    assert found.kept == (PLATE, CABINET, BOX, VASE) and not (found.moved or found.removed or found.changed)
    for before in known:
        now = objects(found)[before.placed.id]
        assert error_m(now, world) < 0.005 and now.asset is before.placed.asset and now.metric
        assert now.scale_m == before.placed.scale_m and now.confidence == before.placed.confidence


@pytest.mark.parametrize("instance", [CABINET, BOX])
def test_what_was_moved_is_found_again(
    world: SyntheticScene, known: tuple[Known, ...], T_world_camera: Floats, instance: int
) -> None:
    after = moved(world, instance, 0.1 * outwards(world, instance), degrees=40)
    views = seen(after, T_world_camera[:2])
    found = tracked(known, views)
    assert found.moved == (instance,) and not (found.removed or found.changed)
    assert sorted(found.kept) == sorted({PLATE, CABINET, BOX, VASE} - {instance})
    now = objects(found)[instance]
    assert error_m(now, after) < 0.01 and error_deg(now, after) < 4
    assert now.asset is known[instance - 1].placed.asset and now.scale_m == known[instance - 1].placed.scale_m
    assert (np.linalg.eigvalsh(now.covariance) > 0).all() and 0 <= now.confidence <= 1


def test_what_was_moved_between_two_views_stands_where_the_newest_shows_it(
    world: SyntheticScene, known: tuple[Known, ...], T_world_camera: Floats
) -> None:
    after = moved(world, BOX, 0.1 * outwards(world, BOX), degrees=40)
    views = [*seen(world, T_world_camera[:1]), *seen(after, T_world_camera[1:2], stamp_ns=200)]
    found = tracked(known, views)
    assert found.moved == (BOX,) and error_m(objects(found)[BOX], after) < 0.02


def test_another_shape_under_a_known_id_is_told(
    world: SyntheticScene, known: tuple[Known, ...], T_world_camera: Floats
) -> None:
    other = make_scene(OTHER_SHAPE).objects[0]
    assert other.family == "cabinet"
    after = replace(world, objects=(other, *world.objects[1:]))
    found = tracked(known, seen(after, T_world_camera[:2]))
    assert found.changed == (PLATE,) and found.kept == (CABINET, BOX, VASE)
    assert PLATE not in objects(found)


def test_what_was_taken_away_is_gone_and_what_is_hidden_or_out_of_view_stays(
    world: SyntheticScene, known: tuple[Known, ...], T_world_camera: Floats
) -> None:
    after = moved(world, VASE, [0, 0, -50])
    found = tracked(known, seen(after, T_world_camera[:2]))
    assert found.removed == (VASE,) and found.kept == (PLATE, CABINET, BOX) and VASE not in objects(found)

    late = [*seen(world, T_world_camera[:1]), *seen(after, T_world_camera[1:2], stamp_ns=200)]
    assert tracked(known, late).removed == (VASE,), "the newest view counts"
    early = [*seen(after, T_world_camera[:1]), *seen(world, T_world_camera[1:2], stamp_ns=200)]
    assert tracked(known, early).kept == (PLATE, CABINET, BOX, VASE)

    (view,) = seen(after, T_world_camera[:1])
    assert view.depth_m is not None and view.T_world_camera is not None
    hidden = replace(view, depth_m=np.minimum(view.depth_m, 0.05), masks=np.zeros_like(view.masks))
    turn = Rotation.from_euler("y", 180, degrees=True).as_matrix()
    away = view.T_world_camera.copy()
    away[:3, :3] = away[:3, :3] @ turn
    for blind in (hidden, replace(view, T_world_camera=away, masks=np.zeros_like(view.masks))):
        found = tracked(known, [blind])
        assert found.kept == (PLATE, CABINET, BOX, VASE), "nothing was looked through"
        assert [one.placed for one in found.objects] == [one.placed for one in known]


def test_what_the_segmentation_overlooks_stays_and_what_it_calls_another_goes(
    world: SyntheticScene, known: tuple[Known, ...], T_world_camera: Floats
) -> None:
    """Depth says that it is still there."""
    views = seen(world, T_world_camera[:2])
    overlooked = [replace(view, masks=np.where(view.masks == CABINET, 0, view.masks)) for view in views]
    assert CABINET in tracked(known, overlooked).kept
    renamed = [replace(view, masks=np.where(view.masks == CABINET, 9, view.masks)) for view in views]
    assert tracked(known, renamed).removed == (CABINET,)


def test_without_depth_nothing_is_remembered_and_without_views_nothing_changes(
    world: SyntheticScene, known: tuple[Known, ...], T_world_camera: Floats
) -> None:
    views = seen(world, T_world_camera[:1])
    placed = [one.placed for one in known]
    assert not remembered(placed, [replace(view, depth_m=None) for view in views])
    elsewhere = [replace(o, T_world_object=moved(world, o.id, [0.3, 0, 0]).T_world_object[o.id - 1]) for o in placed]
    assert not remembered(elsewhere, views), "what did not fit when it was placed cannot be tracked"
    assert tracked(known, []).kept == (PLATE, CABINET, BOX, VASE)


def test_it_can_be_cancelled(world: SyntheticScene, known: tuple[Known, ...], T_world_camera: Floats) -> None:
    with pytest.raises(Cancelled):
        track(known, seen(world, T_world_camera[:1]), cancelled=lambda: True)


def test_memory_asks_for_what_is_unknown_and_believes_no_view_from_before(
    world: SyntheticScene, known: tuple[Known, ...], T_world_camera: Floats
) -> None:
    memory = Memory()

    def plan(*views: View, ids: tuple[int, ...] = (), era: int = 0) -> Plan:
        kept = [KeptView.of(view, "camera") for view in views]
        made = memory.plan(kept, ids, era, gravity=UP, cancelled=lambda: False)
        assert all(k in kept for k in made.kept)
        return made

    old = seen(world, T_world_camera[:2], noise=0, stamp_ns=0)
    first = plan(*old)
    assert first.ids is None and not first.objects and len(first.kept) == 2 and first.told(4) == ""
    memory.learn(first, [one.placed for one in known], 1, 0)

    without_vase = moved(world, VASE, [0, 0, -50])
    second = plan(*old, *seen(without_vase, T_world_camera[:1], stamp_ns=100))
    assert second.ids == () and [o.id for o in second.objects] == [PLATE, CABINET, BOX]
    assert second.told(0) == ": 3 kept; 1 removed"
    memory.learn(second, [], 100, 0)

    newest = seen(without_vase, T_world_camera[:1], stamp_ns=200)
    assert plan(*old, *newest).ids == (), "the old views still show the vase"
    with pytest.raises(InvalidInput, match=r"no view shows \[4\]"):
        plan(*old, ids=(VASE,))
    back = plan(*old, *newest, *seen(world, T_world_camera[1:2], stamp_ns=300))
    assert back.ids == (VASE,) and [k.view.stamp_ns for k in back.kept] == [300]
    again = plan(*old, *newest, ids=(BOX,))
    assert again.ids == (BOX,) and [o.id for o in again.objects] == [PLATE, CABINET]

    assert plan(*newest, era=1).ids is None and not memory.known, "the views were forgotten, and so is what they showed"


def test_scenes_are_joined_where_their_objects_stand(
    world: SyntheticScene, known: tuple[Known, ...], T_world_camera: Floats
) -> None:
    generated = true_scene(world, seen(world, T_world_camera[:1])[0], ids=[CABINET, VASE])
    placed = {one.placed.id: one.placed for one in known}
    scene = joined(generated, [placed[CABINET], placed[VASE]], [placed[PLATE], placed[BOX]])
    assert [asset.id for asset in scene.assets] == [PLATE, CABINET, BOX, VASE]
    assert scene.assets[scene.query].id == generated.assets[generated.query].id
    for whole in (scene, scene_of(list(placed.values()))):
        T_world_query = known[whole.query].T
        for i, one in enumerate(known):
            np.testing.assert_allclose(T_world_query @ whole.T_query_asset(i), one.T, atol=0.005)

    textured = replace(generated, assets=tuple(replace(a, detail="textured") for a in generated.assets))
    assert [a.detail for a in refined(scene, textured).assets] == ["coarse", "textured", "coarse", "textured"]
    assert joined(generated, [placed[CABINET], placed[VASE]], []) is generated
