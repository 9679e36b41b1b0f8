"""What the configured node consists of: inputs -> views -> generation -> scene, and one status of each.

Built at configure, fed between activate and deactivate, destroyed at cleanup.
"""

from __future__ import annotations

import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from rclpy.clock import Clock
from rclpy.clock_type import ClockType
from rclpy.lifecycle import LifecycleNode
from rclpy.timer import Timer

from scenegen.address import Address
from scenegen.client import SceneClient
from scenegen.scene import Floats, InvalidInput
from scenegen_ros.diagnostics import Problems, Status, lacking_of
from scenegen_ros.export_service import ExportService
from scenegen_ros.generations import Generations
from scenegen_ros.inputs import Inputs, decode_set
from scenegen_ros.instances_publisher import InstancesPublisher
from scenegen_ros.pairing import Message
from scenegen_ros.parameters import Parameters
from scenegen_ros.rectification import wants_rectifying
from scenegen_ros.scene_publisher import ScenePublisher
from scenegen_ros.scene_store import SceneStore, StoredScene
from scenegen_ros.server_watch import ServerWatch
from scenegen_ros.stages import PairingReport, tf_status, views_status
from scenegen_ros.transforms import TransformBuffer, UnknownFrame
from scenegen_ros.view_collector import ViewCollector

if TYPE_CHECKING:
    from scenegen_ros.planner import Planner

_POLL_S = 0.1
_AFTER_VIEWS = ("server", "generation", "outputs", "planner")
"""Stages that views do not wait for."""


