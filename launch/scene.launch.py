"""Starts the scenegen node and brings it to active, with what it needs around it.

ros2 launch scenegen_ros scene.launch.py image:=/camera/color/image_rect masks:=/segmentation/masks ...
ros2 launch scenegen_ros scene.launch.py simulate:=true rviz:=true       # no camera, no robot
ros2 launch scenegen_ros scene.launch.py server:=https://gpu.example.org:8765 token_file:=~/.ros/scenegen_token
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from ament_index_python.packages import get_package_prefix, get_package_share_directory
from launch import LaunchContext, LaunchDescription, LaunchDescriptionEntity
from launch.actions import (
    DeclareLaunchArgument,
    EmitEvent,
    ExecuteProcess,
    OpaqueFunction,
    RegisterEventHandler,
    SetEnvironmentVariable,
)
from launch.events import matches_action
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import LifecycleNode, Node
from launch_ros.event_handlers import OnStateTransition
from launch_ros.events.lifecycle import ChangeState
from lifecycle_msgs.msg import Transition

PACKAGE = "scenegen_ros"
SHARE = Path(get_package_share_directory(PACKAGE))
TOPICS = ("image", "masks", "detections_2d", "depth", "points", "camera_info")
PROFILE_VARIABLES = ("FASTRTPS_DEFAULT_PROFILES_FILE", "FASTDDS_DEFAULT_PROFILES_FILE")

ARGUMENTS = [
    DeclareLaunchArgument("image", default_value="image", description="Topic of the RGB image."),
    DeclareLaunchArgument("masks", default_value="masks", description="Topic of the instance masks of the image."),
    DeclareLaunchArgument(
        "detections_2d",
        default_value="detections_2d",
        description="Topic of boxes around the objects, in place of masks where segmentation is sam2.",
    ),
    DeclareLaunchArgument("depth", default_value="depth", description="Topic of the depth registered to the image."),
    DeclareLaunchArgument(
        "points", default_value="points", description="Topic of an organised cloud, in place of depth."
    ),
    DeclareLaunchArgument("camera_info", default_value="camera_info", description="Topic of the image's camera info."),
    DeclareLaunchArgument(
        "server",
        default_value="",
        description="Generation server: unix:/path, http://host:port or https://host:port. "
        "Empty: one is started on board, on a unix socket.",
    ),
    DeclareLaunchArgument("token_file", default_value="", description="File with the bearer token of a remote server."),
    DeclareLaunchArgument(
        "ca_file",
        default_value="",
        description="PEM that a remote server's certificate is trusted by, if not a public one.",
    ),
    DeclareLaunchArgument(
        "weights", default_value="tiny", description="Weights of the server on board: tiny, or a folder."
    ),
    DeclareLaunchArgument(
        "segmenter",
        default_value="",
        description="Folder of SAM 2 weights: the server on board makes the masks, of detections_2d. Empty: masks come "
        "on their topic, or params_file sets segmentation.",
    ),
    DeclareLaunchArgument("device", default_value="cpu", description="Device of the server on board: cpu, cuda, ..."),
    DeclareLaunchArgument(
        "memory",
        default_value="all",
        choices=["all", "low"],
        description="With low, the server on board holds each model in memory only while it works.",
    ),
    DeclareLaunchArgument(
        "mode",
        default_value="exact",
        choices=["exact", "fast"],
        description="With fast, the server on board samples in fewer steps.",
    ),
    DeclareLaunchArgument(
        "params_file",
        default_value=str(SHARE / "config" / "scenegen.yaml"),
        description="Parameters of the node. What is given here goes before it; server and use_sim_time always do.",
    ),
    DeclareLaunchArgument(
        "viewer",
        default_value="false",
        choices=["true", "false"],
        description="Serve a live page of the scene on http://127.0.0.1:8080, for a browser.",
    ),
    DeclareLaunchArgument("rviz", default_value="false", choices=["true", "false"], description="Open RViz."),
    DeclareLaunchArgument(
        "simulate",
        default_value="false",
        choices=["true", "false"],
        description="Start the simulated camera, which publishes a synthetic scene on the topics above.",
    ),
    DeclareLaunchArgument(
        "bag", default_value="", description="With simulate: a bag of the simulated camera's topics, in place of it."
    ),
    DeclareLaunchArgument(
        "use_sim_time",
        default_value="false",
        choices=["true", "false"],
        description="Follow /clock (bags, simulators).",
    ),
]


def transport_profile() -> list[LaunchDescriptionEntity]:
    """The Fast DDS profile that fits images, unless the user has chosen one. The camera's driver needs it as well."""
    if any(os.environ.get(name) for name in PROFILE_VARIABLES):
        return []
    # Jazzy reads the first name, later distributions the second.
    return [SetEnvironmentVariable(name, str(SHARE / "config" / "fastdds.xml")) for name in PROFILE_VARIABLES]


