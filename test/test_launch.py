"""The launch file's own decisions. launch is not on PyPI: stand-ins record what it would be given, and no more."""

from __future__ import annotations

import os
import runpy
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml
from conftest import ROOT

from scenegen import cli

ARGUMENTS = {
    "image", "masks", "detections_2d", "depth", "points", "camera_info", "server", "token_file", "ca_file", "weights",
    "segmenter", "device", "memory", "mode", "params_file", "viewer", "rviz", "simulate", "bag", "use_sim_time",
}  # fmt: skip
PROFILES = ("FASTRTPS_DEFAULT_PROFILES_FILE", "FASTDDS_DEFAULT_PROFILES_FILE")
MODULES = {
    "ament_index_python.packages": ("get_package_prefix", "get_package_share_directory"),
    "launch": ("LaunchContext", "LaunchDescription", "LaunchDescriptionEntity"),
    "launch.actions": (
        "DeclareLaunchArgument", "EmitEvent", "ExecuteProcess", "OpaqueFunction", "RegisterEventHandler",
        "SetEnvironmentVariable",
    ),
    "launch.events": ("matches_action",),
    "launch.substitutions": ("LaunchConfiguration",),
    "launch_ros.actions": ("LifecycleNode", "Node"),
    "launch_ros.event_handlers": ("OnStateTransition",),
    "launch_ros.events.lifecycle": ("ChangeState",),
}  # fmt: skip


class Recorded:
    """Keeps what it was made with."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.args, self.kwargs = args, kwargs
        self.name = args[0] if args else ""

    def perform(self, context: dict[str, str]) -> str:
        return context[self.name]


def is_a(entity: object, kind: str) -> bool:
    return type(entity).__name__ == kind


@pytest.fixture
def launch_file(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The launch file's global names, loaded over stand-ins."""
    for name, attributes in MODULES.items():
        module = ModuleType(name)
        for attribute in attributes:
            setattr(module, attribute, type(attribute, (Recorded,), {}))
        for parent in (name.partition(".")[0], name):
            monkeypatch.setitem(sys.modules, parent, sys.modules.get(parent) or ModuleType(parent))
        monkeypatch.setitem(sys.modules, name, module)
    packages: Any = sys.modules["ament_index_python.packages"]
    packages.get_package_share_directory = lambda package: str(ROOT)
    packages.get_package_prefix = lambda package: "/prefix"
    for variable in PROFILES:
        monkeypatch.delenv(variable, raising=False)
    return runpy.run_path(str(ROOT / "launch" / "scene.launch.py"))


@pytest.fixture
def start(launch_file: dict[str, Any]) -> Callable[..., list[Any]]:
    """Starts with the defaults and what is given."""
    defaults = {argument.name: argument.kwargs["default_value"] for argument in launch_file["ARGUMENTS"]}
    return lambda **given: launch_file["start"](defaults | given)


def only(entities: list[Any], kind: str, executable: str | None = None) -> Any:
    [found] = [e for e in entities if is_a(e, kind) and executable in (None, e.kwargs.get("executable"))]
    return found


def test_arguments_are_described_and_files_they_name_exist(launch_file: dict[str, Any]) -> None:
    declared = {argument.name: argument.kwargs for argument in launch_file["ARGUMENTS"]}
    assert set(declared) == ARGUMENTS
    assert all(kwargs["description"] and isinstance(kwargs["default_value"], str) for kwargs in declared.values())
    readme = (ROOT / "README.md").read_text()
    assert not [name for name in declared if f"\n| `{name}` | " not in readme]
    assert Path(declared["params_file"]["default_value"]).is_file()
    [description] = launch_file["generate_launch_description"]().args
    assert is_a(description[-1], "OpaqueFunction")


def test_without_a_server_one_is_started_where_the_node_looks_for_it(start: Callable[..., list[Any]]) -> None:
    entities = start(weights="/weights", device="cuda")
    command = only(entities, "ExecuteProcess").kwargs["cmd"]
    socket = command[command.index("--unix") + 1]
    assert command[:2] == ["/prefix/lib/scenegen_ros/scenegen", "serve"]
    assert command[-4:] == ["--weights", "/weights", "--device", "cuda"]
    assert only(entities, "LifecycleNode").kwargs["parameters"][1]["server"] == f"unix:{socket}"
    assert os.stat(Path(socket).parent).st_mode & 0o077 == 0


def test_a_small_gpu_and_fast_sampling_reach_the_server_on_board(start: Callable[..., list[Any]]) -> None:
    command = only(start(memory="low", mode="fast"), "ExecuteProcess").kwargs["cmd"]
    assert command[-4:] == ["--memory", "low", "--mode", "fast"]
    args = cli._parser().parse_args(command[1:])
    assert (args.memory, args.mode) == ("low", "fast")


