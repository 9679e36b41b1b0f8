"""Views before segmentation: an image, and prompts that say where its objects are.

Knows nothing about how masks are made, about torch or about ROS.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import numpy as np
from numpy.typing import NDArray

from scenegen.scene import InvalidInput, View

Point = tuple[float, float]
Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class Prompt:
    """Where one object is in one view. Coordinates (u, v) in pixels of the view's image.

    id: instance id its mask will have; one id in several views is one object. box: (left, top, right, bottom).
    inside, outside: points on the object, and points that are not. label: what it is called, empty if unknown.
    """

    id: int
    box: Box | None = None
    inside: tuple[Point, ...] = ()
    outside: tuple[Point, ...] = ()
    label: str = ""

    def check(self, size: tuple[int, int]) -> None:
        """InvalidInput when this cannot be a prompt in an image of (height, width)."""
        name = f"the prompt of object {self.id}" + (f" ({self.label})" if self.label else "")
        if not 0 < self.id < 1 << 31:
            raise InvalidInput(f"{name} has an id that cannot be one: give a positive 32-bit integer, 0 is background")
        if self.box is None and not self.inside:
            raise InvalidInput(f"{name} has neither a box nor a point on the object: give one of them")
        height, width = size
        corners = [] if self.box is None else [self.box[:2], self.box[2:]]
        for u, v in [*corners, *self.inside, *self.outside]:
            if not (math.isfinite(u) and math.isfinite(v) and 0 <= u <= width and 0 <= v <= height):
                raise InvalidInput(
                    f"{name} lies at ({u:g}, {v:g}), outside its image of {width} x {height} pixels: give pixels of "
                    "the image that is sent, and clip boxes to it"
                )
        if self.box is not None and not (self.box[2] - self.box[0] >= 1 and self.box[3] - self.box[1] >= 1):
            raise InvalidInput(f"{name} is the box {self.box}: give (left, top, right, bottom), at least a pixel wide")


@dataclass(frozen=True)
class PromptedView(View):
    """A view whose masks are still to be made; instance_ids are those of the prompts.

    masks: until then nothing, or roughly where the objects are. prompts: may be empty where the objects are prompted in
    other views. tracked: ids mean the same object in every view; False where they only number this view's prompts.
    """

    prompts: tuple[Prompt, ...] = ()
    tracked: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        ids = [prompt.id for prompt in self.prompts]
        if len(set(ids)) < len(ids):
            raise InvalidInput(f"prompts of one view have the ids {ids}: give each object one prompt in a view")
        for prompt in self.prompts:
            prompt.check((self.image.shape[0], self.image.shape[1]))

    @property
    def instance_ids(self) -> tuple[int, ...]:
        """Ids of the prompts, ascending."""
        return tuple(sorted(prompt.id for prompt in self.prompts))

    def segmented(self, masks: NDArray[np.int32]) -> View:
        """The view with masks int32 [H, W]."""
        return View(**{row.name: getattr(self, row.name) for row in fields(View)} | {"masks": masks})


def with_prompts(view: View, prompts: Sequence[Prompt], *, tracked: bool = True) -> PromptedView:
    """A view to be segmented anew: in place of its masks stand the boxes of prompts, the smaller before the larger."""
    masks = np.zeros_like(view.masks)
    boxes = [(prompt.box, prompt.id) for prompt in prompts if prompt.box is not None]
    for (left, top, right, bottom), instance_id in sorted(boxes, key=lambda b: _area(b[0]), reverse=True):
        masks[round(top) : max(round(bottom), round(top) + 1), round(left) : max(round(right), round(left) + 1)] = (
            instance_id
        )
    values = {row.name: getattr(view, row.name) for row in fields(View)}
    return PromptedView(**values | {"masks": masks}, prompts=tuple(prompts), tracked=tracked)


def _area(box: Box) -> float:
    return (box[2] - box[0]) * (box[3] - box[1])


def of_one_numbering(views: Sequence[PromptedView]) -> tuple[PromptedView, ...]:
    """Views whose ids all mean the same objects.

    Where a detector only numbers its boxes, nothing says which box of another view is which object: the prompts of the
    first view stay, and the memory of the segmenter finds its objects in the others.
    """
    if all(view.tracked for view in views):
        return tuple(views)
    return tuple(replace(view, prompts=view.prompts if i == 0 else ()) for i, view in enumerate(views))
