"""The same object in several views, where the segmentation gives every view ids of its own.

What a view measured of each instance is looked for in the other views: its points either lie on an instance there, or
are hidden, or are out of sight. Instances that hold each other's points are one object; an instance that several
others fill is several objects merged by the segmentation, and is divided among them. Numpy and scipy; knows nothing
about ROS, meshes or objects that move between views (those are two objects, one where each view saw it).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial import cKDTree

from scenegen.scene import Floats, InvalidInput, View

Masks = NDArray[np.int32]

_POINTS = 1500
_VOTING_POINTS = 400
_MIN_POINTS = 8
_MIN_PIXELS = 50
"""An instance of fewer pixels that belongs to no other is a crumb, and becomes background."""
_INSIDE = 0.6
"""An instance with this share of its points on another lies in it."""
_GLIMPSE = 0.15
"""Where a view sees less of an instance's points than this it is all edges, and says nothing."""
_SAME = 0.35
"""The share of common points above which two instances are rather one object than two."""
_APART_M = 0.01
"""Parts of one instance that stand this far apart in space are two objects, where views are divided on it."""
_AROUND = np.indices((3, 3)).reshape(2, 1, 9) - 1
_RESIDUAL = 0.3
"""The least share of its points that an object's other views must confirm for an instance to stay with them."""


@dataclass(frozen=True, eq=False)
class Association:
    """Common ids for the instances of several views.

    masks: int32 [H, W] for each view, with common ids. ids: for each view, its own id -> the common ids of the objects
    that it holds: none for a crumb, several where the segmentation merged objects.
    """

    masks: tuple[Masks, ...]
    ids: tuple[Mapping[int, tuple[int, ...]], ...]


def associate(
    views: Sequence[View | Measured], known: Sequence[Mapping[int, int]] = (), taken: Collection[int] = ()
) -> Association:
    """Gives every object one id in all views.

    Needs depth, intrinsics and T_world_camera of every view; InvalidInput without. known: for views that went through
    here before, common ids that their own ids were given then, at the same places of the sequence (empty for new
    views). An object keeps the id that most of its pixels had; another gets the id its largest instance has, or, where
    that is known or taken, the lowest that is free.
    """
    measured = [view if isinstance(view, Measured) else Measured.of(view) for view in views]
    clouds = _Instances.of(measured)
    overlaps = _Overlaps.of(measured, clouds)
    apart = _apart(clouds, overlaps)
    merged = _merged(apart, overlaps)
    groups = _grouped(clouds, overlaps, apart, merged)
    holders = {j: _holders(j, groups, overlaps) for j in np.flatnonzero(merged).tolist()}
    for j, found in holders.items():
        if len(found) < 2:  # what filled it turned out to be one object
            groups[j] = found[0] if found else groups.max() + 1
    divided = {j: found for j, found in holders.items() if len(found) > 1}
    names = _names(clouds, groups, divided, known, taken)
    return _relabelled(measured, clouds, groups, divided, names)


@dataclass(frozen=True, eq=False)
class Measured:
    """What is needed of one view, made once for all the calls that it goes through.

    ids, pixels: of its instances. points: world, metres, [k, 3] for each. labels: int32 [H, W], place in ids + 1.
    depth: float64 [H, W], metres; 0 is no reading. usable: bool [H, W], readings away from depth's jumps.
    """

    view: View
    ids: tuple[int, ...]
    pixels: tuple[int, ...]
    points: tuple[Floats, ...]
    labels: Masks
    depth: Floats
    usable: NDArray[np.bool_]
    intrinsics: Floats
    T_world_camera: Floats

    @staticmethod
    def of(view: View) -> Measured:
        """InvalidInput when the view lacks what is needed."""
        K, T = view.intrinsics, view.T_world_camera
        if view.depth_m is None or K is None or T is None:
            raise InvalidInput(
                "a view has no depth, intrinsics or camera pose: which instances are the same object can only be told "
                "by the space they take up, where all three are there; give them, or ids that are the same in all views"
            )
        depth = np.where(np.isfinite(view.depth_m) & (view.depth_m > 0), view.depth_m, 0.0).astype(np.float64)
        near, far = ndimage.minimum_filter(np.where(depth > 0, depth, np.inf), 3), ndimage.maximum_filter(depth, 3)
        usable = (depth > 0) & (far - near <= 0.015 + 0.02 * depth)  # else it may lie between the near and the far side
        ids = np.array(view.instance_ids, int)
        labels = (np.searchsorted(ids, view.masks) + 1).astype(np.int32)
        labels[view.masks <= 0] = 0
        pixels, points = [], []
        for k, window in enumerate(ndimage.find_objects(labels)):
            mask = labels[window] == k + 1
            v, u = np.nonzero(usable[window] & _core(mask))
            chosen = np.random.default_rng(k).permutation(len(u))[:_POINTS]
            v, u = v[chosen] + window[0].start, u[chosen] + window[1].start
            pixels.append(int(mask.sum()))
            points.append(_points(u, v, depth[v, u], K, T))
        return Measured(view, tuple(ids.tolist()), tuple(pixels), tuple(points), labels, depth, usable, K, T)


