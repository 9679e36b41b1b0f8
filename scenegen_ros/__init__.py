"""The ROS 2 side of SceneGen: subscriptions, views, scenes in the robot's frame. Never imports torch."""

# Meets the generated scenegen_ros.msg / .srv / .action, which may lie in another folder (an installed prefix).
__path__ = __import__("pkgutil").extend_path(__path__, __name__)
