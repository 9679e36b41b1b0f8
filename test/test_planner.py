"""MoveIt's planning scene: what it is told over DDS, by a stand-in that takes diffs as move_group does."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import exporting
import numpy as np
import pytest
import rclpy
import trimesh
from fault_table import Faults, told
from rclpy.executors import SingleThreadedExecutor
from rclpy.lifecycle import TransitionCallbackReturn
from rclpy.node import Node
from ros_helpers import WAIT_S, rig, wait_for
from scipy.spatial.transform import Rotation
from serving import StubGenerator, running

from scenegen.export import convex
from scenegen.scene import Floats, PlacedObject, Placement, Scene
from scenegen_ros.diagnostics import Level
from scenegen_ros.scene_store import StoredScene

pytest.importorskip("moveit_msgs", reason="MoveIt's interfaces are not built: python pip_ros/build.py --moveit")
from moveit_msgs.msg import CollisionObject  # noqa: E402
from moveit_msgs.srv import ApplyPlanningScene  # noqa: E402

from scenegen_ros.planner import Planner  # noqa: E402

fault = Faults()


class MoveGroup(Node):
    """Keeps collision objects by the rules of MoveIt's PlanningScene::processCollisionObjectMsg."""

    def __init__(self, context: rclpy.Context, frames: tuple[str, ...] = ("map",)) -> None:
        super().__init__("move_group", context=context)
        self.frames = frames
        self.requests: list[ApplyPlanningScene.Request] = []
        self.world: dict[str, CollisionObject] = {"of_somebody_else": CollisionObject()}
        self.create_service(ApplyPlanningScene, "apply_planning_scene", self._apply)

    def _apply(
        self, request: ApplyPlanningScene.Request, response: ApplyPlanningScene.Response
    ) -> ApplyPlanningScene.Response:
        assert request.scene.is_diff and request.scene.robot_state.is_diff, "else objects in the gripper fall"
        done = [self._process(o) for o in request.scene.world.collision_objects]
        response.success = all(done)
        self.requests.append(request)
        return response

    def _process(self, o: CollisionObject) -> bool:
        if o.operation == CollisionObject.REMOVE:
            return self.world.pop(o.id, None) is not None
        if o.header.frame_id not in self.frames:
            return False
        if o.operation == CollisionObject.ADD:
            assert len(o.meshes) == len(o.mesh_poses) and o.meshes
            self.world[o.id] = o
            return True
        assert o.operation == CollisionObject.MOVE and not o.meshes and not o.mesh_poses
        if o.id not in self.world:
            return False
        self.world[o.id].pose, self.world[o.id].header = o.pose, o.header
        return True

    def last(self) -> dict[str, int]:
        """Id -> operation of the newest request."""
        return {o.id: ord(o.operation) for o in self.requests[-1].scene.world.collision_objects}


ADD, REMOVE, MOVE = (
    ord(operation) for operation in (CollisionObject.ADD, CollisionObject.REMOVE, CollisionObject.MOVE)
)


@contextmanager
def spinning(*nodes: Node) -> Iterator[None]:
    executor = SingleThreadedExecutor(context=nodes[0].context)
    for one in nodes:
        executor.add_node(one)
    thread = threading.Thread(target=executor.spin, daemon=True)
    thread.start()
    try:
        yield
    finally:
        executor.shutdown()
        thread.join(WAIT_S)
        for one in nodes:
            one.destroy_node()


@contextmanager
def planning(asks: Node, on_problem: Callable[[str], object]) -> Iterator[Planner]:
    """An open one."""
    under_test = Planner(asks, on_problem)
    under_test.open()
    try:
        yield under_test
    finally:
        under_test.destroy()


def stored(name: str, *objects: PlacedObject) -> StoredScene:
    scene = Scene(tuple(o.asset for o in objects), (Placement.identity(),) * len(objects), 0)
    return StoredScene(name, Path("/nowhere"), scene, objects, "map", 7)


