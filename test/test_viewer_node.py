"""The viewer node shows what the topics say: the camera where TF puts it, the scene, its views, what the node does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import exporting
import numpy as np
import pytest
import rclpy
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from rclpy.node import Node
from rclpy.parameter import Parameter
from ros_helpers import BEST_EFFORT, LATCHED, Camera, wait_for
from test_simulated_camera import spinning
from test_viewer import sent, view

from scenegen.documents import document_scene
from scenegen.files import read_scene
from scenegen.viewer import ShownScene
from scenegen_ros.action import GenerateScene
from scenegen_ros.msg import Scene
from scenegen_ros.scene_messages import scene_message
from scenegen_ros.scene_store import SceneStore
from scenegen_ros.viewer import ViewerNode


def viewer(context: rclpy.Context, **parameters: Any) -> ViewerNode:
    values = {"port": 18100, "rate_hz": 20.0} | parameters
    return ViewerNode(context=context, parameter_overrides=[Parameter(name, value=v) for name, v in values.items()])


def shown(node: ViewerNode) -> dict[str, dict[str, Any]]:
    return sent(node.page.html())


def test_the_camera_moves_and_leaves_pictures(ros_context: rclpy.Context) -> None:
    node, camera = viewer(ros_context), Camera(ros_context, BEST_EFFORT, depth=False, paused=False)
    with spinning(ros_context, camera), spinning(ros_context, node):
        wait_for(lambda: {"/cameras/live", "/cameras/0"} <= shown(node).keys(), "the first picture")
        camera.shot.x_m = 0.3
        nodes = wait_for(lambda: (now := shown(node)) and "/cameras/1" in now and now, "a picture from the new place")
        assert "position" not in nodes["/cameras/0"], "at the origin, which goes without saying"
        assert nodes["/cameras/1"]["position"] == pytest.approx([0.3, 0, 0])
        wait_for(lambda: shown(node)["/cameras/live"]["position"][0] == pytest.approx(0.3), "the camera to be there")
        assert nodes["/cameras/1"]["props"]["fov"] == pytest.approx(2 * np.arctan(24 / 60))
        assert "/cameras/2" not in nodes, "a camera that stands still leaves no more"


def test_a_scene_its_views_and_what_the_node_does(ros_context: rclpy.Context, tmp_path: Path) -> None:
    scene, placed, _ = read_scene(exporting.write(tmp_path))
    assert placed is not None
    views = [view(-1.0), view(-0.5)]
    stored = SceneStore(str(tmp_path / "store"), 5, print).save(scene, placed, views, "map", 7)
    teller = Node("teller", context=ros_context)
    announce = teller.create_publisher(Scene, "scenegen/scene", LATCHED)
    feedback = teller.create_publisher(
        GenerateScene.Impl.FeedbackMessage, "scenegen/generate_scene/_action/feedback", 10
    )
    diagnostics = teller.create_publisher(DiagnosticArray, "/diagnostics", 10)
    node = viewer(ros_context, save_dir=str(tmp_path / "pages"))
    with spinning(ros_context, teller), spinning(ros_context, node):
        announce.publish(scene_message(stored))
        nodes = wait_for(lambda: (now := shown(node)) and "/objects/9" in now and now, "the objects")
        for o in placed:
            assert nodes[f"/objects/{o.id}"]["props"]["glb_data"][:4] == b"glTF"
            np.testing.assert_allclose(nodes[f"/objects/{o.id}"]["position"], o.T_world_object[:3, 3], atol=1e-9)
        document_scene(stored.folder, views, placed)
        nodes = wait_for(lambda: (now := shown(node)) and "/cameras/1" in now and now, "the views")
        np.testing.assert_allclose(nodes["/cameras/0"]["position"], [-1, 0, 1])
        page = tmp_path / "pages" / f"{stored.id}.html"
        wait_for(page.exists, "the page to be saved")

        message = GenerateScene.Impl.FeedbackMessage()
        message.feedback.stage, message.feedback.progress = "structure", 0.25
        # Again and again: what is said while the two ends are still finding each other may be lost.
        wait_for(
            lambda: feedback.publish(message) or node.page.status == "generating: structure (25%)",
            "the feedback to be shown",
        )
        status = DiagnosticStatus(name="scenegen: node", message="ready: waiting for a goal")
        array = DiagnosticArray(status=[DiagnosticStatus(name="scenegen: TF"), status])
        wait_for(
            lambda: diagnostics.publish(array) or node.page.status == "ready: waiting for a goal",
            "the status to be shown",
        )


def test_a_mesh_on_another_machine_is_a_box(ros_context: rclpy.Context, tmp_path: Path) -> None:
    scene, placed, _ = read_scene(exporting.write(tmp_path))
    assert placed is not None
    stored = SceneStore(str(tmp_path / "store"), 5, print).save(scene, placed, [], "map", 7)
    message = scene_message(stored)
    message.objects[0].mesh_uri = "file:///there/is/no/such.glb"
    message.objects[1].mesh_uri = "https://elsewhere/1.glb"
    node = viewer(ros_context)
    kept: list[ShownScene] = []
    node.page.show_scene = kept.append  # type: ignore[method-assign]
    node._take_scene(message)
    node.destroy_node()
    assert [o.glb is None for o in kept[0].objects] == [True, True, False]
    np.testing.assert_allclose(kept[0].objects[0].T_world_box, placed[0].T_world_object, atol=1e-9)
    np.testing.assert_allclose(kept[0].objects[0].size, placed[0].size_m)
