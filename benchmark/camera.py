"""A 1920x1080 camera at 30 Hz, as a process: image, masks, depth, camera info and TF, all made before the first frame.

Publishes so many frames and writes what it saw of itself and of the watched process; then stays until it is ended.
"""

from __future__ import annotations

import argparse
import json
import signal
import time
from pathlib import Path

import numpy as np
import rclpy
from geometry_msgs.msg import TransformStamped
from rclpy.node import Node
from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import CameraInfo, Image
from std_msgs.msg import Header
from tf2_msgs.msg import TFMessage

from benchmark.observer import cpu_s
from scenegen_ros.conversions import camera_info_message, image_message, transform_message

RATE_HZ = 30.0
SIZE = (1080, 1920)
STEP_M = 0.007
"""How far the camera moves between frames: 0.21 m/s."""
_MATCHED_S = 1.0
"""A publisher hears of a subscription a moment before it is heard by it."""


class Camera(Node):
    """Publishers, and one frame of messages that only get new stamps."""

    def __init__(self) -> None:
        super().__init__("camera")
        rng = np.random.default_rng(0)
        masks = np.zeros(SIZE, np.uint16)
        for i in range(8):
            masks[300:800, 40 + 230 * i : 240 + 230 * i] = i + 1
        image = rng.integers(0, 256, (*SIZE, 3), dtype=np.uint8)
        depth_m = rng.uniform(0.5, 3.0, SIZE).astype(np.float32)
        K = np.array([[1400.0, 0, 959.5], [0, 1400.0, 539.5], [0, 0, 1]])
        qos = QoSProfile(depth=5, reliability=ReliabilityPolicy.BEST_EFFORT)
        self.outputs = [
            (self.create_publisher(CameraInfo, "camera_info", qos), camera_info_message(K, SIZE)),
            (self.create_publisher(Image, "image", qos), image_message(image, "rgb8")),
            (self.create_publisher(Image, "masks", qos), image_message(masks, "16UC1")),
            (self.create_publisher(Image, "depth", qos), image_message(depth_m, "32FC1")),
        ]
        self.tf = self.create_publisher(TFMessage, "/tf", QoSProfile(depth=100))

    def wait_until_heard(self) -> None:
        """Until something is subscribed to every topic."""
        publishers = [self.tf, *(publisher for publisher, _ in self.outputs)]
        while not all(publisher.get_subscription_count() for publisher in publishers):
            time.sleep(0.05)
        time.sleep(_MATCHED_S)

    def publish(self, index: int) -> None:
        """One frame, from where the camera has moved to."""
        stamp = self.get_clock().now().to_msg()
        T_map_camera = np.eye(4)
        T_map_camera[0, 3] = STEP_M * index
        transform = TransformStamped(
            header=Header(stamp=stamp, frame_id="map"),
            child_frame_id="camera_optical_frame",
            transform=transform_message(T_map_camera),
        )
        self.tf.publish(TFMessage(transforms=[transform]))
        for publisher, message in self.outputs:
            message.header = Header(stamp=stamp, frame_id="camera_optical_frame")
            publisher.publish(message)


def main() -> None:
    """Publishes the frames and writes {"seconds", "watched_cpu_s"}: first frame to one period after the last."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("frames", type=int)
    parser.add_argument("watched", type=int, help="id of the process whose CPU time is taken")
    parser.add_argument("result", type=Path)
    args = parser.parse_args()
    rclpy.init()
    camera = Camera()
    camera.wait_until_heard()
    cpu_before_s, began_s = cpu_s(args.watched), time.monotonic()
    for index in range(args.frames):
        camera.publish(index)
        time.sleep(max(began_s + (index + 1) / RATE_HZ - time.monotonic(), 0.0))
    seconds, watched_cpu_s = time.monotonic() - began_s, cpu_s(args.watched) - cpu_before_s
    part = args.result.with_suffix(".part")
    part.write_text(json.dumps({"seconds": seconds, "watched_cpu_s": watched_cpu_s}))
    part.rename(args.result)
    signal.pause()


if __name__ == "__main__":
    main()
