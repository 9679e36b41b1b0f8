"""Scene after scene over real topics: what the server is asked for, and what planners are told."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import numpy as np
import pytest
import rclpy
from rclpy.parameter import Parameter
from ros_helpers import Rig, rig, wait_for
from scipy.spatial.transform import Rotation
from serving import StubGenerator, running

from scenegen.scene import Floats, Progress, Scene, View
from scenegen.synthetic import Camera, SyntheticScene, camera_path, make_scene, render_views, true_scene
from scenegen_ros.action import GenerateScene
from scenegen_ros.conversions import camera_info_message, image_message
from scenegen_ros.msg import SceneObject
from scenegen_ros.srv import Clear

CAMERA = Camera.pinhole(320, 240, 300.0)
SEED = 1002
CABINET, BOX, VASE = 2, 3, 4


class TruthGenerator(StubGenerator):
    """Answers with what it is asked for, as it stands in the world; remembers what that was."""

    def __init__(self, world: SyntheticScene) -> None:
        super().__init__()
        self.world = world
        self.asked: list[tuple[int, ...]] = []
        self.textured = False
        """Whether assets are coarse first and then what passes for textured."""

    def generate(
        self, views: Sequence[View], *, ids: Sequence[int] | None = None, on_progress: Any = None, **how: Any
    ) -> Scene:
        self.asked.append(tuple(views[0].instance_ids if ids is None else ids))
        scene = true_scene(self.world, views[0], self.asked[-1])
        if not self.textured:
            return scene
        on_progress(Progress("latents", 0.9, scene=scene))
        return replace(scene, assets=tuple(replace(asset, detail="textured") for asset in scene.assets))


@dataclass
class Stage:
    """A rig whose camera stands still before a world that changes. Its own frame is the fixed one."""

    rig: Rig
    generator: TruthGenerator
    T_world_camera: Floats
    images: int = 0

    def show(self, world: SyntheticScene) -> None:
        """From now on the camera sees this, and the node has seen it."""
        self.images += 1
        noise = np.random.default_rng(self.images)
        (view,) = render_views(world, CAMERA, self.T_world_camera[None], noise)
        assert view.depth_m is not None and view.intrinsics is not None
        self.generator.world = world
        camera = self.rig.camera
        with camera.ticking:
            camera.shot = replace(
                camera.shot,
                image=image_message(view.image, "rgb8"),
                masks=image_message(view.masks.astype(np.uint8), "mono8"),
                depth=image_message(view.depth_m, "32FC1"),
                camera_info=camera_info_message(view.intrinsics, view.masks.shape),
            )
            camera.paused, before_ns = False, camera.stamp_ns
        assert self.rig.node._pipeline is not None
        collector = self.rig.node._pipeline._collector

        def seen() -> bool:
            latest = collector._latest
            return latest is not None and latest.messages.stamp_ns > before_ns

        wait_for(seen, "the node to see the new world")

    def generate(self, **goal: Any) -> GenerateScene.Result:
        """A goal's result; fails unless there is a scene, which ~/scene then tells as well."""
        result = self.rig.ears.generate(**goal)
        assert result.success, result.message
        wait_for(lambda: [s for s in self.rig.ears.scenes if s.id == result.scene.id], "~/scene")
        return result

    def error_m(self, placed: SceneObject) -> float:
        at = placed.pose.pose.position
        true = np.linalg.inv(self.T_world_camera) @ self.generator.world.T_world_object[placed.id - 1]
        return float(np.linalg.norm([at.x, at.y, at.z] - true[:3, 3]))


@pytest.fixture
def world() -> SyntheticScene:
    return make_scene(SEED)


@pytest.fixture
def stage(ros_context: rclpy.Context, tmp_path: Path, world: SyntheticScene) -> Iterator[Stage]:
    generator = TruthGenerator(world)
    with (
        running(generator, tmp_path / "s") as server,
        rig(ros_context, server, tmp_path / "scenes", paused=True, fixed_frame="camera_optical_frame") as r,
    ):
        yield Stage(r, generator, camera_path(world, 1, SEED, CAMERA)[0])


def without(world: SyntheticScene, instance: int) -> SyntheticScene:
    return moved(world, instance, [0, 0, -50])


