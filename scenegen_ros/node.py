"""SceneGenNode: the lifecycle node. Transitions, parameters and /diagnostics; what they start is in pipeline.py."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any

import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from rcl_interfaces.msg import SetParametersResult
from rclpy.clock import Clock
from rclpy.clock_type import ClockType
from rclpy.exceptions import InvalidHandle
from rclpy.executors import Executor, ExternalShutdownException, ShutdownException, SingleThreadedExecutor
from rclpy.impl.implementation_singleton import rclpy_implementation as _rclpy
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.parameter import Parameter
from rclpy.utilities import try_shutdown

from scenegen.scene import InvalidInput
from scenegen_ros import parameters
from scenegen_ros.diagnostics import Level, LogLine, Problems, Status, diagnostic_array, summary
from scenegen_ros.pipeline import Pipeline

_DIAGNOSTICS_S = 1.0

_Transition = Callable[["SceneGenNode", LifecycleState], TransitionCallbackReturn]


def _told(transition: _Transition) -> _Transition:
    """A transition whose failure is told: rclpy turns an exception into an error without a word."""

    @wraps(transition)
    def wrapped(self: SceneGenNode, state: LifecycleState) -> TransitionCallbackReturn:
        try:
            self.fault = ""
            return transition(self, state)
        except InvalidInput as error:
            self.fault = str(error)
            self.problems.add(self.fault, time.monotonic())
            self.get_logger().error(self.fault)
            return TransitionCallbackReturn.FAILURE
        except Exception as error:
            self.fault = f"{type(error).__name__}: {error}"
            self.problems.add(self.fault, time.monotonic())
            self.get_logger().error(traceback.format_exc())
            return TransitionCallbackReturn.ERROR

    return wrapped


class SceneGenNode(LifecycleNode):
    """configure: parameters and server connection. activate: subscriptions. Both are undone by their opposites."""

    def __init__(self, **kwargs: Any) -> None:
        """kwargs: as rclpy.node.Node takes them."""
        super().__init__("scenegen", **kwargs)
        parameters.declare(self)
        self.fault = ""
        """Why the last transition failed."""
        self.problems = Problems()
        self._log_line = LogLine()
        self._pipeline: Pipeline | None = None
        self.add_on_set_parameters_callback(self._judge_parameters)
        self.add_post_set_parameters_callback(self._parameters_set)
        self._diagnostics = self.create_publisher(DiagnosticArray, "/diagnostics", 10)
        # A steady clock: with use_sim_time and no /clock, this is just what must still speak.
        self.create_timer(_DIAGNOSTICS_S, self._publish_diagnostics, clock=Clock(clock_type=ClockType.STEADY_TIME))

    @_told
    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Reads the parameters and makes everything but the subscriptions."""
        self._pipeline = Pipeline(self, parameters.read(self), self.problems)
        return super().on_configure(state)

    @_told
    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Subscribes and announces the newest scene."""
        result = super().on_activate(state)
        if self._pipeline is not None:
            self._pipeline.activate()
        return result

    @_told
    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Cancels what runs and unsubscribes."""
        if self._pipeline is not None:
            self._pipeline.deactivate()
        return super().on_deactivate(state)

    @_told
    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Takes everything away that configure made."""
        self.close()
        return TransitionCallbackReturn.SUCCESS

    @_told
    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        """As cleanup, from any state."""
        self.close()
        return TransitionCallbackReturn.SUCCESS

    def on_error(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Back to unconfigured with nothing left over; `fault` and the log say what happened."""
        self.close()
        return TransitionCallbackReturn.SUCCESS

    def close(self) -> None:
        """Ends every thread and takes away every publisher, subscription and service made since configure."""
        if self._pipeline is not None:
            self._pipeline.destroy()
            self._pipeline = None

    def _judge_parameters(self, changed: Sequence[Parameter]) -> SetParametersResult:
        try:
            parameters.check({parameter.name: parameter.value for parameter in changed})
        except InvalidInput as error:
            return SetParametersResult(successful=False, reason=str(error))
        return SetParametersResult(successful=True)

    def _parameters_set(self, changed: Sequence[Parameter]) -> None:
        if self._pipeline is not None:
            self._pipeline.update(parameters.read(self))

    def _publish_diagnostics(self) -> None:
        stamp = self.get_clock().now().to_msg()  # before anything is looked at: nothing in it is older
        pipeline = self._pipeline
        stages = pipeline.statuses() if pipeline is not None else []
        if self.fault:
            stages.insert(0, Status("transition", Level.ERROR, self.fault))
        if self.get_parameter("use_sim_time").value and self.get_clock().now().nanoseconds == 0:
            stages.insert(0, Status("clock", Level.ERROR, "use_sim_time is set but nothing has come on /clock"))
        first = summary(
            self._state_machine.current_state[1],
            stages,
            pipeline.working_on if pipeline is not None else "",
            pipeline.idle_reason if pipeline is not None else "",
        )
        statuses = [first, *stages, self.problems.status(time.monotonic())]
        self._diagnostics.publish(diagnostic_array(statuses, stamp))
        if line := self._log_line.due(statuses, time.monotonic()):
            # A line each: rclpy wants one severity from each place in the code.
            if first.level == Level.OK:
                self.get_logger().info(line)
            elif first.level == Level.WARN:
                self.get_logger().warning(line)
            else:
                self.get_logger().error(line)


def spin(node: SceneGenNode, executor: Executor) -> None:
    """Until the executor or ROS is shut down. An error that a callback let out is logged, and the node runs on."""
    while True:
        try:
            executor.spin()
            return
        except (KeyboardInterrupt, ExternalShutdownException, ShutdownException):
            return
        except (InvalidHandle, _rclpy.RCLError) as error:
            # rclpy 7.1 lets these out when something is destroyed while the executor looks at it.
            node.get_logger().debug(str(error))
        except Exception:
            node.get_logger().error(traceback.format_exc())


def main(args: list[str] | None = None) -> None:
    """Runs the node until it is interrupted; its transitions come from outside (launch, lifecycle services).

    In one thread: it takes every topic in turn. rclpy's multi-threaded executor lets whichever was created first win,
    and frames whose masks or depth are lost are of no use. What takes long has a thread of its own.
    """
    rclpy.init(args=args)
    node = SceneGenNode()
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    try:
        spin(node, executor)
    finally:
        executor.shutdown()
        node.close()
        node.destroy_node()
        try_shutdown()


if __name__ == "__main__":
    main()
