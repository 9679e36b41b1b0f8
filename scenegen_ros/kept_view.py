"""A view that the node keeps, and what was worked out about it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from scenegen.scene import View
from scenegen_ros.view_choice import Aim, sharpness


@dataclass(frozen=True, eq=False)
class KeptView:
    """A view, the camera frame it came from, the ids it sees, where it looks (None without TF), and how sharp it is.

    common: where ids were made common to all views (scenegen.association): the id that its segmentation gave -> the
    objects' ids, which are those of view.masks. Empty where the segmentation's ids are taken as they come.
    """

    view: View
    frame_id: str
    ids: frozenset[int]
    aim: Aim | None
    sharpness: float
    common: Mapping[int, tuple[int, ...]] = field(default_factory=dict)

    @staticmethod
    def of(view: View, frame_id: str) -> KeptView:
        """A view that has its camera pose where there is one."""
        aim = None if view.T_world_camera is None else Aim.of(view, view.T_world_camera)
        return KeptView(view, frame_id, frozenset(view.instance_ids), aim, sharpness(view))

    def with_common_ids(self, view: View, common: Mapping[int, tuple[int, ...]]) -> KeptView:
        """The same with a view whose masks hold common ids."""
        ids = frozenset(i for several in common.values() for i in several)
        aim = None if self.aim is None else replace(self.aim, ids=ids)
        return replace(self, view=view, ids=ids, aim=aim, common=common)
