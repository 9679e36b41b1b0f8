"""A scene placed by depth whose unit nobody knows: in units of the query asset, or in metres by a size that is known.

Knows nothing about where such depth comes from.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from scenegen.scene import InvalidInput, PlacedObject


def sizes_by_label(entries: Sequence[str]) -> dict[str, float]:
    """Known sizes from entries as 'mug=0.095': the label of an asset and its largest extent in metres.

    Empty entries say nothing. InvalidInput on anything else.
    """
    sizes = {}
    for entry in filter(None, entries):
        label, _, metres = (word.strip() for word in entry.rpartition("="))
        try:
            sizes[label] = float(metres)
        except ValueError:
            sizes[label] = math.nan
        if not label or not 0 < sizes[label] < math.inf:
            raise InvalidInput(
                f"known_size '{entry}' must be a label and its largest extent in metres, for example 'mug=0.095'"
            )
    return sizes


def in_query_units(placed: Sequence[PlacedObject], query: int) -> tuple[PlacedObject, ...]:
    """Objects of one scene with every length divided by the size of the query asset (its index): metric is False.

    For a scene placed in depth that is right up to one factor. Poses stay relative to the same camera.
    """
    unit = placed[query].scale_m
    return tuple(_divided(item, unit, metric=False) for item in placed)


def by_known_sizes(placed: Sequence[PlacedObject], known_sizes: Mapping[str, float]) -> tuple[PlacedObject, ...]:
    """Objects of one scene with every length in metres: known_sizes gives largest extents in metres by label.

    For a scene placed in depth that is right up to one factor. The median counts where several are known. As they were
    when no label is.
    """
    units = [float(item.size_m.max()) / known_sizes[item.label] for item in placed if item.label in known_sizes]
    if not units:
        return tuple(placed)
    return tuple(_divided(item, float(np.median(units)), metric=True) for item in placed)


def _divided(item: PlacedObject, unit: float, *, metric: bool) -> PlacedObject:
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
        metric=metric,
    )
