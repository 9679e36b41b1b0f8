"""vision_msgs/Detection2DArray -> prompts for the segmentation, judged at the edge.

Reading takes any object with the message's fields, so it needs no ROS. Knows nothing about how masks are made.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from scenegen.prompts import Box, Prompt
from scenegen.scene import InvalidInput
from scenegen_ros.rectification import Lens

_PER_SIDE = 9
"""Points on each side of a box that say where it is once the lens is undone; straight lines bend."""


def decode_detections(message: Any, size: tuple[int, int], lens: Lens | None = None) -> tuple[tuple[Prompt, ...], bool]:
    """Prompts of the boxes that lie in an image of (height, width), and whether their ids are those of a tracker.

    Ids are the detections' own where all are different positive numbers, which then mean the same object in every
    image; otherwise the boxes' numbers, from 1. Boxes are clipped to the image, and turned ones enclosed. lens: what is
    undone in the image. InvalidInput when there is no box, or none is in the image.
    """
    detections = message.detections
    if not detections:
        raise InvalidInput("detections_2d holds no box: does the detector find anything?")
    given = [_number(detection.id) for detection in detections]
    tracked = None not in given and len(set(given)) == len(given)
    prompts = []
    for order, (detection, own) in enumerate(zip(detections, given, strict=True), 1):
        box = _box(detection.bbox, size, lens)
        if box is not None:
            prompts.append(Prompt(own if tracked and own is not None else order, box, label=_label(detection)))
    if not prompts:
        height, width = size
        raise InvalidInput(
            f"detections_2d holds {len(detections)} boxes, none of which is in the image of {width} x {height} pixels: "
            "give boxes in pixels of the image that this node takes, not of one made smaller"
        )
    return tuple(prompts), tracked


def _number(text: str) -> int | None:
    """A detection's id as an instance id, if it can be one."""
    number = int(text) if text.isascii() and text.isdigit() and len(text) < 11 else 0
    return number if 0 < number < 1 << 31 else None


def _label(detection: Any) -> str:
    """What the detector takes it for, most likely."""
    hypotheses = [result.hypothesis for result in detection.results]
    return str(max(hypotheses, key=lambda h: h.score).class_id) if hypotheses else ""


def _box(bbox: Any, size: tuple[int, int], lens: Lens | None) -> Box | None:
    """(left, top, right, bottom) in the image; None where less than a pixel is in it."""
    center = bbox.center
    numbers = (center.position.x, center.position.y, center.theta, bbox.size_x, bbox.size_y)
    if not all(map(math.isfinite, numbers)) or min(bbox.size_x, bbox.size_y) < 0:
        raise InvalidInput(
            f"detections_2d holds a box with centre, angle and size {numbers}: the detector's message is broken"
        )
    along = np.linspace(-0.5, 0.5, _PER_SIDE)
    side = np.full(_PER_SIDE, 0.5)
    outline = np.concatenate(
        [np.stack(p, axis=1) for p in ((along, side), (along, -side), (side, along), (-side, along))]
    )
    c, s = math.cos(center.theta), math.sin(center.theta)
    points = outline * (bbox.size_x, bbox.size_y) @ np.array([[c, s], [-s, c]]) + (center.position.x, center.position.y)
    if lens is not None:
        points = lens.undo(np.clip(points, 0, (size[1], size[0])))
    (left, top), (right, bottom) = (
        np.clip(edge, 0, (size[1], size[0])).tolist() for edge in (points.min(axis=0), points.max(axis=0))
    )
    return (left, top, right, bottom) if right - left >= 1 and bottom - top >= 1 else None
