"""Common ids for the instances of several views: permuted, split, merged, left out, moved, and kept over time."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from numpy.typing import NDArray

from benchmark.association import FAULTS, merged, right_share, split, spoiled
from scenegen.association import Association, Measured, associate
from scenegen.render import Camera
from scenegen.scene import InvalidInput, View
from scenegen.synthetic import camera_path, make_scene
from scenegen.synthetic.depth_noise import sensed
from scenegen.synthetic.rendering import render_views

SEED = 7
COUNT = 4


@cache
def views() -> tuple[View, ...]:
    """Of five objects, as a depth camera and a segmentation give them, with true ids."""
    scene, camera, rng = make_scene(SEED), Camera.pinhole(200, 150, 188.0), np.random.default_rng(SEED)
    seen = render_views(scene, camera, camera_path(scene, COUNT, SEED, camera))
    noisy = [sensed(view.masks, view.depth_m, rng) for view in seen]
    return tuple(replace(v, masks=masks, depth_m=depth_m) for v, (masks, depth_m) in zip(seen, noisy, strict=True))


def all_right(given: list[View], found: Association) -> bool:
    right, total = right_share(list(views()), given, found.masks)
    return right == total > 0


def with_masks(masks: list[NDArray[np.int32]]) -> list[View]:
    return [replace(view, masks=m) for view, m in zip(views(), masks, strict=False)]


@pytest.mark.parametrize("fault", [fault for fault in FAULTS if fault != "all"])
def test_the_same_object_gets_the_same_id_in_every_view(fault: str) -> None:
    given = spoiled(list(views()), fault, np.random.default_rng(1))
    found = associate(given)
    assert all_right(given, found)
    for view, masks, ids in zip(given, found.masks, found.ids, strict=True):
        assert masks.shape == view.masks.shape and masks.dtype == np.int32
        assert set(ids) == set(view.instance_ids)
        assert not masks[view.masks == 0].any(), "background stays background"
        for own, common in ids.items():
            assert set(np.unique(masks[view.masks == own])) == set(common or [0])


def test_ids_that_are_consistent_stay_as_they_are() -> None:
    found = associate(views())
    for view, masks in zip(views(), found.masks, strict=True):
        crumbs = [i for i in view.instance_ids if (view.masks == i).sum() < 50]
        np.testing.assert_array_equal(masks, np.where(np.isin(view.masks, crumbs), 0, view.masks))


def test_an_object_split_in_one_view_has_one_id_there() -> None:
    masks = [view.masks for view in views()]
    masks[1] = split(masks[1], np.random.default_rng(0))
    found = associate(with_masks(masks))
    assert len(np.unique(masks[1])) == len(np.unique(found.masks[1])) + 1
    np.testing.assert_array_equal(found.masks[1], views()[1].masks)


def test_objects_merged_in_one_view_are_divided_there_among_what_others_tell_apart() -> None:
    masks = [view.masks for view in views()]
    masks[0] = merged(masks[0])
    found = associate(with_masks(masks))
    (pair,) = [common for common in found.ids[0].values() if len(common) > 1]
    assert len(pair) == 2
    assert all_right(with_masks(masks), found)
    assert (found.masks[0] == views()[0].masks)[views()[0].masks > 0].mean() > 0.95


def test_of_two_views_that_disagree_what_stands_apart_in_space_is_two_objects() -> None:
    two = list(views()[:2])
    together = merged(two[1].masks)
    found = associate([two[0], replace(two[1], masks=together)])
    assert right_share(two, two, found.masks)[0] == right_share(two, two, found.masks)[1]
    cut = [two[0], replace(two[1], masks=split(two[1].masks, np.random.default_rng(0)))]
    np.testing.assert_array_equal(associate(cut).masks[1], two[1].masks)


def test_what_moved_between_views_is_not_taken_for_one() -> None:
    """Its points are looked through where it was; its looks and its place in the picture would say otherwise."""
    still, moved = views()[0], views()[1]
    largest = max(moved.instance_ids, key=lambda i: int((moved.masks == i).sum()))
    T = moved.T_world_camera.copy()  # type: ignore[union-attr]
    T[:2, 3] += [0.4, -0.3]
    alone = replace(moved, masks=np.where(moved.masks == largest, 1, 0).astype(np.int32), T_world_camera=T)
    found = associate([still, alone])
    assert found.ids[1][1][0] not in {common for ids in found.ids[0].values() for common in ids}


def test_an_object_keeps_its_id_over_time_and_a_new_one_takes_no_old_one() -> None:
    rng = np.random.default_rng(3)
    given = spoiled(list(views()), "ids alone", rng)
    first = associate(given[:2])
    known = [{own: common[0] for own, common in ids.items()} for ids in first.ids]
    later = associate(given, known, taken=[77])
    for before, after in zip(first.masks, later.masks, strict=False):
        np.testing.assert_array_equal(before, after)
    gone = next(iter(views()[0].instance_ids))
    shown = [np.where(t.masks == gone, 0, g.masks) for t, g in zip(views(), given, strict=True)]
    lacking = with_masks(shown[:2])
    first = associate(lacking)
    known = [{own: common[0] for own, common in ids.items()} for ids in first.ids]
    used = {common for ids in known for common in ids.values()}
    later = associate([*lacking, *given[2:]], known, taken=[1, 2, 3, 4, 5])
    new = {i for masks in later.masks[2:] for i in np.unique(masks[masks > 0])} - used
    assert new and all(i > 5 for i in new)


def test_crumbs_become_background_and_objects_of_one_view_stay() -> None:
    masks = [view.masks.copy() for view in views()]
    masks[0][2:6, 2:6] = 9
    kept = views()[0].instance_ids[-1]
    for later in masks[1:]:
        later[later == kept] = 0
    found = associate(with_masks(masks))
    assert found.ids[0][9] == () and not found.masks[0][2:6, 2:6].any()
    assert len(found.ids[0][kept]) == 1


def test_views_without_depth_or_pose_are_refused() -> None:
    for lacking in ("depth_m", "intrinsics", "T_world_camera"):
        with pytest.raises(InvalidInput, match="no depth, intrinsics or camera pose"):
            associate([views()[0], replace(views()[1], **{lacking: None})])


def test_a_view_may_be_measured_once_and_used_again() -> None:
    again = associate([Measured.of(view) for view in views()])
    for a, b in zip(again.masks, associate(views()).masks, strict=True):
        np.testing.assert_array_equal(a, b)
    assert associate([]).masks == ()
    empty = associate([replace(views()[0], masks=np.zeros_like(views()[0].masks))])
    assert not empty.masks[0].any()
