"""Pairing by stamp, TF that comes late, and which views are kept; no ROS involved."""

from __future__ import annotations

import tracemalloc
from typing import Any

import numpy as np
import pytest

from scenegen.scene import Floats, InvalidInput, View
from scenegen_ros.pairing import Message, MessageSet
from scenegen_ros.parameters import Parameters
from scenegen_ros.transforms import TooNew, TooOld
from scenegen_ros.view_collector import ViewCollector

MS = 1_000_000
FRAME_NS = 100 * MS


class Bench:
    """A collector with a camera that stands at x[stamp] metres, and decoding that only counts."""

    def __init__(self, **parameters: Any) -> None:
        self.x: dict[int, float] = {}
        self.default_x: float | None = 0.0
        self.old = False
        self.decoded: list[int] = []
        self.masks = np.ones((2, 2), np.int32)
        self.failure = ""
        self.notices: list[str] = []
        self.jumps: list[int] = []
        self.collector = ViewCollector(
            Parameters(**parameters), self.decode, self.lookup, self.notices.append, self.jumps.append
        )

    def decode(self, messages: MessageSet) -> View:
        self.decoded.append(messages.stamp_ns)
        if self.failure:
            raise InvalidInput(self.failure)
        return View(np.zeros((2, 2, 3), np.uint8), self.masks, stamp_ns=messages.stamp_ns)

    def lookup(self, frame: str, stamp_ns: int) -> Floats:
        if self.old:
            raise TooOld("too old")
        x = self.x.get(stamp_ns, self.default_x)
        if x is None:
            raise TooNew("not yet")
        T = np.eye(4)
        T[0, 3] = x
        return T

    def frame(
        self, stamp_ns: int, x: float | None = None, topics: str = "image camera_info masks", now_s: float = 0
    ) -> None:
        if x is not None:
            self.x[stamp_ns] = x
        for topic in topics.split():
            self.collector.add(topic, Message(stamp_ns, "camera", b"cdr"), now_s)

    @property
    def kept_x(self) -> list[float]:
        return sorted(float(k.view.T_world_camera[0, 3]) for k in self.collector.views())  # type: ignore[index]


def test_sets_meet_within_half_a_frame_and_not_beyond() -> None:
    bench = Bench(min_translation_m=0.1)
    for i in range(3):  # the frame period shows: 100 ms
        bench.frame(i * FRAME_NS, topics="image camera_info")
    for late_ms, pairs in ((50, 1), (51, 1), (49, 2)):
        stamp = int((3 + late_ms) * FRAME_NS)
        bench.frame(stamp, topics="image camera_info")
        bench.frame(stamp + late_ms * MS, topics="masks")
        assert bench.collector.paired == pairs, late_ms


def test_masks_may_come_long_after_their_image_and_lost_ones_are_counted_by_cause() -> None:
    bench = Bench(queue_size=10)
    for i in range(8):
        bench.frame(i * FRAME_NS, topics="image camera_info")
    assert bench.collector.count == 0
    bench.frame(5 * FRAME_NS, topics="masks")
    assert bench.decoded == [5 * FRAME_NS]
    assert bench.collector.lost == {"image without masks": 5, "camera_info without masks": 5}
    for i in range(8, 30):
        bench.frame(i * FRAME_NS, topics="masks")
    assert bench.collector.lost["masks without image"] == 12


def test_depth_is_waited_for_only_where_it_is_used() -> None:
    bench = Bench()
    bench.collector.partners = ("image", "camera_info", "depth")
    bench.frame(0)
    assert bench.collector.paired == 0
    bench.frame(0, topics="depth")
    assert bench.collector.paired == 1
    bench.frame(FRAME_NS)
    bench.collector.partners = ("image", "camera_info")
    bench.collector.poll(0.0)
    assert bench.collector.paired == 2


def test_raw_and_compressed_of_one_frame_count_once() -> None:
    bench = Bench()
    bench.frame(0, topics="image image camera_info masks masks")
    assert bench.collector.paired == 1


def test_a_view_is_kept_when_the_camera_has_moved_and_only_then_decoded() -> None:
    bench = Bench(min_translation_m=0.1)
    for i, x in enumerate((0.0, 0.05, 0.09, 0.11, 0.15, 0.22)):
        bench.frame(i * FRAME_NS, x)
    assert bench.kept_x == [0.0, 0.11, 0.22]
    assert bench.collector.passed == {"the camera had not moved": 3}
    assert len(bench.decoded) == 3


def test_turning_counts_as_moving() -> None:
    bench = Bench(min_translation_m=0.1, min_rotation_deg=10.0)
    angle = 0.0

    def lookup(frame: str, stamp_ns: int) -> Floats:
        T = np.eye(4)
        c, s = np.cos(np.deg2rad(angle)), np.sin(np.deg2rad(angle))
        T[:2, :2] = [[c, -s], [s, c]]
        return T

    bench.collector._lookup = lookup
    for i, angle in enumerate((0.0, 9.0, 11.0, 200.0)):  # noqa: B007  lookup reads it
        bench.frame(i * FRAME_NS)
    assert bench.decoded == [0, 2 * FRAME_NS, 3 * FRAME_NS]


