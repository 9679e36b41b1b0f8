"""Where a generated scene stands in the robot's frame (numpy, scipy and trimesh only)."""

from scenegen.placement.place import place_scene
from scenegen.placement.rescale import in_query_units

__all__ = ["in_query_units", "place_scene"]
