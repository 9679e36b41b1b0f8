"""Objects that stand still, seen again from other sides: how many are kept. Scenes are those of benchmark.placement.

Each scene is placed from two views and followed from two others, then placed from one and followed from another.
"""

from __future__ import annotations

import argparse
import time
from collections import Counter

import numpy as np

from benchmark.placement_scenes import SHAPES, make_case
from scenegen.placement import place_scene, remembered, track

UP = np.array([0.0, 0.0, 1.0])


def main() -> None:
    """Prints what was said of how many objects, and the seconds a scene took."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=1000)
    parser.add_argument("--scenes", type=int, default=4)
    parser.add_argument("--shapes", choices=SHAPES, default="hard")
    asked = parser.parse_args()
    said: Counter[str] = Counter()
    seconds = []
    for seed in range(asked.seed, asked.seed + asked.scenes):
        case = make_case(seed, 4, asked.shapes, (2, 5))
        if case is None:
            continue
        for first, later in ((case.views[:2], case.views[2:]), (case.views[:1], case.views[1:2])):
            objects = place_scene(case.scene, first, gravity=UP)
            known = remembered(objects, first)
            began_s = time.perf_counter()
            found = track(known, later, gravity=UP)
            seconds.append(time.perf_counter() - began_s)
            said["objects"] += len(objects)
            said["not known"] += len(objects) - len(known)
            for verdict in ("kept", "moved", "changed", "removed"):
                said[verdict] += len(getattr(found, verdict))
    print(asked.shapes, dict(said), f"seconds a scene: median {np.median(seconds):.2f}, most {max(seconds):.2f}")


if __name__ == "__main__":
    main()
