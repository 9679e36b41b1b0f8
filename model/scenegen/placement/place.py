"""Where the generated scene stands in the robot's frame, in metres where something measures metres.

Reads top to bottom: evidence of every object, the group's pose, every object on its own, how sure each is.
Knows nothing about torch, ROS or how assets were generated.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from scenegen.placement.certainty import confidence_of, covariance_of, doubt_of, features
from scenegen.placement.evidence import common_views, gather
from scenegen.placement.objects import Ground, Pose, place_objects, placed
from scenegen.placement.search import all_rotations, candidates, polish, refine, upright_rotations
from scenegen.placement.solver import Check, Part, scale_of
from scenegen.placement.support import Support, carrying, support_of
from scenegen.placement.surface import Surface
from scenegen.placement.unscaled import place_by_outlines
from scenegen.scene import Asset, Cancelled, Floats, InvalidInput, PlacedObject, Scene, View

DOUBTFUL = 0.18  # misfit of the group above which upright starts alone are not believed
UPRIGHT_BONUS = 0.6  # a pose on the support plane's normal wins against one whose misfit is this share of its own
HOPE = 0.75  # ... and what lies is fitted only when it is this much better by table already


def place_scene(
    scene: Scene,
    views: Sequence[View],
    *,
    gravity: Floats | None = None,
    known_sizes: Mapping[str, float] | None = None,
    cancelled: Callable[[], bool] | None = None,
) -> tuple[PlacedObject, ...]:
    """Place a generated scene where the views saw it: one object per asset, in the order of scene.assets.

    The world is the parent of View.T_world_camera; without poses it is the camera frame of the first view with depth
    (of the first view, when none has depth). With depth the result is metric. Without it, metres come from
    known_sizes (the largest extent in metres of an asset by its label) or from cameras with intrinsics and poses that
    moved; the result is then in the world where poses are known. Without any of these, poses are in that camera frame
    and lengths in units of the query asset, metric False. Without intrinsics a horizontal field of view of 50 degrees
    is assumed.

    gravity: [3], the world's up direction, when known: assets stand upright. Where the depth shows what the objects
    stand on, that says it better, and gravity (which may then point down as well) only tells it from a wall.
    cancelled: polled all along; Cancelled when it says so.
    An asset no view shows stands where its placement says, with a confidence near zero.
    InvalidInput: no views, no mask of any asset, a useless gravity or size, an asset without a surface.
    """
    up = _unit_up(gravity)
    sizes = dict(known_sizes or {})
    if any(not (np.isfinite(size) and size > 0) for size in sizes.values()):
        raise InvalidInput(f"known_sizes are {sizes}: every size must be a positive number of metres")
    ids = [asset.id for asset in scene.assets]
    if not views:
        raise InvalidInput("no views: at least one with masks is needed to place a scene")
    if not any((view.masks == i).any() for view in views for i in ids):
        raise InvalidInput(f"no view has a mask of any of the assets {ids}: use the views they were generated from")

    def check() -> None:
        if cancelled is not None and cancelled():
            raise Cancelled

    surfaces, evidence = [], []
    posed = common_views(views)
    for asset in scene.assets:
        check()
        surfaces.append(Surface.of(asset))
        evidence.append(gather(posed, asset.id) if posed else None)
    parts = {
        i: Part(surfaces[i], found, scene.T_query_asset(i)) for i, found in enumerate(evidence) if found is not None
    }
    if not parts:
        return place_by_outlines(scene, surfaces, views, up, sizes, check)
    support = carrying(up, support_of(posed, ids))
    T_world_query, up = _group_pose(list(parts.values()), up if support is None else support.up, support, check)
    found = place_objects(T_world_query, list(parts.values()), Ground(up, support), check)
    poses = dict(zip(parts, found, strict=True))
    return tuple(
        _object(asset, poses[i], parts[i], len(parts))
        if i in poses
        else _unseen(asset, T_world_query @ scene.T_query_asset(i))
        for i, asset in enumerate(scene.assets)
    )


def _unit_up(gravity: Floats | None) -> Floats | None:
    if gravity is None:
        return None
    up = np.asarray(gravity, dtype=np.float64)
    if up.shape != (3,) or not np.isfinite(up).all() or np.linalg.norm(up) < 1e-6:
        raise InvalidInput(f"gravity is {gravity!r}: give the world's up direction, three finite numbers not all zero")
    return np.asarray(up / np.linalg.norm(up))


def _group_pose(
    parts: Sequence[Part], guess: Floats | None, support: Support | None, check: Check
) -> tuple[Floats, Floats | None]:
    """The query asset's pose [4, 4], and up [3] when assets stand upright in it.

    guess: up by gravity or by what the objects stand on. Where nothing stands that way, any way round is tried.
    """
    standing, hope = None, np.inf
    if guess is not None:
        starts, badness = candidates(parts, upright_rotations(guess), check)
        standing = polish(refine(starts, parts, check), parts, support, check)
        if standing[1] < DOUBTFUL:
            return standing[0], guess
        hope = HOPE * badness[0]
    starts, badness = candidates(parts, all_rotations(), check)
    if standing is not None and badness[0] > hope:
        return standing[0], guess
    anyhow = polish(refine(starts, parts, check), parts, support, check)
    if standing is not None and UPRIGHT_BONUS * standing[1] <= anyhow[1]:
        return standing[0], guess
    return anyhow[0], None


def _object(asset: Asset, pose: Pose, part: Part, companions: int) -> PlacedObject:
    doubt = doubt_of(pose, part)
    values = features(pose, part, companions)
    confidence = confidence_of(values, doubt, part.evidence.read)
    return placed(asset, pose.T, covariance_of(pose, doubt, values), confidence, pose.residual_m)


def _unseen(asset: Asset, T: Floats) -> PlacedObject:
    """An object that no view measured, where its placement says."""
    return placed(asset, T, np.diag([0.25 * scale_of(T) ** 2] * 3 + [0.5] * 3), 0.02)
