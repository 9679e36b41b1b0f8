"""The node over real topics: what goes in, what comes out, and what cancels it."""

from __future__ import annotations

import json
import shutil
import threading
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import cv2
import numpy as np
import pytest
import rclpy
import trimesh
from action_msgs.msg import GoalStatus
from rclpy.parameter import Parameter
from ros_helpers import SIZE, WAIT_S, Rig, boxes, fast_place, rig, wait_for
from scipy.spatial.transform import Rotation
from sensor_msgs.msg import CompressedImage
from serving import StubGenerator, running, view
from visualization_msgs.msg import Marker

from scenegen.client import SceneClient
from scenegen.scene import PlacedObject, Scene, View
from scenegen_ros import generation
from scenegen_ros.conversions import image_message
from scenegen_ros.srv import Capture, Clear


def local(uri: str) -> Path:
    return Path(urlparse(uri).path)


def matrix(pose: Any) -> np.ndarray:
    p, q = pose.position, pose.orientation
    T = np.eye(4)
    T[:3, :3] = Rotation.from_quat([q.x, q.y, q.z, q.w]).as_matrix()
    T[:3, 3] = p.x, p.y, p.z
    return T


def test_a_goal_gives_a_scene_on_every_topic(ros_context: rclpy.Context, tmp_path: Path) -> None:
    with running(StubGenerator(), tmp_path / "s") as server, rig(ros_context, server, tmp_path / "scenes") as r:
        result = r.ears.generate(seed=3)
        assert result.success, result.message
        scene = result.scene
        (heard,) = wait_for(lambda: r.ears.scenes, "~/scene")
        assert heard == scene or heard.id == scene.id  # NaN makes messages unequal
        assert scene.header.frame_id == "map"
        assert 1_000_000_000_000 < scene.header.stamp.sec * 10**9 + scene.header.stamp.nanosec <= r.camera.stamp_ns
        assert [o.id for o in scene.objects] == [1, 2] and all(o.metric for o in scene.objects)
        for placed in scene.objects:
            variances = np.linalg.eigvalsh(np.reshape(placed.pose.covariance, (6, 6)))
            assert variances.min() >= 0 and 0 < variances.max() < 100 and 0 <= placed.confidence <= 1
        assert np.linalg.norm(matrix(scene.objects[0].pose.pose)[:3, 3] - [-0.3, 0, 0.8]) < 0.2

        stored = local(scene.uri).parent
        assert stored.name == scene.id
        assert json.loads((stored / "scene.json").read_text())["frame_id"] == "map"

        (markers,) = wait_for(lambda: r.ears.markers, "~/markers")
        first, *meshes = markers.markers
        assert first.action == Marker.DELETEALL and [m.id for m in meshes] == [1, 2]
        for marker, placed in zip(meshes, scene.objects, strict=True):
            assert marker.type == Marker.MESH_RESOURCE and marker.header == scene.header
            assert marker.mesh_resource == placed.mesh_uri and marker.color.a == 1.0
            # What RViz draws: the file as it is, scaled and posed. It must be the z-up asset at the object's pose.
            file = trimesh.load_scene(local(placed.mesh_uri)).to_mesh()
            drawn = matrix(marker.pose)[:3, :3] @ (marker.scale.x * file.vertices.T)
            asset = trimesh.creation.box((1.0, 0.5, 0.1 + 0.01 * placed.id))
            true = matrix(placed.pose.pose)[:3, :3] @ (placed.scale * asset.vertices.T)
            np.testing.assert_allclose(np.sort(drawn, axis=1), np.sort(true, axis=1), atol=1e-6)

        (detections,) = wait_for(lambda: r.ears.detections, "~/detections")
        for detection, placed in zip(detections.detections, scene.objects, strict=True):
            assert detection.id == str(placed.id) and detection.bbox.size == placed.size
            np.testing.assert_allclose(matrix(detection.bbox.center), matrix(placed.pose.pose), atol=1e-9)
            np.testing.assert_array_equal(detection.results[0].pose.covariance, placed.pose.covariance)
            assert detection.results[0].hypothesis.score == pytest.approx(placed.confidence)
        frame = wait_for(lambda: r.ears.frames.get("scenegen/2"), "TF of object 2")
        assert frame.header.frame_id == "map"
        assert frame.transform.translation.x == pytest.approx(scene.objects[1].pose.pose.position.x)

        # It may come later than the result.
        wait_for(lambda: "saving" in [f.stage for f in tuple(r.ears.feedback)], "the last feedback")
        assert "placing" in [f.stage for f in r.ears.feedback]
        progress = [f.progress for f in r.ears.feedback]
        assert progress == sorted(progress) and 0 <= progress[0] and progress[-1] <= 1
        assert list(r.ears.feedback[-1].ready) == [1, 2]


