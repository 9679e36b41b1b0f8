"""A scene placed by depth whose unit nobody knows: the same poses, lengths in units of the query asset, not metric.

Knows nothing about where such depth comes from.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from scenegen.scene import PlacedObject


def in_query_units(placed: Sequence[PlacedObject], query: int) -> tuple[PlacedObject, ...]:
    """Objects of one scene with every length divided by the size of the query asset (its index): metric is False.

    For a scene placed in depth that is right up to one factor. Poses stay relative to the same camera.
    """
    unit = placed[query].scale_m
    return tuple(_divided(item, unit) for item in placed)


def _divided(item: PlacedObject, unit: float) -> PlacedObject:
    T = item.T_world_object.copy()
    T[:3, 3] /= unit
    lengths = np.array([unit] * 3 + [1.0] * 3)
    return replace(
        item,
        T_world_object=T,
        scale_m=item.scale_m / unit,
        size_m=item.size_m / unit,
        covariance=item.covariance / np.outer(lengths, lengths),
        residual_m=item.residual_m / unit,
        metric=False,
    )
