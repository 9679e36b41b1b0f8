"""A node under test, a camera that does as it is told, and ears: what the ROS tests share.

The generation server is a real one on a unix socket with serving.StubGenerator for a model: what is under test is the
node. Every wait ends with what it waits for. What /diagnostics says is always waited for, and believed only of messages
that the node began to put together after it was asked: what came in before may tell of a moment ago.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pytest
import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from geometry_msgs.msg import TransformStamped
from rclpy.action import ActionClient
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import CameraInfo, CompressedImage, Image, PointCloud2
from tf2_msgs.msg import TFMessage
from vision_msgs.msg import Detection3DArray
from visualization_msgs.msg import MarkerArray

from scenegen.scene import Asset, PlacedObject, Scene, View
from scenegen_ros import diagnostics, node, server_watch, view_collector
from scenegen_ros.action import GenerateScene
from scenegen_ros.conversions import camera_info_message, image_message, stamp_ns, transform_message
from scenegen_ros.diagnostics import Level, Status
from scenegen_ros.msg import Scene as SceneMessage
from scenegen_ros.node import SceneGenNode, spin
from scenegen_ros.scene_messages import time_message
from scenegen_ros.srv import Capture, Clear

# What a person reads once a second, a test need not wait for.
node._DIAGNOSTICS_S = 0.1
diagnostics.SILENT_S = 0.7
diagnostics._NEXT_LINE_S = 0.2
server_watch._PERIOD_READY_S = server_watch._PERIOD_WAITING_S = 0.2

WAIT_S = 250.0
"""How long a test waits for what must happen; only a failing test waits that long."""
SIZE = (48, 64)
LATCHED = QoSProfile(depth=100, durability=DurabilityPolicy.TRANSIENT_LOCAL)
"""As the node's, but deeper: of two scenes that are announced soon after one another a listener hears both."""
BEST_EFFORT = QoSProfile(depth=5, reliability=ReliabilityPolicy.BEST_EFFORT)
Answer = TypeVar("Answer")


def wait_for(done: Callable[[], Any], what: str | Callable[[], str], timeout_s: float = WAIT_S) -> Any:
    """What done() returns once it is true; fails naming `what`."""
    deadline = time.monotonic() + timeout_s
    tick = threading.Event()
    while not (result := done()):
        if time.monotonic() > deadline:
            pytest.fail(f"waited {timeout_s:g} s in vain for {what() if callable(what) else what}")
        tick.wait(0.01)
    return result


def fast_place(scene: Scene, views: list[View], **how: Any) -> tuple[PlacedObject, ...]:
    """In place of place_scene where placing is not what is tested: object i stands at x = i m."""

    def placed(asset: Asset) -> PlacedObject:
        T = np.eye(4)
        T[0, 3] = asset.id
        size_m = asset.mesh.extents * 0.5
        return PlacedObject(asset.id, asset.label, asset, T, 0.5, size_m, np.eye(6), 0.9, 0.01, True)

    return tuple(placed(asset) for asset in scene.assets)


@dataclass
class Shot:
    """What the camera publishes: two boxes 0.8 m before a wall at 1 m. A topic left out of `topics` stays silent."""

    topics: set[str] = field(default_factory=lambda: {"image", "masks", "camera_info", "depth", "tf"})
    image: Image = field(default_factory=lambda: image_message(np.full((*SIZE, 3), 90, np.uint8), "rgb8"))
    compressed: CompressedImage | None = None
    points: PointCloud2 | None = None
    masks: Image = field(default_factory=lambda: image_message(boxes(), "mono8"))
    depth: Image = field(
        default_factory=lambda: image_message(np.where(boxes() > 0, 0.8, 1.0).astype(np.float32), "32FC1")
    )
    camera_info: CameraInfo = field(
        default_factory=lambda: camera_info_message(np.array([[60.0, 0, 31.5], [0, 60.0, 23.5], [0, 0, 1]]), SIZE)
    )
    masks_late_ns: int = 0
    frame_id: str = "camera_optical_frame"
    x_m: float = 0.0
    tf_parent: str = "map"
    tf_late_ns: int = 0
    tf_broken: bool = False


def boxes(ids: tuple[int, ...] = (1, 2)) -> np.ndarray:
    """Instance masks, uint8 SIZE: one square per id."""
    masks = np.zeros(SIZE, np.uint8)
    for column, instance in enumerate(ids):
        masks[16:32, 6 + 20 * column : 20 + 20 * column] = instance
    return masks


