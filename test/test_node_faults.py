"""Whatever comes in over topics: /diagnostics names the cause, and the next good scene is generated (DESIGN section 8).

The faults of the camera come one by one to one node, as they would. Messages: docs/diagnostics.md.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from copy import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rclpy
from conftest import own_context, own_domain
from fault_table import ROWS, Faults, Row, told
from rclpy.qos import DurabilityPolicy, QoSProfile
from ros_helpers import BEST_EFFORT, SIZE, Rig, boxes, fast_place, rig, wait_for
from sensor_msgs.msg import Image, PointCloud2
from serving import StubGenerator, running
from tf2_msgs.msg import TFMessage

from scenegen_ros import diagnostics, generation
from scenegen_ros.conversions import camera_info_message, image_message
from scenegen_ros.srv import Clear

pytestmark = pytest.mark.usefixtures("quick")
camera_fault, fault = Faults(), Faults()


@fault("a topic that nobody publishes")
@fault("a publisher whose QoS cannot match")
def test_no_publisher_and_one_whose_qos_cannot_match(ros_context: rclpy.Context, tmp_path: Path) -> None:
    asked = {"qos_overrides__/masks__subscription__reliability": "reliable", "view_timeout_s": 0.2}
    with (
        running(StubGenerator(), tmp_path / "s") as server,
        rig(ros_context, server, tmp_path / "scenes", masks_qos=BEST_EFFORT, **asked) as r,
    ):
        told(r, "a publisher whose QoS cannot match")
        r.camera.destroy_publisher(r.camera.outputs.pop("masks"))
        told(r, "a topic that nobody publishes")
        wait_for(
            lambda: "masks: nobody publishes it" in r.ears.generate().message,
            "a goal to be answered with the same",  # on a busy machine another topic may be silent for a moment
        )
        r.camera.outputs["masks"] = r.camera.create_publisher(Image, "masks", QoSProfile(depth=5))
        r.ears.says("ready: waiting for a goal")
        assert r.ears.generate().success


@fault("points that do not fit the image")
def test_points_that_do_not_fit_the_image(
    ros_context: rclpy.Context, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with (
        running(StubGenerator(), tmp_path / "s") as server,
        rig(ros_context, server, tmp_path / "scenes", with_depth=False) as r,
    ):
        r.camera.outputs["points"] = r.camera.create_publisher(PointCloud2, "points", BEST_EFFORT)
        shot = copy(r.camera.shot)
        shot.points, shot.x_m, shot.topics = PointCloud2(height=1, width=5), 1.0, shot.topics | {"points"}
        r.camera.shot = shot
        told(r, "points that do not fit the image")
        said = ""

        def logged() -> re.Match[str] | None:
            nonlocal said
            said += capfd.readouterr().err
            return re.search(r"\[WARN\].*: waiting for views: .* points is unorganised.*\[image: .* Hz", said)

        wait_for(logged, "the same in one line of the log")


@fault("a fixed frame TF does not know")
def test_a_fixed_frame_tf_does_not_know(ros_context: rclpy.Context, tmp_path: Path) -> None:
    with (
        running(StubGenerator(), tmp_path / "s") as server,
        rig(ros_context, server, tmp_path / "scenes", fixed_frame="world", view_timeout_s=0.5) as r,
    ):
        told(r, "a fixed frame TF does not know")
        assert not r.ears.generate().success


@pytest.fixture(scope="module")
def well(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    """One node for all faults of the camera."""
    folder = tmp_path_factory.mktemp("well")
    with pytest.MonkeyPatch.context() as patch, own_domain(patch) as domain, own_context(domain) as context:
        patch.setattr(generation, "place_scene", fast_place)
        with running(StubGenerator(), folder / "s") as server, rig(context, server, folder / "scenes") as r:
            assert r.ears.generate().success
            yield r


@camera_fault("a topic that is published but silent")
def silent(r: Rig, topic: str = "masks") -> None:
    r.camera.shot.topics = r.camera.shot.topics - {topic}


@camera_fault("TF that stopped")
def tf_stopped(r: Rig) -> None:
    silent(r, "tf")


@camera_fault("TF of another clock")
def tf_of_another_clock(r: Rig) -> None:
    r.camera.shot.tf_late_ns = 20_000_000_000


@camera_fault("frames that TF does not join")
def not_joined(r: Rig) -> None:
    r.camera.shot.tf_parent = "odom"


@camera_fault("a broken transform")
def broken_transform(r: Rig) -> None:
    r.camera.shot.tf_broken = True


@camera_fault("an image without a frame")
def no_frame(r: Rig) -> None:
    r.camera.shot.frame_id = ""


@camera_fault("masks stamped by another clock")
def other_clock(r: Rig) -> None:
    r.camera.shot.masks_late_ns = 10_000_000_000


@camera_fault("an unknown encoding")
def unknown_encoding(r: Rig) -> None:
    r.camera.shot.masks = Image(height=SIZE[0], width=SIZE[1], encoding="yuv422", data=bytes(10))


@camera_fault("masks without an instance")
def empty_masks(r: Rig) -> None:
    r.camera.shot.masks = image_message(boxes(()), "mono8")


@camera_fault("masks of another size")
def masks_of_another_size(r: Rig) -> None:
    r.camera.shot.masks = image_message(boxes()[::2, ::2], "mono8")


@camera_fault("camera info of another size")
def camera_info_of_another_size(r: Rig) -> None:
    r.camera.shot.camera_info = camera_info_message(np.diag([60.0, 60, 1]), (480, 640))


@camera_fault("a lens of an unknown model")
def unknown_lens(r: Rig) -> None:
    info = camera_info_message(np.diag([60.0, 60, 1]), SIZE)
    info.distortion_model, info.d = "kannala", [0.1]
    r.camera.shot.camera_info = info


@camera_fault("an image cut short")
def short_image(r: Rig) -> None:
    r.camera.shot.image = Image(height=SIZE[0], width=SIZE[1], step=3 * SIZE[1], encoding="rgb8", data=bytes(99))


SILENT = "a topic that is published but silent"
CASES = [(name, "") for name in camera_fault.by_name] + [(SILENT, topic) for topic in ("image", "camera_info", "depth")]


@pytest.mark.parametrize(("name", "topic"), CASES)
def test_what_the_camera_does_wrong_is_named_and_got_over(well: Rig, name: str, topic: str) -> None:
    well.ears.says("ready: waiting for a goal")
    good = well.camera.shot
    spoilt = copy(good)
    spoilt.x_m = good.x_m + 1.0  # it would be a new view
    well.camera.shot = spoilt
    try:
        camera_fault.by_name[name](well, *([topic] if topic else []))
        told(well, name, topic)
    finally:
        well.camera.shot = good
        good.x_m = spoilt.x_m
    well.ears.says("ready: waiting for a goal")
    well.ears.call(well.ears.clear, Clear.Request())
    result = well.ears.generate()
    assert result.success, result.message


@fault("frames lost on the way")
def test_frames_lost_on_the_way(well: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(diagnostics, "_WINDOW_S", 1.0)
    publish, count = well.camera.outputs["image"].publish, iter(range(10**6))

    class Lossy:
        def publish(self, message: Image) -> None:
            if next(count) % 6 < 2:
                publish(message)

    with monkeypatch.context() as lossy:
        lossy.setitem(well.camera.outputs, "image", Lossy())
        told(well, "frames lost on the way")
    well.ears.says("ready: waiting for a goal")


@fault("a subscriber whose QoS cannot match")
def test_a_subscriber_whose_qos_cannot_match(well: Rig) -> None:
    qos = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
    subscription = well.ears.create_subscription(TFMessage, "/tf", lambda message: None, qos)
    told(well, "a subscriber whose QoS cannot match")
    well.ears.destroy_subscription(subscription)
    well.ears.says("scene", stage="outputs")


@fault("stamps that run backwards")
def test_stamps_that_run_backwards(well: Rig) -> None:
    well.ears.says("ready: waiting for a goal")
    well.pause()
    jumps = well.ears.value("pairing", "lost: time ran backwards", lambda said: True)
    well.camera.stamp_ns = 5_000_000_000
    well.camera.paused = False
    well.ears.value("pairing", "lost: time ran backwards", lambda said: said != jumps)
    told(well, "stamps that run backwards")
    result = well.ears.generate()
    assert result.success and result.scene.header.stamp.sec < 1000


@fault("a camera that has not moved")
@fault("an object that no view sees")
def test_goals_that_views_do_not_meet(well: Rig) -> None:
    timeout = well.node.get_parameter("view_timeout_s")
    well.node.set_parameters([rclpy.Parameter("view_timeout_s", value=0.3)])
    well.ears.call(well.ears.clear, Clear.Request())
    well.wait_for_views(1)
    assert well.ears.generate().success
    for fault_of_goal, goal in (
        ("a camera that has not moved", {"views": 2}),
        ("an object that no view sees", {"ids": [7]}),
    ):
        row = ROWS[fault_of_goal]

        def failed_so(goal: dict[str, Any] = goal, row: Row = row) -> bool:
            """On a busy machine a goal may meet a topic that is silent for a moment, and then names that."""
            result = well.ears.generate(**goal)
            assert not result.success
            return row.matches(f"the last one failed: {result.message}")

        wait_for(failed_so, f"'{row.message}'")
        told(well, fault_of_goal)
    well.ears.value("views", "not kept: the camera had not moved", lambda said: said and int(said) > 0)
    well.node.set_parameters([timeout])
    assert well.ears.generate().success


def test_every_fault_of_the_table_is_injected() -> None:
    import test_node_faults_server as server_faults
    import test_planner as planner_faults

    injected = camera_fault.by_name | fault.by_name | server_faults.fault.by_name | planner_faults.fault.by_name
    assert set(injected) == set(ROWS)
