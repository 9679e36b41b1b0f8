"""Whatever comes in: /diagnostics names the cause, and the next good scene is generated (DESIGN section 8)."""

from __future__ import annotations

import errno
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import rclpy
from rclpy.qos import QoSProfile
from ros_helpers import SIZE, Rig, boxes, rig, wait_for
from sensor_msgs.msg import Image
from serving import StubGenerator, running

from scenegen import files
from scenegen.server import Limits
from scenegen_ros.conversions import camera_info_message, image_message
from scenegen_ros.diagnostics import Level
from scenegen_ros.srv import Clear

TESTS = Path(__file__).parent


pytestmark = pytest.mark.usefixtures("quick")


def silence(topic: str) -> Callable[[Rig], None]:
    return lambda r: r.camera.shot.topics.discard(topic)


def unknown_encoding(r: Rig) -> None:
    r.camera.shot.masks = Image(height=SIZE[0], width=SIZE[1], encoding="yuv422", data=bytes(10))


def empty_mask(r: Rig) -> None:
    r.camera.shot.masks = image_message(boxes(()), "mono8")


def masks_of_another_size(r: Rig) -> None:
    r.camera.shot.masks = image_message(boxes()[::2, ::2], "mono8")


def camera_info_of_another_size(r: Rig) -> None:
    r.camera.shot.camera_info = camera_info_message(np.diag([60.0, 60, 1]), (480, 640))


def short_image(r: Rig) -> None:
    r.camera.shot.image = Image(height=SIZE[0], width=SIZE[1], step=3 * SIZE[1], encoding="rgb8", data=bytes(99))


def other_clock(r: Rig) -> None:
    r.camera.shot.masks_late_ns = 10_000_000_000