class Camera(Node):
    """Publishes self.shot at 10 Hz, on stamps of its own that go on by 100 ms, while it is not paused."""

    def __init__(self, context: Context, masks_qos: QoSProfile, depth: bool, paused: bool) -> None:
        super().__init__("camera", context=context)
        self.shot = Shot()
        self.stamp_ns = 1_000_000_000_000
        self.paused = paused
        self.ticking = threading.Lock()
        self.outputs = {
            "image": self.create_publisher(Image, "image", BEST_EFFORT),
            "compressed": self.create_publisher(CompressedImage, "image/compressed", BEST_EFFORT),
            "masks": self.create_publisher(Image, "masks", masks_qos),
            "camera_info": self.create_publisher(CameraInfo, "camera_info", BEST_EFFORT),
        }
        if depth:
            self.outputs["depth"] = self.create_publisher(Image, "depth", BEST_EFFORT)
        self.tf = self.create_publisher(TFMessage, "/tf", 100)
        self.create_timer(0.1, self.tick)

    def tick(self) -> None:
        """One frame."""
        with self.ticking:
            if not self.paused:
                self._publish()

    def _publish(self) -> None:
        shot = self.shot
        self.stamp_ns += 100_000_000
        if "tf" in shot.topics:
            T = np.eye(4)
            T[0, 3] = shot.x_m
            frames = []
            for parent, child in ((shot.tf_parent, "camera_optical_frame"), ("map", "dock")):
                frame = TransformStamped(child_frame_id=child, transform=transform_message(T))
                frame.header.frame_id = parent
                frame.header.stamp = time_message(self.stamp_ns + shot.tf_late_ns)
                frame.transform.rotation.w = 0.0 if shot.tf_broken else 1.0
                frames.append(frame)
            self.tf.publish(TFMessage(transforms=frames))
        for name, publisher in tuple(self.outputs.items()):  # tests take publishers away
            message = getattr(shot, name)
            if message is None or name not in shot.topics:
                continue
            late = shot.masks_late_ns if name == "masks" else 0
            message.header.stamp = time_message(self.stamp_ns + late)
            message.header.frame_id = shot.frame_id
            publisher.publish(message)


class Ears(Node):
    """Hears everything the node says, and asks it things."""

    def __init__(self, context: Context) -> None:
        super().__init__("ears", context=context)
        self.scenes: list[SceneMessage] = []
        self.markers: list[MarkerArray] = []
        self.detections: list[Detection3DArray] = []
        self.frames: dict[str, TransformStamped] = {}
        self.object_frames: list[set[str]] = []
        """The frames of objects in each message on /tf that has any."""
        self._told: tuple[int, dict[str, Status]] = (-1, {})
        """The newest message on /diagnostics: when it was begun, and its statuses by name, their values as strings."""
        self.feedback: list[GenerateScene.Feedback] = []
        self.create_subscription(SceneMessage, "scenegen/scene", self.scenes.append, LATCHED)
        self.create_subscription(MarkerArray, "scenegen/markers", self.markers.append, LATCHED)
        self.create_subscription(Detection3DArray, "scenegen/detections", self.detections.append, LATCHED)
        self.create_subscription(TFMessage, "/tf", self._hear_tf, 100)
        self.create_subscription(DiagnosticArray, "/diagnostics", self._hear_diagnostics, 10)
        self.action = ActionClient(
            self, GenerateScene, "scenegen/generate_scene", feedback_sub_qos_profile=QoSProfile(depth=1000)
        )
        self.capture = self.create_client(Capture, "scenegen/capture")
        self.clear = self.create_client(Clear, "scenegen/clear")

    def _hear_tf(self, message: TFMessage) -> None:
        for transform in message.transforms:
            self.frames[transform.child_frame_id] = transform
        objects = {t.child_frame_id for t in message.transforms if t.child_frame_id.startswith("scenegen/")}
        if objects:
            self.object_frames.append(objects)

    def _hear_diagnostics(self, message: DiagnosticArray) -> None:
        statuses = [
            Status(s.name.removeprefix("scenegen: "), Level(s.level[0]), s.message, {v.key: v.value for v in s.values})
            for s in message.status
        ]
        self._told = stamp_ns(message.header.stamp), {status.name: status for status in statuses}

    def told(self, wanted: Callable[[dict[str, Status]], Answer], what: str) -> Answer:
        """What wanted() returns of a message on /diagnostics that is newer than this call, once that is true."""
        asked_ns = time.time_ns()

        def heard() -> Answer | None:
            begun_ns, statuses = self._told
            # 0 is simulated time without a clock, in which nothing else could be said.
            return wanted(statuses) if begun_ns >= asked_ns or begun_ns == 0 else None

        answer: Answer = wait_for(heard, lambda: f"{what}; /diagnostics says {self._told[1]}")
        return answer

    def says(self, *words: str, stage: str = "node") -> Status:
        """Waits until a status of /diagnostics, the first unless told, holds all the words; returns it."""

        def status_with_words(statuses: dict[str, Status]) -> Status | None:
            status = statuses.get(stage)
            return status if status is not None and all(word in status.message for word in words) else None

        status = self.told(status_with_words, f"the stage {stage} to say {words}")
        assert status is not None
        return status

    def value(self, stage: str, key: str, wanted: Callable[[str], object]) -> str:
        """Waits until what a stage says under a key is wanted; returns it. What it does not say is empty."""

        def value_of(statuses: dict[str, Status]) -> tuple[str] | None:
            status = statuses.get(stage)
            value = str(status.values.get(key, "")) if status is not None else ""
            return (value,) if wanted(value) else None

        found = self.told(value_of, f"what is wanted of {stage}'s '{key}'")
        assert found is not None
        return found[0]

    def call(self, client: Any, request: Any) -> Any:
        """A service's answer."""
        assert client.wait_for_service(timeout_sec=WAIT_S)
        future = client.call_async(request)
        wait_for(future.done, f"an answer from {client.srv_name}")
        return future.result()

    def send(self, **goal: Any) -> Any:
        """The handle of an accepted goal."""
        assert self.action.wait_for_server(timeout_sec=WAIT_S)
        return self._ask(
            lambda: self.action.send_goal_async(
                GenerateScene.Goal(**goal), feedback_callback=lambda message: self.feedback.append(message.feedback)
            ),
            "the goal to be answered",
        )

    def result(self, handle: Any) -> Any:
        """The action's answer: status and result."""
        return self._ask(handle.get_result_async, "the action's result")

    def cancel(self, handle: Any) -> Any:
        """The answer to a cancel request."""
        return self._ask(handle.cancel_goal_async, "the cancel to be answered")

    def _ask(self, ask: Callable[[], Any], what: str) -> Any:
        """Asks in the executor's thread: rclpy's action client throws away an answer that another thread takes while
        this one has not yet written down that it asked.
        """
        assert self.executor is not None
        asked = self.executor.create_task(ask)
        wait_for(asked.done, "the executor")
        future = asked.result()
        wait_for(future.done, what)
        return future.result()

    def generate(self, **goal: Any) -> GenerateScene.Result:
        """Sends a goal and waits for its result."""
        handle = self.send(**goal)
        assert handle.accepted
        return self.result(handle).result


