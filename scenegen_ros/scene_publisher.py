"""Announces scenes: ~/scene, ~/markers, ~/detections, and a TF frame per object.

Object frames go out on /tf ten times a second rather than once on /tf_static: TF never forgets a static frame, so an
object of an earlier scene would stay in every listener for good; this way it goes stale, as it should, when the next
scene lacks it or the node is deactivated. Knows nothing about how scenes are made or kept.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

from rclpy.clock import Clock
from rclpy.clock_type import ClockType
from rclpy.event_handler import PublisherEventCallbacks, QoSOfferedIncompatibleQoSInfo
from rclpy.lifecycle import LifecycleNode, LifecyclePublisher
from rclpy.qos import DurabilityPolicy, QoSProfile, qos_policy_name_from_kind
from tf2_msgs.msg import TFMessage
from vision_msgs.msg import Detection3DArray
from visualization_msgs.msg import MarkerArray

from scenegen_ros.diagnostics import Level, Status
from scenegen_ros.msg import Scene
from scenegen_ros.qos import LATCHED, TF
from scenegen_ros.scene_messages import detections, marker_array, scene_message, time_message, transforms
from scenegen_ros.scene_store import StoredScene

TF_PERIOD_S = 0.1


class ScenePublisher:
    """The publishers of one configured node; silent while the node is inactive. destroy() leaves nothing behind."""

    def __init__(self, node: LifecycleNode, on_qos_problem: Callable[[str], None]) -> None:
        """on_qos_problem: told, in words, of a subscriber whose QoS cannot match."""
        self._node = node
        self._lock = threading.Lock()
        self._current: StoredScene | None = None
        self._publishers: dict[str, LifecyclePublisher] = {}
        self._qos_problems: dict[str, str] = {}

        def publisher(message_type: type, topic: str, qos: QoSProfile) -> LifecyclePublisher:
            def incompatible(event: QoSOfferedIncompatibleQoSInfo) -> None:
                policy = qos_policy_name_from_kind(event.last_policy_kind).lower()
                problem = (
                    f"a subscriber of {topic} asks for a {policy} that cannot match: what is sent is reliable, "
                    + ("volatile" if qos.durability == DurabilityPolicy.VOLATILE else "transient local")
                    + " and without deadline"
                )
                self._qos_problems[topic] = problem
                on_qos_problem(problem)

            made = node.create_lifecycle_publisher(
                message_type, topic, qos, event_callbacks=PublisherEventCallbacks(incompatible_qos=incompatible)
            )
            self._publishers[topic] = made
            return made

        self._scene = publisher(Scene, "~/scene", LATCHED)
        self._markers = publisher(MarkerArray, "~/markers", LATCHED)
        self._detections = publisher(Detection3DArray, "~/detections", LATCHED)
        self._tf = publisher(TFMessage, "/tf", TF)
        self._timer = node.create_timer(TF_PERIOD_S, self._repeat_frames, clock=Clock(clock_type=ClockType.STEADY_TIME))

    def announce(self, stored: StoredScene) -> None:
        """Publishes a scene whose files are on disk; from now on its frames are repeated."""
        with self._lock:
            self._current = stored
            self._tf.publish(transforms(stored, time_message(stored.stamp_ns)))
            self._markers.publish(marker_array(stored))
            self._detections.publish(detections(stored))
            self._scene.publish(scene_message(stored))

    @property
    def current(self) -> StoredScene | None:
        """The scene announced last."""
        return self._current

    def status(self) -> Status:
        """Who listens, and who would if his QoS could match."""
        values: dict[str, object] = {"scene": self._current.id if self._current is not None else "none yet"}
        problems = []
        for topic, publisher in self._publishers.items():
            matched = publisher.get_subscription_count()
            unmatched = self._node.count_subscribers(publisher.topic_name) - matched
            values[f"{topic} subscribers"] = matched
            if unmatched > 0 and topic in self._qos_problems:
                problems.append(self._qos_problems[topic])
        if problems:
            return Status("outputs", Level.ERROR, "; ".join(problems), values)
        return Status("outputs", Level.OK, f"scene {values['scene']}", values)

    def destroy(self) -> None:
        """Takes the timer and every publisher away."""
        self._node.destroy_timer(self._timer)
        for publisher in self._publishers.values():
            self._node.destroy_lifecycle_publisher(publisher)

    def _repeat_frames(self) -> None:
        with self._lock:
            if self._current is not None and any(o.metric for o in self._current.objects):
                self._tf.publish(transforms(self._current, self._node.get_clock().now().to_msg()))