def moved(world: SyntheticScene, instance: int, metres: Sequence[float], degrees: float = 0.0) -> SyntheticScene:
    T = world.T_world_object.copy()
    T[instance - 1, :3, :3] = Rotation.from_euler("z", degrees, degrees=True).as_matrix() @ T[instance - 1, :3, :3]
    T[instance - 1, :3, 3] += metres
    return replace(world, T_world_object=T)


def ids(result: GenerateScene.Result) -> list[int]:
    return [o.id for o in result.scene.objects]


def test_only_what_is_new_is_asked_for_and_the_rest_is_followed(stage: Stage, world: SyntheticScene) -> None:
    asked = stage.generator.asked
    stage.show(without(world, VASE))
    first = stage.generate()
    assert ids(first) == [1, 2, 3] and asked == [(1, 2, 3)] and "kept" not in first.message

    stage.show(world)
    second = stage.generate()
    assert asked[1:] == [(VASE,)] and ids(second) == [1, 2, 3, 4] and second.scene.id != first.scene.id
    assert "with 4 objects: 1 new, 3 kept" in second.message
    assert all(o.metric and stage.error_m(o) < 0.02 for o in second.scene.objects)
    for before, now in zip(first.scene.objects, second.scene.objects, strict=False):
        assert (now.id, now.scale, now.size) == (before.id, before.scale, before.size)
    markers = wait_for(lambda: [m for m in stage.rig.ears.markers if len(m.markers) == 5], "markers of all")[0].markers
    assert [m.id for m in markers[1:]] == [1, 2, 3, 4]
    wait_for(lambda: {f"scenegen/{i}" for i in range(1, 5)} in stage.rig.ears.object_frames, "TF of all")

    stage.show(moved(world, BOX, [0.0, 0.0, 0.1], degrees=40))
    third = stage.generate()
    assert len(asked) == 2, "nothing is new"
    assert ids(third) == [1, 2, 3, 4] and "1 moved, 3 kept" in third.message
    assert stage.error_m(third.scene.objects[BOX - 1]) < 0.03

    stage.show(without(world, VASE))
    fourth = stage.generate()
    assert len(asked) == 2 and ids(fourth) == [1, 2, 3]
    assert "1 moved, 2 kept; 1 removed" in fourth.message, fourth.message


def test_a_goal_with_ids_clear_and_track_make_the_server_work_again(stage: Stage, world: SyntheticScene) -> None:
    asked = stage.generator.asked
    stage.show(world)
    stage.generate(ids=[CABINET, BOX])
    both = stage.generate(ids=[BOX])
    assert asked == [(CABINET, BOX), (BOX,)] and ids(both) == [CABINET, BOX], "asked for, it is generated anew"
    assert "1 new, 1 kept" in both.message
    stage.generate()
    assert asked[2:] == [(1, VASE)]
    stage.generate()
    assert len(asked) == 3

    assert stage.rig.ears.call(stage.rig.ears.clear, Clear.Request()).success
    everything = stage.generate(views=1)
    assert asked[3:] == [(1, 2, 3, 4)] and "kept" not in everything.message
    (off,) = stage.rig.node.set_parameters([Parameter("track", value=False)])
    assert off.successful
    assert ids(stage.generate(ids=[VASE])) == [VASE] and asked[4:] == [(VASE,)]


def test_known_objects_are_in_the_coarse_scene_and_in_the_textured_one(stage: Stage, world: SyntheticScene) -> None:
    stage.show(without(world, VASE))
    stage.generate()
    stage.generator.textured = True
    stage.show(world)
    result = stage.generate()
    assert stage.generator.asked[1:] == [(VASE,)] and "1 new, 3 kept" in result.message
    coarse, final = wait_for(
        lambda: scenes if len(scenes := [s for s in stage.rig.ears.scenes if s.id == result.scene.id]) == 2 else None,
        "the coarse scene and the textured one",
    )
    assert [(o.id, o.detail) for o in coarse.objects] == [(i, "coarse") for i in (1, 2, 3, 4)]
    assert [o.detail for o in final.objects] == ["coarse", "coarse", "coarse", "textured"]
    assert [o.pose for o in final.objects] == [o.pose for o in coarse.objects]
    assert all(Path(urlparse(o.mesh_uri).path).is_file() for o in (*coarse.objects, *final.objects))