CASES = {
    "no masks": (silence("masks"), ("waiting for masks", "1 publisher(s) but")),
    "no camera info": (silence("camera_info"), ("waiting for camera_info",)),
    "no image": (silence("image"), ("waiting for image",)),
    "no depth though it is published": (silence("depth"), ("waiting for depth",)),
    "no TF": (silence("tf"), ("waiting for TF", "'map' -> 'camera_optical_frame'", "its broadcaster lags")),
    "unknown encoding": (unknown_encoding, ("waiting for views", "masks has encoding 'yuv422'", "convert it")),
    "empty mask": (empty_mask, ("waiting for views", "masks hold no instance")),
    "masks of another size": (masks_of_another_size, ("masks is [24, 32] but its image is [48, 64]",)),
    "camera info of another size": (camera_info_of_another_size, ("camera_info is for 640x480", "64x48")),
    "short image": (short_image, ("image says 64x48", "99 bytes")),
    "masks stamped by another clock": (
        other_clock,
        ("waiting for pairing", "do not meet", "masks without image"),
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_what_the_camera_does_wrong_is_named_and_got_over(
    ros_context: rclpy.Context, tmp_path: Path, case: str
) -> None:
    spoil, words = CASES[case]
    with running(StubGenerator(), tmp_path / "s") as server, rig(ros_context, server, tmp_path / "scenes") as r:
        r.ears.says("ready: waiting for a goal")
        good = dict(vars(r.camera.shot), topics=set(r.camera.shot.topics))
        spoil(r)
        r.camera.shot.x_m = 1.0  # from here it would be a new view
        r.ears.says(*words)
        vars(r.camera.shot).update(good)
        r.ears.call(r.ears.clear, Clear.Request())
        result = r.ears.generate()
        assert result.success, result.message
        r.ears.says("ready: waiting for a goal")


def test_a_frame_tf_has_never_named(ros_context: rclpy.Context, tmp_path: Path) -> None:
    with (
        running(StubGenerator(), tmp_path / "s") as server,
        rig(ros_context, server, tmp_path / "scenes", fixed_frame="world", view_timeout_s=1.0) as r,
    ):
        r.ears.says("waiting for TF", "TF has no frame 'world' (it knows camera_optical_frame, map)")
        result = r.ears.generate()
        assert not result.success and "TF has no frame 'world'" in result.message


def test_stamps_that_run_backwards(ros_context: rclpy.Context, tmp_path: Path) -> None:
    with running(StubGenerator(), tmp_path / "s") as server, rig(ros_context, server, tmp_path / "scenes") as r:
        r.ears.says("ready: waiting for a goal")
        r.pause()
        r.camera.stamp_ns = 5_000_000_000
        r.camera.paused = False
        r.ears.has_been_told("views", "last problem", "jumped back by", "starting over")
        wait_for(lambda: r.ears.value("pairing", "lost: time ran backwards"), "the jump to be counted")
        result = r.ears.generate()
        assert result.success and result.scene.header.stamp.sec < 1000


def test_a_publisher_whose_qos_cannot_match(ros_context: rclpy.Context, tmp_path: Path) -> None:
    asked = {"qos_overrides__/masks__subscription__reliability": "reliable"}
    with (
        running(StubGenerator(), tmp_path / "s") as server,
        rig(ros_context, server, tmp_path / "scenes", **asked) as r,
    ):
        r.ears.says(
            "waiting for masks", "/masks offers a reliability", "set qos_overrides./masks.subscription.reliability"
        )
        assert r.ears.says("/masks offers a reliability", stage="masks").level == Level.ERROR
        r.camera.destroy_publisher(r.camera.outputs["masks"])
        r.camera.outputs["masks"] = r.camera.create_publisher(Image, "masks", QoSProfile(depth=5))
        assert r.ears.generate().success
        r.ears.says("ready: waiting for a goal")


def test_no_publisher_at_all(ros_context: rclpy.Context, tmp_path: Path) -> None:
    with (
        running(StubGenerator(), tmp_path / "s") as server,
        rig(ros_context, server, tmp_path / "scenes", view_timeout_s=0.2) as r,
    ):
        r.camera.destroy_publisher(r.camera.outputs.pop("masks"))
        r.ears.says("waiting for masks: nobody publishes it")
        r.ears.call(r.ears.clear, Clear.Request())
        assert "masks: nobody publishes it" in r.ears.generate().message


def test_a_server_that_is_down_and_then_up(ros_context: rclpy.Context, tmp_path: Path) -> None:
    with rig(ros_context, f"unix:{tmp_path / 's'}", tmp_path / "scenes") as r:
        r.ears.says("waiting for server", "no generation server answers", "scenegen serve")
        result = r.ears.generate()
        assert not result.success and "no generation server answers" in result.message
        with running(StubGenerator(), tmp_path / "s"):
            r.ears.says("ready: waiting for a goal")
            assert r.ears.generate().success


def test_a_server_killed_in_the_middle_of_a_job(ros_context: rclpy.Context, tmp_path: Path) -> None:
    serve = (
        "import sys, threading; from pathlib import Path; sys.path[:0] = sys.argv[2:]\n"
        "from serving import StubGenerator, running\n"
        "stub = StubGenerator(steps=2); stub.step.release()\n"
        "with running(stub, Path(sys.argv[1])): threading.Event().wait()"
    )
    socket = tmp_path / "s"
    process = subprocess.Popen([sys.executable, "-c", serve, str(socket), str(TESTS), str(TESTS.parent / "model")])
    try:
        with rig(ros_context, f"unix:{socket}", tmp_path / "scenes") as r:
            r.ears.says("ready: waiting for a goal")
            handle = r.ears.send()
            wait_for(lambda: any(f.stage == "structure" for f in r.ears.feedback), "the server to work")
            process.send_signal(signal.SIGKILL)
            process.wait()
            result = r.ears.result(handle).result
            assert not result.success and "broke during the generation" in result.message
            r.ears.says("generation: the last one failed", "broke during the generation")
            socket.unlink(missing_ok=True)
            with running(StubGenerator(), socket):
                assert r.ears.generate().success
                r.ears.says("ready: waiting for a goal")
    finally:
        process.kill()


def test_a_full_disk(ros_context: rclpy.Context, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, data: bytes) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with running(StubGenerator(), tmp_path / "s") as server, rig(ros_context, server, tmp_path / "scenes") as r:
        with monkeypatch.context() as broken:
            broken.setattr(files, "_write", full)
            result = r.ears.generate()
            assert not result.success and "the disk is full" in result.message
            r.ears.says("generation: the last one failed", "the disk is full")
            assert not r.ears.scenes and not list((tmp_path / "scenes").iterdir())
        assert r.ears.generate().success
        r.ears.says("ready: waiting for a goal")


def test_a_wrong_token(ros_context: rclpy.Context, tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("wrong\n")
    with (
        running(StubGenerator(), tmp_path / "s", token="the right token, long enough") as server,
        rig(ros_context, server, tmp_path / "scenes", token_file=str(token)) as r,
    ):
        r.ears.says("waiting for server", "token")
        result = r.ears.generate()
        assert not result.success and "token" in result.message
        token.write_text("the right token, long enough\n")
        for transition in ("deactivate", "cleanup", "configure", "activate"):
            getattr(r.node, f"trigger_{transition}")()
        assert r.ears.generate().success


def test_a_request_over_the_servers_limits(ros_context: rclpy.Context, tmp_path: Path) -> None:
    with (
        running(StubGenerator(), tmp_path / "s", limits=Limits(views=1)) as server,
        rig(ros_context, server, tmp_path / "scenes") as r,
    ):
        r.ears.says("ready: waiting for a goal")
        r.camera.shot.x_m = 1.0
        r.ears.says("2 kept", stage="views")
        result = r.ears.generate()
        assert not result.success and "views" in result.message
        r.ears.says("generation: the last one failed", "views")
        assert r.ears.generate(views=1).success
