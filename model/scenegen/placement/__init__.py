"""Where a generated scene stands in the robot's frame (numpy, scipy, trimesh and embree only)."""

from scenegen.placement.place import place_scene
from scenegen.placement.rescale import by_known_sizes, in_query_units, sizes_by_label

__all__ = ["by_known_sizes", "in_query_units", "place_scene", "sizes_by_label"]
