"""How long SAM 2 takes from boxes to masks: the smallest published size, random weights, which take as long as others.

    python -m benchmark.segmentation --views 3 --objects 2 --device cpu

Knows nothing about how good masks are.
"""

from __future__ import annotations

import argparse
import time

import numpy as np
import torch
from transformers import Sam2VideoConfig, Sam2VideoModel

from scenegen.prompts import Prompt, with_prompts
from scenegen.scene import Progress, View
from scenegen.segmentation import Segmenter

_SIZE = (480, 640)


def main() -> None:
    """Print seconds of every step and of all."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--views", type=int, default=3)
    parser.add_argument("--objects", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()
    torch.manual_seed(0)
    segmenter = Segmenter(Sam2VideoModel(Sam2VideoConfig()), args.device)
    rng = np.random.default_rng(0)
    boxes = [Prompt(i + 1, (40.0 + 60 * i, 40.0, 140.0 + 60 * i, 300.0)) for i in range(args.objects)]
    views = [
        with_prompts(
            View(rng.integers(0, 256, (*_SIZE, 3), dtype=np.uint8), np.zeros(_SIZE, np.int32), stamp_ns=i),
            boxes if i == 0 else (),
        )
        for i in range(args.views)
    ]

    def told(progress: Progress) -> None:
        print(
            f"{progress.fraction:4.0%} {time.process_time() - began_cpu:7.2f} s CPU {time.monotonic() - began:7.2f} s"
        )

    for what in ("first", "again"):
        print(what)
        began, began_cpu = time.monotonic(), time.process_time()
        segmenter.segment(views, on_progress=told)


if __name__ == "__main__":
    main()
