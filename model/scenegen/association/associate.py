"""Common ids for the instances of several views, and masks that hold them."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial import cKDTree

from scenegen.association.grouping import apart_of, grouped, holders_of, merged_of
from scenegen.association.measured import MIN_PIXELS, Masks, Measured
from scenegen.association.overlaps import Instances, Overlaps
from scenegen.scene import View


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
    clouds = Instances.of(measured)
    overlaps = Overlaps.of(measured, clouds)
    apart = apart_of(clouds, overlaps)
    merged = merged_of(apart, overlaps)
    groups = grouped(clouds, overlaps, apart, merged)
    holders = {j: holders_of(j, groups, overlaps) for j in np.flatnonzero(merged).tolist()}
    for j, found in holders.items():
        if len(found) < 2:  # what filled it turned out to be one object
            groups[j] = found[0] if found else groups.max() + 1
    divided = {j: found for j, found in holders.items() if len(found) > 1}
    names = _names(clouds, groups, divided, known, taken)
    return _relabelled(measured, clouds, groups, divided, names)


def _names(
    instances: Instances,
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
        if pixels[g] < MIN_PIXELS and not any(g in found for found in divided.values()):
            continue
        own = largest[g][1]
        names[g] = own if own not in taken else next(k for k in range(1, 2**31 - 1) if k not in taken)
        taken.add(names[g])
    return names


def _relabelled(
    views: Sequence[Measured],
    instances: Instances,
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
    mask: NDArray[np.bool_], view: Measured, instances: Instances, group: NDArray[np.int64], holders: Sequence[int]
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