def test_the_coarse_scene_is_announced_while_textures_are_made(
    ros_context: rclpy.Context, tmp_path: Path, quick: None
) -> None:
    stub = StubGenerator(textures=True)
    with running(stub, tmp_path / "s") as server, rig(ros_context, server, tmp_path / "scenes") as r:
        handle = r.ears.send(seed=3)
        (coarse,) = wait_for(lambda: r.ears.scenes, "the coarse ~/scene")
        assert [o.detail for o in coarse.objects] == ["coarse", "coarse"]
        wait_for(lambda: "scenegen/2" in r.ears.frames, "TF of object 2 for planners")
        assert all(local(o.mesh_uri).is_file() for o in coarse.objects)
        r.ears.says("latents")

        stub.step.release(2)
        result = r.ears.result(handle).result
        assert result.success, result.message
        wait_for(lambda: len(r.ears.scenes) == len(r.ears.markers) == 2, "the textured ~/scene and its markers")
        final = r.ears.scenes[1]
        assert final.id == coarse.id == result.scene.id and final.header == coarse.header
        assert [o.detail for o in final.objects] == ["textured", "textured"]
        for early, late in zip(coarse.objects, final.objects, strict=True):
            assert (late.id, late.pose, late.scale) == (early.id, early.pose, early.scale), "placed once"
            assert (
                late.mesh_uri != early.mesh_uri and local(early.mesh_uri).is_file() and local(late.mesh_uri).is_file()
            )
            assert late.size.x == pytest.approx(0.96 * early.size.x)
        first, *meshes = r.ears.markers[1].markers
        assert first.action == Marker.DELETEALL
        for marker, placed in zip(meshes, final.objects, strict=True):
            assert marker.mesh_resource == placed.mesh_uri and marker.mesh_use_embedded_materials
            assert (marker.color.r, marker.color.g, marker.color.b, marker.color.a) == (0, 0, 0, 0), "no tint"
        assert [s.name for s in (tmp_path / "scenes").iterdir()] == [final.id]
        wait_for(lambda: any(f.progress > 0.95 for f in tuple(r.ears.feedback)), "the last feedback")
        assert list(r.ears.feedback[-1].ready) == [1, 2]
        progress = [f.progress for f in r.ears.feedback]
        assert progress == sorted(progress)


def test_textures_that_fail_or_are_cancelled_leave_the_coarse_scene(
    ros_context: rclpy.Context, tmp_path: Path, quick: None
) -> None:
    stub = StubGenerator(textures=True)
    with running(stub, tmp_path / "s") as server:
        with rig(ros_context, server, tmp_path / "scenes") as r:
            handle = r.ears.send()
            (coarse,) = wait_for(lambda: r.ears.scenes, "the coarse ~/scene")
            assert f"coarse scene {coarse.id} was announced before and stays" in cancel(r, handle).message
            wait_for(stub.sees_cancel, "the server to notice")
            stub.step.release()
            assert stub.ended.acquire(timeout=WAIT_S) and stub.was_cancelled

            stub.failure = None
            handle = r.ears.send()
            wait_for(lambda: len(r.ears.scenes) == 2, "the next coarse ~/scene")
            stub.failure = RuntimeError("CUDA out of memory")
            stub.step.release()
            failed = r.ears.result(handle).result
            assert not failed.success and "CUDA out of memory" in failed.message
            assert f"coarse scene {r.ears.scenes[1].id} was announced before and stays" in failed.message
            stub.failure = None

            (set_coarse,) = r.node.set_parameters([Parameter("detail", value="coarse")])
            assert set_coarse.successful
            result = r.ears.generate()
            assert result.success and [o.detail for o in result.scene.objects] == ["coarse", "coarse"]
            assert local(result.scene.objects[0].mesh_uri).name == "1.glb"
        # A node that starts again announces a scene whose textures never came.
        for path in (tmp_path / "scenes").iterdir():
            if path.name != coarse.id:
                shutil.rmtree(path)
        with rig(ros_context, server, tmp_path / "scenes") as r:
            (heard,) = wait_for(lambda: r.ears.scenes, "~/scene")
            assert heard == coarse


def test_stale_objects_go_when_the_next_scene_lacks_them(
    ros_context: rclpy.Context, tmp_path: Path, quick: None
) -> None:
    with running(StubGenerator(), tmp_path / "s") as server, rig(ros_context, server, tmp_path / "scenes") as r:
        first = r.ears.generate()
        wait_for(lambda: "scenegen/2" in r.ears.frames, "TF of object 2")
        second = r.ears.generate(ids=[1])
        assert first.success and second.success and first.scene.id != second.scene.id
        wait_for(lambda: len(r.ears.markers) == 2, "the second markers")
        assert [(m.action, m.id) for m in r.ears.markers[1].markers] == [(Marker.DELETEALL, 0), (Marker.ADD, 1)]
        assert first.scene.objects[0].mesh_uri != second.scene.objects[0].mesh_uri
        wait_for(lambda: {"scenegen/1"} in r.ears.object_frames, "TF of object 1 alone")
        alone = r.ears.object_frames.index({"scenegen/1"})
        wait_for(lambda: len(r.ears.object_frames) > alone + 2, "TF again")
        assert all("scenegen/2" not in frames for frames in r.ears.object_frames[alone:])


