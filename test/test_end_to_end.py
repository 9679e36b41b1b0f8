"""Synthetic scenes through topics end to end: with a camera that moves on a robot, poses in `map` are the true ones.

The generator answers with the true shapes, relative to the query asset as a network does; where that stands is for the
node to find. Everything else is real: topics, TF, server, placement, files.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rclpy
from geometry_msgs.msg import TransformStamped
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from ros_helpers import Rig, rig, wait_for
from scipy.spatial.transform import Rotation, Slerp
from sensor_msgs.msg import CameraInfo, Image
from serving import StubGenerator, running
from tf2_msgs.msg import TFMessage

from scenegen.placement import place_scene
from scenegen.scene import Floats, PlacedObject, Scene, View
from scenegen.synthetic import Camera, SyntheticScene, camera_path, make_scene, render_views, true_scene
from scenegen_ros.conversions import camera_info_message, image_message, transform_message
from scenegen_ros.scene_messages import time_message

S = 1_000_000_000
START_NS = 1_000 * S
SHARES = (0.3, 0.5, 0.8)
"""When each image is taken, between two transforms a second apart."""
RELIABLE = QoSProfile(depth=10)
TOPICS = {"image": Image, "masks": Image, "depth": Image, "camera_info": CameraInfo}


def pose(rotation: Rotation, translation: Any) -> Floats:
    T = np.eye(4)
    T[:3, :3], T[:3, 3] = rotation.as_matrix(), translation
    return T


T_MAP_ODOM = pose(Rotation.from_euler("z", 0.7), (3.0, -2.0, 0.0))
T_BASE_CAMERA = pose(Rotation.from_euler("xyz", (-2.0, 0.1, -1.6)), (0.2, 0.05, 0.9))


class Robot:
    """A base that drives around a scene, with a camera on it. TF: map -> odom -> base_link, and a static mount."""

    def __init__(self, r: Rig, world: SyntheticScene) -> None:
        camera = Camera.pinhole(320, 240, 300.0)
        T_map_camera = camera_path(world, len(SHARES) + 1, 5, camera, arc=1.2)
        self.T_odom_base = np.linalg.inv(T_MAP_ODOM) @ T_map_camera @ np.linalg.inv(T_BASE_CAMERA)
        self.stamps_ns = [START_NS + round((i + share) * S) for i, share in enumerate(SHARES)]
        taken_from = np.stack([T_MAP_ODOM @ self._between(i, share) @ T_BASE_CAMERA for i, share in enumerate(SHARES)])
        views = render_views(world, camera, taken_from)
        self.views = [replace(view, stamp_ns=stamp) for view, stamp in zip(views, self.stamps_ns, strict=True)]
        self.node = r.camera
        for publisher in self.node.outputs.values():
            self.node.destroy_publisher(publisher)
        self.outputs = {name: self.node.create_publisher(kind, name, RELIABLE) for name, kind in TOPICS.items()}
        latched = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
        self.static = self.node.create_publisher(TFMessage, "/tf_static", latched)
        self.static.publish(TFMessage(transforms=[stamped("base_link", "camera", T_BASE_CAMERA, 0)]))
        self.say_tf(0)

    def _between(self, i: int, share: float) -> Floats:
        """T_odom_base at a share of the way from one transform to the next: what TF means in between."""
        ends = self.T_odom_base[i : i + 2]
        turn = Slerp([0, 1], Rotation.from_matrix(ends[:, :3, :3]))(share)
        return pose(turn, (1 - share) * ends[0, :3, 3] + share * ends[1, :3, 3])

    def say_tf(self, i: int) -> None:
        stamp = START_NS + i * S
        frames = (("map", "odom", T_MAP_ODOM), ("odom", "base_link", self.T_odom_base[i]))
        self.node.tf.publish(TFMessage(transforms=[stamped(*frame, stamp) for frame in frames]))

    def take(self, i: int) -> None:
        """An image, and the transform after it, which comes later: as on any robot."""
        view = self.views[i]
        size = view.masks.shape
        messages = {
            "image": image_message(view.image, "rgb8"),
            "masks": image_message(view.masks.astype(np.uint16), "16UC1"),
            "depth": image_message(view.depth_m, "32FC1"),
            "camera_info": camera_info_message(view.intrinsics, size),
        }
        for name, message in messages.items():
            message.header.stamp, message.header.frame_id = time_message(view.stamp_ns), "camera"
            self.outputs[name].publish(message)
        self.say_tf(i + 1)


def stamped(parent: str, child: str, T_parent_child: Floats, stamp_ns: int) -> TransformStamped:
    message = TransformStamped(child_frame_id=child, transform=transform_message(T_parent_child))
    message.header.frame_id, message.header.stamp = parent, time_message(stamp_ns)
    return message


class TruthGenerator(StubGenerator):
    """Answers with what stands there, as it stands to the query asset; remembers what it was shown."""

    def __init__(self, world: SyntheticScene) -> None:
        super().__init__()
        self.world = world
        self.shown: list[View] = []
        self.answer: Scene | None = None

    def generate(self, views: Any, **kwargs: Any) -> Scene:
        self.shown = list(views)
        self.answer = true_scene(self.world, views[0])
        return self.answer


def turned_by_deg(found: Floats, true: Floats, symmetry: int) -> float:
    """Angle between two rotations [3, 3] of an object whose yaw repeats `symmetry` times (0: it is round)."""
    if symmetry == 0:
        return float(np.rad2deg(np.arccos(np.clip(found[:, 2] @ true[:, 2], -1, 1))))
    same = Rotation.from_euler("z", np.arange(symmetry)[:, None] * 2 * np.pi / symmetry).as_matrix()
    return float(np.rad2deg(Rotation.from_matrix(np.swapaxes(true @ same, -1, -2) @ found).magnitude().min()))


def hears_reliably(r: Rig, topic: str) -> bool:
    """Whether the node knows of a reliable publisher: ours, for the camera's own were not."""
    infos = r.node.get_publishers_info_by_topic(f"/{topic}")
    return any(info.qos_profile.reliability == ReliabilityPolicy.RELIABLE for info in infos)


