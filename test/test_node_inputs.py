"""The node over real topics: organised clouds in place of depth, and cameras with a lens."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import rclpy
from ros_helpers import BEST_EFFORT, LATCHED, SIZE, Rig, boxes, rig, wait_for
from sensor_msgs.msg import Image, PointCloud2
from serving import StubGenerator, running
from test_points import cloud
from test_rectification import camera_info

from scenegen_ros.conversions import decode_masks, image_message
from scenegen_ros.srv import Capture, Clear

pytestmark = pytest.mark.usefixtures("quick")
INTRINSICS = np.array([[60.0, 0, 31.5], [0, 60.0, 23.5], [0, 0, 1]])


def publish_points(r: Rig) -> PointCloud2:
    """Lets the camera publish what it sees as a cloud, from the next frame on."""
    message = cloud(np.where(boxes() > 0, 0.8, 1.0), intrinsics=INTRINSICS)
    r.camera.shot.points = message  # type: ignore[attr-defined]
    r.camera.outputs["points"] = r.camera.create_publisher(PointCloud2, "points", BEST_EFFORT)
    r.camera.shot.topics.add("points")
    return message


def only_view(r: Rig):  # type: ignore[no-untyped-def]
    """The one view that the node holds."""
    assert r.node._pipeline is not None
    (kept,) = wait_for(r.node._pipeline._collector.views, "a view")
    return kept.view


def test_points_are_depth_where_nobody_publishes_depth(ros_context: rclpy.Context, tmp_path: Path) -> None:
    with (
        running(StubGenerator(), tmp_path / "s") as server,
        rig(ros_context, server, tmp_path / "scenes", with_depth=False, depth="required") as r,
    ):
        r.ears.says("waiting for depth: nobody publishes it")
        message = publish_points(r)
        result = r.ears.generate()
        assert result.success, result.message
        np.testing.assert_allclose(only_view(r).depth_m, np.where(boxes() > 0, 0.8, 1.0), rtol=1e-6)
        r.ears.says("ready: waiting for a goal")

        message.header.frame_id = "base_link"
        r.camera.shot.points = turned = cloud(np.ones(SIZE), intrinsics=INTRINSICS)  # type: ignore[attr-defined]
        turned.row_step = 8
        r.camera.shot.x_m = 1.0
        r.ears.says("waiting for views", "points says 64x48", "broken")


def test_depth_goes_before_points(ros_context: rclpy.Context, tmp_path: Path) -> None:
    with running(StubGenerator(), tmp_path / "s") as server, rig(ros_context, server, tmp_path / "scenes") as r:
        publish_points(r).row_step = 8  # it would be refused
        r.ears.value("points", "messages", lambda count: count and int(count) > 0)
        r.ears.call(r.ears.clear, Clear.Request())
        r.ears.says("ready: waiting for a goal")
        assert only_view(r).depth_m is not None


@pytest.mark.parametrize("rectify", ["auto", "never"])
def test_a_lens_is_undone_unless_told_otherwise(ros_context: rclpy.Context, tmp_path: Path, rectify: str) -> None:
    with running(StubGenerator(), tmp_path / "s") as server:
        with rig(ros_context, server, tmp_path / "scenes", rectify=rectify, active=False) as r:
            info = camera_info("plumb_bob", [-0.3, 0.1, 0.0, 0.0, 0.0], intrinsics=INTRINSICS, size=SIZE)
            with r.camera.ticking:
                r.camera.shot.camera_info = info
            r.node.trigger_configure()
            r.node.trigger_activate()
            undone = (only_view(r).masks != boxes()).any()
            assert undone == (rectify == "auto")
            np.testing.assert_allclose(only_view(r).intrinsics, INTRINSICS)
            info.distortion_model = "whatever"
            r.camera.shot.x_m = 1.0
            if rectify == "auto":
                r.ears.says("waiting for views", "distortion_model 'whatever', known are plumb_bob", "rectify to never")
            else:
                r.ears.says("2 kept", stage="views")


def test_ids_that_number_each_image_for_itself_are_made_common(ros_context: rclpy.Context, tmp_path: Path) -> None:
    with (
        running(StubGenerator(), tmp_path / "s") as server,
        rig(ros_context, server, tmp_path / "scenes", association="overlap") as r,
    ):
        heard: list[Image] = []
        r.ears.create_subscription(Image, "scenegen/instances", heard.append, LATCHED)
        wait_for(lambda: heard, "~/instances of the first view")
        with r.camera.ticking:  # 16 cm to the left, where things are 12 pixels further right and have other ids
            moved = np.roll(boxes((2, 1)), 12, axis=1)
            r.camera.shot.x_m = -0.16
            r.camera.shot.masks = image_message(moved, "mono8")
            r.camera.shot.depth = image_message(np.where(moved > 0, 0.8, 1.0).astype(np.float32), "32FC1")
        r.ears.says("2 kept", stage="views")
        wait_for(lambda: len(heard) > 1, "~/instances of both views")
        np.testing.assert_array_equal(decode_masks(heard[-1]) > 0, moved > 0)
        np.testing.assert_array_equal(decode_masks(heard[-1])[moved > 0], 3 - moved[moved > 0].astype(int))
        result = r.ears.generate(ids=[1], views=2)
        assert result.success and [o.id for o in result.scene.objects] == [1]
        answer = r.ears.call(r.ears.capture, Capture.Request()).message
        assert answer == "kept a view of instances [1, 2], which its masks call [2, 1]"