def _core(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """A mask without its edge, which may lie on a neighbour; empty for one that is all edge."""
    core = ndimage.binary_erosion(mask, iterations=2)
    return np.asarray(core if core.sum() >= 4 * _MIN_POINTS else ndimage.binary_erosion(mask))


def _points(u: NDArray[np.int64], v: NDArray[np.int64], z: Floats, K: Floats, T_world_camera: Floats) -> Floats:
    """Measured points, [n, 3] world, without stragglers."""
    if len(z):
        middle = np.median(z)
        typical = np.abs(z - middle) < 6 * np.median(np.abs(z - middle)) + 0.02
        v, u, z = v[typical], u[typical], z[typical]
    rays = np.linalg.solve(K, np.stack([u, v, np.ones(len(u))]))
    return np.asarray((rays * z).T @ T_world_camera[:3, :3].T + T_world_camera[:3, 3])


@dataclass(frozen=True, eq=False)
class _Instances:
    """Every instance of every view, numbered through. view, id, pixels: int [n]. points: world, metres, [k, 3] each.

    first: int [views], the number of each view's first instance.
    """

    view: NDArray[np.int64]
    id: NDArray[np.int64]
    pixels: NDArray[np.int64]
    points: list[Floats]
    first: NDArray[np.int64]

    @staticmethod
    def of(views: Sequence[Measured]) -> _Instances:
        """The instances of the views."""
        counts = [len(view.ids) for view in views]
        return _Instances(
            np.repeat(np.arange(len(views)), counts),
            np.array([i for view in views for i in view.ids], int),
            np.array([n for view in views for n in view.pixels], int),
            [points for view in views for points in view.points],
            np.cumsum([0, *counts])[:-1],
        )

    def __len__(self) -> int:
        return len(self.id)


@dataclass(frozen=True, eq=False)
class _Overlaps:
    """Whose points are seen on whom. For n instances in k views:

    on: int [n, n], points of the first on the surface of the second. seen: int [n, k], points on any surface of a view,
    the background's included. against: int [n, k], points where a view looked through: it saw something behind them.
    share: float [n, n], on over seen in the second's view; NaN below _MIN_POINTS. lies_in: bool [n, n], the first lies
    in the second: enough of its points are seen there, and most of what is seen of it is on the second.
    """

    on: NDArray[np.int64]
    seen: NDArray[np.int64]
    against: NDArray[np.int64]
    share: Floats
    lies_in: NDArray[np.bool_]

    @staticmethod
    def of(views: Sequence[Measured], instances: _Instances) -> _Overlaps:
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
        share = np.where(total >= _MIN_POINTS, on / np.maximum(total, 1), np.nan)
        least = np.maximum(_MIN_POINTS, _GLIMPSE * np.array([len(points) for points in votes]))
        lies_in = (np.nan_to_num(share) >= _INSIDE) & (on >= least[:, None])
        return _Overlaps(on, seen, against, share, lies_in)


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


def _apart(instances: _Instances, overlaps: _Overlaps) -> NDArray[np.int64]:
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


def _merged(apart: NDArray[np.int64], overlaps: _Overlaps) -> NDArray[np.bool_]:
    """bool [n], instances in which two instances of another view lie that are two objects."""
    two = apart > 0
    return np.array([bool(two[np.ix_(inside, inside)].any()) for inside in overlaps.lies_in.T], bool)


def _stand_apart(instances: _Instances, p: int, q: int) -> bool:
    """Whether two instances of a view stand clear of each other in space."""
    one, other = instances.points[p], instances.points[q]
    if min(len(one), len(other)) < _MIN_POINTS:
        return False
    grain = np.median(cKDTree(one).query(one, 2)[0][:, 1])
    gaps = np.sort(cKDTree(other).query(one)[0])
    return bool(gaps[: max(len(gaps) // 50, 3)].mean() > _APART_M + 2 * grain)


def _grouped(
    instances: _Instances, overlaps: _Overlaps, apart: NDArray[np.int64], merged: NDArray[np.bool_]
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


def _evidence(instances: _Instances, overlaps: _Overlaps, share: Floats) -> Floats:
    """float [n, n], symmetric: how much two instances of different views are rather one object (positive) than two."""
    both = np.fmax(share, share.T)
    counted = np.where(np.isnan(share), 0, overlaps.seen[:, instances.view])
    amount = np.minimum(np.maximum(counted, counted.T), 100) / 50
    return np.where(np.isnan(both), 0.0, (np.nan_to_num(both) - _SAME) * amount)


def _confirmed(i: int, group: NDArray[np.int64], instances: _Instances, overlaps: _Overlaps) -> bool:
    """Whether the other views of an instance's object see its points on the object and do not look through them."""
    fellows = (group == group[i]) & (instances.view != instances.view[i])
    views = np.unique(instances.view[fellows])
    on, against = overlaps.on[i, fellows].sum(), overlaps.against[i, views].sum()
    back = overlaps.on[fellows, i].sum()
    looked = overlaps.seen[i, views].sum() + against
    if looked < _MIN_POINTS:
        return not fellows.any() or back >= _MIN_POINTS
    return bool(on >= _RESIDUAL * looked or back >= _RESIDUAL * overlaps.seen[fellows, instances.view[i]].sum() > 0)


def _holders(j: int, group: NDArray[np.int64], overlaps: _Overlaps) -> list[int]:
    """The objects that fill a merged instance."""
    return sorted({int(g) for g in group[overlaps.lies_in[:, j] & (group >= 0)]})


def _names(
    instances: _Instances,
    group: NDArray[np.int64],
    divided: Mapping[int, list[int]],
    known: Sequence[Mapping[int, int]],
    reserved: Collection[int],
) -> dict[int, int]:
    """Object -> common id; crumbs get none."""
    pixels: dict[int, int] = {}
    votes: dict[tuple[int, int], int] = {}
    largest: dict[int, tuple[int, int]] = {}
    for i, g in enumerate(group.tolist()):
        if i in divided:
            continue
        v, own, area = int(instances.view[i]), int(instances.id[i]), int(instances.pixels[i])
        pixels[g] = pixels.get(g, 0) + area
        largest[g] = max(largest.get(g, (0, 0)), (area, own))
        if v < len(known) and own in known[v]:
            votes[g, known[v][own]] = votes.get((g, known[v][own]), 0) + area
    names: dict[int, int] = {}
    taken = {name for before in known for name in before.values()} | set(reserved)
    given: set[int] = set()
    for (g, name), _ in sorted(votes.items(), key=lambda item: -item[1]):
        if g not in names and name not in given:
            names[g] = name
            given.add(name)
    taken |= given
    for g in sorted((g for g in pixels if g not in names), key=lambda g: -pixels[g]):
        if pixels[g] < _MIN_PIXELS and not any(g in found for found in divided.values()):
            continue
        own = largest[g][1]
        names[g] = own if own not in taken else next(k for k in range(1, 2**31 - 1) if k not in taken)
        taken.add(names[g])
    return names


def _relabelled(
    views: Sequence[Measured],
    instances: _Instances,
    group: NDArray[np.int64],
    divided: Mapping[int, list[int]],
    names: Mapping[int, int],
) -> Association:
    """Masks with the objects' names, merged instances divided among the objects that fill them."""
    masks, ids = [], []
    for v, view in enumerate(views):
        out = np.zeros(view.labels.shape, np.int32)
        own: dict[int, tuple[int, ...]] = {}
        for i in np.flatnonzero(instances.view == v).tolist():
            mask = view.labels == i - instances.first[v] + 1
            if i in divided:
                shared = _divided(mask, view, instances, group, divided[i])
                out[mask] = np.array([names[g] for g in divided[i]], np.int32)[shared]
                own[int(instances.id[i])] = tuple(sorted(int(k) for k in np.unique(out[mask])))
            elif int(group[i]) in names:
                out[mask] = names[int(group[i])]
                own[int(instances.id[i])] = (names[int(group[i])],)
            else:
                own[int(instances.id[i])] = ()
        masks.append(out)
        ids.append(own)
    return Association(tuple(masks), tuple(ids))


def _divided(
    mask: NDArray[np.bool_], view: Measured, instances: _Instances, group: NDArray[np.int64], holders: Sequence[int]
) -> NDArray[np.int64]:
    """int [pixels of the mask], for each which of the holders' measured points are nearest to it in space.

    Pixels without a reading go with the nearest pixel that has one.
    """
    usable = mask & view.usable
    if not usable.any():
        return np.zeros(int(mask.sum()), int)
    v, u = np.nonzero(usable)
    rays = np.linalg.solve(view.intrinsics, np.stack([u, v, np.ones(len(u))]))
    points = (rays * view.depth[v, u]).T @ view.T_world_camera[:3, :3].T + view.T_world_camera[:3, 3]
    clouds = [np.concatenate([instances.points[i] for i in np.flatnonzero(group == g)]) for g in holders]
    nearest = np.argmin([cKDTree(cloud).query(points)[0] for cloud in clouds], axis=0)
    known = np.zeros(mask.shape, int)
    known[v, u] = nearest
    rows, columns = ndimage.distance_transform_edt(~usable, return_distances=False, return_indices=True)
    return np.asarray(known[rows, columns][mask])
