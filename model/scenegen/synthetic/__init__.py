"""Procedural scenes with exact ground truth: for the demo, the tests and training.

Knows nothing about torch, ROS or the network.
"""

from scenegen.render import Camera
from scenegen.synthetic.dataset import synthesize, view_of_all
from scenegen.synthetic.depth_noise import sensed
from scenegen.synthetic.objects import FAMILIES, ProceduralObject, make_object
from scenegen.synthetic.rendering import render, render_views
from scenegen.synthetic.scenes import SyntheticScene, camera_path, make_camera, make_scene, true_scene

__all__ = [
    "FAMILIES",
    "Camera",
    "ProceduralObject",
    "SyntheticScene",
    "camera_path",
    "make_camera",
    "make_object",
    "make_scene",
    "render",
    "render_views",
    "sensed",
    "synthesize",
    "true_scene",
    "view_of_all",
]
