"""How far a generated scene is from the synthetic one it was made from: figures, table, pictures.

Knows nothing about ROS or processes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace

import numpy as np

from scenegen.evaluation.symmetry import rotation_error_deg
from scenegen.preview import Picture, draw_masks, draw_objects, draw_outlines, rows, side_by_side
from scenegen.render import look_at
from scenegen.scene import Asset, Floats, PlacedObject, View
from scenegen.synthetic import SyntheticScene

_ABOVE_DEG = 80.0


@dataclass(frozen=True)
class ObjectErrors:
    """One generated object against the true one.

    position_m: [3] of the centre of its unit box in the world, yaw_deg: of its x axis about the world's z axis.
    pose_error_m: between the centres of the unit boxes.
    rotation_error_deg: between the axes; a turn that the true object's symmetry allows is no error.
    size_error: ratio of the longest sides, the larger one over the other, less 1. residual_m: NaN without depth.
    """

    id: int
    label: str
    position_m: tuple[float, float, float]
    yaw_deg: float
    pose_error_m: float
    rotation_error_deg: float
    size_error: float
    residual_m: float


def object_errors(placed: Sequence[PlacedObject], truth: SyntheticScene) -> list[ObjectErrors]:
    """Errors of objects that stand in the synthetic scene's world, whose ids are its instance ids."""
    errors = []
    for o in placed:
        made, T_true = truth.objects[o.id - 1], truth.T_world_object[o.id - 1]
        ratio = float(o.size_m.max() / truth.size_m[o.id - 1])
        x, y, z = o.T_world_object[:3, 3].tolist()
        errors.append(
            ObjectErrors(
                o.id,
                made.family,
                (x, y, z),
                float(np.degrees(np.arctan2(o.T_world_object[1, 0], o.T_world_object[0, 0]))),
                float(np.linalg.norm(o.T_world_object[:3, 3] - T_true[:3, 3])),
                float(rotation_error_deg(o.T_world_object[:3, :3], T_true[:3, :3], made.symmetry)),
                max(ratio, 1 / ratio) - 1,
                float(o.residual_m),
            )
        )
    return errors


def report(
    errors: Sequence[ObjectErrors],
    missing: Sequence[int],
    views: int,
    seconds: Mapping[str, float],
    rss_mb: Mapping[str, float],
) -> dict[str, object]:
    """report.json. missing: ids asked for that did not come. peak_rss_mb: of all processes together, at most."""
    return {
        "objects": [{key: None if value != value else value for key, value in asdict(one).items()} for one in errors],
        "missing": list(missing),
        "views": views,
        "seconds": {stage: round(s, 3) for stage, s in seconds.items()},
        "peak_rss_mb": round(sum(rss_mb.values()), 1),
        "peak_rss_mb_of": {name: round(mb, 1) for name, mb in rss_mb.items()},
    }


def tables(errors: Sequence[ObjectErrors], seconds: Mapping[str, float]) -> list[str]:
    """Lines for people: a row per object, then a row per stage."""
    lines = [
        f"{'id':>3}  {'object':<9} {'position [m]':<23} {'yaw':>8}  {'off by':>7} {'turned by':>10} {'size off':>9} "
        f"{'residual':>9}"
    ]
    for e in errors:
        position = ", ".join(f"{x:6.3f}" for x in e.position_m)
        residual = "-" if math.isnan(e.residual_m) else f"{e.residual_m * 1e3:.1f} mm"
        lines.append(
            f"{e.id:>3}  {e.label:<9} {position:<23} {e.yaw_deg:>4.0f} deg  {e.pose_error_m * 1e3:>4.0f} mm "
            f"{e.rotation_error_deg:>6.1f} deg {e.size_error:>9.1%} {residual:>9}"
        )
    lines += ["", f"{'stage':<22} {'seconds':>8}"]
    lines += [f"{stage:<22} {s:>8.1f}" for stage, s in seconds.items()]
    return lines


def true_objects(truth: SyntheticScene) -> tuple[PlacedObject, ...]:
    """The synthetic scene's objects, as a perfect generator and placement would give them."""
    return tuple(
        PlacedObject(
            id=i + 1,
            label=made.family,
            asset=Asset(i + 1, made.family, made.mesh()),
            T_world_object=T,
            scale_m=float(size),
            size_m=made.extents * size,
            covariance=np.zeros((6, 6)),
            confidence=1.0,
            residual_m=0.0,
            metric=True,
        )
        for i, (made, T, size) in enumerate(zip(truth.objects, truth.T_world_object, truth.size_m, strict=True))
    )


def draw(view: View, placed: Sequence[PlacedObject], truth: SyntheticScene) -> Picture:
    """Eight panels. From the view's camera: image, masks, generated, true, and generated outlines on the image.

    From above: generated, true, and the true outlines on the generated. view needs its intrinsics and pose.
    """
    true = true_objects(truth)
    above = replace(view, T_world_camera=_from_above(view, truth))
    generated_above = draw_objects(above, placed)
    return rows(
        [
            side_by_side(
                [
                    ("input", view.image),
                    ("masks", draw_masks(view)),
                    ("generated, where it was placed", draw_objects(view, placed)),
                    ("ground truth", draw_objects(view, true)),
                ]
            ),
            side_by_side(
                [
                    ("outlines of the generated on the input", draw_outlines(view, placed, view.image)),
                    ("generated, from above", generated_above),
                    ("ground truth, from above", draw_objects(above, true)),
                    ("generated, and outlines of the ground truth", draw_outlines(above, true, generated_above)),
                ]
            ),
        ]
    )


def _from_above(view: View, truth: SyntheticScene) -> Floats:
    """T_world_camera [4, 4] of the view's camera, moved high above the objects without going around them."""
    assert view.T_world_camera is not None and view.intrinsics is not None
    corners = truth.corners_m().reshape(-1, 3)
    centre = (corners.min(0) + corners.max(0)) / 2
    back = view.T_world_camera[:2, 3] - centre[:2]
    back /= np.linalg.norm(back)
    slope = np.radians(_ABOVE_DEG)
    radius = float(np.linalg.norm(corners - centre, axis=1).max())
    focal = min(view.intrinsics[0, 0] / view.image.shape[1], view.intrinsics[1, 1] / view.image.shape[0])
    eye = centre + radius * (1 + 2 * focal) * np.array([*(back * np.cos(slope)), np.sin(slope)])
    return look_at(eye, centre)
