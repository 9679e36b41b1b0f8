"""A scene as MoveIt's collision objects: convex pieces where the objects stand, and what has changed since the last.

Pure functions over moveit_msgs, which is optional: only scenegen_ros.planner imports this. Knows nothing about
services, or how meshes are cut.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import trimesh
from builtin_interfaces.msg import Time
from geometry_msgs.msg import Point, Pose
from moveit_msgs.msg import CollisionObject, PlanningScene
from object_recognition_msgs.msg import ObjectType
from shape_msgs.msg import Mesh, MeshTriangle
from std_msgs.msg import Header

from scenegen.scene import Floats, PlacedObject
from scenegen_ros.conversions import pose_message

PREFIX = "scenegen_"
"""Before an object's id: a planning scene has objects of others too."""


@dataclass(frozen=True)
class Obstacle:
    """One object as a planner takes it.

    pieces: convex, in metres, in the object's frame. T_frame_object: float64 [4, 4], rigid, in the scene's frame_id.
    """

    id: str
    label: str
    pieces: tuple[trimesh.Trimesh, ...]
    T_frame_object: Floats

    @classmethod
    def of(cls, placed: PlacedObject, pieces: Sequence[trimesh.Trimesh]) -> Obstacle:
        """pieces: of the asset, in its unit box."""
        grown = tuple(trimesh.Trimesh(piece.vertices * placed.scale_m, piece.faces, process=False) for piece in pieces)
        return cls(f"{PREFIX}{placed.id}", placed.label, grown, placed.T_world_object)

    def same_shape(self, other: Obstacle) -> bool:
        """Whether it could be the other one, moved."""
        return len(self.pieces) == len(other.pieces) and all(
            np.array_equal(a.vertices, b.vertices) and np.array_equal(a.faces, b.faces)
            for a, b in zip(self.pieces, other.pieces, strict=True)
        )


Obstacles = Mapping[str, Obstacle]
"""By id."""


def changes(before: Obstacles, after: Obstacles, frame_id: str, stamp: Time) -> PlanningScene:
    """The diff that turns what a planner was told into what is. Empty where nothing has changed.

    ADD of what is new or has another shape, which MoveIt puts in place of what has that id; MOVE of what has only
    another pose; REMOVE of what is gone.
    """
    header = Header(stamp=stamp, frame_id=frame_id)
    scene = PlanningScene(is_diff=True)
    scene.robot_state.is_diff = True  # else MoveIt takes it that nothing is attached to the robot any more
    objects = scene.world.collision_objects
    for name in before.keys() - after.keys():
        objects.append(CollisionObject(header=header, id=name, operation=CollisionObject.REMOVE))
    for name, obstacle in after.items():
        known = before.get(name)
        if known is None or not obstacle.same_shape(known):
            objects.append(_added(obstacle, header))
        elif not np.array_equal(obstacle.T_frame_object, known.T_frame_object):
            pose = pose_message(obstacle.T_frame_object)
            objects.append(CollisionObject(header=header, id=name, pose=pose, operation=CollisionObject.MOVE))
    return scene


def _added(obstacle: Obstacle, header: Header) -> CollisionObject:
    return CollisionObject(
        header=header,
        id=obstacle.id,
        type=ObjectType(key=obstacle.label),
        pose=pose_message(obstacle.T_frame_object),
        meshes=[_mesh(piece) for piece in obstacle.pieces],
        mesh_poses=[Pose() for _ in obstacle.pieces],
        operation=CollisionObject.ADD,
    )


def _mesh(piece: trimesh.Trimesh) -> Mesh:
    return Mesh(
        triangles=[MeshTriangle(vertex_indices=face) for face in np.asarray(piece.faces, np.uint32)],
        vertices=[Point(x=x, y=y, z=z) for x, y, z in np.asarray(piece.vertices, float).tolist()],
    )
