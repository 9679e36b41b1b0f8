"""Ids that mean the same object in every kept view, where the segmentation numbers each image for itself.

Around scenegen.association: remembers what was measured of a view and which ids were ever given, while views come and
go. Knows nothing about when views are kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from scenegen.association import Measured, associate
from scenegen.prompts import PromptedView
from scenegen.scene import InvalidInput, View
from scenegen_ros.kept_view import KeptView


class Identities:
    """The ids of the objects in the views that are kept now."""

    def __init__(self) -> None:
        self._measured: dict[int, Measured] = {}
        self._given: set[int] = set()

    def clear(self) -> None:
        """Forgets every object."""
        self._measured.clear()
        self._given.clear()

    @staticmethod
    def check(view: View) -> None:
        """InvalidInput when nothing would tell what a view's instances are in space."""
        if not isinstance(view, PromptedView) and (view.depth_m is None or view.intrinsics is None):
            raise InvalidInput(
                "association is overlap, but a set of messages has no depth or no calibration: publish both, or set "
                "association to id and give ids that mean the same in every image"
            )

    def named(self, kept: Sequence[KeptView]) -> list[KeptView]:
        """The kept views with common ids in place of their own; as they are where a segmentation is still to come."""
        if any(isinstance(k.view, PromptedView) for k in kept):
            return list(kept)
        for k in kept:
            if k.view.stamp_ns not in self._measured:
                self._measured[k.view.stamp_ns] = Measured.of(k.view)
        self._measured = {k.view.stamp_ns: self._measured[k.view.stamp_ns] for k in kept}
        known = [{own: common[0] for own, common in k.common.items() if len(common) == 1} for k in kept]
        found = associate(list(self._measured.values()), known, self._given)
        self._given |= {common for ids in found.ids for several in ids.values() for common in several}
        return [
            k.with_common_ids(replace(k.view, masks=masks), ids)
            for k, masks, ids in zip(kept, found.masks, found.ids, strict=True)
        ]
