"""What a person does at the node, as a node: its transitions, a look at /diagnostics, a goal, the scene that comes out.

Every wait has an end, and then says what the node is waiting for. Knows nothing about what is in a scene.
"""

from __future__ import annotations

import os
import random
import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.parse import unquote, urlparse

from diagnostic_msgs.msg import DiagnosticArray
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
from rclpy.action import ActionClient
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node

from scenegen_ros.action import GenerateScene
from scenegen_ros.diagnostics import Level
from scenegen_ros.msg import Scene
from scenegen_ros.qos import LATCHED

START_S = 300.0
READY_S = 300.0
GENERATE_S = 500.0
_ANSWER_S = 120.0
_REPEAT_S = 5.0

_Said = tuple[int, str, dict[str, str]]
"""Level, message and values of a diagnostic status."""
_UNHEARD: _Said = (Level.WARN, "", {})


class NoScene(Exception):
    """The node made no scene. The message says why, in the node's words where it said any."""


@dataclass
class Stages:
    """Seconds spent in each stage of a job, from the moments at which its feedback changed."""

    on_change: Callable[[str, float], None]
    seconds: dict[str, float] = field(default_factory=dict)
    _now: tuple[str, float] | None = None

    def enter(self, stage: str, progress: float) -> None:
        """Takes the feedback; what it says about views still to come is left out here."""
        name, now_s = stage.split(":")[0].split(" that see")[0], time.monotonic()
        self.on_change(name, progress)
        if self._now is None or name != self._now[0]:
            self.end()
            self._now = name, now_s

    def end(self) -> None:
        """Closes the last stage."""
        if self._now is not None:
            name, since_s = self._now
            self.seconds[name] = self.seconds.get(name, 0.0) + time.monotonic() - since_s
        self._now = None


