"""Which instances are one object, from whose points are seen on whom: by the views' votes, and by greedy joining.

Knows nothing about pixels or ids.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from scenegen.association.measured import MIN_POINTS
from scenegen.association.overlaps import Instances, Overlaps
from scenegen.scene import Floats

_SAME = 0.35
"""The share of common points above which two instances are rather one object than two."""
_APART_M = 0.01
"""Parts of one instance that stand this far apart in space are two objects, where views are divided on it."""
_RESIDUAL = 0.3
"""The least share of its points that an object's other views must confirm for an instance to stay with them."""


def apart_of(instances: Instances, overlaps: Overlaps) -> NDArray[np.int64]:
    """int [n, n], symmetric: 1 where two instances of one view are two objects, -1 where they are one, else 0.

    Every view that sees both has a vote, their own too. Where views are divided, what stands apart in space is two.
    """
    n = len(instances)
    verdict = np.zeros((n, n), int)
    lies_in = overlaps.lies_in
    for p, q in np.argwhere(np.triu(instances.view[:, None] == instances.view, 1)).tolist():
        votes = 1
        for other in np.unique(instances.view[instances.view != instances.view[p]]):
            there = instances.view == other
            both = lies_in[p] & lies_in[q] & there
            of_p, of_q = (there & (lies_in[i] | lies_in[:, i]) for i in (p, q))
            if both.any() and not ((lies_in[:, p] | lies_in[:, q]) & there & ~both).any():
                votes -= 1
            elif of_p.any() and of_q.any() and not (of_p & of_q).any() or both.any():
                votes += 1
        if votes == 0:
            votes = 1 if _stand_apart(instances, p, q) else -1
        verdict[p, q] = verdict[q, p] = np.sign(votes)
    return verdict


def merged_of(apart: NDArray[np.int64], overlaps: Overlaps) -> NDArray[np.bool_]:
    """bool [n], instances in which two instances of another view lie that are two objects."""
    two = apart > 0
    return np.array([bool(two[np.ix_(inside, inside)].any()) for inside in overlaps.lies_in.T], bool)


def _stand_apart(instances: Instances, p: int, q: int) -> bool:
    """Whether two instances of a view stand clear of each other in space."""
    one, other = instances.points[p], instances.points[q]
    if min(len(one), len(other)) < MIN_POINTS:
        return False
    grain = np.median(cKDTree(one).query(one, 2)[0][:, 1])
    gaps = np.sort(cKDTree(other).query(one)[0])
    return bool(gaps[: max(len(gaps) // 50, 3)].mean() > _APART_M + 2 * grain)


def grouped(
    instances: Instances, overlaps: Overlaps, apart: NDArray[np.int64], merged: NDArray[np.bool_]
) -> NDArray[np.int64]:
    """int [n], the object that each instance belongs to; -1 for merged ones.

    Greedy joining of what belongs together most (correlation clustering); what an object's other views do not confirm
    is taken out again.
    """
    n = len(instances)
    share = overlaps.share.copy()
    share[merged], share[:, merged] = np.nan, np.nan
    group = np.arange(n)
    pull = _evidence(instances, overlaps, share) - 2.0 * apart
    np.fill_diagonal(pull, -np.inf)
    pull[merged], pull[:, merged] = -np.inf, -np.inf
    while n > 1:
        a, b = np.unravel_index(np.argmax(pull), pull.shape)
        if pull[a, b] <= 0:
            break
        pull[a] += pull[b]
        pull[:, a] = pull[a]
        pull[a, a] = pull[b] = pull[:, b] = -np.inf
        group[group == b] = a
    group[merged] = -1
    for i in np.flatnonzero(~merged).tolist():
        if not _confirmed(i, group, instances, overlaps):
            group[i] = n + i
    return group


def _evidence(instances: Instances, overlaps: Overlaps, share: Floats) -> Floats:
    """float [n, n], symmetric: how much two instances of different views are rather one object (positive) than two."""
    both = np.fmax(share, share.T)
    counted = np.where(np.isnan(share), 0, overlaps.seen[:, instances.view])
    amount = np.minimum(np.maximum(counted, counted.T), 100) / 50
    return np.where(np.isnan(both), 0.0, (np.nan_to_num(both) - _SAME) * amount) + _met(instances)


def _met(instances: Instances) -> Floats:
    """float [n, n]: the same for instances without depth, by how near the rays through their middles come together.

    1 where they meet, 0 half of the instances' radius off, at worst -1; 0 for all other pairs.
    """
    weight = np.zeros((len(instances), len(instances)))
    blind = np.flatnonzero(instances.blind)
    for a, b in [(a, b) for a in blind for b in blind if a < b and instances.view[a] != instances.view[b]]:
        rays, between = np.stack([instances.ray[a], -instances.ray[b]], axis=1), instances.eye[b] - instances.eye[a]
        along = np.linalg.lstsq(rays, between, rcond=None)[0]
        if (along <= 0).any():
            continue
        off = np.linalg.norm(rays @ along - between)
        allowed = 0.25 * float(along @ instances.radius[[a, b]])
        weight[a, b] = weight[b, a] = np.clip(1 - off / allowed, -1, 1)
    return weight


def _confirmed(i: int, group: NDArray[np.int64], instances: Instances, overlaps: Overlaps) -> bool:
    """Whether the other views of an instance's object see its points on the object and do not look through them."""
    fellows = (group == group[i]) & (instances.view != instances.view[i])
    views = np.unique(instances.view[fellows])
    on, against = overlaps.on[i, fellows].sum(), overlaps.against[i, views].sum()
    back = overlaps.on[fellows, i].sum()
    looked = overlaps.seen[i, views].sum() + against
    if instances.blind[i]:
        return True
    if looked < MIN_POINTS:
        return not fellows.any() or back >= MIN_POINTS
    return bool(on >= _RESIDUAL * looked or back >= _RESIDUAL * overlaps.seen[fellows, instances.view[i]].sum() > 0)


def holders_of(j: int, group: NDArray[np.int64], overlaps: Overlaps) -> list[int]:
    """The objects that fill a merged instance."""
    return sorted({int(g) for g in group[overlaps.lies_in[:, j] & (group >= 0)]})
