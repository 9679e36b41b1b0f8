"""The simulated camera: what it publishes is what was rendered or recorded, and the node finds the objects in it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import rclpy
from rclpy.executors import SingleThreadedExecutor
from rclpy.lifecycle import TransitionCallbackReturn
from rclpy.node import Node
from rclpy.parameter import Parameter
from ros_helpers import BEST_EFFORT, WAIT_S, Ears, wait_for
from sensor_msgs.msg import CameraInfo, Image
from serving import StubGenerator, running
from tf2_msgs.msg import TFMessage

from scenegen.scene import Scene
from scenegen.synthetic import make_scene, true_scene
from scenegen_ros.conversions import decode_camera_info, decode_depth, decode_image, decode_masks, stamp_ns
from scenegen_ros.node import SceneGenNode, spin
from scenegen_ros.simulated_camera import SimulatedCamera, main, orbit

SEED = 4


@contextmanager
def spinning(context: rclpy.Context, *nodes: Node) -> Iterator[None]:
    executor = SingleThreadedExecutor(context=context)
    for node in nodes:
        executor.add_node(node)
    thread = threading.Thread(target=spin, args=(nodes[0], executor), daemon=True)
    thread.start()
    try:
        yield
    finally:
        executor.shutdown()
        thread.join(WAIT_S)
        for node in nodes:
            node.destroy_node()


def simulated(context: rclpy.Context, **parameters: Any) -> SimulatedCamera:
    overrides = [Parameter(name, value=value) for name, value in parameters.items()]
    return SimulatedCamera(context=context, parameter_overrides=overrides)


class Listener(Node):
    """Collects the messages of one stamp."""

    def __init__(self, context: rclpy.Context) -> None:
        super().__init__("listener", context=context)
        self.heard: dict[int, dict[str, Any]] = {}
        for name, kind in (("image", Image), ("masks", Image), ("depth", Image), ("camera_info", CameraInfo)):
            self.create_subscription(kind, name, lambda m, name=name: self.take(name, m.header, m), BEST_EFFORT)
        self.create_subscription(
            TFMessage, "/tf", lambda m: self.take("tf", m.transforms[0].header, m.transforms[0]), 10
        )

    def take(self, name: str, header: Any, message: Any) -> None:
        self.heard.setdefault(stamp_ns(header.stamp), {})[name] = message

    def sets(self, size: int) -> list[dict[str, Any]]:
        return [messages for messages in list(self.heard.values()) if len(messages) == size]


def test_every_frame_is_a_rendered_view_with_one_stamp(ros_context: rclpy.Context) -> None:
    views = list(orbit(make_scene(SEED), 3, (48, 64), depth_noise=False))
    camera = simulated(ros_context, seed=SEED, views=3, height=48, width=64, rate_hz=20.0)
    listener = Listener(ros_context)
    with spinning(ros_context, camera, listener):
        seen: set[int] = set()

        def all_seen() -> bool:
            for messages in listener.sets(5):
                image = decode_image(messages["image"])
                seen.update(i for i, view in enumerate(views) if np.array_equal(view.image, image))
            return len(seen) == 3

        wait_for(all_seen, "all three views")
        messages = listener.sets(5)[-1]
        image = decode_image(messages["image"])
        (view,) = (view for view in views if np.array_equal(view.image, image))
        np.testing.assert_array_equal(decode_masks(messages["masks"]), view.masks)
        np.testing.assert_array_equal(decode_depth(messages["depth"]), view.depth_m)
        np.testing.assert_allclose(decode_camera_info(messages["camera_info"], (48, 64)), view.intrinsics)
        assert view.T_world_camera is not None
        position = messages["tf"].transform.translation
        np.testing.assert_allclose([position.x, position.y, position.z], view.T_world_camera[:3, 3], atol=1e-12)
        assert (messages["tf"].header.frame_id, messages["tf"].child_frame_id) == ("map", "camera_optical_frame")
        assert messages["image"].header.frame_id == "camera_optical_frame"


def test_a_recorded_folder_without_depth_and_calibration(ros_context: rclpy.Context, tmp_path: Path) -> None:
    masks = np.zeros((30, 40), np.uint16)
    masks[5:20, 5:20] = 300
    cv2.imwrite(str(tmp_path / "image.jpg"), np.full((30, 40, 3), (10, 20, 200), np.uint8))
    cv2.imwrite(str(tmp_path / "masks.png"), masks)
    camera, listener = simulated(ros_context, folder=str(tmp_path), rate_hz=20.0), Listener(ros_context)
    with spinning(ros_context, camera, listener):
        messages = wait_for(lambda: listener.sets(4), "a frame")[-1]
        assert "depth" not in messages and listener.count_publishers("depth") == 0
        np.testing.assert_array_equal(decode_masks(messages["masks"]), masks)
        assert np.abs(decode_image(messages["image"])[0, 0].astype(int) - [200, 20, 10]).max() < 8
        assert decode_camera_info(messages["camera_info"], (30, 40)) is None


def test_a_folder_that_cannot_be_played_is_refused(
    ros_domain: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--ros-args", "-p", f"folder:={tmp_path}"]) == 1
    assert f"{tmp_path} has no image" in capsys.readouterr().err


@pytest.mark.parametrize("value", ["rate_hz:=0.0", "rate_hz:=5", "views:=0", "width:=-1"])
def test_a_parameter_that_cannot_be_used_is_named(
    ros_domain: int, capsys: pytest.CaptureFixture[str], value: str
) -> None:
    assert main(["--ros-args", "-p", value]) == 1
    said = capsys.readouterr().err
    assert value.partition(":")[0] in said and "Traceback" not in said


class TruthGenerator(StubGenerator):
    """Answers with the true assets and placements, so that everything but the network is real."""

    def generate(self, views: Any, **kwargs: Any) -> Scene:
        return true_scene(make_scene(SEED), views[0])


def test_the_node_places_true_assets_where_the_objects_stand(ros_context: rclpy.Context, tmp_path: Path) -> None:
    world = make_scene(SEED)
    with running(TruthGenerator(), tmp_path / "s") as server:
        overrides = {"server": server, "output_dir": str(tmp_path / "scenes"), "seed": SEED, "view_timeout_s": WAIT_S}
        node = SceneGenNode(
            context=ros_context, parameter_overrides=[Parameter(name, value=value) for name, value in overrides.items()]
        )
        ears, camera = Ears(ros_context), simulated(ros_context, seed=SEED, views=4, height=120, width=160, rate_hz=5.0)
        with spinning(ros_context, camera, ears), spinning(ros_context, node):
            assert node.trigger_configure() == node.trigger_activate() == TransitionCallbackReturn.SUCCESS
            result = ears.generate(views=2)
            node.close()
        assert result.success, result.message
        for found in result.scene.objects:
            true_m = world.T_world_object[found.id - 1, :3, 3]
            at = found.pose.pose.position
            assert np.linalg.norm(true_m - [at.x, at.y, at.z]) < 0.02, found.label
            assert found.scale == pytest.approx(world.size_m[found.id - 1], rel=0.1)