class Pipeline:
    """The parts of one configured node, joined."""

    def __init__(self, node: LifecycleNode, parameters: Parameters, problems: Problems) -> None:
        """problems: takes note of whatever goes wrong. InvalidInput when a parameter cannot be used."""
        self._node, self._parameters, self._problems = node, parameters, problems
        address = str(Address.parse(parameters.server))
        self._client = SceneClient(address, _token(parameters.token_file), ca_file=_path(parameters.ca_file))
        self._store = SceneStore(parameters.output_dir, parameters.keep_scenes, self._notice)
        self._planner = self._make_planner() if parameters.planning_scene else None
        self._transforms = TransformBuffer()
        rectify = wants_rectifying(parameters.rectify, node.resolve_topic_name("image"))
        decode = partial(decode_set, rectify=rectify)
        self._collector = ViewCollector(
            parameters, decode, self._lookup, self._notice, lambda stamp_ns: self._transforms.jumped_back(stamp_ns)
        )
        self._instances = InstancesPublisher(node) if parameters.association == "overlap" else None
        if self._instances is not None:
            self._collector.on_common_ids = self._instances.publish
        self._publisher = ScenePublisher(node, self._notice)
        self._generations = Generations(
            node, self._collector, self._client, self._store, self._announce, self.waiting_for, problems
        )
        self._exports = ExportService(node, self._find)
        self._watch = ServerWatch(self._client, address, segmenter=parameters.segmentation == "sam2")
        self._inputs: Inputs | None = None
        self._timer: Timer | None = None
        self._pairing = PairingReport()

    def activate(self) -> None:
        """Starts to listen, and announces the newest scene on disk."""
        self._transforms = TransformBuffer()
        self._inputs = Inputs(self._node, self._parameters, self._take, self._transforms)
        self._timer = self._node.create_timer(_POLL_S, self._poll, clock=Clock(clock_type=ClockType.STEADY_TIME))
        self._generations.open()
        if self._planner is not None:
            self._planner.open()
        last = self._publisher.current or self._store.last()
        if last is not None:
            self._announce(last)
            self._node.get_logger().info(f"announced scene {last.id} from {last.folder}")

    def deactivate(self) -> None:
        """Stops to listen, cancels what runs, forgets the views."""
        if self._timer is not None:
            self._node.destroy_timer(self._timer)
            self._timer = None
        if self._inputs is not None:
            self._inputs.destroy()
            self._inputs = None
        self._generations.close()
        if self._planner is not None:
            self._planner.close()
        self._collector.clear()

    def destroy(self) -> None:
        """Takes everything away that configure made."""
        self.deactivate()
        self._client.close()
        self._watch.stop()
        self._generations.destroy()
        if self._planner is not None:
            self._planner.destroy()
        self._exports.destroy()
        self._store.close()
        self._publisher.destroy()
        if self._instances is not None:
            self._instances.destroy()

    def _make_planner(self) -> Planner:
        """InvalidInput when what it needs is not there."""
        if not self._parameters.fixed_frame:
            raise InvalidInput(
                "planning_scene needs a fixed_frame: MoveIt would take poses in a camera's frame for those of now"
            )
        try:
            from scenegen_ros.planner import Planner
        except ModuleNotFoundError as error:
            raise InvalidInput(
                f"planning_scene needs moveit_msgs ({error}): apt install ros-$ROS_DISTRO-moveit-msgs (without ROS: "
                "python pip_ros/build.py --moveit), or set it to false"
            ) from error
        return Planner(self._node, self._notice)

    def _announce(self, stored: StoredScene) -> None:
        """To whoever listens, and to the planner."""
        self._publisher.announce(stored)
        if self._planner is not None:
            self._planner.announce(stored)

    def _find(self, scene_id: str) -> Path:
        """The folder of a kept scene; "" is the one announced last."""
        if scene_id:
            return self._store.find(scene_id)
        if (current := self._publisher.current) is None:
            raise InvalidInput("no scene was announced yet: generate one, or name one that is kept in output_dir")
        return current.folder

    def update(self, parameters: Parameters) -> None:
        """Takes over parameters that were set while the node runs."""
        self._collector.parameters = parameters

    def statuses(self) -> list[Status]:
        """One per stage, in the order in which data flows."""
        now_s = time.monotonic()
        stages = []
        inputs = self._inputs
        if inputs is not None:
            for name, monitor in inputs.monitors.items():
                stages.append(monitor.status(inputs.publishers(name), now_s))
            tf = tf_status(self._parameters.fixed_frame, self._collector, self._transforms, inputs.tf_problem)
            pairing = self._pairing.status(self._collector, inputs.monitors, stages, now_s)
            stages += [tf, pairing, views_status(self._collector)]
        stages += [self._watch.status, self._generations.status(), self._publisher.status()]
        return stages if self._planner is None else [*stages, self._planner.status]

    @property
    def working_on(self) -> str:
        """The running generation in words; empty when none runs."""
        stage = self._generations.stage
        return f"generating: {stage.name} ({stage.progress:.0%})" if stage is not None else ""

    @property
    def idle_reason(self) -> str:
        """What starts the next generation."""
        return self._generations.idle_reason

    def waiting_for(self) -> str:
        """The first stage before the server that is not well, in words."""
        lacking = lacking_of([s for s in self.statuses() if s.name not in _AFTER_VIEWS])
        if lacking is not None:
            return f"{lacking.name}: {lacking.message}"
        p = self._collector.parameters
        return (
            f"the camera has not moved by {p.min_translation_m:g} m or {p.min_rotation_deg:g} degrees; move it, call "
            "~/capture, or ask for fewer views"
        )

    def _take(self, name: str, message: Message) -> None:
        inputs = self._inputs
        if inputs is None:  # a message that was under way while the node was activated or deactivated
            return
        self._collector.partners = inputs.partners()
        self._collector.add(name, message, self._now_s())

    def _poll(self) -> None:
        inputs = self._inputs
        if inputs is not None:
            self._collector.partners = inputs.partners()
            self._collector.poll(self._now_s())
            self._generations.start_by_itself()

    def _lookup(self, camera_frame: str, stamp_ns: int) -> Floats | None:
        if not self._parameters.fixed_frame:
            return None
        if not camera_frame:
            raise UnknownFrame("the image's header names no frame: its driver must set frame_id to the optical frame")
        return self._transforms.lookup(self._parameters.fixed_frame, camera_frame, stamp_ns)

    def _now_s(self) -> float:
        return self._node.get_clock().now().nanoseconds / 1e9

    def _notice(self, text: str) -> None:
        """Takes note of a problem, and logs a warning; the same one again only after a while."""
        if self._problems.add(text, time.monotonic()):
            self._node.get_logger().warning(text)


def _path(path: str) -> str | None:
    return str(Path(path).expanduser()) if path else None


def _token(path: str) -> str | None:
    """The token in a file, None without one. InvalidInput when it cannot be read."""
    if not path:
        return None
    try:
        token = Path(path).expanduser().read_text().strip()
    except OSError as error:
        raise InvalidInput(
            f"token_file {path} cannot be read ({error.strerror}): correct the path or its permissions"
        ) from error
    if not token:
        raise InvalidInput(f"token_file {path} is empty: put the server's token into it")
    return token
