"""A bag played by the simulated camera: the node gets the views that were recorded, whatever the storage."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rclpy
from rclpy.lifecycle import TransitionCallbackReturn
from rclpy.parameter import Parameter
from rclpy.serialization import serialize_message
from ros_helpers import WAIT_S, Ears, wait_for
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys import Stores, get_typestore
from serving import StubGenerator, running
from test_simulated_camera import Listener, simulated, spinning

from scenegen import cli
from scenegen.documents import document_scene
from scenegen.files import write_scene
from scenegen.placement import place_scene
from scenegen.scene import Scene, View
from scenegen.synthetic import make_scene, true_scene
from scenegen_ros.conversions import decode_depth, decode_image, decode_masks
from scenegen_ros.node import SceneGenNode
from scenegen_ros.scene_messages import time_message
from scenegen_ros.simulated_camera import Frame, main, orbit

SEED, PERIOD_NS = 4, 200_000_000
STAMP_NS = 1_600_000_000_000_000_000


@pytest.fixture(scope="module")
def seen() -> list[View]:
    views = orbit(make_scene(SEED), 4, (120, 160), depth_noise=False)
    return [replace(view, stamp_ns=STAMP_NS + i * PERIOD_NS) for i, view in enumerate(views)]


def record(path: Path, views: list[View], storage: StoragePlugin, prefix: str = "") -> Path:
    """A bag as rosbag2 would write it: TF and camera frames, a static one among them."""
    from geometry_msgs.msg import TransformStamped
    from tf2_msgs.msg import TFMessage

    types = get_typestore(Stores.ROS2_JAZZY)
    with Writer(path, version=9, storage_plugin=storage) as writer:
        connections: dict[str, Any] = {}

        def write(topic: str, kind: str, message: Any, stamp_ns: int) -> None:
            if topic not in connections:
                connections[topic] = writer.add_connection(topic, kind, typestore=types)
            writer.write(connections[topic], stamp_ns, serialize_message(message))

        def frame(parent: str, child: str, stamp_ns: int) -> TransformStamped:
            made = TransformStamped(child_frame_id=child)
            made.header.frame_id, made.header.stamp = parent, time_message(stamp_ns)
            return made

        static = frame("map", "odom", 0)
        write("/tf_static", "tf2_msgs/msg/TFMessage", TFMessage(transforms=[static]), STAMP_NS)
        for view in views:
            made = Frame.of(view)
            camera = frame("odom", "camera", view.stamp_ns)
            camera.transform = made.transform
            write("/tf", "tf2_msgs/msg/TFMessage", TFMessage(transforms=[camera]), view.stamp_ns)
            for name in ("camera_info", "image", "masks", "depth"):
                message = getattr(made, name)
                message.header.stamp, message.header.frame_id = time_message(view.stamp_ns), "camera"
                kind = "CameraInfo" if name == "camera_info" else "Image"
                write(f"{prefix}/{name}", f"sensor_msgs/msg/{kind}", message, view.stamp_ns)
    return path


class TruthGenerator(StubGenerator):
    """Answers with the true assets, so that poses come from the views that arrived."""

    views: list[View]

    def generate(self, views: Any, **kwargs: Any) -> Scene:
        self.views = list(views)
        return true_scene(make_scene(SEED), views[0])


@pytest.mark.parametrize("storage", [StoragePlugin.MCAP, StoragePlugin.SQLITE3])
def test_the_node_gets_the_views_of_a_bag(
    ros_context: rclpy.Context, seen: list[View], storage: StoragePlugin, tmp_path: Path
) -> None:
    bag = record(tmp_path / "bag", seen, storage, prefix="/head")
    topics = {f"bag_{name}": f"/head/{name}" for name in ("image", "masks", "depth", "camera_info")}
    generator = TruthGenerator()
    with running(generator, tmp_path / "s") as server:
        overrides = {"server": server, "output_dir": str(tmp_path / "scenes"), "seed": SEED, "view_timeout_s": WAIT_S}
        node = SceneGenNode(
            context=ros_context, parameter_overrides=[Parameter(name, value=value) for name, value in overrides.items()]
        )
        ears = Ears(ros_context)
        with spinning(ros_context, ears), spinning(ros_context, node):
            assert node.trigger_configure() == node.trigger_activate() == TransitionCallbackReturn.SUCCESS
            camera = simulated(ros_context, bag=str(bag), loop=True, **topics)
            with spinning(ros_context, camera):
                result = ears.generate(views=2)
            node.close()
    assert result.success, result.message
    for view in generator.views:
        (like,) = [one for one in seen if np.array_equal(one.image, view.image)]
        np.testing.assert_array_equal(view.masks, like.masks)
        np.testing.assert_allclose(view.T_world_camera, like.T_world_camera, atol=1e-9)
        assert view.stamp_ns > STAMP_NS + 10**17, "moved to the present"


def test_pace_and_stamps(ros_context: rclpy.Context, seen: list[View], tmp_path: Path) -> None:
    bag = record(tmp_path / "bag", seen, StoragePlugin.MCAP)
    listener = Listener(ros_context)

    def stamps() -> list[int]:
        """Of whole frames, as they came."""
        return [stamp for stamp, messages in list(listener.heard.items()) if len(messages) == 5]

    def paced() -> int:
        """How many steps are as long as they should be, to the nanosecond. One from round to round need not be."""
        return int((np.abs(np.diff(stamps()) / (2 * PERIOD_NS) - 1) < 1e-6).sum())

    with spinning(ros_context, listener):
        camera = simulated(ros_context, bag=str(bag), rate=0.5, loop=True)
        with spinning(ros_context, camera):
            wait_for(lambda: len(stamps()) > len(seen) + 2 and paced() >= 3, "steps half as fast as was recorded")
        assert stamps() == sorted(stamps()), "a loop goes on, it does not jump back"
        messages = listener.heard[stamps()[0]]
        (like,) = [one for one in seen if np.array_equal(one.image, decode_image(messages["image"]))]
        np.testing.assert_array_equal(decode_masks(messages["masks"]), like.masks)
        np.testing.assert_array_equal(decode_depth(messages["depth"]), like.depth_m)


def test_a_recorded_scene_is_played(ros_context: rclpy.Context, seen: list[View], tmp_path: Path) -> None:
    scene = true_scene(make_scene(SEED), seen[0])
    placed = place_scene(scene, seen)
    folder = write_scene(tmp_path, scene, placed, scene_id="one", views=seen, frame_id="map", stamp_ns=STAMP_NS)
    document_scene(folder, seen, placed)
    assert cli.main(["record", str(folder), "--out", str(tmp_path / "one.mcap")]) == 0
    listener = Listener(ros_context)
    with spinning(ros_context, listener):
        camera = simulated(ros_context, bag=str(tmp_path / "one.mcap"), loop=True)
        with spinning(ros_context, camera):
            messages = wait_for(lambda: listener.sets(5), "a frame")[0]
    (like,) = [one for one in seen if np.array_equal(one.image, decode_image(messages["image"]))]
    at = messages["tf"].transform.translation
    np.testing.assert_allclose([at.x, at.y, at.z], like.T_world_camera[:3, 3], atol=1e-9)


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("bag:={folder}/none", "is not a bag that can be played"),
        ("bag:={folder}/bag", "has no topic 'masks' for masks; it has /tf"),
        ("rate:=-1.0", "it must be positive"),
    ],
)
def test_bags_that_cannot_be_played(
    ros_domain: int, seen: list[View], tmp_path: Path, setting: str, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    bag = record(tmp_path / "bag", seen[:1], StoragePlugin.MCAP, prefix="/head")
    arguments = ["--ros-args", "-p", f"bag:={bag}", "-p", "bag_image:=head/image"]
    assert main([*arguments, "-p", setting.format(folder=tmp_path)]) == 1
    assert words in capsys.readouterr().err