def test_a_full_collector_gives_up_the_most_redundant_view() -> None:
    bench = Bench(min_translation_m=0.1, max_views=3)
    for i, x in enumerate((0.0, 1.0, 1.2, 5.0)):
        bench.frame(i * FRAME_NS, x)
    assert bench.kept_x == [0.0, 1.2, 5.0]  # 1.0 is the older of the nearest two
    for i in range(50):
        bench.frame((10 + i) * FRAME_NS, 6.0 + i)
    assert bench.collector.count == 3
    assert bench.collector.passed == {"redundant among max_views": 51}


def test_tf_that_is_late_is_waited_for_without_blocking_and_given_up_in_time() -> None:
    bench = Bench(tf_timeout_s=0.5)
    bench.default_x = None
    bench.frame(0, now_s=10.0)
    assert (bench.collector.count, bench.collector.waiting_for_tf) == (0, 1)
    bench.x[0] = 1.0
    bench.collector.poll(10.4)
    assert (bench.collector.count, bench.collector.waiting_for_tf) == (1, 0)
    bench.frame(FRAME_NS, now_s=11.0)
    bench.collector.poll(11.6)
    assert bench.collector.waiting_for_tf == 0
    assert bench.collector.lost["TF is behind the image"] == 1
    assert "not yet" in bench.collector.problem


def test_tf_that_can_not_come_any_more_is_not_waited_for() -> None:
    bench = Bench(tf_timeout_s=60.0)
    bench.old = True
    bench.frame(0)
    assert bench.collector.lost["TF has forgotten the image's stamp"] == 1
    assert bench.collector.waiting_for_tf == 0


def test_stamps_that_run_backwards_clear_everything_and_say_so() -> None:
    bench = Bench()
    bench.frame(1000 * FRAME_NS, 0.0)
    bench.frame(1001 * FRAME_NS, 1.0)
    bench.frame(998 * FRAME_NS, 2.0)  # 0.3 s back: out of order, not backwards
    assert bench.collector.count == 3
    bench.frame(5 * FRAME_NS, 3.0)
    assert bench.kept_x == [3.0]
    assert bench.jumps == [5 * FRAME_NS]
    assert bench.collector.lost["time ran backwards"] >= 1
    assert any("jumped back by 99.6 s: dropped 3 views" in notice for notice in bench.notices)


@pytest.mark.parametrize("failure,cause", [("image has encoding 'x'", "image"), ("depth_m is [1]", "depth_m")])
def test_what_cannot_be_decoded_is_counted_and_told_and_the_next_good_one_kept(failure: str, cause: str) -> None:
    bench = Bench()
    bench.failure = failure
    bench.frame(0)
    assert bench.collector.lost == {f"unusable {cause}": 1}
    assert bench.collector.problem == failure and failure in bench.notices
    bench.failure = ""
    bench.frame(FRAME_NS)
    assert bench.collector.count == 1
    assert bench.collector.problem == ""


def test_masks_without_an_instance_are_no_view() -> None:
    bench = Bench()
    bench.masks = np.zeros((2, 2), np.int32)
    bench.frame(0)
    assert bench.collector.count == 0
    assert "masks hold no instance" in bench.collector.problem


def test_capture_keeps_a_view_that_has_not_moved_but_no_stale_one() -> None:
    bench = Bench()
    with pytest.raises(InvalidInput, match="no usable set"):
        bench.collector.capture(0.0)
    bench.frame(0, now_s=5.0)
    bench.frame(FRAME_NS, now_s=5.1)
    assert bench.collector.capture(5.2).view.stamp_ns == FRAME_NS
    assert bench.collector.capture(5.3).view.stamp_ns == FRAME_NS
    assert bench.collector.count == 2
    with pytest.raises(InvalidInput, match="no usable set"):
        bench.collector.capture(60.0)


def test_refresh_replaces_the_view_that_the_newest_one_is_near_to() -> None:
    bench = Bench(min_translation_m=0.1)
    for i, x in enumerate((0.0, 1.0, 0.95)):
        bench.frame(i * FRAME_NS, x)
    bench.collector.refresh()
    assert bench.kept_x == [0.0, 0.95]
    assert bench.collector.passed["replaced by a newer one from there"] == 1
    assert bench.collector.kept_ever == 2


def test_views_come_with_the_most_instances_first_then_the_newest() -> None:
    bench = Bench()
    for i, ids in enumerate(([1], [1, 2], [1, 2], [3])):
        bench.masks = np.resize(np.array(ids, np.int32), (2, 2))
        bench.frame(i * FRAME_NS, float(i))
    assert [k.view.stamp_ns // FRAME_NS for k in bench.collector.views()] == [2, 1, 3, 0]


def test_memory_is_bounded_by_the_queues() -> None:
    bench = Bench(queue_size=5)
    tracemalloc.start()
    for i in range(200):
        for topic in ("image", "camera_info"):
            bench.collector.add(topic, Message(i * FRAME_NS, "camera", bytes(100_000)), 0.0)
    held = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert held < 2 * 7 * 100_000
