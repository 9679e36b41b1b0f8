"""The same object in several views, where the segmentation gives every view ids of its own.

What a view measured of each instance is looked for in the other views: its points either lie on an instance there, or
are hidden, or are out of sight. Instances that hold each other's points are one object; an instance that several
others fill is several objects merged by the segmentation, and is divided among them. Numpy and scipy; knows nothing
about ROS, meshes or objects that move between views (those are two objects, one where each view saw it).
"""

from scenegen.association.associate import Association, associate
from scenegen.association.measured import Measured

__all__ = ["Association", "Measured", "associate"]
