"""A camera without a camera: publishes a synthetic scene from an orbit, a recorded folder or a bag, as a driver would.

RGB, instance masks, depth, camera info and TF, each frame with one stamp. Frames are made ready ahead in a thread, so
that publishing costs little; until the next one is ready the last one is repeated. A bag is played by replay.py. Knows
nothing about the node.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from geometry_msgs.msg import Transform, TransformStamped
from rclpy.node import Node
from rclpy.qos import QoSProfile
from sensor_msgs.msg import CameraInfo, Image
from std_msgs.msg import Header
from tf2_msgs.msg import TFMessage

from scenegen.images import read_views
from scenegen.scene import Floats, InvalidInput, View
from scenegen.synthetic import Camera, SyntheticScene, camera_path, make_scene, render
from scenegen_ros.conversions import camera_info_message, image_message, transform_message
from scenegen_ros.qos import TF
from scenegen_ros.small_nodes import fixed_parameter, positive_parameter, run

if TYPE_CHECKING:
    from scenegen_ros.replay import BagPlayer

FRAME = "camera_optical_frame"
FIXED_FRAME = "map"
T_MAP_TRIPOD: Floats = np.array([[0, 0, 1, 0], [-1, 0, 0, 0], [0, -1, 0, 0], [0, 0, 0, 1]], float)
"""Where a recorded camera of unknown pose stands: at the map's origin, looking along x (REP 103)."""


@dataclass(frozen=True)
class Frame:
    """One view as messages without a stamp; depth is None where there is none."""

    image: Image
    masks: Image
    depth: Image | None
    camera_info: CameraInfo
    transform: Transform

    @staticmethod
    def of(view: View) -> Frame:
        """A view's messages."""
        wide = view.masks.max(initial=0) > np.iinfo(np.uint16).max
        masks = view.masks if wide else view.masks.astype(np.uint16)
        T = T_MAP_TRIPOD if view.T_world_camera is None else view.T_world_camera
        return Frame(
            image_message(view.image, "rgb8"),
            image_message(masks, "32SC1" if wide else "16UC1"),
            None if view.depth_m is None else image_message(view.depth_m, "32FC1"),
            camera_info_message(view.intrinsics, (view.image.shape[0], view.image.shape[1])),
            transform_message(T),
        )


def orbit(scene: SyntheticScene, views: int, size: tuple[int, int], depth_noise: bool) -> Iterator[View]:
    """A camera of (height, width) going once around a synthetic scene."""
    camera = Camera.pinhole(size[1], size[0], 0.94 * size[1])
    noise = np.random.default_rng(scene.seed) if depth_noise else None
    for T_world_camera in camera_path(scene, views, scene.seed, camera):
        yield render(scene, camera, T_world_camera, noise)


def play(node: Node, bag: str, topics: dict[str, str], rate: float, loop: bool) -> BagPlayer:
    """Plays a bag. InvalidInput when it cannot be, or rosbags is not installed."""
    try:
        from scenegen_ros.replay import BagPlayer
    except ImportError as error:
        raise InvalidInput(
            "a bag needs rosbags, which is not installed: pip install -r requirements/bags.txt "
            "-c requirements/constraints.txt"
        ) from error
    return BagPlayer(node, bag, topics, rate=rate, loop=loop)


class SimulatedCamera(Node):
    """Publishes image, masks, depth, camera_info and /tf over and over, at rate_hz."""

    def __init__(self, **kwargs: Any) -> None:
        """kwargs: as rclpy.node.Node takes them. InvalidInput when the folder cannot be played, or a number is none."""
        super().__init__("simulated_camera", **kwargs)
        parameter, positive = partial(fixed_parameter, self), partial(positive_parameter, self)
        self._folder: str = parameter("folder", "", "Recorded folder to play (image*, masks*, ...). Empty: synthetic.")
        self._seed: int = parameter("seed", 1, "Synthetic scene.")
        self._views: int = positive("views", 36, "Views on the synthetic orbit.")
        self._size: tuple[int, int] = (
            positive("height", 480, "Rows of a synthetic image."),
            positive("width", 640, "Columns of a synthetic image."),
        )
        self._noise: bool = parameter("depth_noise", False, "Give synthetic depth a depth camera's errors.")
        rate_hz: float = positive("rate_hz", 10.0, "Frames per second, but of a bag.")
        bag: str = parameter("bag", "", "Bag to play: a rosbag2 folder, or an .mcap or .db3 file.")
        rate: float = parameter("rate", 1.0, "Pace of a bag; 2 is twice as fast as it was recorded.")
        loop: bool = parameter("loop", False, "Begin a bag anew at its end.")
        topics = {
            name: str(parameter(f"bag_{name}", name, f"What the bag calls {name}. Empty: it need not have it."))
            for name in ("image", "masks", "depth", "camera_info")
        }
        self._player: BagPlayer | None = None
        if bag:
            self._player = play(self, bag, topics, rate, loop)
            return
        self._frames: list[Frame] = []
        self._complete = False
        self._next = 0
        qos = QoSProfile(depth=5)
        self._image = self.create_publisher(Image, "image", qos)
        self._masks = self.create_publisher(Image, "masks", qos)
        self._camera_info = self.create_publisher(CameraInfo, "camera_info", qos)
        self._tf = self.create_publisher(TFMessage, "/tf", TF)
        self._depth = None
        source = self._source()
        self._add(next(source))
        if self._frames[0].depth is not None:
            self._depth = self.create_publisher(Image, "depth", qos)
        threading.Thread(target=self._make_ready, args=(source,), daemon=True).start()
        self.create_timer(1.0 / rate_hz, self._publish)

    def destroy_node(self) -> None:
        """Ends a bag that plays."""
        if self._player is not None:
            self._player.stop()
        super().destroy_node()

    def _source(self) -> Iterator[View]:
        if self._folder:
            return iter(read_views(self._folder))
        return orbit(make_scene(self._seed), self._views, self._size, self._noise)

    def _add(self, view: View) -> None:
        self._frames.append(Frame.of(view))

    def _make_ready(self, source: Iterator[View]) -> None:
        for view in source:
            self._add(view)
        self._complete = True
        self.get_logger().info(f"all {len(self._frames)} frames are ready")

    def _publish(self) -> None:
        frame = self._frames[self._next]
        last = len(self._frames) - 1
        if self._next < last:
            self._next += 1
        elif self._complete:
            self._next = 0
        stamp = self.get_clock().now().to_msg()
        transform = TransformStamped(
            header=Header(stamp=stamp, frame_id=FIXED_FRAME), child_frame_id=FRAME, transform=frame.transform
        )
        self._tf.publish(TFMessage(transforms=[transform]))
        outputs = [(self._camera_info, frame.camera_info), (self._image, frame.image), (self._masks, frame.masks)]
        if self._depth is not None and frame.depth is not None:
            outputs.append((self._depth, frame.depth))
        for publisher, message in outputs:
            message.header = Header(stamp=stamp, frame_id=FRAME)
            publisher.publish(message)


def main(args: list[str] | None = None) -> int:
    """Runs the camera until it is interrupted; 1 when the folder cannot be played, or a parameter be used."""
    return run("simulated_camera", SimulatedCamera, args)


if __name__ == "__main__":
    raise SystemExit(main())
