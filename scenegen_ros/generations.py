"""Who may start a generation, and how it is told how it went: the action, auto_generate, ~/capture and ~/clear.

One generation runs at a time, in its own thread; no callback here waits for it. Exists while the node is configured and
refuses with a reason while it is not active.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial

from rclpy.action.server import ActionServer, CancelResponse, GoalResponse, ServerGoalHandle
from rclpy.impl.implementation_singleton import rclpy_implementation as _rclpy
from rclpy.node import Node

from scenegen.client import SceneClient
from scenegen.scene import InvalidInput
from scenegen_ros.action import GenerateScene
from scenegen_ros.diagnostics import Level, Problems, Status
from scenegen_ros.generation import Generation, Goal, Outcome, Stage
from scenegen_ros.kept_view import KeptView
from scenegen_ros.scene_messages import scene_message
from scenegen_ros.scene_store import SceneStore, StoredScene
from scenegen_ros.srv import Capture, Clear
from scenegen_ros.tracking import Memory
from scenegen_ros.view_collector import ViewCollector

_RETRY_S = 5.0
"""How long auto_generate rests after a generation that failed."""
_NOT_ACTIVE = "the node is not active: send it the activate transition"


class Generations:
    """Starts generations and reports them."""

    def __init__(
        self,
        node: Node,
        collector: ViewCollector,
        client: SceneClient,
        store: SceneStore,
        announce: Callable[[StoredScene], None],
        waiting_for: Callable[[], str],
        problems: Problems,
    ) -> None:
        """announce: publishes a stored scene. waiting_for: what the node lacks, in words.

        problems: takes note of generations that fail.
        """
        self._node, self._collector, self._client = node, collector, client
        self._store, self._announce, self._waiting_for = store, announce, waiting_for
        self._problems = problems
        self._memory = Memory()
        self._running: Generation | None = None
        self._at_work = False
        """Whether one runs: not any more from just before its end is told, though its thread still is."""
        self._active = False
        self._last: Outcome | None = None
        self._views_used = 0
        self._not_before_s = 0.0
        self._server = ActionServer(
            node,
            GenerateScene,
            "~/generate_scene",
            execute_callback=self._never_executed,
            goal_callback=self._judge,
            handle_accepted_callback=self._accepted,
            cancel_callback=lambda goal_handle: CancelResponse.ACCEPT,
        )
        self._services = [
            node.create_service(Capture, "~/capture", self._capture),
            node.create_service(Clear, "~/clear", self._clear),
        ]

    def open(self) -> None:
        """Accepts work from now on."""
        self._active = True

    def close(self) -> None:
        """Refuses work from now on, and cancels what runs. Does not wait for its end: the executor has other work."""
        self._active = False
        if self._running is not None:
            self._running.stop()

    def destroy(self) -> None:
        """Takes the action and the services away, once what runs has ended."""
        self.close()
        if self._running is not None:
            self._running.join()
        self._server.destroy()
        for service in self._services:
            self._node.destroy_service(service)

    @property
    def stage(self) -> Stage | None:
        """Where the running generation stands."""
        running = self._running
        return running.stage if running is not None and self._at_work and running.is_alive() else None

    @property
    def idle_reason(self) -> str:
        """What starts the next generation, in words."""
        if self._collector.parameters.auto_generate:
            return f"ready: waiting for {self._views_lacking()} new views (auto_generate)"
        return f"ready: waiting for a goal on {self._node.resolve_service_name('~/generate_scene')}"

    def status(self) -> Status:
        """For /diagnostics."""
        stage, last = self.stage, self._last
        values: dict[str, object] = {"last": last.message if last else "none yet"}
        if last is not None:
            values |= {f"last: {stage} [s]": f"{seconds:.2f}" for stage, seconds in last.seconds.items()}
        if stage is not None:
            values |= {"stage": stage.name, "progress": f"{stage.progress:.2f}", "ready": str(list(stage.ready))}
            return Status("generation", Level.OK, f"{stage.name} ({stage.progress:.0%})", values)
        if last is not None and last.stored is None and not last.cancelled:
            return Status("generation", Level.ERROR, f"the last one failed: {last.message}", values)
        return Status("generation", Level.OK, last.message if last else "none yet", values)

    def start_by_itself(self) -> None:
        """With auto_generate: starts when enough new views stand and nothing runs. To be called again and again."""
        parameters = self._collector.parameters
        if (
            parameters.auto_generate
            and self._active
            and self.stage is None
            and time.monotonic() >= self._not_before_s
            and self._views_lacking() == 0
        ):
            goal = Goal(seed=parameters.seed)
            self._start(goal, lambda: False, lambda stage: None, lambda outcome: None)

    def _views_lacking(self) -> int:
        parameters = self._collector.parameters
        limit = parameters.max_views if parameters.fixed_frame else 1
        fresh = min(self._collector.kept_ever - self._views_used, self._collector.count)
        return max(min(parameters.views_to_start, limit) - fresh, 0)

    def _start(
        self,
        goal: Goal,
        cancelled: Callable[[], bool],
        on_stage: Callable[[Stage], None],
        on_done: Callable[[Outcome], None],
    ) -> None:
        kept_at_start = self._collector.kept_ever

        def done(outcome: Outcome) -> None:
            self._last = outcome
            if outcome.stored is not None:
                self._views_used = kept_at_start
                self._tell(lambda: self._node.get_logger().info(outcome.message))
            elif outcome.cancelled:
                self._not_before_s = time.monotonic() + _RETRY_S
                self._tell(lambda: self._node.get_logger().info(f"no scene: {outcome.message}"))
            else:
                self._not_before_s = time.monotonic() + _RETRY_S
                self._problems.add(f"no scene: {outcome.message}", time.monotonic())
                self._tell(lambda: self._node.get_logger().error(f"no scene: {outcome.message}"))
            self._at_work = False  # who hears of the end may ask for the next one at once
            self._tell(lambda: on_done(outcome))

        self._running = Generation(
            goal,
            self._collector,
            self._client,
            self._store,
            self._memory,
            announce=lambda stored: self._tell(lambda: self._announce(stored)),
            waiting_for=self._waiting_for,
            cancelled=cancelled,
            on_stage=lambda stage: self._tell(lambda: on_stage(stage)),
            on_done=done,
        )
        self._at_work = True
        self._running.start()

    def _tell(self, say: Callable[[], object]) -> None:
        """Says something from the generation's thread; when the process is being ended, ROS is gone before it."""
        try:
            if self._node.context.ok():
                say()
        except _rclpy.RCLError:
            if self._node.context.ok():
                raise

    def _judge(self, request: GenerateScene.Goal) -> GoalResponse:
        if not self._active:
            self._node.get_logger().error(f"goal rejected: {_NOT_ACTIVE}")
            return GoalResponse.REJECT
        return GoalResponse.ACCEPT

    def _accepted(self, goal_handle: ServerGoalHandle) -> None:
        """Starts the goal's thread; its end "executes" the goal, which only delivers the result.

        An execute callback that waits would hold the executor, and one that awaits makes this rclpy's executor spin at
        full load.
        """
        if self.stage is not None:
            busy = Outcome(
                None, "another generation is running: wait for its result or cancel it, then send the goal again"
            )
            goal_handle.execute(partial(self._finish, outcome=busy))
            return
        request = goal_handle.request

        def feedback(stage: Stage) -> None:
            goal_handle.publish_feedback(
                GenerateScene.Feedback(stage=stage.name, progress=stage.progress, ready=list(stage.ready))
            )

        self._start(
            Goal(tuple(request.ids), request.views, request.seed),
            lambda: goal_handle.is_cancel_requested,
            feedback,
            lambda outcome: goal_handle.execute(partial(self._finish, outcome=outcome)),
        )

    def _finish(self, goal_handle: ServerGoalHandle, *, outcome: Outcome) -> GenerateScene.Result:
        result = GenerateScene.Result(success=outcome.stored is not None, message=outcome.message)
        if outcome.stored is not None:
            result.scene = scene_message(outcome.stored)
            goal_handle.succeed()
        elif outcome.cancelled and goal_handle.is_cancel_requested:
            goal_handle.canceled()
        else:
            goal_handle.abort()
        return result

    @staticmethod
    def _never_executed(goal_handle: ServerGoalHandle) -> GenerateScene.Result:
        raise AssertionError("goals are executed with their own callback, see _accepted")

    def _capture(self, request: Capture.Request, response: Capture.Response) -> Capture.Response:
        if not self._active:
            response.success, response.message = False, _NOT_ACTIVE
            return response
        try:
            kept = self._collector.capture(self._node.get_clock().now().nanoseconds / 1e9)
        except InvalidInput as error:
            response.success, response.message = False, f"{error}; {self._waiting_for()}"
        else:
            known_as = f", which its masks call {_names(kept)}" if kept.common else ""
            response.success, response.message = True, f"kept a view of instances {sorted(kept.ids)}{known_as}"
        response.views = self._collector.count
        return response

    def _clear(self, request: Clear.Request, response: Clear.Response) -> Clear.Response:
        response.views = self._collector.clear()
        response.success, response.message = True, f"dropped {response.views} views, and what is known of objects"
        return response


def _names(kept: KeptView) -> str:
    """What a view's own masks call the objects in it, in the order of the objects' ids."""
    own = {i: name for name, several in kept.common.items() for i in several}
    return str([own[i] for i in sorted(kept.ids)])