def server_on_board(socket: str, weights: str, device: str, segmenter: str, memory: str, mode: str) -> ExecuteProcess:
    """The generation server on a unix socket; started again when it dies, since the node outlives it."""
    scenegen = Path(get_package_prefix(PACKAGE)) / "lib" / PACKAGE / "scenegen"
    return ExecuteProcess(
        cmd=[str(scenegen), "serve", "--unix", socket, "--weights", weights, "--device", device]
        + (["--memory", memory] if memory != "all" else [])
        + (["--mode", mode] if mode != "exact" else [])
        + (["--segmenter", str(Path(segmenter).expanduser())] if segmenter else []),
        name="scenegen_server",
        output="screen",
        respawn=True,
        respawn_delay=2.0,
    )


def active(node: LifecycleNode) -> list[LaunchDescriptionEntity]:
    """The node, taken through configure and then activate. Activated once: who deactivates it later means it."""

    def change(transition: int) -> EmitEvent:
        return EmitEvent(event=ChangeState(lifecycle_node_matcher=matches_action(node), transition_id=transition))

    configured = OnStateTransition(
        target_lifecycle_node=node,
        start_state="configuring",
        goal_state="inactive",
        entities=[change(Transition.TRANSITION_ACTIVATE)],
    )
    return [RegisterEventHandler(configured), node, change(Transition.TRANSITION_CONFIGURE)]


def start(context: LaunchContext) -> list[LaunchDescriptionEntity]:
    """Everything that the arguments ask for."""
    value = {argument.name: LaunchConfiguration(argument.name).perform(context) for argument in ARGUMENTS}
    use_sim_time = {"use_sim_time": value["use_sim_time"] == "true"}
    params_file = str(Path(value["params_file"]).expanduser())  # the shell leaves ~ alone behind :=
    remappings = [(topic, value[topic]) for topic in TOPICS] + [("image/compressed", value["image"] + "/compressed")]
    entities = transport_profile()

    server = value["server"]
    if not server:
        # A folder of our own: only this user can reach the socket, and no other launch has it.
        socket = str(Path(tempfile.mkdtemp(prefix="scenegen_")) / "server.sock")
        server = f"unix:{socket}"
        on_board = (value[name] for name in ("weights", "device", "segmenter", "memory", "mode"))
        entities.append(server_on_board(socket, *on_board))

    if value["simulate"] == "true":
        camera = Node(
            package=PACKAGE,
            executable="simulated_camera",
            name="simulated_camera",
            parameters=[{"bag": value["bag"]} | use_sim_time],
            remappings=remappings,
            output="screen",
        )
        entities.append(camera)

    node = LifecycleNode(
        package=PACKAGE,
        executable="scenegen_node",
        name="scenegen",
        namespace="",
        parameters=[
            params_file,
            {"server": server}
            | {name: value[name] for name in ("token_file", "ca_file") if value[name]}
            | ({"segmentation": "sam2"} if value["segmenter"] else {})
            | use_sim_time,
        ],
        remappings=remappings,
        output="screen",
    )
    entities += active(node)

    if value["viewer"] == "true":
        viewer = Node(
            package=PACKAGE,
            executable="scenegen_viewer",
            name="viewer",
            parameters=[params_file, use_sim_time],  # its fixed_frame is the node's
            remappings=remappings,
            output="screen",
        )
        entities.append(viewer)

    if value["rviz"] == "true":
        rviz = Node(
            package="rviz2",
            executable="rviz2",
            name="rviz",
            arguments=["-d", str(SHARE / "rviz" / "scene.rviz")],
            parameters=[use_sim_time],
            remappings=[(f"/{topic}", value[topic]) for topic in ("image", "masks", "depth", "camera_info")],
            output="log",
        )
        entities.append(rviz)
    return entities


def generate_launch_description() -> LaunchDescription:
    """What `ros2 launch` calls."""
    return LaunchDescription([*ARGUMENTS, OpaqueFunction(function=start)])
