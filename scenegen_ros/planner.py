"""Tells MoveIt about the objects: the newest scene as collision objects, through move_group's apply_planning_scene.

A service and not the topic planning_scene: its answer says whether the objects are in, move_group reads TF anew for it
(for a diff on the topic it does not, and drops objects in a frame that it has not needed yet), and nothing is lost when
it starts late or anew. Meshes are cut in processes of their own and everything waits in a thread, so neither a callback
nor a scene's announcement does. Needs moveit_msgs, and coacd, which are optional.
"""

from __future__ import annotations

import math
import os
import threading
import time
import traceback
from collections.abc import Callable

from moveit_msgs.srv import ApplyPlanningScene
from rclpy.exceptions import InvalidHandle
from rclpy.impl.implementation_singleton import rclpy_implementation as _rclpy
from rclpy.node import Node

from scenegen.export.convex import check_coacd, convex_pieces
from scenegen.export.physics import surface
from scenegen.scene import Cancelled
from scenegen_ros.collision_objects import Obstacle, Obstacles, changes
from scenegen_ros.diagnostics import Level, Status
from scenegen_ros.scene_messages import time_message
from scenegen_ros.scene_store import StoredScene

SERVICE = "apply_planning_scene"
_POLL_S = 0.1
_ANSWER_S = 10.0
"""How long move_group may take to answer."""
_RETRY_S = 10.0
"""How long it rests after it refused."""


class Planner:
    """Keeps a planner's scene as the newest announced one. Silent until open(); destroy() ends its thread."""

    def __init__(self, node: Node, on_problem: Callable[[str], None]) -> None:
        """on_problem: told, in words, of what keeps the planner from knowing. InvalidInput when coacd is missing."""
        check_coacd()
        self._node, self._on_problem = node, on_problem
        self._client = node.create_client(ApplyPlanningScene, SERVICE)
        self._name = node.resolve_service_name(SERVICE)
        self._wake = threading.Event()
        self._stopped = False
        self._open = False
        self._wanted: StoredScene | None = None
        self._cut: tuple[StoredScene, Obstacles] | None = None
        self._told: Obstacles = {}
        self._done: StoredScene | None = None
        self._not_before_s = -math.inf
        self._status = Status("planner", Level.OK, "no scene yet", blocks=False)
        self._thread = threading.Thread(target=self._run, name="scenegen planner", daemon=True)
        self._thread.start()

    @property
    def status(self) -> Status:
        """For /diagnostics."""
        return self._status

    def announce(self, stored: StoredScene) -> None:
        """This scene is the newest; the work for an earlier one ends."""
        self._wanted, self._not_before_s = stored, -math.inf
        self._wake.set()

    def open(self) -> None:
        """Speaks from now on."""
        self._open = True
        self._wake.set()

    def close(self) -> None:
        """Is silent from now on. What the planner was told stays there: an obstacle does not go with who saw it."""
        self._open = False

    def destroy(self) -> None:
        """Ends what runs, and takes the client away."""
        self.close()
        self._stopped = True
        self._wake.set()
        self._thread.join()
        self._node.destroy_client(self._client)

    def _run(self) -> None:
        while not self._stopped:
            self._wake.wait(_POLL_S)
            self._wake.clear()
            try:
                if self._open and self._node.context.ok():
                    self._step()
            except Cancelled:
                pass
            except (InvalidHandle, _rclpy.RCLError):  # the process is being ended
                return
            except Exception as error:  # whatever it is, the thread goes on with the next scene, and says so
                traceback.print_exc()
                self._done = self._wanted
                self._fail(f"unexpected {type(error).__name__}: {error}; this is a bug")

    def _step(self) -> None:
        """Brings the planner up to date, if it is not."""
        if not self._client.service_is_ready():
            self._told, self._done = {}, None  # it may come back with an empty scene
        stored = self._wanted
        if stored is None or stored is self._done or time.monotonic() < self._not_before_s:
            return
        obstacles = self._obstacles(stored)
        if not self._client.service_is_ready():
            self._say(Level.WARN, f"nobody offers {self._name}: does move_group run, in this namespace?")
            return
        scene = changes(self._told, obstacles, stored.frame_id, time_message(stored.stamp_ns))
        if scene.world.collision_objects and not self._apply(ApplyPlanningScene.Request(scene=scene), stored):
            self._not_before_s = time.monotonic() + _RETRY_S
            return
        self._told, self._done = obstacles, stored
        left_out = len(stored.objects) - len(obstacles)
        pieces = sum(len(obstacle.pieces) for obstacle in obstacles.values())
        untold = f"; {left_out} left out: not metric" if left_out else ""
        self._say(Level.OK, f"has {len(obstacles)} objects of scene {stored.id} in {pieces} convex pieces{untold}")

    def _obstacles(self, stored: StoredScene) -> Obstacles:
        """The metric objects in convex pieces. Cancelled when a newer scene has come meanwhile."""
        if self._cut is None or self._cut[0] is not stored:
            metric = [placed for placed in stored.objects if placed.metric]
            self._say(Level.OK, f"cutting the {len(metric)} objects of scene {stored.id} into convex pieces")
            cuts = convex_pieces(
                [surface(placed.asset.mesh) for placed in metric],
                max(1, len(os.sched_getaffinity(0)) // 2),  # the others are the robot's
                cancelled=lambda: self._stopped or not self._open or self._wanted is not stored,
            )
            made = [Obstacle.of(placed, cut.pieces) for placed, cut in zip(metric, cuts, strict=True)]
            self._cut = stored, {obstacle.id: obstacle for obstacle in made}
        return self._cut[1]

    def _apply(self, request: ApplyPlanningScene.Request, stored: StoredScene) -> bool:
        """Whether move_group took it. Cancelled when the node is deactivated meanwhile."""
        answered = threading.Event()
        future = self._client.call_async(request)
        future.add_done_callback(lambda _: answered.set())
        deadline_s = time.monotonic() + _ANSWER_S
        while not answered.wait(_POLL_S):
            if not self._open or time.monotonic() > deadline_s:
                self._client.remove_pending_request(future)
                if not self._open:
                    raise Cancelled
                self._fail(f"{self._name} has not answered for {_ANSWER_S:g} s")
                return False
        if not future.result().success:
            self._told = {}  # which of them it has is not known: next time all of them anew
            why = f"its log says why; does it know the frame '{stored.frame_id}'?"
            self._fail(f"{self._name} refused scene {stored.id}: {why}")
            return False
        return True

    def _fail(self, message: str) -> None:
        self._say(Level.WARN, message)
        self._on_problem(f"planner: {message}")

    def _say(self, level: Level, message: str) -> None:
        self._status = Status("planner", level, message, blocks=False)
