"""Kept views that came with boxes get masks, and the objects of a scene the labels of their boxes.

Knows nothing about how masks are made: it takes something that segments like SceneClient.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Protocol

from scenegen.prompts import PromptedView, of_one_numbering
from scenegen.scene import InvalidInput, Progress, Scene, View
from scenegen_ros.kept_view import KeptView


class Segmenter(Protocol):
    """What segments: scenegen.client.SceneClient."""

    def segment(
        self,
        views: Sequence[PromptedView],
        *,
        on_progress: Callable[[Progress], None] | None,
        cancelled: Callable[[], bool] | None,
    ) -> tuple[View, ...]:
        """Prompted views to views with masks, in the same order."""


def segmented(
    kept: Sequence[KeptView],
    segmenter: Segmenter,
    *,
    on_progress: Callable[[Progress], None],
    cancelled: Callable[[], bool],
) -> list[KeptView]:
    """Views with masks in place of boxes, those that see most objects first; one in which none was found is left out.

    InvalidInput when none was found in any.
    """
    prompted = [k.view for k in kept if isinstance(k.view, PromptedView)]
    views = segmenter.segment(of_one_numbering(prompted), on_progress=on_progress, cancelled=cancelled)
    made = [KeptView.of(view, k.frame_id) for k, view in zip(kept, views, strict=True)]
    found = sorted((k for k in made if k.ids), key=lambda k: -len(k.ids))
    if not found:
        asked = sorted({i for view in prompted for i in view.instance_ids})
        raise InvalidInput(
            f"the segmentation found none of the objects {asked} in {len(prompted)} views: do the boxes on "
            "detections_2d enclose objects, in pixels of this image?"
        )
    return found


def labels_of(kept: Sequence[KeptView]) -> dict[int, str]:
    """What the boxes of the views say their objects are, by id; of several views, what the first one says."""
    views = of_one_numbering([k.view for k in kept if isinstance(k.view, PromptedView)])
    return {p.id: p.label for view in reversed(views) for p in view.prompts if p.label}


def labelled(scene: Scene, labels: Mapping[int, str]) -> Scene:
    """A scene whose assets are called what labels say, by id; the others keep their names."""
    return replace(scene, assets=tuple(replace(a, label=labels.get(a.id, a.label)) for a in scene.assets))