def published(message: Any) -> Floats:
    p, q = message.pose.pose.position, message.pose.pose.orientation
    return pose(Rotation.from_quat([q.x, q.y, q.z, q.w]), (p.x, p.y, p.z))


@pytest.mark.parametrize("seed", [4, 11])
def test_a_moving_camera_gives_the_true_poses_in_map(ros_context: rclpy.Context, tmp_path: Path, seed: int) -> None:
    world = make_scene(seed, (2, 3))
    generator = TruthGenerator(world)
    reliable = {f"qos_overrides__/{topic}__subscription__reliability": "reliable" for topic in TOPICS}
    with (
        running(generator, tmp_path / "s") as server,
        rig(ros_context, server, tmp_path / "scenes", paused=True, depth="required", **reliable) as r,
    ):
        robot = Robot(r, world)
        for topic, publisher in robot.outputs.items():
            wait_for(lambda publisher=publisher: publisher.get_subscription_count(), f"the node to listen to {topic}")
            wait_for(lambda topic=topic: hears_reliably(r, topic), f"the node to have found what publishes {topic}")
        r.ears.value("TF", "frames", lambda frames: "base_link" in frames)
        for i in range(len(SHARES)):
            robot.take(i)
            r.ears.says(f"{i + 1} kept", stage="views")
        result = r.ears.generate(views=len(SHARES))
        assert result.success, result.message
    scene = result.scene
    assert scene.header.frame_id == "map"
    assert scene.header.stamp == time_message(robot.stamps_ns[-1])

    sent = {view.stamp_ns: view for view in robot.views}
    assert sorted(view.stamp_ns for view in generator.shown) == robot.stamps_ns
    for view in generator.shown:
        np.testing.assert_allclose(view.T_world_camera, sent[view.stamp_ns].T_world_camera, atol=1e-9)
        np.testing.assert_array_equal(view.image, sent[view.stamp_ns].image)
        np.testing.assert_array_equal(view.depth_m, sent[view.stamp_ns].depth_m)

    assert generator.answer is not None
    direct: tuple[PlacedObject, ...] = place_scene(
        generator.answer, [sent[view.stamp_ns] for view in generator.shown], gravity=np.array([0.0, 0.0, 1.0])
    )
    assert [o.id for o in scene.objects] == [o.id for o in direct] and len(direct) >= 2
    for found, same in zip(scene.objects, direct, strict=True):
        T_map_object, thing = published(found), world.objects[found.id - 1]
        true, size_m = world.T_world_object[found.id - 1], world.size_m[found.id - 1]
        assert found.metric
        np.testing.assert_allclose(T_map_object, same.T_world_object, atol=1e-4)
        np.testing.assert_allclose(np.reshape(found.pose.covariance, (6, 6)), same.covariance, rtol=0.05, atol=1e-6)
        assert np.linalg.norm(T_map_object[:3, 3] - true[:3, 3]) < 0.01, found.label
        assert turned_by_deg(T_map_object[:3, :3], true[:3, :3], thing.symmetry) < 3.0, found.label
        assert found.scale == pytest.approx(size_m, rel=0.03)
