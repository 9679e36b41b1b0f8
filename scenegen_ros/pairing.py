"""Brings together the messages of several topics that belong to one moment.

Works on stamps and undecoded bytes; knows nothing about ROS, TF or pixels. Masks come last and least often (somebody
had to compute them), so a set is built around each masks message: the nearest of every other topic within half a frame.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import Counter, deque
from collections.abc import Mapping
from dataclasses import dataclass, field

from scenegen_ros.transforms import JUMP_BACK_NS

FIRST_PERIOD_NS = 33_333_333
"""The camera's period until two images have told it."""


@dataclass(frozen=True, order=True)
class Message:
    """One serialized message: its header's stamp and frame, its bytes, and the type that they deserialize to."""

    stamp_ns: int
    frame_id: str = field(compare=False)
    cdr: bytes = field(compare=False, repr=False)
    message_type: type = field(default=object, compare=False)


@dataclass(frozen=True)
class MessageSet:
    """The messages of one moment by topic: always "image", "masks" and "camera_info", "depth" where it is used.

    An image may be an Image or a CompressedImage, depth an Image or a PointCloud2.
    """

    messages: Mapping[str, Message]

    @property
    def stamp_ns(self) -> int:
        """The image's stamp, at which TF is looked up."""
        return self.messages["image"].stamp_ns

    @property
    def frame_id(self) -> str:
        """The camera's optical frame, as the image names it."""
        return self.messages["image"].frame_id


class TimeJumpedBack(Exception):
    """A stamp ran backwards: a simulation was reset or a bag started over. Everything held is of another time."""


class Pairer:
    """Holds at most queue_size messages per topic until their partners come; counts those that found none, by cause."""

    def __init__(self, queue_size: int) -> None:
        """queue_size: messages per topic."""
        self._queue_size = queue_size
        self.counts: Counter[str] = Counter()
        self.clear()

    def clear(self) -> None:
        """Forgets every message and stamp; the counts stay."""
        self._queues: dict[str, list[Message]] = {}
        self._newest_ns: dict[str, int] = {}
        self._image_stamps: deque[int] = deque(maxlen=20)

    @property
    def half_frame_ns(self) -> int:
        """Half the camera's period: the shortest step between recent images, for lost ones only lengthen steps."""
        stamps = sorted(self._image_stamps)
        return min((b - a for a, b in zip(stamps, stamps[1:], strict=False)), default=FIRST_PERIOD_NS) // 2

    def add(self, topic: str, message: Message) -> None:
        """Takes one message. TimeJumpedBack, without taking it, when its stamp ran backwards."""
        newest_ns = self._newest_ns.get(topic, message.stamp_ns)
        if message.stamp_ns < newest_ns - JUMP_BACK_NS:
            raise TimeJumpedBack(f"the stamps of {topic} jumped back by {(newest_ns - message.stamp_ns) / 1e9:.1f} s")
        if topic == "image":
            if message.stamp_ns in self._image_stamps:
                return  # raw and compressed of the same frame
            self._image_stamps.append(message.stamp_ns)
        self._newest_ns[topic] = max(newest_ns, message.stamp_ns)
        queue = self._queues.setdefault(topic, [])
        insort(queue, message)

    def match(self, partners: tuple[str, ...]) -> MessageSet | None:
        """The newest complete set, if any; it and everything older leave the queues.

        partners: the topics a set needs besides masks.
        """
        for masks in reversed(self._queues.get("masks", [])):
            nearest = {topic: self._nearest(topic, masks.stamp_ns) for topic in partners}
            complete = {topic: message for topic, message in nearest.items() if message is not None}
            if len(complete) < len(partners):
                continue
            complete["masks"] = masks
            for topic, used in complete.items():
                queue = self._queues[topic]
                at = queue.index(used)
                for older in queue[:at]:
                    self._discard(topic, older, partners)
                del queue[: at + 1]
            return MessageSet(complete)
        for topic, queue in self._queues.items():
            while len(queue) > self._queue_size:
                self._discard(topic, queue.pop(0), partners)
        return None

    def _nearest(self, topic: str, stamp_ns: int) -> Message | None:
        queue = self._queues.get(topic, [])
        at = bisect_left(queue, stamp_ns, key=lambda m: m.stamp_ns)
        near = min(queue[max(at - 1, 0) : at + 1], key=lambda m: abs(m.stamp_ns - stamp_ns), default=None)
        return near if near is not None and abs(near.stamp_ns - stamp_ns) <= self.half_frame_ns else None

    def _discard(self, topic: str, message: Message, partners: tuple[str, ...]) -> None:
        """Counts a message that leaves without a set, under the partner it lacked: masks, or what its masks lacked."""
        wanted = partners if topic == "masks" else ("masks",)
        for name in wanted:
            if self._nearest(name, message.stamp_ns) is None:
                self.counts[f"{topic} without {name}"] += 1
                return