def placed(instance: int, *, shape: int | None = None, metric: bool = True, x_m: float = 0.0) -> PlacedObject:
    """One of exporting's objects, or with the mesh of another one."""
    asset = next(a for a in exporting.assets() if a.id == (shape or instance))
    T, scale = exporting.POSES[instance].copy(), exporting.SCALE_M[instance]
    T[0, 3] += x_m
    size_m = np.asarray(asset.mesh.extents * scale)
    asset = replace(asset, id=instance)
    return PlacedObject(instance, asset.label, asset, T, scale, size_m, np.eye(6), 0.9, 0.0, metric)


def pieces_of(o: CollisionObject) -> list[trimesh.Trimesh]:
    """In the object's frame."""
    assert all(pose.orientation.w == 1.0 and pose.position.x == 0.0 for pose in o.mesh_poses)
    return [
        trimesh.Trimesh([(v.x, v.y, v.z) for v in m.vertices], [t.vertex_indices for t in m.triangles], process=False)
        for m in o.meshes
    ]


def pose_of(o: CollisionObject) -> Floats:
    T, p, q = np.eye(4), o.pose.position, o.pose.orientation
    T[:3, :3] = Rotation.from_quat([q.x, q.y, q.z, q.w]).as_matrix()
    T[:3, 3] = p.x, p.y, p.z
    return T


def same_as(world: dict[str, CollisionObject], *objects: PlacedObject) -> None:
    """The planner has these objects, where they stand and as large as they are, in convex pieces, and no other."""
    assert world.keys() == {"of_somebody_else", *(f"scenegen_{o.id}" for o in objects)}
    for o in objects:
        told = world[f"scenegen_{o.id}"]
        pieces = pieces_of(told)
        assert all(piece.is_watertight and piece.volume > 0.99 * piece.convex_hull.volume for piece in pieces)
        bounds = trimesh.util.concatenate(pieces).bounds
        assert np.abs(bounds - o.scale_m * o.asset.mesh.bounds).max() < 0.01
        assert exporting.same_pose(pose_of(told), o.T_world_object)
        assert told.header.frame_id == "map" and told.type.key == o.label


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def test_what_is_new_moved_and_gone(ros_context: rclpy.Context, cache: None) -> None:
    first = placed(2), placed(5), placed(9, metric=False)
    second = placed(2, x_m=0.1), placed(9, shape=2)
    asks, group = Node("asks", context=ros_context), MoveGroup(ros_context)
    with spinning(asks, group), planning(asks, print) as under_test:
        under_test.announce(stored("first", *first))
        wait_for(lambda: "has 2 objects of scene first" in under_test.status.message, "the first scene to be told")
        assert "1 left out: not metric" in under_test.status.message
        same_as(group.world, *first[:2])
        assert group.last() == {"scenegen_2": ADD, "scenegen_5": ADD}
        assert len(group.world["scenegen_5"].meshes) > 1, "an L is not convex"

        under_test.announce(stored("second", *second))
        wait_for(lambda: "has 2 objects of scene second" in under_test.status.message, "the second scene to be told")
        same_as(group.world, *second)
        assert group.last() == {"scenegen_2": MOVE, "scenegen_5": REMOVE, "scenegen_9": ADD}

        under_test.announce(stored("third", placed(2, shape=5, x_m=0.1), second[1]))
        wait_for(lambda: "has 2 objects of scene third" in under_test.status.message, "the third scene to be told")
        assert group.last() == {"scenegen_2": ADD}, "another shape replaces it; what is as it was is not told again"
        under_test.announce(stored("last", placed(2, metric=False)))
        wait_for(lambda: "has 0 objects" in under_test.status.message, "everything to be taken away")
        same_as(group.world)