def test_a_restarted_node_announces_the_newest_scene_it_can_read(
    ros_context: rclpy.Context, tmp_path: Path, quick: None
) -> None:
    with running(StubGenerator(), tmp_path / "s") as server:
        with rig(ros_context, server, tmp_path / "scenes") as r:
            good, damaged = r.ears.generate(ids=[1]).scene, r.ears.generate(ids=[2]).scene
        (local(damaged.objects[0].mesh_uri)).write_bytes(b"glTF")
        with rig(ros_context, server, tmp_path / "scenes") as r:
            (heard,) = wait_for(lambda: r.ears.scenes, "~/scene")
            assert heard == good
            assert wait_for(lambda: r.ears.markers, "~/markers")[0].markers[1].mesh_resource == good.objects[0].mesh_uri


@pytest.mark.parametrize(
    ("frame", "with_depth", "up"),
    [("map", True, [0.0, 0.0, 1.0]), ("camera_optical_frame", True, None), ("map", False, [0.0, 0.0, 1.0])],
)
def test_up_is_z_of_a_level_frame_and_known_sizes_are_passed_on(
    ros_context: rclpy.Context,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    frame: str,
    with_depth: bool,
    up: list[float] | None,
) -> None:
    heard: list[Any] = []

    def place(scene: Scene, views: list[View], *, gravity: Any, **how: Any) -> tuple[PlacedObject, ...]:
        heard.append(gravity if gravity is None else gravity.tolist())
        assert how["known_sizes"] == {"mug": 0.095}
        return fast_place(scene, views)

    monkeypatch.setattr(generation, "place_scene", place)
    with (
        running(StubGenerator(), tmp_path / "s") as server,
        rig(
            ros_context,
            server,
            tmp_path / "scenes",
            with_depth=with_depth,
            fixed_frame=frame,
            known_size=["mug=0.095"],
        ) as r,
    ):
        assert r.ears.generate().success
    assert heard == [up]


def cancel(r: Rig, handle: Any) -> Any:
    assert r.ears.cancel(handle).goals_canceling
    answer = r.ears.result(handle)
    assert answer.status == GoalStatus.STATUS_CANCELED and not answer.result.success
    return answer.result


