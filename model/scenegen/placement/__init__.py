"""Where a generated scene stands in the robot's frame (numpy, scipy, trimesh and embree only)."""

from scenegen.placement.place import place_scene
from scenegen.placement.rescale import by_known_sizes, in_query_units, sizes_by_label
from scenegen.placement.tracking import Known, Tracked, remembered, track

__all__ = [
    "Known",
    "Tracked",
    "by_known_sizes",
    "in_query_units",
    "place_scene",
    "remembered",
    "sizes_by_label",
    "track",
]
