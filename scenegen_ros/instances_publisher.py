"""~/instances: the newest kept view's masks with the ids that goals and scenes use.

Only where the node makes ids common to its views (association: overlap): there, nobody else knows them.
"""

from __future__ import annotations

from rclpy.node import Node
from sensor_msgs.msg import Image
from std_msgs.msg import Header

from scenegen_ros.conversions import image_message
from scenegen_ros.kept_view import KeptView
from scenegen_ros.qos import LATCHED
from scenegen_ros.scene_messages import time_message


class InstancesPublisher:
    """Publishes masks as 32SC1, latched."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._publisher = node.create_publisher(Image, "~/instances", LATCHED)

    def publish(self, kept: KeptView) -> None:
        """A view that has just been kept."""
        message = image_message(kept.view.masks, "32SC1")
        message.header = Header(stamp=time_message(kept.view.stamp_ns), frame_id=kept.frame_id)
        self._publisher.publish(message)

    def destroy(self) -> None:
        """Takes the topic away."""
        self._node.destroy_publisher(self._publisher)