def test_cancel_while_waiting_for_views_queued_generating_and_placing(
    ros_context: rclpy.Context, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stub = StubGenerator(steps=3)
    with running(stub, tmp_path / "s") as server, rig(ros_context, server, tmp_path / "scenes", paused=True) as r:
        handle = r.ears.send()
        wait_for(lambda: any("waiting for views" in f.stage for f in r.ears.feedback), "feedback")
        assert "waiting for views" in cancel(r, handle).message
        r.camera.paused = False

        other = threading.Thread(target=SceneClient(server).generate, args=([view()],))
        other.start()
        assert stub.started.acquire(timeout=WAIT_S)
        handle = r.ears.send()
        wait_for(lambda: any("queue" in f.stage for f in r.ears.feedback), "the stage queued")
        cancel(r, handle)
        wait_for(lambda: SceneClient(server).ready().waiting == 0, "the server to take it out of its queue")
        stub.step.release(3)
        other.join()
        assert stub.ended.acquire(timeout=WAIT_S)

        handle = r.ears.send()
        assert stub.started.acquire(timeout=WAIT_S)
        r.ears.says("generating")
        assert r.ears.call(r.ears.capture, Capture.Request()).success  # nothing blocks meanwhile
        busy = r.ears.generate()
        assert not busy.success and "another generation is running" in busy.message
        cancel(r, handle)
        wait_for(stub.sees_cancel, "the server to notice")
        stub.step.release(3)
        assert stub.ended.acquire(timeout=WAIT_S)
        assert stub.was_cancelled

        placing, go_on = threading.Event(), threading.Event()

        def slow_place(scene: Scene, views: list[View], **how: Any) -> tuple[PlacedObject, ...]:
            placing.set()
            assert go_on.wait(WAIT_S)
            return fast_place(scene, views)

        monkeypatch.setattr(generation, "place_scene", slow_place)
        stub.step = threading.Semaphore(100)
        handle = r.ears.send()
        assert placing.wait(WAIT_S)
        assert r.ears.cancel(handle).goals_canceling
        go_on.set()
        assert r.ears.result(handle).status == GoalStatus.STATUS_CANCELED
        assert not r.ears.scenes and not (tmp_path / "scenes").exists()

        assert r.ears.generate().success


def test_auto_generate_starts_again_only_on_new_views(ros_context: rclpy.Context, tmp_path: Path, quick: None) -> None:
    parameters = {"auto_generate": True, "views_to_start": 2, "seed": 9}
    with (
        running(StubGenerator(), tmp_path / "s") as server,
        rig(ros_context, server, tmp_path / "scenes", **parameters) as r,
    ):
        r.ears.says("waiting for 1 new views")
        assert not r.ears.scenes
        r.camera.shot.x_m = 1.0
        wait_for(lambda: len(r.ears.scenes) == 1, "the first scene")
        r.ears.says("waiting for 2 new views")
        r.camera.shot.x_m = 2.0
        r.ears.says("waiting for 1 new views")
        assert len(r.ears.scenes) == 1
        r.camera.shot.x_m = 3.0
        wait_for(lambda: len(r.ears.scenes) == 2, "the second scene")


def test_capture_and_clear(ros_context: rclpy.Context, tmp_path: Path, quick: None) -> None:
    with running(StubGenerator(), tmp_path / "s") as server, rig(ros_context, server, tmp_path / "scenes") as r:
        # A set has come after the one that was kept: that is what is captured.
        r.ears.value("views", "not kept: the camera had not moved", lambda count: count and int(count) > 0)
        answer = r.ears.call(r.ears.capture, Capture.Request())
        assert (answer.success, answer.views) == (True, 2), answer.message
        r.pause()
        answer = r.ears.call(r.ears.clear, Clear.Request())
        assert (answer.success, answer.views) == (True, 2)
        answer = r.ears.call(r.ears.capture, Capture.Request())
        assert not answer.success and "no usable set" in answer.message
        r.camera.paused = False
        assert r.ears.generate(views=1).success


def test_a_goal_that_cannot_be_met_says_why(ros_context: rclpy.Context, tmp_path: Path, quick: None) -> None:
    with (
        running(StubGenerator(), tmp_path / "s") as server,
        rig(ros_context, server, tmp_path / "scenes", view_timeout_s=0.5) as r,
    ):
        r.wait_for_views(1)
        for goal, words in (
            ({"views": 2}, ("only 1 of 2 views", "has not moved")),
            ({"ids": [7]}, ("only 0 of 1 views that see ids [7]",)),
            ({"ids": [0]}, ("must be positive",)),
            ({"views": 9}, ("at most 8", "max_views")),
        ):

            def refused(goal: dict[str, Any] = goal, words: tuple[str, ...] = words) -> bool:
                """On a busy machine a goal may meet a topic that is silent for a moment, and then names that."""
                result = r.ears.generate(**goal)
                assert not result.success
                return all(word in result.message for word in words)

            wait_for(refused, f"a goal to be refused with {words}")
            r.ears.says("the last one failed", words[0])
        assert r.ears.generate(ids=[2]).scene.objects[0].id == 2


def test_other_kinds_of_input(ros_context: rclpy.Context, tmp_path: Path, quick: None) -> None:
    """JPEG instead of raw images, colours as masks, millimetres as depth."""
    with running(StubGenerator(), tmp_path / "s") as server, rig(ros_context, server, tmp_path / "scenes") as r:
        colours = np.zeros((*SIZE, 3), np.uint8)
        colours[10:30, 10:30] = 0, 1, 4
        shot = r.camera.shot
        shot.topics = {"compressed", "masks", "camera_info", "depth", "tf"}
        shot.compressed = CompressedImage(format="jpeg", data=cv2.imencode(".jpg", colours)[1].tobytes())
        shot.masks = image_message(colours, "rgb8")
        shot.depth = image_message(np.full(SIZE, 800, np.uint16), "16UC1")
        r.ears.call(r.ears.clear, Clear.Request())
        wait_for(lambda: r.ears.generate().scene.query == 0x000104, "a scene of the new shot")


def test_without_a_fixed_frame_no_tf_is_needed(ros_context: rclpy.Context, tmp_path: Path, quick: None) -> None:
    with (
        running(StubGenerator(), tmp_path / "s") as server,
        rig(ros_context, server, tmp_path / "scenes", fixed_frame="") as r,
    ):
        r.camera.shot.topics.discard("tf")
        r.camera.shot.masks = image_message(boxes((5,)), "mono8")
        wait_for(lambda: [o.id for o in r.ears.generate().scene.objects] == [5], "the newest view")
        scene = wait_for(lambda: [s for s in r.ears.scenes if [o.id for o in s.objects] == [5]], "~/scene")[-1]
        assert scene.header.frame_id == "camera_optical_frame"
        wait_for(lambda: r.ears.frames.get("scenegen/5"), "TF in the camera's frame")
