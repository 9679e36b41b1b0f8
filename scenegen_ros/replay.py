"""A recorded camera: plays a rosbag2 (MCAP or sqlite3) to the camera's topics at the pace of its header stamps.

rosbags reads it, so no rosbag2 is needed. Stamps are moved to the present, all by the same amount, so that a node that
follows the wall clock takes them for live. Knows nothing about what the messages show.
"""

from __future__ import annotations

import struct
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from rclpy.node import Node
from rclpy.publisher import Publisher
from rclpy.serialization import deserialize_message
from rosbags.interfaces import Connection
from rosbags.rosbag2 import Reader, ReaderError
from sensor_msgs.msg import CameraInfo, CompressedImage, Image
from tf2_msgs.msg import TFMessage

from scenegen.scene import InvalidInput
from scenegen_ros.conversions import read_header, stamp_ns
from scenegen_ros.qos import TF, TF_STATIC
from scenegen_ros.scene_messages import time_message

_TYPES = {"sensor_msgs/msg/Image": Image, "sensor_msgs/msg/CompressedImage": CompressedImage}
_TYPES |= {"sensor_msgs/msg/CameraInfo": CameraInfo}
_NEEDED = ("image", "masks", "camera_info")
_LEAST_PAUSE_S = 0.01
_TF, _TF_STATIC = "/tf", "/tf_static"


@dataclass(frozen=True)
class _Recorded:
    """One message of the bag. stamp_ns: of its header."""

    topic: str
    stamp_ns: int
    cdr: bytes


class BagPlayer:
    """Plays a bag in a thread of its own; stop() ends it. played: how many messages so far."""

    def __init__(
        self, node: Node, bag: str, topics: Mapping[str, str], *, rate: float = 1.0, loop: bool = False
    ) -> None:
        """topics: what the bag calls "image", "masks", "depth" and "camera_info"; "" for what it need not have.

        rate: of play, 2 is twice as fast. loop: begins anew at the end. InvalidInput, saying what the bag holds, when
        it cannot be read or lacks a topic.
        """
        if not rate > 0:
            raise InvalidInput(f"rate is {rate}: it must be positive")
        self._node, self._rate, self._loop = node, rate, loop
        self._path = Path(bag).expanduser()
        self._reader = _open(self._path)
        self._chosen = self._choose(topics)
        self._outputs: dict[str, Publisher] = {}
        for connection in self._chosen:
            self._outputs[connection.topic] = self._publisher(connection, topics)
        static = [c for c in self._reader.connections if c.topic == _TF_STATIC]
        if static:
            self._static = node.create_publisher(TFMessage, _TF_STATIC, TF_STATIC)
            for _, _, cdr in self._reader.messages(static):
                self._static.publish(bytes(cdr))
        self.played = 0
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._play, name="bag", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Ends the playing."""
        self._stopped.set()
        self._thread.join()
        self._reader.close()

    def _choose(self, topics: Mapping[str, str]) -> list[Connection]:
        by_topic = {connection.topic: connection for connection in self._reader.connections}
        chosen = [by_topic[_TF]] if _TF in by_topic else []
        for name, topic in topics.items():
            if not topic:
                continue
            connection = by_topic.get(topic if topic.startswith("/") else f"/{topic}")
            if connection is None and name in _NEEDED:
                held = ", ".join(f"{c.topic} ({c.msgtype})" for c in by_topic.values())
                raise InvalidInput(
                    f"{self._path} has no topic '{topic}' for {name}; it has {held or 'none'}: name the right one in "
                    f"bag_{name}, or set that to '' when something else publishes it"
                )
            if connection is not None:
                if connection.msgtype not in _TYPES:
                    raise InvalidInput(
                        f"'{connection.topic}' is a {connection.msgtype}: {name} must be one of {', '.join(_TYPES)}"
                    )
                chosen.append(connection)
        return chosen

    def _publisher(self, connection: Connection, topics: Mapping[str, str]) -> Publisher:
        if connection.topic == _TF:
            return self._node.create_publisher(TFMessage, _TF, TF)
        name = next(name for name, topic in topics.items() if f"/{topic.lstrip('/')}" == connection.topic)
        kind = _TYPES[connection.msgtype]
        return self._node.create_publisher(kind, f"{name}/compressed" if kind is CompressedImage else name, 5)

    def _play(self) -> None:
        try:
            while not self._stopped.is_set():
                self._play_once()
                if not self._loop:
                    self._node.get_logger().info(f"{self._path} is at its end, {self.played} messages were played")
                    return
        except Exception as error:  # a damaged bag: rosbags raises whatever it met
            if not self._stopped.is_set() and self._node.context.ok():
                self._node.get_logger().error(f"{self._path} cannot be played on ({error!r}): is it damaged?")

    def _play_once(self) -> None:
        first_ns: int | None = None
        newest_ns, step_ns = 0, 0
        for message in self._messages():
            if first_ns is None:
                first_ns, begun_s = message.stamp_ns, time.monotonic()
                begun_ns = self._node.get_clock().now().nanoseconds
            elif message.stamp_ns > newest_ns:
                step_ns = message.stamp_ns - newest_ns
            newest_ns = max(newest_ns, message.stamp_ns)
            late_ns = round((message.stamp_ns - first_ns) / self._rate)
            if self._stopped.wait(max(0.0, begun_s + late_ns / 1e9 - time.monotonic())):
                return
            self._publish(message, begun_ns + late_ns, first_ns, begun_ns)
        # The first frame of the next round comes as long after the last one as that came after the one before.
        self._stopped.wait(max(step_ns / 1e9 / self._rate, _LEAST_PAUSE_S))

    def _messages(self) -> Iterator[_Recorded]:
        for connection, _, cdr in self._reader.messages(self._chosen):
            raw = bytes(cdr)
            if connection.topic == _TF:
                transforms = deserialize_message(raw, TFMessage).transforms
                if transforms:
                    yield _Recorded(connection.topic, stamp_ns(transforms[0].header.stamp), raw)
            else:
                yield _Recorded(connection.topic, read_header(raw)[0], raw)

    def _publish(self, message: _Recorded, now_ns: int, first_ns: int, begun_ns: int) -> None:
        if message.topic == _TF:
            moved = deserialize_message(message.cdr, TFMessage)
            for transform in moved.transforms:
                late_ns = round((stamp_ns(transform.header.stamp) - first_ns) / self._rate)
                transform.header.stamp = time_message(begun_ns + late_ns)
            self._outputs[_TF].publish(moved)
        else:
            self._outputs[message.topic].publish(_restamped(message.cdr, now_ns))
        self.played += 1


def _restamped(cdr: bytes, now_ns: int) -> bytes:
    """A serialized message that starts with a header, with another stamp (see conversions.read_header)."""
    moved = bytearray(cdr)
    struct.pack_into(("<" if cdr[1] & 1 else ">") + "iI", moved, 4, now_ns // 10**9, now_ns % 10**9)
    return bytes(moved)


def _open(path: Path) -> Reader:
    try:
        reader = Reader(path)
        reader.open()
    except (ReaderError, OSError) as error:
        raise InvalidInput(
            f"{path} is not a bag that can be played ({error}): give the folder with metadata.yaml, or an .mcap file"
        ) from error
    return reader