class Operator:
    """Someone at the node `scenegen`, in a ROS context of its own for the length of a `with` block.

    check: called all along; raises when waiting has no sense any more.
    """

    def __init__(self, check: Callable[[], None]) -> None:
        self._check = check
        self._context = Context()
        self._said: dict[str, _Said] = {}
        self._scene: Scene | None = None

    def __enter__(self) -> Operator:
        self._context.init()
        self._node = Node("demo", context=self._context)
        self._executor = SingleThreadedExecutor(context=self._context)
        self._executor.add_node(self._node)
        self._change = self._node.create_client(ChangeState, "scenegen/change_state")
        self._goals = ActionClient(self._node, GenerateScene, "scenegen/generate_scene")
        self._node.create_subscription(DiagnosticArray, "/diagnostics", self._hear_diagnostics, 10)
        self._node.create_subscription(Scene, "scenegen/scene", self._hear_scene, LATCHED)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._executor.shutdown(timeout_sec=1.0)
        self._goals.destroy()
        self._node.destroy_node()
        self._context.try_shutdown()

    def bring_up(self) -> None:
        """Takes the node to active, by its lifecycle services."""
        self._until(self._change.service_is_ready, "the node's lifecycle services", START_S)
        steps = {"configure": Transition.TRANSITION_CONFIGURE, "activate": Transition.TRANSITION_ACTIVATE}
        for name, number in steps.items():
            if not self._transition(name, number):
                self._said.clear()
                self._until(lambda: self._said, "a word on why", _ANSWER_S)
                raise NoScene(f"the node refused to {name}: {self.says}")

    def _transition(self, name: str, number: int) -> bool:
        """Whether the node went along. Asked again after a while: on a busy machine a request can be lost while the
        ends still find each other. Of two that arrive, the second one is refused.
        """
        request = ChangeState.Request(transition=Transition(id=number))
        asked: list[Any] = []
        repeat_s = 0.0

        def answered() -> bool:
            nonlocal repeat_s
            if time.monotonic() >= repeat_s:
                asked.append(self._change.call_async(request))
                repeat_s = time.monotonic() + _REPEAT_S
            return any(future.done() for future in asked)

        self._until(answered, f"the answer to {name}", _ANSWER_S)
        return any(future.result().success for future in asked if future.done())

    def wait_until_ready(self) -> None:
        """Until the server has its model loaded and the node a view; NoScene when the model cannot be loaded."""

        def ready() -> bool:
            level, message, _ = self._said.get("server", _UNHEARD)
            if message.startswith("failed"):
                raise NoScene(f"server {message}")
            return level == Level.OK and int(self._said.get("views", _UNHEARD)[2].get("kept", 0)) > 0

        self._until(ready, "a view and a server that is ready", READY_S)

    def generate(self, ids: Sequence[int], views: int, seed: int, stages: Stages) -> Scene:
        """The scene of a goal, as the node published it on its topic. NoScene when it made none."""
        self._until(self._goals.server_is_ready, "the node's action", _ANSWER_S)
        goal = self._goals.send_goal_async(
            GenerateScene.Goal(ids=list(ids), views=views, seed=seed),
            feedback_callback=lambda message: stages.enter(message.feedback.stage, message.feedback.progress),
        )
        handle = self._answer(goal, "the answer to the goal")
        if not handle.accepted:
            raise NoScene(f"the node rejected the goal: {self.says}")
        future = handle.get_result_async()
        self._until(future.done, "the result of the goal", GENERATE_S)
        stages.end()
        result: GenerateScene.Result = future.result().result
        if not result.success:
            raise NoScene(result.message)
        self._until(lambda: self._scene and self._scene.id == result.scene.id, "the scene on its topic", _ANSWER_S)
        assert self._scene is not None
        return self._scene

    @property
    def says(self) -> str:
        """What the node's first diagnostic status says: what it does or waits for."""
        return self._said["node"][1] if "node" in self._said else "nothing, no /diagnostics came from it"

    def _answer(self, future: Any, what: str) -> Any:
        self._until(future.done, what, _ANSWER_S)
        return future.result()

    def _until(self, done: Callable[[], Any], what: str, timeout_s: float) -> None:
        deadline_s = time.monotonic() + timeout_s
        while not done():
            self._check()
            if time.monotonic() > deadline_s:
                raise NoScene(f"{what} did not come within {timeout_s:g} s; the node says: {self.says}")
            self._executor.spin_once(timeout_sec=0.1)

    def _hear_diagnostics(self, message: DiagnosticArray) -> None:
        self._said = {
            status.name.removeprefix("scenegen: "): (
                status.level[0],
                status.message,
                {entry.key: entry.value for entry in status.values},
            )
            for status in message.status
        }

    def _hear_scene(self, message: Scene) -> None:
        self._scene = message


def local_path(uri: str) -> Path:
    """The file of a file:// URI."""
    return Path(unquote(urlparse(uri).path))


def private_ros(profile: Path) -> None:
    """Sets this process and its children apart: a ROS domain that nobody here uses, this machine only.

    profile: of Fast DDS; one that is set already stays.
    """
    os.environ["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "LOCALHOST"
    os.environ["ROS_DOMAIN_ID"] = str(_free_domain())
    for name in ("FASTRTPS_DEFAULT_PROFILES_FILE", "FASTDDS_DEFAULT_PROFILES_FILE"):  # Jazzy; later distributions
        os.environ.setdefault(name, str(profile))


def _free_domain() -> int:
    """A domain whose discovery ports (DDSI-RTPS 9.6.1.1) nobody on this machine has taken."""
    domains = list(range(1, 102))
    random.shuffle(domains)
    for domain in domains:
        ports = 7400 + 250 * domain, 7410 + 250 * domain  # multicast; unicast of the first participant
        if all(_is_free(port) for port in ports):
            return domain
    raise NoScene("all ROS domains from 1 to 101 are in use on this machine: stop some ROS nodes")


def _is_free(port: int) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.bind(("", port))
        except OSError:
            return False
    return True
