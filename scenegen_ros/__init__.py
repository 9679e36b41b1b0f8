"""The ROS 2 side of SceneGen: camera and masks in, meshes and poses out. Never imports torch."""

# The messages are generated into another folder of the same package (scenegen_ros.msg, .srv, .action): both must meet.
__path__ = __import__("pkgutil").extend_path(__path__, __name__)
