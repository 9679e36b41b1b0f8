"""Where a generated scene stands in the robot's frame (numpy, scipy and trimesh only)."""

from scenegen.placement.place import place_scene

__all__ = ["place_scene"]
