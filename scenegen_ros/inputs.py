"""The node's subscriptions: images, masks or boxes, depth or points, camera info and TF, handed on undecoded.

Created when the node is activated, gone when it is deactivated. Knows nothing about what becomes of a message.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
from rclpy.event_handler import QoSRequestedIncompatibleQoSInfo, SubscriptionEventCallbacks
from rclpy.node import Node
from rclpy.qos import QoSProfile, qos_policy_name_from_kind
from rclpy.qos_overriding_options import QoSOverridingOptions
from rclpy.serialization import deserialize_message
from rclpy.subscription import Subscription
from sensor_msgs.msg import CameraInfo, CompressedImage, Image, PointCloud2
from tf2_msgs.msg import TFMessage
from vision_msgs.msg import Detection2DArray

from scenegen.prompts import with_prompts
from scenegen.scene import InvalidInput, View
from scenegen_ros.conversions import (
    decode_camera_info,
    decode_compressed,
    decode_depth,
    decode_image,
    decode_lens,
    decode_masks,
    read_header,
    read_transform,
)
from scenegen_ros.detections import decode_detections
from scenegen_ros.diagnostics import TopicMonitor
from scenegen_ros.pairing import Message, MessageSet
from scenegen_ros.parameters import Parameters
from scenegen_ros.points import decode_points
from scenegen_ros.qos import TF, TF_STATIC, sensor
from scenegen_ros.rectification import rectified
from scenegen_ros.transforms import TransformBuffer

DISCOVERY_S = 1.0
"""How long a depth publisher may take to be discovered before "auto" believes that there is none."""


def decode_set(messages: MessageSet, *, rectify: bool) -> View:
    """The View of a set of messages, without its camera pose. InvalidInput names the topic that cannot be used.

    Where boxes came in place of masks it is a PromptedView.
    rectify: whether the image, and masks and depth with it, are as the lens in the camera info distorts them.
    """
    read = {topic: deserialize_message(m.cdr, m.message_type) for topic, m in messages.messages.items()}
    image = read["image"]
    pixels = decode_compressed(image) if isinstance(image, CompressedImage) else decode_image(image)
    size = (pixels.shape[0], pixels.shape[1])
    intrinsics = decode_camera_info(read["camera_info"], size)
    lens = decode_lens(read["camera_info"], size) if rectify else None
    marks = read["masks"]
    boxes = isinstance(marks, Detection2DArray)
    masks = np.zeros(size, np.int32) if boxes else decode_masks(marks)
    depth, depth_m = read.get("depth"), None
    if isinstance(depth, PointCloud2):
        depth_m = decode_points(depth, size, messages.frame_id, intrinsics, lens)
    elif depth is not None:
        depth_m = decode_depth(depth)
    view = View(pixels, masks, depth_m, intrinsics, None, messages.stamp_ns)
    view = view if lens is None else rectified(view, lens)
    if not boxes:
        return view
    prompts, tracked = decode_detections(marks, size, lens)
    return with_prompts(view, prompts, tracked=tracked)


class Inputs:
    """The subscriptions of an active node."""

    def __init__(
        self,
        node: Node,
        parameters: Parameters,
        on_message: Callable[[str, Message], None],
        transforms: TransformBuffer,
    ) -> None:
        """on_message: called with the topic ("image", "masks", "depth", "camera_info") and each message, in order."""
        self._node = node
        self._on_message = on_message
        self._transforms = transforms
        self._depth = parameters.depth
        self._since_s = time.monotonic()
        marks, marks_type = (
            ("masks", Image) if parameters.segmentation == "topic" else ("detections_2d", Detection2DArray)
        )
        self.monitors = {name: TopicMonitor(name) for name in ("image", marks, "camera_info")}
        if parameters.depth != "off":
            self.monitors["depth"] = TopicMonitor("depth", needed=parameters.depth == "required")
            self.monitors["points"] = TopicMonitor("points", needed=False)
        self._tf_broken: dict[str, str] = {}
        self._names: dict[str, list[str]] = {name: [] for name in self.monitors}
        self._subscriptions: list[Subscription] = []
        if parameters.image_transport != "compressed":
            self._subscribe("image", Image, "image")
        if parameters.image_transport != "raw":
            self._subscribe("image", CompressedImage, "image/compressed")
        self._subscribe(marks, marks_type, marks)
        self._subscribe("camera_info", CameraInfo, "camera_info")
        if parameters.depth != "off":
            self._subscribe("depth", Image, "depth")
            self._subscribe("points", PointCloud2, "points")
        if parameters.fixed_frame:
            self._subscribe_tf("/tf", TF, static=False)
            self._subscribe_tf("/tf_static", TF_STATIC, static=True)

    def partners(self) -> tuple[str, ...]:
        """What a set of messages needs besides masks, as things stand now."""
        if self._depth == "off":
            return ("image", "camera_info")
        points = self.publishers("points") > 0
        required, discovering = self._depth == "required", time.monotonic() - self._since_s < DISCOVERY_S
        self.monitors["depth"].needed = required and not points
        with_depth = required or discovering or points or self.publishers("depth") > 0
        return ("image", "camera_info", "depth") if with_depth else ("image", "camera_info")

    @property
    def tf_problem(self) -> str:
        """What is wrong with the transforms that were refused and have not come right since; empty when none is."""
        return "; ".join(self._tf_broken.values())

    def publishers(self, name: str) -> int:
        """How many publish an input now."""
        return sum(self._node.count_publishers(topic) for topic in self._names[name])

    def destroy(self) -> None:
        """Takes every subscription away."""
        for subscription in self._subscriptions:
            self._node.destroy_subscription(subscription)
        self._subscriptions.clear()

    def _subscribe(self, name: str, message_type: type, topic: str) -> None:
        monitor = self.monitors[name]
        resolved = self._node.resolve_topic_name(topic)

        def incompatible(event: QoSRequestedIncompatibleQoSInfo) -> None:
            policy = qos_policy_name_from_kind(event.last_policy_kind).lower()
            monitor.qos_problem = (
                f"a publisher of {resolved} offers a {policy} that this node's subscription cannot accept: set "
                f"qos_overrides.{resolved}.subscription.{policy} to what it offers"
            )
            self._node.get_logger().error(monitor.qos_problem)

        def take(cdr: bytes) -> None:
            stamp, frame_id = read_header(cdr)
            monitor.heard(stamp, time.monotonic())
            if name == "detections_2d":  # boxes are another form of masks
                self._on_message("masks", Message(stamp, frame_id, cdr, message_type))
            elif name != "points":
                self._on_message(name, Message(stamp, frame_id, cdr, message_type))
            elif not self.publishers("depth"):  # points are another form of depth, which is smaller where both speak
                self._on_message("depth", Message(stamp, frame_id, cdr, message_type))

        self._names[name].append(resolved)
        self._subscriptions.append(
            self._node.create_subscription(
                message_type,
                topic,
                take,
                sensor(),
                event_callbacks=SubscriptionEventCallbacks(incompatible_qos=incompatible),
                qos_overriding_options=QoSOverridingOptions.with_default_policies(),
                raw=True,
            )
        )

    def _subscribe_tf(self, topic: str, qos: QoSProfile, *, static: bool) -> None:
        def take(message: TFMessage) -> None:
            self._take_tf(message, static=static)
            # All that wait, not one in each turn of the executor as images come: TF lagged behind them by up to 1 s.
            with subscription.handle:
                while (waiting := subscription.handle.take_message(TFMessage, False)) is not None:
                    self._take_tf(waiting[0], static=static)

        subscription = self._node.create_subscription(TFMessage, topic, take, qos)
        self._subscriptions.append(subscription)

    def _take_tf(self, message: TFMessage, *, static: bool) -> None:
        for transform in message.transforms:
            child = transform.child_frame_id
            try:
                self._transforms.add(*read_transform(transform), static=static)
            except InvalidInput as error:
                self._tf_broken[child] = str(error)
            else:
                self._tf_broken.pop(child, None)