def test_it_waits_for_a_planner_and_tells_one_that_comes_back(
    ros_context: rclpy.Context, cache: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("scenegen_ros.planner._RETRY_S", 0.1)
    problems: list[str] = []
    asks, scene = Node("asks", context=ros_context), stored("one", placed(2))
    with spinning(asks), planning(asks, problems.append) as under_test:
        under_test.announce(scene)
        wait_for(
            lambda: "nobody offers /apply_planning_scene" in under_test.status.message, "it to say what is missing"
        )
        assert under_test.status.level == Level.WARN and not under_test.status.blocks
        for _ in range(2):
            group = MoveGroup(ros_context)
            with spinning(group):
                wait_for(lambda group=group: "scenegen_2" in group.world, "the object")
                wait_for(lambda: under_test._done is scene, "the answer")
                assert "has 1 objects" in under_test.status.message
            wait_for(lambda: under_test._done is None, "the end of it to be noticed")
        lost = MoveGroup(ros_context, frames=("base_link",))
        with spinning(lost):
            wait_for(lambda: any("refused scene one" in text for text in problems), "it to say that it was refused")
            assert "does it know the frame 'map'" in problems[-1]
            lost.frames = ("map",)
            wait_for(lambda: "scenegen_2" in lost.world, "the object, once the frame is known")


@fault("a planner that is not there")
@fault("a planner that refuses")
def test_the_node_tells_what_it_announces(
    ros_context: rclpy.Context, tmp_path: Path, quick: None, cache: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("scenegen_ros.planner._RETRY_S", 0.1)
    with (
        running(StubGenerator(), tmp_path / "s") as server,
        rig(ros_context, server, tmp_path / "scenes", planning_scene=True) as it,
    ):
        assert it.ears.generate(views=1).success
        told(it, "a planner that is not there")
        group = MoveGroup(ros_context, frames=("base_link",))
        with spinning(group):
            told(it, "a planner that refuses")
            group.frames = ("map",)
            it.ears.says("has 2 objects", stage="planner")
            assert group.world.keys() == {"of_somebody_else", "scenegen_1", "scenegen_2"}
            assert pose_of(group.world["scenegen_2"])[0, 3] == 2.0
            assert it.node.trigger_deactivate() == TransitionCallbackReturn.SUCCESS
            assert it.node.trigger_activate() == TransitionCallbackReturn.SUCCESS
            it.ears.says("has 2 objects", stage="planner")
            it.node.close()
            assert len(group.world) == 3, "obstacles stay when the node goes"


def test_closing_ends_the_cutting(
    ros_context: rclpy.Context, tmp_path: Path, cache: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "never_ends.py"
    program.write_text(
        "import os, pathlib, sys, threading\n"
        f"pathlib.Path({str(tmp_path)!r}, 'pid').write_text(str(os.getpid()))\n"
        "threading.Event().wait()\n"
    )
    monkeypatch.setattr(convex, "_PROGRAM", program)
    asks = Node("asks", context=ros_context)
    with spinning(asks), planning(asks, print) as under_test:
        under_test.announce(stored("one", placed(5)))
        pid = int(wait_for(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text(), "the cutting"))
        assert "cutting" in under_test.status.message
        under_test.destroy()
        assert not Path(f"/proc/{pid}").exists()


def test_poses_in_a_cameras_frame_are_not_for_a_planner(ros_context: rclpy.Context, tmp_path: Path) -> None:
    with rig(ros_context, "unix:/nowhere", tmp_path, active=False, planning_scene=True, fixed_frame="") as it:
        assert it.node.trigger_configure() == TransitionCallbackReturn.FAILURE
        it.ears.says("planning_scene needs a fixed_frame", stage="transition")


@fault("a planner wanted without MoveIt's messages")
def test_without_moveits_messages_it_says_so(
    ros_context: rclpy.Context, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr("scenegen_ros.planner")
    for name in [name for name in sys.modules if name.startswith(("scenegen_ros.planner", "moveit_msgs"))]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "moveit_msgs", None)
    with rig(ros_context, "unix:/nowhere", tmp_path, active=False, planning_scene=True) as it:
        assert it.node.trigger_configure() == TransitionCallbackReturn.FAILURE
        told(it, "a planner wanted without MoveIt's messages")