def test_a_segmenter_makes_the_node_listen_to_boxes(start: Callable[..., list[Any]]) -> None:
    entities = start(segmenter="/sam2", detections_2d="/detector/boxes")
    command, node = only(entities, "ExecuteProcess").kwargs["cmd"], only(entities, "LifecycleNode")
    assert command[-2:] == ["--segmenter", "/sam2"]
    assert node.kwargs["parameters"][1]["segmentation"] == "sam2"
    assert ("detections_2d", "/detector/boxes") in node.kwargs["remappings"]
    assert "segmentation" not in only(start(), "LifecycleNode").kwargs["parameters"][1]


def test_a_given_server_is_used(start: Callable[..., list[Any]]) -> None:
    entities = start(server="https://gpu:8765", token_file="/token")
    assert not [entity for entity in entities if is_a(entity, "ExecuteProcess")]
    _, overrides = only(entities, "LifecycleNode").kwargs["parameters"]
    assert overrides == {"server": "https://gpu:8765", "token_file": "/token", "use_sim_time": False}


def test_a_parameter_file_may_lie_at_home(start: Callable[..., list[Any]]) -> None:
    node = only(start(params_file="~/mine.yaml"), "LifecycleNode")
    assert node.kwargs["parameters"][0] == str(Path.home() / "mine.yaml")


def test_parameters_set_here_are_parameters_of_the_node(start: Callable[..., list[Any]]) -> None:
    params_file, overrides = only(start(), "LifecycleNode").kwargs["parameters"]
    known = set(yaml.safe_load(Path(params_file).read_text())["/**"]["ros__parameters"])
    assert set(overrides) - {"use_sim_time"} <= known


def test_the_node_is_configured_and_then_activated(start: Callable[..., list[Any]]) -> None:
    from lifecycle_msgs.msg import Transition

    entities = start()
    handler, node, configure = entities[-3:]
    on_configured = handler.args[0].kwargs
    assert is_a(node, "LifecycleNode") and on_configured["target_lifecycle_node"] is node
    assert configure.kwargs["event"].kwargs["transition_id"] == Transition.TRANSITION_CONFIGURE
    assert (on_configured["start_state"], on_configured["goal_state"]) == ("configuring", "inactive")
    [activate] = on_configured["entities"]
    assert activate.kwargs["event"].kwargs["transition_id"] == Transition.TRANSITION_ACTIVATE


def test_camera_and_node_meet_on_the_topics_asked_for(start: Callable[..., list[Any]]) -> None:
    entities = start(simulate="true", rviz="true", image="/camera/rgb", use_sim_time="true")
    camera, node = only(entities, "Node", "simulated_camera"), only(entities, "LifecycleNode")
    assert camera.kwargs["remappings"] == node.kwargs["remappings"]
    assert {("image", "/camera/rgb"), ("image/compressed", "/camera/rgb/compressed")} <= set(node.kwargs["remappings"])
    assert node.kwargs["parameters"][1]["use_sim_time"] is True
    rviz = only(entities, "Node", "rviz2")
    assert Path(rviz.kwargs["arguments"][1]).is_file() and ("/image", "/camera/rgb") in rviz.kwargs["remappings"]


def test_the_viewer_and_a_bag(start: Callable[..., list[Any]]) -> None:
    entities = start(simulate="true", bag="table.mcap", viewer="true", depth="/camera/depth")
    assert only(entities, "Node", "simulated_camera").kwargs["parameters"] == [
        {"bag": "table.mcap", "use_sim_time": False}
    ]
    viewer = only(entities, "Node", "scenegen_viewer")
    assert ("depth", "/camera/depth") in viewer.kwargs["remappings"]
    params_file = only(entities, "LifecycleNode").kwargs["parameters"][0]
    assert viewer.kwargs["parameters"] == [params_file, {"use_sim_time": False}], "it has the node's fixed_frame"
    assert (ROOT / "scripts" / viewer.kwargs["executable"]).is_file()


def test_transport_profile_unless_the_user_has_one(
    start: Callable[..., list[Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    set_here = {e.args[0]: e.args[1] for e in start() if is_a(e, "SetEnvironmentVariable")}
    assert set(set_here) == set(PROFILES) and all(Path(path).is_file() for path in set_here.values())
    monkeypatch.setenv(PROFILES[1], "/mine.xml")
    assert not [e for e in start() if is_a(e, "SetEnvironmentVariable")]
