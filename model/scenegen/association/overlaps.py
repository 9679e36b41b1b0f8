"""Whose points are seen on whom, between every two instances of several views.

Knows nothing about what that makes of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from scenegen.association.measured import MIN_PIXELS, MIN_POINTS, Masks, Measured
from scenegen.scene import Floats

_VOTING_POINTS = 400
_INSIDE = 0.6
"""An instance with this share of its points on another lies in it."""
_GLIMPSE = 0.15
"""Where a view sees less of an instance's points than this it is all edges, and says nothing."""
_AROUND = np.indices((3, 3)).reshape(2, 1, 9) - 1


@dataclass(frozen=True, eq=False)
class Instances:
    """Every instance of every view, numbered through. view, id, pixels: int [n]. points: world, metres, [k, 3] each.

    first: int [views], the number of each view's first instance. eye, ray: float64 [n, 3] world, where it was seen from
    and the direction of its middle. radius: float64 [n], of a disc of its pixels, at one metre. blind: bool [n], hardly
    a reading of depth is on it: glass, black.
    """

    view: NDArray[np.int64]
    id: NDArray[np.int64]
    pixels: NDArray[np.int64]
    points: list[Floats]
    first: NDArray[np.int64]
    eye: Floats
    ray: Floats
    radius: Floats
    blind: NDArray[np.bool_]

    @staticmethod
    def of(views: Sequence[Measured]) -> Instances:
        """The instances of the views."""
        counts = [len(view.ids) for view in views]
        pixels = np.array([n for view in views for n in view.pixels], int)
        points = [points for view in views for points in view.points]
        focal = np.repeat([view.intrinsics[0, 0] for view in views], counts)
        return Instances(
            np.repeat(np.arange(len(views)), counts),
            np.array([i for view in views for i in view.ids], int),
            pixels,
            points,
            np.cumsum([0, *counts])[:-1],
            np.repeat([view.T_world_camera[:3, 3] for view in views], counts, axis=0),
            np.concatenate([np.zeros((0, 3)), *(view.rays for view in views)]),
            np.sqrt(pixels / np.pi) / focal,
            np.array([len(p) < MIN_POINTS for p in points], bool) & (pixels >= MIN_PIXELS),
        )

    def __len__(self) -> int:
        return len(self.id)


@dataclass(frozen=True, eq=False)
class Overlaps:
    """Whose points are seen on whom. For n instances in k views:

    on: int [n, n], points of the first on the surface of the second. seen: int [n, k], points on any surface of a view,
    the background's included. against: int [n, k], points where a view looked through: it saw something behind them.
    share: float [n, n], on over seen in the second's view; NaN below MIN_POINTS. lies_in: bool [n, n], the first lies
    in the second: enough of its points are seen there, and most of what is seen of it is on the second.
    """

    on: NDArray[np.int64]
    seen: NDArray[np.int64]
    against: NDArray[np.int64]
    share: Floats
    lies_in: NDArray[np.bool_]

    @staticmethod
    def of(views: Sequence[Measured], instances: Instances) -> Overlaps:
        """Every instance's points, looked for in every other view."""
        n = len(instances)
        on, seen, against = np.zeros((n, n), int), np.zeros((n, len(views)), int), np.zeros((n, len(views)), int)
        votes = [points[:_VOTING_POINTS] for points in instances.points]
        owner = np.repeat(np.arange(n), [len(points) for points in votes])
        points = np.concatenate(votes) if votes else np.zeros((0, 3))
        for b, view in enumerate(views):
            label, is_on, is_against = _looked_for(points, view)
            others = instances.view[owner] != b
            hit = others & is_on & (label > 0)
            np.add.at(on, (owner[hit], label[hit] - 1 + instances.first[b]), 1)
            seen[:, b] = np.bincount(owner[others & is_on], minlength=n)
            against[:, b] = np.bincount(owner[others & is_against], minlength=n)
        total = seen[:, instances.view] if n else np.zeros((0, 0))
        share = np.where(total >= MIN_POINTS, on / np.maximum(total, 1), np.nan)
        least = np.maximum(MIN_POINTS, _GLIMPSE * np.array([len(points) for points in votes]))
        lies_in = (np.nan_to_num(share) >= _INSIDE) & (on >= least[:, None])
        return Overlaps(on, seen, against, share, lies_in)


def _looked_for(points: Floats, view: Measured) -> tuple[Masks, NDArray[np.bool_], NDArray[np.bool_]]:
    """For points [n, 3]: the label at their pixel, whether they lie on what is seen there, if it is behind them."""
    camera = (points - view.T_world_camera[:3, 3]) @ view.T_world_camera[:3, :3]
    z = camera[:, 2]
    pixel = camera @ view.intrinsics.T
    with np.errstate(divide="ignore", invalid="ignore"):
        place = np.rint(pixel[:, :2] / pixel[:, 2:])
    height, width = view.depth.shape
    inside = (z > 0.05) & (place >= 0).all(axis=1) & (place < [width, height]).all(axis=1)
    u, v = np.where(inside[:, None], place, 0).astype(int).T
    rows, columns = np.clip(v[:, None] + _AROUND[0], 0, height - 1), np.clip(u[:, None] + _AROUND[1], 0, width - 1)
    around = view.depth[rows, columns]  # TF is a pixel off here and there, and surfaces slope
    near, far = np.where(around > 0, around, np.inf).min(axis=1), around.max(axis=1)
    inside &= far > 0
    slack = 0.008 + 3 * (0.001 + 0.0025 * z**2)  # TF's error, and three deviations of a depth camera's
    is_on = inside & (z > near - slack) & (z < far + slack)
    return view.labels[v, u], is_on, inside & (z <= near - slack)
