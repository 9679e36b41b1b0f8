"""What became of objects that were placed before: still there, moved, gone, or not what they were.

Meshes and sizes are known; only poses are looked for. Knows nothing about torch, ROS or how assets were generated.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.spatial.transform import Rotation

from scenegen.placement.certainty import confidence_of, covariance_of, doubt_of, features
from scenegen.placement.evidence import common_views, depth_noise, gather
from scenegen.placement.fit import match, misfit
from scenegen.placement.objects import FREE, POINTS, QUARTER_TURNS, STAGES, Ground, Pose, refined
from scenegen.placement.outlines import PosedView
from scenegen.placement.search import all_rotations, candidates, refine, starts
from scenegen.placement.solver import Check, Part, scale_of, unit_of
from scenegen.placement.support import carrying, support_of
from scenegen.placement.surface import Surface
from scenegen.scene import Cancelled, Floats, PlacedObject, View

NEVER = 0.5  # misfit of an object that was not placed by its evidence: nothing can be said of it later
SCORE, SCORES = 0.08, 2.0  # misfit that passes the gate: so much, or so many times the object's own
RESIDUALS, NOISES = 2.0, 3.0  # residual that passes it: so many times the object's own, or the camera's noise
NEAR = (np.deg2rad(3.0), 0.01)  # radians and metres about where it stood: what evidence does not tell stays
STILL_RAD, STILL_M = np.deg2rad(5.0), 0.01  # an object that turned and moved by less stands where it stood
HELD = 1e-4  # standard deviation of the log-scale of an object whose size is known
NO_WORSE = 0.01  # where misfits differ by less, or by less than the object's own, its pose stays as it was
YAWS = 36
TURN = 0.01  # misfit that half a turn must be worth
SLACK_M = 0.005  # in front of and behind a surface, beside noise and residual
WITNESSES = 0.3  # of what a view should see of an object that it must show, to say that the object is gone
GONE = 0.5  # of those witnesses


@dataclass(frozen=True)
class Known:
    """A metric object and how well it fitted the views that it was generated from.

    score: misfit. residual_m: median distance of measured points.
    """

    placed: PlacedObject
    surface: Surface
    score: float
    residual_m: float

    @property
    def T(self) -> Floats:
        """Its pose [4, 4], scale included."""
        return self.placed.T_world_asset


@dataclass(frozen=True)
class Tracked:
    """What became of known objects. objects: where they stand now, in the order given: those kept and moved.

    kept, moved: their ids. removed: ids of those that are gone. changed: ids that are seen, but not as they were: the
    known mesh does not fit.
    """

    objects: tuple[Known, ...] = ()
    kept: tuple[int, ...] = ()
    moved: tuple[int, ...] = ()
    removed: tuple[int, ...] = ()
    changed: tuple[int, ...] = ()


def remembered(objects: Sequence[PlacedObject], views: Sequence[View]) -> tuple[Known, ...]:
    """Those of placed objects that can be tracked: metric, measured by the views they were placed from, and fitting."""
    posed = _posed(views)
    found = []
    for placed in objects:
        evidence = gather(posed, placed.id) if posed and placed.metric else None
        if evidence is None:
            continue
        one = Known(placed, Surface.of(placed.asset), 0.0, 0.0)
        part = Part(one.surface, evidence, np.eye(4))
        score = misfit(one.T, part)
        if score < NEVER:
            found.append(replace(one, score=score, residual_m=_residual(one.T, part)))
    return tuple(found)


def track(
    known: Sequence[Known],
    views: Sequence[View],
    *,
    gravity: Floats | None = None,
    cancelled: Callable[[], bool] | None = None,
) -> Tracked:
    """What views that were taken since say about known objects, in the same world. Views need pose and intrinsics.

    An object that no view shows is kept where none shows the place where it stood, or depth still says it is there.
    gravity, cancelled: as in place_scene.
    """

    def check() -> None:
        if cancelled is not None and cancelled():
            raise Cancelled

    posed = _posed(views)
    seen = {i for view in posed for i in view.view.instance_ids}
    support = carrying(gravity, support_of(posed, sorted(seen)))
    ground = Ground(gravity if support is None else support.up, support)
    objects: list[Known] = []
    told: dict[str, list[int]] = {"kept": [], "moved": [], "removed": [], "changed": []}
    for one in known:
        check()
        measured = one.placed.id in seen and any(gather([p], one.placed.id) is not None for p in _showing(posed, one))
        if measured:
            now, verdict = _followed(one, posed, ground, check)
            last_ns = _showing(posed, one)[0].view.stamp_ns
            if now is not None and _gone(now, [view for view in posed if view.view.stamp_ns > last_ns]):
                now, verdict = None, "removed"
        elif _gone(one, posed):
            now, verdict = None, "changed" if one.placed.id in seen else "removed"
        else:
            now, verdict = one, "kept"
        told[verdict].append(one.placed.id)
        if now is not None:
            objects.append(now)
    return Tracked(tuple(objects), **{verdict: tuple(ids) for verdict, ids in told.items()})


def _posed(views: Sequence[View]) -> list[PosedView]:
    """The views that measure in the world, the newest first."""
    usable = [view for view in views if view.T_world_camera is not None]
    return sorted(common_views(usable), key=lambda posed: -posed.view.stamp_ns)


def _showing(posed: Sequence[PosedView], one: Known) -> list[PosedView]:
    return [p for p in posed if (p.view.masks == one.placed.id).any()]


def _followed(one: Known, posed: Sequence[PosedView], ground: Ground, check: Check) -> tuple[Known | None, str]:
    """A known object where its points say it stands, and what became of it; None where its mesh does not fit.

    By all views; where these do not agree, by the newest alone: it may have been moved between two of them.
    """
    showing = _showing(posed, one)
    for chosen in (showing, showing[:1])[: len(showing)]:
        evidence = gather(chosen, one.placed.id)
        if evidence is None:
            continue
        part = Part(one.surface, evidence, np.eye(4))
        sigma = np.array([NEAR[0]] * 3 + [NEAR[1]] * 3 + [HELD])
        pose = refined(part, one.T, one.T, sigma, ground, (), STAGES, check)
        if not _fits(pose, one, part):
            found = _found(one, part, ground, check)
            if found is None:
                continue
            pose = found
        elif misfit(one.T, part) < pose.score + max(NO_WORSE, one.score):
            pose = replace(pose, T=one.T)
        return _moved_to(pose, one, part)
    return None, "changed"


def _found(one: Known, part: Part, ground: Ground, check: Check) -> Pose | None:
    """The pose of a known size anywhere that passes the gate: turned about up from how it stood, else any way round.

    Of poses that fit about as well, as those of a cabinet seen from behind, the least turned.
    """
    before = one.placed.T_world_object[:3, :3]

    def badness(pose: Pose) -> float:
        turn = pose.T[:3, :3] @ before.T / scale_of(pose.T)
        return pose.score + TURN * float(Rotation.from_matrix(turn).magnitude()) / np.pi

    axis = ground.up if ground.up is not None else one.T[:3, 2] / scale_of(one.T)
    yaws = Rotation.from_rotvec(np.arange(YAWS)[:, None] * (2 * np.pi / YAWS) * axis).as_matrix()
    for rotations in (yaws @ before, all_rotations()):
        begun = [*refine(candidates([part], rotations, check)[0], [part], check), *starts([part], before[None])]
        best = min((_settled(one, part, start, ground, check) for start in begun), key=badness)
        turned = [_settled(one, part, best.T @ turn, ground, check) for turn in QUARTER_TURNS]
        best = _settled(one, part, min([best, *turned], key=badness).T, ground, check)
        if _fits(best, one, part):
            return best
    return None


def _settled(one: Known, part: Part, start: Floats, ground: Ground, check: Check) -> Pose:
    """The pose fitted from start [4, 4] with the known size."""
    shrink = one.placed.scale_m / float(scale_of(start))
    T, middle = start.copy(), part.evidence.mean
    T[:3, :3] *= shrink
    T[:3, 3] = middle + shrink * (start[:3, 3] - middle)
    sigma = FREE * unit_of(part.evidence.length)
    sigma[6] = HELD
    return refined(part, T, T, sigma, ground, (), STAGES, check)


def _fits(pose: Pose, one: Known, part: Part) -> bool:
    """The gate: what the camera's noise explains, or what the mesh was off when it was generated."""
    residual = max(NOISES * part.evidence.noise, RESIDUALS * one.residual_m)
    return pose.score < max(SCORE, SCORES * one.score) and pose.residual_m < residual


