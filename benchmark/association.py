"""How often instances of several views are given the right common id, where the segmentation's own ids mean nothing.

Synthetic scenes under a depth camera's errors; every view's ids are permuted, and on request objects are split in two,
neighbours merged, objects left out, and TF is wrong by a little. One row per kind of fault.

python -m benchmark.association --scenes 50 --views 5
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.optimize import linear_sum_assignment
from scipy.spatial.transform import Rotation

from scenegen.association import associate
from scenegen.render import Camera
from scenegen.scene import View
from scenegen.synthetic import camera_path, make_scene
from scenegen.synthetic.depth_noise import sensed
from scenegen.synthetic.rendering import render_views

FAULTS = ("ids alone", "split", "merged", "left out", "glass", "TF", "all")
_COUNTED_PIXELS = 100
TF_ERROR = (0.004, np.deg2rad(0.4))


def truth(seed: int, count: int) -> list[View]:
    """Views of a scene as a depth camera and a segmentation give them, with true ids."""
    rng = np.random.default_rng(seed)
    scene = make_scene(seed)
    camera = Camera.pinhole(320, 240, 300.0)
    views = []
    for view in render_views(scene, camera, camera_path(scene, count, seed, camera)):
        assert view.depth_m is not None
        masks, depth_m = sensed(view.masks, view.depth_m, rng)
        views.append(replace(view, masks=masks, depth_m=depth_m))
    return views


def spoiled(views: list[View], fault: str, rng: np.random.Generator) -> list[View]:
    """The views with faults: one in four is split, one in four merged, a quarter of the objects left out.

    glass: the object of the largest id has no reading of depth in any view.
    """
    out = []
    glass = max(i for view in views for i in view.instance_ids)
    for v, view in enumerate(views):
        masks, depth_m, T = view.masks.copy(), view.depth_m, view.T_world_camera
        assert T is not None and depth_m is not None
        if fault == "glass":
            depth_m = np.where(masks == glass, np.float32(0), depth_m)
        if fault in ("left out", "all"):
            for i in np.unique(masks[masks > 0]):
                if rng.uniform() < 0.25 and len(np.unique(masks[masks > 0])) > 1:
                    masks[masks == i] = 0
        if fault in ("split", "all") and v % 4 == 1:
            masks = split(masks, rng)
        if fault in ("merged", "all") and v % 4 == 3:
            masks = merged(masks)
        if fault in ("TF", "all"):
            T = T.copy()
            T[:3, :3] = Rotation.from_rotvec(rng.normal(size=3) * TF_ERROR[1]).as_matrix() @ T[:3, :3]
            T[:3, 3] += rng.normal(size=3) * TF_ERROR[0]
        ids = np.unique(masks[masks > 0])
        names = np.zeros(int(masks.max(initial=0)) + 1, np.int32)
        names[ids] = rng.permutation(np.arange(1, len(ids) + 1))
        out.append(replace(view, masks=names[masks], depth_m=depth_m, T_world_camera=T))
    return out


def split(masks: NDArray[np.int32], rng: np.random.Generator) -> NDArray[np.int32]:
    """The largest instance cut in two by a line through its middle."""
    out = masks.copy()
    ids, areas = np.unique(masks[masks > 0], return_counts=True)
    if len(ids):
        v, u = np.nonzero(masks == ids[np.argmax(areas)])
        angle = rng.uniform(0, np.pi)
        side = (u - u.mean()) * np.cos(angle) + (v - v.mean()) * np.sin(angle) > 0
        out[v[side], u[side]] = ids.max() + 1
    return out


def merged(masks: NDArray[np.int32]) -> NDArray[np.int32]:
    """The two instances whose masks come nearest to each other as one."""
    out = masks.copy()
    ids = np.unique(masks[masks > 0])
    best = (np.inf, 0, 0)
    for i in ids:
        distance = ndimage.distance_transform_edt(masks != i)
        for j in ids[ids > i]:
            best = min(best, (float(distance[masks == j].min()), int(i), int(j)))
    if best[0] < np.inf:
        out[masks == best[2]] = best[1]
    return out


def right_share(true: list[View], given: list[View], found: tuple[NDArray[np.int32], ...]) -> tuple[int, int]:
    """How many of the objects that the segmentation showed in the views have their id there, and how many there are.

    An object's id is the one that most of its pixels have, each id for one object; its instance in a view is right
    when the pixels of that id overlap it by half (intersection over union). Objects below 100 pixels do not count.
    """
    shown = [np.where(g.masks > 0, t.masks, 0) for t, g in zip(true, given, strict=True)]
    objects = np.unique(np.concatenate([np.unique(s[s > 0]) for s in shown]))
    ids = np.unique(np.concatenate([np.unique(f[f > 0]) for f in found]))
    common = np.zeros((len(objects), len(ids)))
    for s, f in zip(shown, found, strict=True):
        for o, instance in enumerate(objects):
            values, counts = np.unique(f[(s == instance) & (f > 0)], return_counts=True)
            common[o, np.searchsorted(ids, values)] += counts
    rows, columns = linear_sum_assignment(-common)
    name = {int(objects[r]): int(ids[c]) for r, c in zip(rows, columns, strict=True) if common[r, c] > 0}
    right = total = 0
    for s, f in zip(shown, found, strict=True):
        for instance in np.unique(s[s > 0]):
            mask = s == instance
            if mask.sum() < _COUNTED_PIXELS:
                continue
            total += 1
            here = f == name.get(int(instance), -1)
            right += bool((mask & here).sum() > 0.5 * (mask | here).sum())
    return right, total


def measure(scenes: int, views: int, seed: int) -> dict[str, dict[str, float]]:
    """Share of instances associated rightly, of scenes without a mistake, and seconds per scene, for every fault."""
    tally = {fault: np.zeros(4) for fault in FAULTS}
    for s in range(scenes):
        true = truth(seed + s, views)
        for fault in FAULTS:
            given = spoiled(true, fault, np.random.default_rng(s))
            started = time.process_time()
            found = associate(given).masks
            seconds = time.process_time() - started
            right, total = right_share(true, given, found)
            tally[fault] += [right, total, right == total, seconds]
    return {
        fault: {
            "instances": int(total),
            "right": round(right / total, 4),
            "scenes without a mistake": round(whole / scenes, 3),
            "CPU seconds per scene": round(seconds / scenes, 3),
        }
        for fault, (right, total, whole, seconds) in tally.items()
    }


def main() -> None:
    """Prints the table; --json keeps it."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--scenes", type=int, default=50)
    parser.add_argument("--views", type=int, default=5)
    parser.add_argument("--seed", type=int, default=1000)
    parser.add_argument("--json", type=Path, default=None)
    arguments = parser.parse_args()
    table = measure(arguments.scenes, arguments.views, arguments.seed)
    print(f"{'fault':<10} {'instances':>9} {'right':>7} {'whole scenes':>12} {'s':>6}")
    for fault, row in table.items():
        instances, right, whole, seconds = row.values()
        print(f"{fault:<10} {instances:>9} {right:>7.1%} {whole:>12.0%} {seconds:>6.2f}")
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(table, indent=1) + "\n")


if __name__ == "__main__":
    main()
