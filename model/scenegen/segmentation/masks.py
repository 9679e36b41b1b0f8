"""Instance ids per pixel out of one plane of logits per object.

Knows nothing about networks: it takes arrays.
"""

from __future__ import annotations

from collections.abc import Mapping

import cv2
import numpy as np
from numpy.typing import NDArray

_ISLAND = 0.1
"""Pieces smaller than this share of their object's largest piece are islands. Larger ones stay: something may stand
before an object and part it."""


def instance_masks(logits: Mapping[int, NDArray[np.float32]], size: tuple[int, int]) -> NDArray[np.int32]:
    """Ids int32 [H, W], 0 where no object is, from logits float32 [h, w] by id; size: (H, W).

    A pixel is of the object with the largest logit, if that is above 0; of the first such object where they are equal.
    """
    ids, best = np.zeros(size, np.int32), np.zeros(size, np.float32)
    for instance_id, plane in logits.items():
        scaled = cv2.resize(plane, (size[1], size[0]), interpolation=cv2.INTER_LINEAR)
        won = scaled > best
        ids[won], best[won] = instance_id, scaled[won]
    for instance_id in logits:
        ids[_islands(ids == instance_id)] = 0
    return ids


def _islands(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Pixels of pieces that are too small beside the largest one; the largest always stays."""
    count, pieces, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    if count < 3:  # the background, and one piece at most
        return np.zeros_like(mask)
    areas = stats[:, cv2.CC_STAT_AREA]
    small = areas < _ISLAND * areas[1:].max()
    small[0] = False
    return np.asarray(small[pieces])
