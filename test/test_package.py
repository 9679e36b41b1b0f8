"""What is shipped beside the code: interfaces, launch file, RViz layout, transport profile, pins."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from typing import TYPE_CHECKING
from xml.etree import ElementTree

import pytest
import yaml
from conftest import ROOT, spin_until

if TYPE_CHECKING:
    import rclpy


def test_every_interface_field_is_documented() -> None:
    for path in [*ROOT.glob("msg/*.msg"), *ROOT.glob("srv/*.srv"), *ROOT.glob("action/*.action")]:
        documented = False
        for line in path.read_text().splitlines():
            if line.startswith("#"):
                documented = True
            elif not line or line == "---":
                documented = False
            else:
                assert documented, f"{path.name}: no comment above '{line}'"


RELEASED = {
    "tf2_msgs/msg/TFMessage": "e369d0f05a23ae52508854b66f6aa0437f3449d652e8cbf22d5abe85d020f087",
    "vision_msgs/msg/Detection3DArray": "793f5eab9595ac1c0da07873cc859db42eae51f0ee76056db8562515d830e018",
    "moveit_msgs/msg/PlanningScene": "0f58540ad5eab4b9ea827d53b763c793d8cabd202b3b301fcee25afa4ce1bd80",
}


def test_messages_built_for_pip_have_the_type_hash_of_the_released_ones(ros_context: rclpy.Context) -> None:
    import rclpy

    pytest.importorskip("moveit_msgs", reason="MoveIt's interfaces are not built: python pip_ros/build.py --moveit")
    from moveit_msgs.msg import PlanningScene
    from tf2_msgs.msg import TFMessage
    from vision_msgs.msg import Detection3DArray

    node = rclpy.create_node("hashes", context=ros_context)
    for name, message in zip(RELEASED, (TFMessage, Detection3DArray, PlanningScene), strict=True):
        topic = name.rpartition("/")[2]
        node.create_publisher(message, topic, 1)
        [info] = node.get_publishers_info_by_topic(f"/{topic}")
        assert bytes(info.topic_type_hash.value).hex() == RELEASED[name], name
    node.destroy_node()


def test_rviz_shows_the_node_topics() -> None:
    manager = yaml.safe_load((ROOT / "rviz" / "scene.rviz").read_text())["Visualization Manager"]
    assert manager["Global Options"]["Fixed Frame"] == "map"
    displays = {display["Class"].split("/")[1]: display for display in manager["Displays"]}
    assert displays["MarkerArray"]["Topic"]["Value"] == "/scenegen/markers"
    assert displays["MarkerArray"]["Topic"]["Durability Policy"] == "Transient Local"
    assert {"Grid", "TF", "Image", "Camera", "DepthCloud", "Detection3DArray"} <= set(displays)
    assert displays["Detection3DArray"]["Topic"]["Value"] == "/scenegen/detections"
    assert displays["Detection3DArray"]["Topic"]["Durability Policy"] == "Transient Local"
    assert displays["Camera"]["Topic"]["Value"] == "/image" and displays["Image"]["Topic"]["Value"] == "/masks"
    assert displays["DepthCloud"]["Depth Map Topic"] == "/depth"
    shown = {name: on for name, on in displays["Camera"]["Visibility"].items() if name != "Value"}
    assert shown.keys() <= {display["Name"] for display in manager["Displays"]} and shown["Objects"]


def test_versions_stand_in_one_place_and_cover_what_is_wanted() -> None:
    folder = ROOT / "requirements"
    pinned = {re.sub(r"[-_.]+", "-", name).lower() for name in re.findall(r"^(\S+)==", _read("constraints"), re.M)}
    for path in folder.glob("*.txt"):
        names = [line for line in path.read_text().splitlines() if line and not line.startswith("#")]
        if path.stem != "constraints":
            assert not [line for line in names if re.search(r"[<>=~]", line)], path.name
            assert {re.sub(r"\[.*|\s", "", name) for name in names} <= pinned, path.name


def _read(name: str) -> str:
    return (ROOT / "requirements" / f"{name}.txt").read_text()


def test_package_xml_and_python_agree_on_the_version() -> None:
    import scenegen

    package = ElementTree.parse(ROOT / "package.xml")
    assert package.findtext("version") == scenegen.__version__
    assert package.findtext("license") == "Apache-2.0"


PUBLISHER = """
import sys, rclpy
from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import Image
rclpy.init()
node = rclpy.create_node("camera")
publisher = node.create_publisher(Image, "image", QoSProfile(depth=5, reliability=ReliabilityPolicy.BEST_EFFORT))
image = Image(height=1080, width=1920, step=5760, encoding="rgb8")
image.data.frombytes(bytes(1080 * 5760))
timer = node.create_timer(1 / 30, lambda: publisher.publish(image))
rclpy.spin(node)
"""


def test_whole_images_cross_processes_with_the_shipped_profile(ros_context: rclpy.Context) -> None:
    import rclpy
    from rclpy.qos import QoSProfile, ReliabilityPolicy
    from sensor_msgs.msg import Image

    received: list[Image] = []
    node = rclpy.create_node("listener", context=ros_context)
    qos = QoSProfile(depth=5, reliability=ReliabilityPolicy.BEST_EFFORT)
    node.create_subscription(Image, "image", received.append, qos)
    executor = rclpy.executors.SingleThreadedExecutor(context=ros_context)
    executor.add_node(node)
    camera = subprocess.Popen([sys.executable, "-c", PUBLISHER], env=os.environ.copy(), stderr=subprocess.PIPE)
    try:
        spin_until(executor, lambda: len(received) >= 10 or camera.poll() is not None, "ten full HD images")
    finally:
        camera.kill()
        complaints = camera.communicate()[1].decode()
    assert len(received) >= 10, complaints
    assert all(len(image.data) == 1080 * 5760 for image in received)
    executor.shutdown()
    node.destroy_node()