def _moved_to(pose: Pose, one: Known, part: Part) -> tuple[Known, str]:
    """The object at a pose that passed the gate, and whether it is where it was."""
    T = pose.T.copy()
    T[:3, :3] /= scale_of(T)
    T_before = one.placed.T_world_object
    doubt = doubt_of(pose, part)
    if doubt.round:
        turned = np.arccos(np.clip(T[:3, 2] @ T_before[:3, 2], -1, 1))
    else:
        turned = Rotation.from_matrix(T[:3, :3] @ T_before[:3, :3].T).magnitude()
    placed = replace(one.placed, T_world_object=T, residual_m=pose.residual_m)
    if turned < STILL_RAD and np.linalg.norm(T[:3, 3] - T_before[:3, 3]) < STILL_M:
        return replace(one, placed=placed), "kept"  # as sure as it was: views add little to what generated it
    values = features(pose, part, 1)
    covariance = covariance_of(pose, doubt, values)
    confidence = confidence_of(values, doubt, part.evidence.read)
    return replace(one, placed=replace(placed, covariance=covariance, confidence=confidence)), "moved"


def _gone(one: Known, posed: Sequence[PosedView]) -> bool:
    """Whether the newest view that shows the place where the object stood looks through it, or finds another there."""
    T_object_world = np.linalg.inv(one.T)
    for view in posed:
        eye = T_object_world[:3, :3] @ view.T_world_camera[:3, 3] + T_object_world[:3, 3]
        points = one.surface.seen(eye[None])[0].points @ one.T[:3, :3].T + one.T[:3, 3]
        camera = (points - view.T_world_camera[:3, 3]) @ view.T_world_camera[:3, :3]
        z = np.maximum(camera[:, 2], 1e-3)
        pixel = np.rint((camera[:, :2] / z[:, None]) @ view.intrinsics[:2, :2].T + view.intrinsics[:2, 2]).astype(int)
        height, width = view.depth_m.shape
        inside = (camera[:, 2] > 0.02) & (pixel >= 0).all(axis=1) & (pixel < [width, height]).all(axis=1)
        column, row = np.where(inside[:, None], pixel, 0).T
        depth, mask = view.depth_m[row, column], view.view.masks[row, column]
        slack = SLACK_M + NOISES * depth_noise(z) + RESIDUALS * one.residual_m
        witness = inside & (depth > 0) & (depth > z - slack)
        if witness.sum() > WITNESSES * len(points):
            elsewhere = (depth > z + slack) & (mask != one.placed.id)
            another = (mask > 0) & (mask != one.placed.id)
            return bool((elsewhere | another)[witness].mean() > GONE)
    return False


def _residual(T: Floats, part: Part) -> float:
    return float(np.median(np.abs(match(T, part, POINTS).across)))
