"""The node's life: transitions that leave nothing behind, being ended in the middle of work, and parameters."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import rclpy
from action_msgs.msg import GoalStatus
from conftest import ROOT
from rclpy.lifecycle import TransitionCallbackReturn
from rclpy.parameter import Parameter
from ros_helpers import WAIT_S, rig, wait_for
from serving import StubGenerator, running

from scenegen.scene import Cancelled, PlacedObject, Scene, View
from scenegen_ros import generation
from scenegen_ros.demo_operator import Operator, Stages
from scenegen_ros.srv import Capture

SUCCESS = TransitionCallbackReturn.SUCCESS


def entities(node: Any) -> list[int]:
    return [
        len(list(kind)) for kind in (node.subscriptions, node.publishers, node.timers, node.services, node.waitables)
    ]


def test_transitions_leave_nothing_behind(ros_context: rclpy.Context, tmp_path: Path, quick: None) -> None:
    with (
        running(StubGenerator(), tmp_path / "s") as server,
        rig(ros_context, server, tmp_path / "scenes", active=False) as r,
    ):
        unconfigured = entities(r.node)
        r.ears.says("unconfigured", "configure")
        for _ in range(2):
            assert r.node.trigger_configure() == SUCCESS
            inactive = entities(r.node)
            assert not r.ears.send().accepted
            answer = r.ears.call(r.ears.capture, Capture.Request())
            assert not answer.success and "activate" in answer.message
            assert r.node.trigger_activate() == SUCCESS
            assert r.ears.generate().success
            assert r.node.trigger_deactivate() == SUCCESS
            assert entities(r.node) == inactive
            assert r.node.trigger_activate() == SUCCESS
            assert r.ears.generate().success
            assert r.node.trigger_deactivate() == SUCCESS
            assert r.node.trigger_cleanup() == SUCCESS
            assert entities(r.node) == unconfigured
            assert not {t.name for t in threading.enumerate() if t.name.startswith("scenegen")}


def test_deactivating_ends_a_running_goal_with_the_reason(ros_context: rclpy.Context, tmp_path: Path) -> None:
    stub = StubGenerator(steps=5)
    with running(stub, tmp_path / "s") as server, rig(ros_context, server, tmp_path / "scenes") as r:
        handle = r.ears.send()
        assert stub.started.acquire(timeout=WAIT_S)
        assert r.node.trigger_deactivate() == SUCCESS
        answer = r.ears.result(handle)
        assert answer.status == GoalStatus.STATUS_ABORTED and "cancelled" in answer.result.message
        stub.step.release(10)


def test_deactivating_while_placing_cancels_it(
    ros_context: rclpy.Context, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    placing = threading.Event()

    def endless_place(
        scene: Scene, views: list[View], *, cancelled: Callable[[], bool], **how: Any
    ) -> tuple[PlacedObject, ...]:
        placing.set()
        wait_for(cancelled, "the end of placing")
        raise Cancelled

    monkeypatch.setattr(generation, "place_scene", endless_place)
    with running(StubGenerator(), tmp_path / "s") as server, rig(ros_context, server, tmp_path / "scenes") as r:
        handle = r.ears.send()
        assert placing.wait(WAIT_S)
        assert r.node.trigger_deactivate() == SUCCESS
        answer = r.ears.result(handle)
        assert answer.status == GoalStatus.STATUS_ABORTED and "cancelled while placing" in answer.result.message


def test_ended_in_the_middle_of_a_goal_it_leaves_without_a_traceback(ros_domain: int, tmp_path: Path) -> None:
    class Ended(Exception):
        pass

    parameters = {"server": f"unix:{tmp_path}/nobody.sock", "output_dir": tmp_path, "view_timeout_s": WAIT_S}
    given = [word for name, value in parameters.items() for word in ("-p", f"{name}:={value}")]
    command = [sys.executable, "-m", "scenegen_ros.node", "--ros-args", *given]
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True)

    def check() -> None:
        if process.poll() is not None:
            raise Ended
        # It says so once a second; feedback comes once, and may be lost while the two ends still find each other.
        if "generating: waiting for views" in operator.says:
            process.terminate()

    operator = Operator(check)
    try:
        with operator:
            operator.bring_up()
            with pytest.raises(Ended):
                operator.generate((), 1, 42, Stages(lambda stage, progress: None))
    finally:
        process.kill()
    _, said = process.communicate()
    assert process.returncode == 0 and "Traceback" not in said, said


def test_parameters_are_live_fixed_or_refused(ros_context: rclpy.Context, tmp_path: Path) -> None:
    with (
        running(StubGenerator(), tmp_path / "s") as server,
        rig(ros_context, server, tmp_path / "scenes", min_translation_m=100.0) as r,
    ):
        r.ears.says("ready")
        (live,) = r.node.set_parameters([Parameter("min_translation_m", value=0.2)])
        assert live.successful
        r.camera.shot.x_m = 1.0
        r.ears.says("2 kept", stage="views")
        (fixed,) = r.node.set_parameters([Parameter("server", value="unix:/tmp/x")])
        (wrong,) = r.node.set_parameters([Parameter("max_views", value=1000)])
        assert not fixed.successful and not wrong.successful and "range" in wrong.reason


@pytest.mark.parametrize(
    "parameters,words",
    [
        ({"depth": "maybe"}, "parameter depth is 'maybe', it must be one of: auto, required, off"),
        ({"token_file": "/nowhere/token"}, "token_file /nowhere/token cannot be read"),
        ({"ca_file": "/nowhere/ca.pem", "server_address": "https://gpu:1"}, "ca.pem is not a readable PEM certificate"),
        ({"server_address": "ftp://x"}, "'ftp://x' is not a server address"),
    ],
)
def test_a_configuration_that_cannot_work_is_refused_with_the_reason(
    ros_context: rclpy.Context, tmp_path: Path, parameters: dict[str, Any], words: str
) -> None:
    server = parameters.pop("server_address", f"unix:{tmp_path / 's'}")
    with rig(ros_context, server, tmp_path / "scenes", active=False, **parameters) as r:
        assert r.node.trigger_configure() == TransitionCallbackReturn.FAILURE
        assert words in r.node.fault
        r.ears.says("unconfigured", words)
