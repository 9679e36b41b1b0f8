"""Nearest neighbours of many points that follow one another along a surface, as texels do.

Knows nothing of what the neighbours carry.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from scenegen.scene import InvalidInput

Floats32 = NDArray[np.float32]

_RUN = 3
"""Points that share the search of the middle one: searching is most of the cost, and texels lie closer together than
what is searched for."""


class Neighbours:
    """Points to be found, float [N, 3]. InvalidInput when there are fewer than are asked for at a time."""

    def __init__(self, centres: NDArray[np.floating], count: int) -> None:
        """count: how many of them find() gives for each point."""
        if len(centres) < count:
            raise InvalidInput(f"{len(centres)} points carry colours, at least {count} are needed: nothing was decoded")
        self.count = count
        self._tree = cKDTree(centres, leafsize=16, balanced_tree=False)  # unbalanced: built faster, searched as fast

    def find(self, points: Floats32) -> NDArray[np.intp]:
        """int [P, count]: those nearest to points [P, 3], nearest first, or those nearest to a point close by.

        Points next to one another in the list share a search where they are closer together than its result reaches.
        """
        middle = np.minimum(np.arange(0, len(points), _RUN) + _RUN // 2, len(points) - 1)
        distances, found = self._search(points[middle])
        run = np.arange(len(points)) // _RUN
        aside = np.linalg.norm(points - points[middle[run]], axis=1)
        result = found[run]
        alone = np.flatnonzero(aside > distances[run, -1] / 2)
        result[alone] = self._search(points[alone])[1]
        return result

    def _search(self, points: Floats32) -> tuple[NDArray[np.float64], NDArray[np.intp]]:
        distances, found = self._tree.query(points, k=self.count)
        return distances.reshape(-1, self.count), found.reshape(-1, self.count)