@dataclass
class Rig:
    """Node, camera and ears of one test."""

    node: SceneGenNode
    camera: Camera
    ears: Ears

    def wait_for_views(self, number: int) -> None:
        """Until the node holds so many: at once, where /diagnostics may still tell of a moment ago."""
        assert self.node._pipeline is not None
        collector = self.node._pipeline._collector
        wait_for(lambda: collector.count == number, f"{number} views to be kept")

    def pause(self) -> None:
        """Stops the camera, and waits until the node has taken all that it published."""
        with self.camera.ticking:
            self.camera.paused = True
        newest = f"{self.camera.stamp_ns / 1e9:.3f}"
        self.ears.told(
            lambda statuses: all(
                name in statuses and statuses[name].values.get("stamp of the newest [s]") == newest
                for name in ("image", "masks", "camera_info", "depth")
            ),
            f"the node to have taken all of {newest} s",
        )


@contextmanager
def rig(
    context: Context,
    server: str,
    output_dir: Path,
    *,
    active: bool = True,
    masks_qos: QoSProfile = BEST_EFFORT,
    with_depth: bool = True,
    paused: bool = False,
    **parameters: Any,
) -> Iterator[Rig]:
    """An active node that listens to a camera, which may begin paused; parameters override the node's."""
    # On a busy machine the newest frame may be older than what a person at a robot would call "now".
    patient = pytest.MonkeyPatch()
    patient.setattr(view_collector, "CAPTURE_AGE_S", WAIT_S)
    values = {"server": server, "output_dir": str(output_dir), "view_timeout_s": WAIT_S} | parameters
    made = SceneGenNode(
        context=context, parameter_overrides=[Parameter(name.replace("__", "."), value=v) for name, v in values.items()]
    )
    camera, ears = Camera(context, masks_qos, with_depth, paused), Ears(context)
    spinners = []
    for nodes in ((made,), (camera, ears)):
        executor = SingleThreadedExecutor(context=context)
        for one in nodes:
            executor.add_node(one)
        thread = threading.Thread(target=spin, args=(made, executor), daemon=True)
        thread.start()
        spinners.append((executor, thread))
    try:
        if active:
            assert made.trigger_configure() == rclpy.lifecycle.TransitionCallbackReturn.SUCCESS, made.fault
            assert made.trigger_activate() == rclpy.lifecycle.TransitionCallbackReturn.SUCCESS, made.fault
        yield Rig(made, camera, ears)
    finally:
        patient.undo()
        camera.paused = True
        made.close()
        for executor, thread in spinners:
            executor.shutdown()
            thread.join(WAIT_S)
        for one in (made, camera, ears):
            one.destroy_node()
